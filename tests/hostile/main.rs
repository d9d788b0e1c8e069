//! A hostile build machine: a real head with its daemon and database, a real sshd, and behind its socket a scripted
//! daemon ([`peer`]). In each case ([`cases`]), no part of its data enters the store, the client gets the reason, the hook
//! ends with the right status, and its memory does not grow.

#[path = "../lab/mod.rs"]
mod lab;

mod archive;
mod cases;
mod glue;
mod outputs;
mod peer;
mod test_store;
mod truncated;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cases::{But, CASES, Case, Scene};
use lab::{Direct, Drv, Entry, Host, Lab, PathInfo, processes};
use offload::internals::daemon::{Error, Options};
use offload::internals::gcrypt::SigningKey;
use peer::{Peer, Play};

/// Where the peer listens on the machine.
const SOCKET: &str = "/var/lab/hostile.sock";

/// The size of the head's store, in MiB.
const STORE: u32 = 128;

/// The most that a hostile machine may make a hook take beyond what an honest one does, in bytes.
const MORE_MEMORY: u64 = 16 << 20;

/// Everything in a store and its database that a build may change, except the lock files that guix-daemon leaves.
#[derive(Debug, PartialEq)]
struct Snapshot {
    files: BTreeMap<PathBuf, (u32, u64, i64)>,
    items: Vec<(PathBuf, Option<PathInfo>)>,
}

impl Snapshot {
    fn take(head: &Host) -> Snapshot {
        let mut files = BTreeMap::new();
        let mut open = vec![head.path("/gnu/store")];
        while let Some(path) = open.pop() {
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            } else if !path.to_string_lossy().ends_with(".lock") {
                files.insert(path, (metadata.mode(), metadata.size(), metadata.mtime()));
            }
        }
        let items = head.valid_paths().into_iter().map(|path| (path.clone(), head.path_info(path))).collect();
        Snapshot { files, items }
    }
}

/// The stage.
struct Stage {
    // Before the host that has its socket.
    peer: Peer,
    lab: Lab,
    machine: Host,
    head: Host,
    /// The most memory that a hook was seen to have had.
    memory: Arc<AtomicU64>,
}

impl Stage {
    fn new() -> Stage {
        let lab = Lab::new();
        let machine = lab.build_machine("b1").start();
        let head = lab.head().start();
        head.limit_store(STORE);
        let memory = Arc::new(AtomicU64::new(0));
        let (seen, root) = (Arc::clone(&memory), head.root().to_owned());
        let key = SigningKey::load(&machine.path("/etc/guix/signing-key.sec")).unwrap();
        let peer = Peer::listen(&machine.path(SOCKET), &key, move || {
            seen.fetch_max(memory_of_hooks(&root), Ordering::Relaxed);
        });
        let stage = Stage { peer, lab, machine, head, memory };
        stage.write_machine(|entry| entry);
        stage
    }

    /// Writes a machine file with the one machine.
    fn write_machine(&self, change: impl Fn(Entry) -> Entry) {
        // Each case is a connection of its own.
        let entry = self.machine.entry().set("daemon_socket", SOCKET).set("keep_connection", false);
        let entry = change(entry.set("connect_timeout", 4).set("stall_timeout", 3));
        self.head.write_machine_file(&format!("return {{ {}, max_attempts = 1, wait_for_slot = 1 }}", entry.lua()));
    }

    /// Plays `play` while the derivation is built. Returns the result of the build, and the messages to the client.
    fn build(&self, direct: &mut Direct<'_>, scene: &Scene, but: But, play: Play) -> (Result<Duration, Error>, String) {
        self.mark_healthy();
        let limits = [(But::MaxSilentTime, 4), (But::Timeout, 2)];
        self.build_within(direct, scene, limits.map(|(of, seconds)| if but == of { seconds } else { 0 }), play)
    }

