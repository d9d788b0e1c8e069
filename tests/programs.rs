//! Programs that a machine file or a `proxy_command` starts: how they end, and that nothing of them stays behind.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;

/// Against hanging.
const LONG: Duration = Duration::from_secs(60);

const DRV: &str = "/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-vec.drv";
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGiZC8RF5TdIuz3cZ2RZ6pH6/WJ7mzWKRX7KPrGwENOG";

/// A machine file and a state directory. `MARK` in the file is a number of seconds to sleep, a long time, by
/// which its processes are known.
struct Site {
    directory: TempDir,
    mark: String,
}

impl Site {
    fn new(machine_file: &str) -> Site {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let site =
            Site { directory: tempfile::tempdir().unwrap(), mark: format!("86400.{}{count:04}", std::process::id()) };
        fs::write(site.path("machines.lua"), machine_file.replace("MARK", &site.mark)).unwrap();
        site
    }

    /// A site whose machine file runs a shell script that starts children in a session of their own, as orphans, and in
    /// its own process group, and then runs these words of Lua with the arguments of `exec`.
    fn with_tree(lua: &str) -> Site {
        let script = "setsid sleep MARK & (setsid sh -c 'sleep MARK; :' &) ; sleep MARK & exec sleep MARK";
        Site::new(&format!(
            "local offload, argv = require 'offload', {{ 'sh', '-c', [[{script}]] }}\n{lua}\nreturn {{}}"
        ))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_offload"));
        command.args(arguments).current_dir(&self.directory).env("OFFLOAD_MACHINE_FILE", self.path("machines.lua"));
        command.env("GUIX_STATE_DIRECTORY", self.path("state")).stdin(Stdio::null()).process_group(0);
        command
    }

    /// Starts a hook with a request, in a process group of its own.
    fn hook(&self) -> Child {
        let mut command = self.command(&["x86_64-linux", "0", "0", "0"]);
        let mut hook = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        writeln!(hook.stdin.as_mut().unwrap(), "1 x86_64-linux {DRV} ").unwrap();
        hook
    }

