//! Builds that make no progress on the machine: a trickling daemon, a lock of another build, a machine that is the head
//! itself, two heads that offload to each other.

mod lab;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use lab::{Drv, Host, Lab, Signal};

/// Where the slow socket is, in the host.
const SOCKET: &str = "/var/guix/slow-socket";

const BUILD: u64 = 9;
const EXPORT: u64 = 16;

/// A socket of a host that passes everything on to and from its daemon. From a request `slow_from` on, once it is armed,
/// what the daemon says comes at ten bytes a second. It serves until it is dropped.
struct SlowSocket {
    path: PathBuf,
    is_armed: Arc<AtomicBool>,
    is_over: Arc<AtomicBool>,
}

impl SlowSocket {
    fn listen(host: &Host, slow_from: u64) -> SlowSocket {
        let (path, daemon) = (host.path(SOCKET), host.daemon_socket());
        let listener = UnixListener::bind(&path).unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let is_armed = Arc::new(AtomicBool::new(false));
        let (over, armed) = (Arc::clone(&is_over), Arc::clone(&is_armed));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                let daemon = UnixStream::connect(&daemon).unwrap();
                serve(stream, daemon, slow_from, Arc::clone(&armed));
            }
        });
        SlowSocket { path, is_armed, is_over }
    }

    fn arm(&self) {
        self.is_armed.store(true, Ordering::SeqCst);
    }
}

impl Drop for SlowSocket {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        let _ = UnixStream::connect(&self.path);
    }
}

fn serve(client: UnixStream, daemon: UnixStream, slow_from: u64, is_armed: Arc<AtomicBool>) {
    let is_slow = Arc::new(AtomicBool::new(false));
    let (mut from_client, mut to_daemon) = (client.try_clone().unwrap(), daemon.try_clone().unwrap());
    let slow = Arc::clone(&is_slow);
    thread::spawn(move || {
        let mut buffer = [0; 64 << 10];
        // A small request comes in one piece.
        while let Ok(size @ 1..) = from_client.read(&mut buffer) {
            if is_armed.load(Ordering::SeqCst) && buffer[..8.min(size)] == slow_from.to_le_bytes() {
                slow.store(true, Ordering::SeqCst);
            }
            if to_daemon.write_all(&buffer[..size]).is_err() {
                break;
            }
        }
        let _ = to_daemon.shutdown(std::net::Shutdown::Both);
    });
    let (mut from_daemon, mut to_client) = (daemon, client);
    thread::spawn(move || {
        let mut buffer = [0; 64 << 10];
        while let Ok(size @ 1..) = from_daemon.read(&mut buffer) {
            for piece in buffer[..size].chunks(if is_slow.load(Ordering::SeqCst) { 1 } else { size }) {
                if is_slow.load(Ordering::SeqCst) {
                    thread::sleep(Duration::from_millis(100));
                }
                if to_client.write_all(piece).is_err() {
                    return;
                }
            }
        }
        let _ = to_client.shutdown(std::net::Shutdown::Both);
    });
}

/// A trickling daemon is reported, and the build moves to another machine, before the local daemon ends the hook for its
/// silence: its limit is 18 s, and the machine is given up after 15 s of bytes without progress.
#[test]
fn a_trickling_daemon_moves_the_build() {
    // The first build on a machine begins with an export, which shows its signing key.
    const CHECK: &str = "checking its signing key: ";
    for (slow_from, phase) in [(BUILD, "building: "), (EXPORT, "retrieving outputs: "), (EXPORT, CHECK)] {
        let lab = Lab::with_substitutes();
        let [slow, other] = ["slow", "other"].map(|name| lab.build_machine(name).start());
        let socket = SlowSocket::listen(&slow, slow_from);
        let head = lab.head().start();
        let entry = slow.entry().set("daemon_socket", SOCKET).set("stall_timeout", 3).set("speed", 1000);
        head.write_machines(&[entry, other.entry()]);
        if phase != CHECK {
            head.build(&[&Drv::new("before")]).succeeded();
            assert_eq!(slow.built(), ["before"]);
        }
        head.mark_healthy("slow");
        socket.arm();
        // More than trickles through in that time.
        let drv = Drv::new("trickle").script("seq 1 3000; seq 1 3000 >$out");
        let result = head.client().max_silent_time(18).build(&[&drv]).succeeded();
        let given_up = format!("could not be built on 'slow': {phase}");
        let line = result.log.lines().find(|line| line.contains(&given_up)).unwrap_or_else(|| panic!("{}", result.log));
        assert!(line.contains("slow:2022: only ") && line.contains(" bytes have passed in 1"), "{line}");
        let line = if slow_from == BUILD { "slow: the build has not begun there for 6" } else { "slow: only " };
        assert!(result.log.contains(line), "no line meanwhile: {}", result.log);
        assert_eq!(other.built(), ["trickle"]);
        assert!(head.health_of("slow:2022").contains("bytes have passed"));
    }
}

