//! A scratch system: a state directory that belongs to a user without rights, a machine file of root's, and files of
//! root's that the user must not get at. And what that user does meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use rustix::fs::{CWD, Gid, RenameFlags, Uid, renameat_with};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use tempfile::TempDir;

/// The owner of the state. No account has this number.
pub const OWNER: u32 = 64_123;

/// The machine of the machine file, at whose port nothing listens.
pub const MACHINE: &str = "127.0.0.1:1";

const ENTRY: &str = r#"build_machine { name = "127.0.0.1", port = 1, user = "offload", systems = { "x86_64-linux" },
    private_key = "KEY", proxy_command = proxy,
    host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEKs831EXTrTVaTLqh6acnr0Ofnt/lLVungfkNlXm/IR" }"#;

/// The commands that use the state or evaluate the machine file, each with its arguments. The last one is the hook.
pub const COMMANDS: &[&[&str]] = &[
    &["status"],
    &["explain", "--system", "x86_64-linux"],
    &["explain", "--system", "x86_64-linux", "--probe"],
    &["test"],
    &["drain", MACHINE],
    &["undrain", MACHINE],
    &["eval"],
    &["log-level", "debug"],
    &["log-level", "default"],
    &["history"],
    &["log", DERIVATION],
    &["metrics"],
    &["build", "/gnu/store/00000000000000000000000000000000-x.drv", "--dry-run"],
    &["challenge", "/gnu/store/00000000000000000000000000000000-x.drv"],
    &["authorize", MACHINE, "--yes"],
    HOOK,
];

/// The build hook's arguments.
pub const HOOK: &[&str] = &["x86_64-linux", "3600", "0", "0"];

/// A derivation, and its log below the log directory.
pub const DERIVATION: &str = "/gnu/store/00000000000000000000000000000000-x.drv";
pub const LOG: &str = "drvs/00/000000000000000000000000000000-x.drv";

/// What the daemon asks the hook.
const REQUEST: &str = "0 x86_64-linux /gnu/store/00000000000000000000000000000000-x.drv \n";

pub struct Site {
    directory: TempDir,
}

impl Site {
    /// The state is empty, and the machine file keeps a value in the cache.
    pub fn new() -> Site {
        let site = Site { directory: tempfile::tempdir().unwrap() };
        open_to_all(site.directory.path());
        for name in ["etc", "guix", "outside"] {
            fs::create_dir(site.path(name)).unwrap();
            open_to_all(&site.path(name));
        }
        for name in [MACHINE, "cache", "queue", "persist", MACHINE_UPLOADS] {
            fs::create_dir(site.path("outside").join(name)).unwrap();
        }
        fs::write(site.path("outside/precious"), "of root").unwrap();
        site.write_machine_file("local proxy\nrequire('offload').cached('key', 0, function() return 1 end)");
        let made =
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(site.path("key")).status();
        assert!(made.unwrap().success());
        for name in ["guix", "key"] {
            chown(site.path(name), Some(OWNER), Some(OWNER)).unwrap();
        }
        site
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The directory of offload's state.
    pub fn state(&self) -> PathBuf {
        self.path("guix/offload")
    }

    /// The log directory of the daemon.
    pub fn logs(&self) -> PathBuf {
        self.path("guix/log")
    }

    /// A machine file that runs `code` first, which may set the variable `proxy`.
    pub fn write_machine_file(&self, code: &str) {
        let entry = ENTRY.replace("KEY", self.path("key").to_str().unwrap());
        fs::write(self.path("etc/machines.lua"), format!("{code}\nreturn {{ {entry} }}\n")).unwrap();
    }

    /// Gives the directory of the machine file to the owner of the state, as the manual of Guix does.
    pub fn give_machine_file(&self) {
        for name in ["etc", "etc/machines.lua"] {
            chown(self.path(name), Some(OWNER), Some(OWNER)).unwrap();
        }
    }

    /// The program, as root of this system runs it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_offload"));
        command.args(arguments).env_clear().current_dir("/");
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root");
        command.env("GUIX_STATE_DIRECTORY", self.path("guix")).env("GUIX_CONFIGURATION_DIRECTORY", self.path("etc"));
        command.env("GUIX_LOG_DIRECTORY", self.logs());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end, the hook with a request.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        finish(child, if arguments == HOOK { REQUEST } else { "" })
    }