    /// The same with limits for silence and for the whole build, in seconds; zero is none.
    fn build_within(
        &self,
        direct: &mut Direct<'_>,
        scene: &Scene,
        limits: [u64; 2],
        play: Play,
    ) -> (Result<Duration, Error>, String) {
        self.peer.play(play);
        self.memory.store(0, Ordering::Relaxed);
        // The daemon keeps its earlier settings.
        let [max_silent_time, build_timeout] = limits.map(|seconds| Some(Duration::from_secs(seconds)));
        direct.set_options(&Options { max_silent_time, build_timeout, ..direct.options() });
        let said = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&said);
        direct.daemon().set_log(Some(Box::new(move |text| {
            let mut said = sink.lock().unwrap();
            // Only the end of an endless build log is kept.
            if said.len() > 1 << 20 {
                said.drain(..1 << 19);
            }
            said.extend_from_slice(text);
        })));
        let drv = offload::internals::store::path::StorePath::parse(&Default::default(), scene.derivation.as_bytes())
            .unwrap();
        let result = direct.build_paths(&[drv]);
        direct.daemon().set_log(None);
        let said = String::from_utf8_lossy(&said.lock().unwrap()).into_owned();
        (result, said)
    }

    /// Plays `play` while the hook is asked about the derivation, which the head cannot build. Returns the reply and the
    /// messages.
    fn ask(&self, scene: &Scene, play: Play) -> (String, String) {
        self.mark_healthy();
        self.peer.play(play);
        self.memory.store(0, Ordering::Relaxed);
        let mut hook = self.head.command("/opt/offload/guix");
        hook.args(["offload", "x86_64-linux", "3600", "false", "3600"]);
        let mut hook = hook.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        writeln!(hook.stdin.take().unwrap(), "0 x86_64-linux {} ", scene.derivation).unwrap();
        let output = hook.wait_with_output().unwrap();
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).into()
    }

    /// Adds a derivation, and returns its environment.
    fn scene(&self, direct: &mut Direct<'_>, drv: &Drv) -> Scene {
        let made = direct.make(drv);
        Scene {
            output: made.output().to_string(),
            derivation: made.path.to_string(),
            input: made.derivation.input_sources.first().unwrap().to_string(),
            trusted: SigningKey::load(&self.machine.path("/etc/guix/signing-key.sec")).unwrap(),
            stranger: SigningKey::load(&self.lab.stranger_signing_key()).unwrap(),
        }
    }

    /// Lets the head think that the machine was well a moment ago, so that it begins with it, whatever was before.
    fn mark_healthy(&self) {
        self.head.mark_healthy("b1");
    }

    fn try_case(&self, direct: &mut Direct<'_>, scene: &Scene, case: &Case, honest: u64) -> Result<(), String> {
        let acl = self.head.read("/etc/guix/acl");
        if case.but == But::OtherPurpose {
            let text = String::from_utf8(acl.clone()).unwrap().replace("(tag (guix import))", "(tag (guix export))");
            self.head.write("/etc/guix/acl", text);
        }
        let before = Snapshot::take(&self.head);
        let start = Instant::now();
        let mut faults = Vec::new();
        let messages = if case.but == But::BeforeReply {
            let (reply, said) = self.ask(scene, (case.play)(scene));
            if reply != "# postpone\n" {
                faults.push(format!("the reply was {reply:?}"));
            }
            said
        } else {
            let (result, mut said) = self.build(direct, scene, case.but, (case.play)(scene));
            match &result {
                Err(Error::Daemon { status, message, .. }) if *status == case.status() => said.push_str(message),
                other => faults.push(format!("the build gave {other:?}")),
            }
            said
        };
        let after = Snapshot::take(&self.head);
        self.head.write("/etc/guix/acl", acl);

        if !messages.contains(case.says) {
            faults.push(format!("no message to the client has {:?}", case.says));
        }
        if before != after {
            faults.push("the store has changed".to_owned());
        }
        if !self.head.unfinished_outputs().is_empty() {
            faults.push(format!("{:?} is left", self.head.unfinished_outputs()));
        }
        // A process that moves rows into the history may still run.
        let until = Instant::now() + Duration::from_secs(10);
        let mut held = self.head.held_locks();
        while !held.is_empty() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
            held = self.head.held_locks();
        }
        if !held.is_empty() {
            faults.push(format!("{held:?} are locked"));
        }
        let memory = self.memory.load(Ordering::Relaxed);
        if memory > honest + MORE_MEMORY {
            faults.push(format!("the hook took {memory} bytes of memory, and {honest} with an honest machine"));
        }
        eprintln!("{:>6} KiB {:>5.2} s  {}", memory >> 10, start.elapsed().as_secs_f64(), case.what);
        match faults.is_empty() {
            true => Ok(()),
            false => Err(format!("{}: {}; its messages:\n{}", case.what, faults.join("; "), last(&messages))),
        }
    }
}