#[test]
fn a_lock_of_another_build_moves_the_build() {
    let lab = Lab::with_substitutes();
    let [b1, b2] = ["b1", "b2"].map(|name| lab.build_machine(name).start());
    let head = lab.head().start();
    head.write_machines(&[b1.entry().set("speed", 1000), b2.entry()]);
    head.mark_healthy("b1");
    let drv = Drv::new("locked").script("echo begun; while [ ! -e /var/lab/go ]; do sleep 0.1; done; echo >$out");
    b2.write("/var/lab/go", "");
    let mut holder = b1.client().start(&[&drv]);
    holder.wait_for_log("begun");
    let result = head.client().max_silent_time(6).build(&[&drv]).succeeded();
    let given_up = "could not be built on 'b1': building: ";
    let line = result.log.lines().find(|line| line.contains(given_up)).unwrap_or_else(|| panic!("{}", result.log));
    assert!(line.contains("b1:2022: the build has not begun there within 6 s"), "{line}");
    assert!(result.log.contains("b1: the build has not begun there for 2 s"), "{}", result.log);
    assert_eq!((b1.built(), b2.built()), (vec!["locked".to_owned()], vec!["locked".to_owned()]));
    // It is good for other builds.
    assert!(!head.health_of("b1:2022").contains("\"failures\":{"), "{}", head.health_of("b1:2022"));
    holder.interrupt(Signal::INT);

    // A builder that is silent after its lock became free has its own time: 10 s and 12 s are more than the limit.
    let script = "echo begun; [ -e /var/lab/again ] || { touch /var/lab/again; sleep 1000; }; sleep 12; echo >$out";
    let drv = Drv::new("later").script(script);
    let mut holder = b1.client().start(&[&drv]);
    holder.wait_for_log("begun");
    let mut build = head.client().max_silent_time(20).start(&[&drv]);
    build.wait_for_log("the build has not begun there for 6 s");
    holder.interrupt(Signal::INT);
    build.wait().succeeded();
    assert_eq!(b1.built().iter().filter(|name| *name == "later").count(), 2);
}

/// Each has the lock of its own store and waits for the other's, until one gives way.
#[test]
fn two_heads_that_offload_to_each_other_both_finish() {
    let lab = Lab::with_substitutes();
    let third = lab.build_machine("third").start();
    let heads = ["one", "two"].map(|name| lab.head().name(name).sshd(true).max_jobs(1).start());
    let offload = |head: &Host, command| head.run("/opt/offload/offload", &[command, "third"]);
    for (head, other) in [(0, 1), (1, 0)] {
        heads[head].write_machines(&[heads[other].entry().set("speed", 1000), third.entry()]);
        heads[head].mark_healthy(heads[other].name());
        offload(&heads[head], "drain");
    }
    // Both have their lock, and wait for the only slot, before either can begin.
    let script = "echo begun; while [ ! -e /var/lab/go ]; do sleep 0.1; done; echo >$out";
    let blockers = heads.each_ref().map(|head| {
        let drv = Drv::new(&format!("blocker-{}", head.name())).script(script);
        let mut build = head.client().start(&[&drv]);
        build.wait_for_log("begun");
        build
    });
    let shared = Drv::new("shared");
    let builds = heads.each_ref().map(|head| {
        let mut build = head.client().max_silent_time(10).start(&[&shared]);
        build.wait_for_log("waits for a build slot");
        build
    });
    heads.iter().for_each(|head| head.write("/var/lab/go", ""));
    blockers.into_iter().for_each(|build| drop(build.wait().succeeded()));
    let mut builds = builds.into_iter();
    let (mut one, mut two) = (builds.next().unwrap(), builds.next().unwrap());
    for build in [&mut one, &mut two] {
        build.wait_for_log("the build has not begun there within 10 s");
    }
    heads.iter().for_each(|head| drop(offload(head, "undrain")));
    one.wait().succeeded();
    two.wait().succeeded();
    assert_eq!(third.built(), ["shared"]);
}

#[test]
fn a_machine_that_is_the_head_itself_is_skipped() {
    let lab = Lab::with_substitutes();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().sshd(true).start();
    let link = lab.proxy("elsewhere", head.ssh_address());
    let own = head.entry().set("parallel_builds", 1).set("speed", 1000);
    let far = own.clone().via(&link);
    // A persistent connection would protect the items that were added over it.
    head.write_machines(&[own, far, b1.entry().set("keep_connection", false)]);
    let result = head.build(&[&Drv::new("one")]).succeeded();
    assert_eq!((b1.built(), head.built()), (vec!["one".to_owned()], Vec::new()), "{}", result.log);
    for name in ["head", "elsewhere"] {
        let health = head.health_of(&format!("{name}:2022"));
        assert!(health.contains("its store is the store of this machine"), "{name}: {health}");
    }
    // The items of the two checks, of the store and of the signing key, were added once, and are garbage.
    head.build(&[&Drv::new("two")]).succeeded();
    let probes = |host: &Host| {
        let names = host.valid_paths();
        names.iter().filter(|path| path.to_string_lossy().ends_with("-offload-test")).count()
    };
    assert_eq!(probes(&b1), 2);
    b1.run("guix", &["gc", "--collect-garbage"]);
    assert_eq!(probes(&b1), 0);

    // `offload test` says so, too.
    let output =
        head.command("/opt/offload/offload").args(["test", "--machine-file", "/etc/guix/machines.lua"]).output();
    let said = String::from_utf8(output.unwrap().stdout).unwrap();
    assert_eq!(said.matches("its store is the store of this machine").count(), 2, "{said}");
    assert!(said.contains("local_machine"), "{said}");
}