    /// Returns the files outside of the state, with their owners and times of change.
    pub fn outside(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        list(&self.path("outside"), &mut found);
        found
    }

    /// Does something as the user that the state belongs to.
    pub fn as_owner<T: Send>(&self, task: impl FnOnce(&Site) -> T + Send) -> T {
        thread::scope(|scope| {
            let task = || {
                become_owner();
                task(self)
            };
            scope.spawn(task).join().unwrap()
        })
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Root's own cache for this state.
        let state = self.state();
        let _ = fs::remove_dir_all(Path::new("/var/cache/offload").join(state.strip_prefix("/").unwrap()));
    }
}

const MACHINE_UPLOADS: &str = "127.0.0.1:1/uploads";

fn finish(mut child: Child, input: &str) -> Output {
    use std::io::Write;
    // One that reads nothing may have ended.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn open_to_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Returns the files at `path` and below it, with their owners and times of change.
pub fn list(path: &Path, found: &mut BTreeMap<PathBuf, String>) {
    let data = fs::symlink_metadata(path).unwrap();
    let contents = if data.is_file() { fs::read(path).unwrap() } else { Vec::new() };
    let owner = (data.ino(), data.uid(), data.gid(), data.mode());
    let changed = (data.ctime(), data.ctime_nsec());
    found.insert(path.to_owned(), format!("{owner:?} {changed:?} {}", String::from_utf8_lossy(&contents)));
    if data.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| list(&entry.unwrap().path(), found));
    }
}

/// For how long names are swapped beside each command, in seconds.
pub fn swap_time() -> u64 {
    if std::env::var_os("OFFLOAD_CAMPAIGN").is_some() { 60 } else { 2 }
}

/// Makes the calling thread one of the state's owner.
fn become_owner() {
    set_thread_groups(&[]).unwrap();
    let (group, user) = (Gid::from_raw(OWNER), Uid::from_raw(OWNER));
    set_thread_res_gid(group, group, group).unwrap();
    set_thread_res_uid(user, user, user).unwrap();
}

/// Exchanges two names again and again, as the owner of the state, until it is dropped.
pub struct Swapper {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A name to swap, and a link to this target. The number is how often they were swapped.
#[derive(Clone)]
pub struct Swap(pub PathBuf, pub PathBuf, Arc<AtomicU64>);

impl Swap {
    pub fn new(name: PathBuf, target: PathBuf) -> Swap {
        Swap(name, target, Arc::default())
    }

    pub fn was_swapped(&self) -> bool {
        self.2.load(Ordering::Relaxed) > 0
    }

    /// A name that nothing ever has tests nothing.
    #[track_caller]
    pub fn assert_swapped(&self) {
        assert!(self.was_swapped(), "'{}' was never swapped", self.0.display());
    }
}

impl Swapper {
    /// Swaps a name and a link. While the name is missing, the link is beside it.
    pub fn start(swap: &Swap) -> Swapper {
        let Swap(name, target, count) = swap.clone();
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let swap = move || {
            become_owner();
            let mut link = name.clone().into_os_string();
            link.push(".link");
            while !over.load(Ordering::Relaxed) {
                // Creates a missing file, and removes an existing one.
                match renameat_with(CWD, &link, CWD, &name, RenameFlags::EXCHANGE) {
                    Ok(()) => drop(count.fetch_add(1, Ordering::Relaxed)),
                    Err(_) => {
                        let _ = std::os::unix::fs::symlink(&target, &link);
                        thread::yield_now();
                    }
                }
            }
        };
        Swapper { is_over, thread: Some(thread::spawn(swap)) }
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let joined = self.thread.take().unwrap().join();
        assert!(joined.is_ok() || thread::panicking());
    }
}