    /// The command lines of the processes of this site, supervisors included.
    fn processes(&self) -> Vec<String> {
        let lines = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            Some(String::from_utf8_lossy(&line).replace('\0', " "))
        });
        lines.filter(|line| line.contains(&self.mark)).collect()
    }

    #[track_caller]
    fn wait_for(&self, what: &str, is_so: impl Fn(&[String]) -> bool) {
        let start = Instant::now();
        loop {
            let processes = self.processes();
            if is_so(&processes) {
                return;
            }
            assert!(start.elapsed() < LONG, "{what}: {processes:#?}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the whole tree runs.
    #[track_caller]
    fn wait_for_the_tree(&self) {
        self.wait_for("the tree grows", |all| all.iter().filter(|line| line.starts_with("sleep ")).count() == 4);
    }

    #[track_caller]
    fn wait_for_nothing(&self) {
        self.wait_for("nothing is left", |all| all.is_empty());
    }

    /// Has `offload eval` run the machine file, which checks everything itself.
    #[track_caller]
    fn eval(&self) {
        let output = self.command(&["eval"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    }
}

/// As guix-daemon does it.
fn kill_group(child: &mut Child) {
    kill_process_group(Pid::from_raw(child.id() as i32).unwrap(), Signal::KILL).unwrap();
    child.wait().unwrap();
}

#[test]
fn nothing_outlives_a_hook_that_is_killed() {
    let waits = [
        "offload.exec(argv, { timeout = 600 })",
        "os.execute(argv[3])",
        "io.popen(argv[3]):read('a')",
        "local pipe = io.popen(argv[3], 'w') while true do pipe:write(('x'):rep(1000)) end",
    ];
    for wait in waits {
        let site = Site::with_tree(&format!("{wait}\nlocal limits = {{ evaluate = 600 }}"));
        let mut hook = site.hook();
        site.wait_for_the_tree();
        kill_group(&mut hook);
        site.wait_for_nothing();
    }
}

#[test]
fn nothing_outlives_the_time_limit_of_the_evaluation() {
    let site = Site::with_tree("offload.exec(argv, { timeout = 600 })\nlocal limits = { evaluate = 3 }");
    let mut hook = site.hook();
    site.wait_for_the_tree();
    let mut reply = String::new();
    BufReader::new(hook.stdout.take().unwrap()).read_line(&mut reply).unwrap();
    assert_eq!(reply, "# decline\n");
    // The hook waits for the next request.
    site.wait_for_nothing();
    assert!(hook.try_wait().unwrap().is_none());
    kill_group(&mut hook);
}

#[test]
fn nothing_outlives_the_time_limit_of_the_program() {
    let site = Site::with_tree(
        "local output, why = offload.exec(argv, { timeout = 2 })\n\
         assert(not output and why == 'sh: killed after 2 s', why)",
    );
    site.eval();
    site.wait_for_nothing();
}

#[test]
fn nothing_outlives_the_program_itself() {
    let site = Site::new(
        "local offload = require 'offload'\n\
         local leave = [[setsid sleep MARK >&- 2>&- & (sleep MARK &) ; echo]]\n\
         assert(offload.exec { 'sh', '-c', leave })\n\
         assert(os.execute(leave) and io.popen(leave):read('a') == '\\n')\n\
         return {}",
    );
    site.eval();
    site.wait_for_nothing();
}

#[test]
fn a_program_ends_as_it_would_on_its_own() {
    let site = Site::new(
        "local offload = require 'offload'\n\
         local function expect(words, output, message, status)\n\
           local found = { offload.exec(words) }\n\
           assert(found[1] == output and found[2] == message and found[3] == status, found[2])\n\
         end\n\
         expect({ 'echo', 'a', '' }, 'a \\n', nil, 0)\n\
         expect({ 'sh', '-c', 'echo why >&2; exit 3' }, nil, 'sh: exit status 3: why', 3)\n\
         for _, signal in ipairs { 1, 2, 6, 9, 11, 15 } do\n\
           expect({ 'sh', '-c', 'kill -' .. signal .. ' $$' }, nil, 'sh: killed by signal ' .. signal, nil)\n\
         end\n\
         expect({ 'no-such-program' }, nil, 'no-such-program: No such file or directory', nil)\n\
         expect({ '/dev/null' }, nil, '/dev/null: Permission denied', nil)\n\
         local ok, how, code = os.execute('exit 7')\n\
         assert(not ok and how == 'exit' and code == 7)\n\
         local pipe = io.popen('cat > copy', 'w')\n\
         assert(pipe:write('text') and pipe:close())\n\
         assert(io.popen('cat copy'):read('a') == 'text')\n\
         return {}",
    );
    site.eval();
}

fn machine_behind(proxy_command: &str) -> Site {
    let site = Site::new(&format!(
        "return {{ build_machine {{ name = 'b1', user = 'offload', systems = {{ 'x86_64-linux' }}, host_key = '{KEY}', \
         private_key = 'KEY', connect_timeout = 5, proxy_command = {{ 'sh', '-c', [[{proxy_command}]] }} }} }}"
    ));
    let key = site.path("key");
    let text = fs::read_to_string(site.path("machines.lua")).unwrap();
    fs::write(site.path("machines.lua"), text.replace("'KEY'", &format!("'{}'", key.display()))).unwrap();
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status().unwrap();
    assert!(made.success());
    site
}

const PROXY: &str = "setsid sleep MARK & (setsid sh -c 'sleep MARK; :' &) ; sleep MARK & exec sleep MARK";

#[test]
fn nothing_of_a_proxy_command_outlives_what_uses_it() {
    for is_killed in [true, false] {
        let site = machine_behind(PROXY);
        let mut test = site.command(&["test"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        site.wait_for_the_tree();
        if is_killed {
            kill_group(&mut test);
        }
        site.wait_for_nothing();
        test.wait().unwrap();
    }
}

/// The end of a supervisor ends its program.
#[test]
fn a_terminated_supervisor_leaves_no_process() {
    let site = Site::with_tree("offload.exec(argv, { timeout = 600 })\nlocal limits = { evaluate = 600 }");
    let mut hook = site.hook();
    site.wait_for_the_tree();
    let supervisor = fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let line = String::from_utf8_lossy(&fs::read(entry.path().join("cmdline")).ok()?).into_owned();
        let is_it = line.starts_with("offload-supervisor") && line.contains(&site.mark);
        is_it.then(|| entry.file_name().to_str()?.parse().ok())?
    });
    kill_process(Pid::from_raw(supervisor.unwrap()).unwrap(), Signal::TERM).unwrap();
    site.wait_for_nothing();
    kill_group(&mut hook);
}