/// The last lines of a text.
fn last(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

/// The most resident memory that any of a head's hooks has had, in bytes; 0 where there is none any more.
fn memory_of_hooks(root: &Path) -> u64 {
    let hooks = processes(root).into_iter().filter(|process| process.command.contains("guix offload"));
    let peak = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
    };
    hooks.filter_map(|hook| peak(hook.pid)).max().unwrap_or(0)
}

#[test]
fn no_file_of_a_hostile_machine_enters_the_store() {
    let stage = Stage::new();
    let mut direct = stage.head.direct();
    // A build that does not end is a failed case, not a test that hangs.
    direct.daemon().stream_mut().set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let scene = |direct: &mut Direct<'_>, drv: &Drv| stage.scene(direct, drv);
    let hello = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
    // What the same peer does honestly is accepted: the cases fail for what is wrong with them.
    let honest = scene(&mut direct, &Drv::new("honest"));
    let item = honest.item().signed(&honest.trusted);
    let (result, said) = stage.build(&mut direct, &honest, But::Nothing, Play::exports(&item));
    result.unwrap_or_else(|error| panic!("{error}\n{said}"));
    assert_eq!(stage.head.read(&honest.output), b"hello\n");
    assert_eq!(stage.head.path_info(&honest.output).unwrap().deriver.unwrap(), honest.derivation);
    let memory = stage.memory.load(Ordering::Relaxed);
    assert!(memory > 0, "the hook's memory was not seen");
    eprintln!("{:>6} KiB  an honest machine", memory >> 10);

    let mut failures = Vec::new();
    for (number, case) in CASES.iter().flat_map(|(_, cases)| *cases).enumerate() {
        let drv = Drv::new(&format!("case-{number}"));
        let drv = if case.but == But::Fixed { drv.fixed_file("sha256", hello) } else { drv };
        let scene = scene(&mut direct, &drv);
        failures.extend(stage.try_case(&mut direct, &scene, case, memory).err());
    }
    assert!(failures.is_empty(), "{} cases:\n\n{}", failures.len(), failures.join("\n\n"));
    // The next build succeeds.
    let fixed = scene(&mut direct, &Drv::new("fixed").fixed_file("sha256", hello));
    let item = Item { references: vec![], ..fixed.item() }.signed(&fixed.trusted);
    let (result, said) = stage.build(&mut direct, &fixed, But::Nothing, Play::exports(&item));
    result.unwrap_or_else(|error| panic!("{error}\n{said}"));
    stage.head.verify_store();
}

use archive::Item;

/// `doc/contributing/hostile-cases.md` is what the table says. `OFFLOAD_WRITE_TABLE=1` writes it.
#[test]
fn the_page_on_hostile_cases_is_the_table_of_cases() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("doc/contributing/hostile-cases.md");
    let mut text = include_str!("table.md").to_owned();
    for (title, cases) in CASES {
        text += &format!("\n## {title}\n\n| the machine sends | the message says |\n|---|---|\n");
        for case in *cases {
            let says = case.says.trim_end_matches(['\'', ' ']);
            text += &format!("| {} | {} |\n", case.what, says.replace('|', "\\|"));
        }
    }
    if std::env::var_os("OFFLOAD_WRITE_TABLE").is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, &text).unwrap();
    }
    assert_eq!(fs::read_to_string(&file).unwrap_or_default(), text, "{} is not what the table says", file.display());
}
