//! Connections kept between hook processes: what shares one, how it ends, and what becomes of a build that loses it.

mod commands;
#[path = "../lab/mod.rs"]
mod lab;
mod liveness;
mod memory;
mod peers;
mod pool;
mod revocation;
mod together;
mod unread;

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use offload::state::Health;
use offload::state::health;
use offload::status::MachineStatus;

use lab::{Direction, Drv, Entry, HostOptions, LONG, Release, Signal, wait_until};
use pool::{MIB, PERSIST_DIRECTORY, Pool, is_reused, prefer};

/// What a keeper may take in memory: that of the hook which it was, and little more.
const MODEST: u64 = 48 << 20;

#[test]
fn the_next_builds_use_the_connection_of_the_first() {
    use_the_connection_of_the_first(Pool::new());
}

/// Its user is the daemon's.
#[test]
fn the_next_builds_of_a_daemon_without_privileges() {
    use_the_connection_of_the_first(Pool::with(|machine| machine, HostOptions::unprivileged));
}

#[test]
fn the_next_builds_on_an_old_machine() {
    use_the_connection_of_the_first(Pool::with(|machine| machine.release(Release::Bullseye), |head| head));
}

fn use_the_connection_of_the_first(pool: Pool) {
    let holder = pool.kept_by(&Drv::new("first"));
    let connections = pool.link.connections();
    for number in 0..2 {
        let made = pool.made_here(&format!("made-{number}"), 100_000);
        let name = format!("user-{number}");
        let result = pool.build(&Drv::new(&name).input(&made).script(&format!("cat $made_{number} >$out")));
        assert!(is_reused(&result), "{}", result.log);
        let (output, input) = (result.output(&name), result.output(made.name()));
        assert_eq!(pool.head.read(output), pool.head.read(input));
        assert!(pool.head.path_info(output).is_some());
        pool.await_idle(1);
    }
    assert_eq!(pool.link.connections(), connections);
    assert_eq!(pool.holders()[0].pid, holder.pid);
    assert_eq!(pool.machine.built(), ["first", "user-0", "user-1"]);

    // A builder that fails is the derivation's fault over any connection.
    let bad = pool.start(&Drv::new("bad").script("echo out of luck; exit 3")).wait();
    assert_eq!(bad.status, Some(100), "{}\n{}", bad.error, bad.log);
    assert!(is_reused(&bad) && !bad.log.contains("could not be built on"), "{}", bad.log);
    assert!(pool.head.build_log(bad.derivation("bad")).contains("out of luck"));
    // Its stream is not used again, but its session is.
    let next = pool.kept_by(&Drv::new("next"));
    assert_eq!(holder.pid, next.pid);
    assert_eq!(pool.link.connections(), connections);
    assert_eq!(pool.machine.built().last().map(String::as_str), Some("next"));
    pool.head.await_no_lock("afterwards");
    pool.head.verify_store();
    pool.machine.verify_store();
}

/// Where the server forwards to no socket, a program over there passes the data.
#[test]
fn a_connection_through_a_relay() {
    let pool = Pool::with(|machine| machine.sshd_option("AllowStreamLocalForwarding no"), |head| head);
    let holder = pool.kept_by(&Drv::new("first"));
    let connections = pool.link.connections();
    let made = pool.made_here("made", 3 * MIB);
    let result = pool.build(&Drv::new("second").input(&made).script("cat $made >$out"));
    assert!(is_reused(&result), "{}", result.log);
    assert_eq!(pool.head.read(result.output("second")), pool.head.read(result.output("made")));
    assert_eq!(pool.link.connections(), connections);
    pool.await_idle(1);
    // The program ends, and with it the connection.
    let relays = || pool.machine.processes().into_iter().filter(|process| process.command.contains("repl"));
    assert!(relays().count() > 0, "{:?}", pool.machine.processes());
    assert_eq!(pool.holders()[0].pid, holder.pid);
    holder.signal(Signal::KILL);
    wait_until("nobody is logged in, and no relay runs", LONG, || pool.is_left() && relays().count() == 0);
}

#[test]
fn what_differs_in_its_terms_has_a_connection_of_its_own() {
    let pool = Pool::new();
    let Pool { head, link, .. } = &pool;
    let entry = || pool.entry().set("parallel_builds", 4);
    let mut count = 0;
    let mut build = |entry: Entry, limits: [u32; 2], is_new: bool, left: usize| {
        count += 1;
        let connections = link.connections();
        head.write_machines(&[entry]);
        head.mark_healthy(link.name());
        let client = head.client().max_silent_time(limits[0]).timeout(limits[1]);
        let result = client.build(&[&Drv::new(&format!("build-{count}"))]).succeeded();
        assert_eq!(is_reused(&result), !is_new, "{count}: {}", result.log);
        assert_eq!(link.connections() - connections > 0, is_new, "{count}");
        pool.await_idle(left);
    };
    let usual = [1000, 2000];
    build(entry(), usual, true, 1);
    build(entry().set("compression", "zlib"), usual, true, 2);
    // What a connection does not depend on may change: the daemon is told over a stream of its own.
    build(entry().set("substitutes", "never"), usual, false, 2);
    build(entry().set("speed", 7).set("connect_timeout", 6), usual, false, 2);
    build(entry().set("compression", "zlib"), usual, false, 2);
    // Limits that are given take the place of those before.
    build(entry(), [1001, 2001], false, 2);

    // Those of another account, and those that are not to be kept any more, end.
    build(entry().set("user", "offload"), usual, true, 1);
    build(entry().set("user", "offload"), usual, false, 1);
    build(entry().set("keep_connection", false), usual, true, 0);
    build(entry(), usual, true, 1);
    let command = ["sh", "-c", "exec busybox nc link 2022"];
    build(entry().set("proxy_command", command), usual, true, 1);
    build(entry().set("proxy_command", command), usual, false, 1);
    let other = ["sh", "-c", "exec busybox  nc link 2022"];
    build(entry().set("proxy_command", other), usual, true, 1);
    assert_eq!(pool.machine.built().len(), count);
}

#[test]
fn the_process_that_keeps() {
    let pool = Pool::new();
    let Pool { machine, head, .. } = &pool;
    let holder = pool.kept_by(&Drv::new("first"));
    let files = format!("/proc/{}/fd", holder.pid);
    let mut descriptors: Vec<(u32, PathBuf)> = fs::read_dir(&files)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().to_str().unwrap().parse().unwrap(), fs::read_link(entry.path()).unwrap()))
        .collect();
    descriptors.sort();
    for (number, (descriptor, file)) in descriptors.iter().take(3).enumerate() {
        assert_eq!(*descriptor as usize, number);
        assert!(file.ends_with("dev/null"), "{descriptors:?}");
    }
    // The session's and the one to find it by; the others only tell it something: a signal, the end of the daemon.
    let (events, files): (Vec<_>, Vec<_>) =
        descriptors[3..].iter().partition(|(_, file)| file.to_string_lossy().starts_with("anon_inode:"));
    let sockets: Vec<String> = files.iter().map(|(_, file)| inode(file)).collect();
    assert_eq!((sockets.len(), events.len()), (4, 1), "{descriptors:?}");
    let (unix, tcp) = (fs::read_to_string("/proc/net/unix").unwrap(), fs::read_to_string("/proc/net/tcp").unwrap());
    // By the name that it was bound to.
    let offered = |line: &str| line.contains(PERSIST_DIRECTORY) && line.ends_with(&format!("/.{}", holder.pid));
    assert_eq!(sockets.iter().filter(|inode| has_line(&unix, inode, offered)).count(), 1, "{sockets:?}\n{unix}");
    // Port 2022 on the other side.
    let leads_there = |line: &str| line.split_whitespace().nth(2).is_some_and(|remote| remote.ends_with(":07E6"));
    assert_eq!(sockets.iter().filter(|inode| has_line(&tcp, inode, leads_there)).count(), 1, "{sockets:?}\n{tcp}");

    let stat = fs::read_to_string(format!("/proc/{}/stat", holder.pid)).unwrap();
    let session: u32 = stat.rsplit(") ").next().unwrap().split(' ').nth(3).unwrap().parse().unwrap();
    assert_eq!(session, holder.pid, "its session is another's");
    assert_eq!(fs::read_link(format!("/proc/{}/cwd", holder.pid)).unwrap(), head.path("/"));
    assert_eq!(fs::read_dir(format!("/proc/{}/task", holder.pid)).unwrap().count(), 1);

    // What it offers is for its user alone.
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!([mode(&head.path(PERSIST_DIRECTORY)), mode(&pool.sockets()[0]) & 0o077], [0o700, 0]);

    // The machine's SSH server ends the session.
    machine.stop_sshd();
    pool.await_idle(0);
    machine.start_sshd();
    pool.kept_by(&Drv::new("second"));

    // Its daemon ends the connection: a child of it, one for each client.
    let daemons = || machine.processes().into_iter().filter(|process| process.name == "guix-daemon");
    let all: Vec<u32> = daemons().map(|process| process.pid).collect();
    let server = daemons().find(|process| all.contains(&process.parent)).expect("the daemon serves somebody");
    let connections = pool.link.connections();
    server.signal(Signal::KILL);
    // The session is there, and opens another stream.
    let result = pool.build(&Drv::new("anew"));
    assert!(is_reused(&result), "{}", result.log);
    assert_eq!(pool.link.connections(), connections);

    // The time is over.
    head.write_machines(&[pool.entry().set("keep_connection", 1)]);
    pool.build(&Drv::new("third"));
    pool.await_idle(0);
    wait_until("nobody is logged in", LONG, || pool.is_left());
    head.await_no_lock("afterwards");
}

/// The number in `socket:[NUMBER]`.
fn inode(link: &Path) -> String {
    let text = link.to_str().unwrap();
    let inode = text.strip_prefix("socket:[").and_then(|text| text.strip_suffix(']'));
    inode.unwrap_or_else(|| panic!("{text} is no socket")).to_owned()
}

/// Whether a table of the kernel has a line about a socket which is as it should be.
fn has_line(table: &str, inode: &str, is_so: impl Fn(&str) -> bool) -> bool {
    table.lines().any(|line| line.split_whitespace().any(|field| field == inode) && is_so(line))
}

#[test]
fn no_more_are_kept_than_there_are_slots() {
    let pool = Pool::new();
    pool.head.write_machines(&[pool.entry().set("parallel_builds", 2)]);
    let leaves: Vec<Drv> = (0..10).map(|number| Drv::new(&format!("leaf-{number}"))).collect();
    let branches: Vec<Drv> = leaves
        .chunks(2)
        .enumerate()
        .map(|(number, pair)| Drv::new(&format!("branch-{number}")).input(&pair[0]).input(&pair[1]))
        .collect();
    let root = branches.iter().fold(Drv::new("root"), |root, branch| root.input(branch));
    pool.head.mark_healthy(pool.link.name());
    let result = pool.head.build(&[&root]).succeeded();
    assert_eq!(pool.machine.built().len(), 16);
    assert!(is_reused(&result), "{}", result.log);
    wait_until("no more are kept than there are slots", LONG, || {
        pool.holders().len() == pool.sockets().len() && pool.holders().len() <= 2
    });
    assert!(!pool.holders().is_empty());
    pool.head.await_no_lock("afterwards");
    pool.head.verify_store();

    // Those that build at the same time share them.
    let slots = |count: i32| pool.head.write_machines(&[pool.entry().set("parallel_builds", count)]);
    slots(3);
    let connections = pool.link.connections();
    let count = pool.holders().len();
    let together: Vec<Drv> = (0..3).map(|number| pool.long(&format!("together-{number}"))).collect();
    pool.head.mark_healthy(pool.link.name());
    let build = pool.head.client().start(&together.iter().collect::<Vec<_>>());
    wait_until("they build", LONG, || pool.machine.built().len() == 19);
    pool.let_go();
    build.wait().succeeded();
    // Over the same sessions.
    pool.await_idle(count);
    assert_eq!(pool.link.connections(), connections);
}

#[test]
fn a_keeper_that_is_killed() {
    let pool = Pool::new();
    let Pool { machine, head, .. } = &pool;
    // While nobody uses it.
    let holder = pool.kept_by(&Drv::new("first"));
    let stale = pool.sockets();
    holder.signal(Signal::KILL);
    wait_until("it is gone", LONG, || pool.holders().is_empty());
    assert_eq!(pool.sockets(), stale);
    let result = pool.build(&Drv::new("second"));
    assert!(!is_reused(&result) && !result.log.contains("could not be built on"), "{}", result.log);
    pool.await_idle(1);
    assert_ne!(pool.sockets(), stale);

    // In the middle of a build.
    let mut build = pool.start(&pool.long("third"));
    build.wait_for_log("here we are");
    pool.holders()[0].signal(Signal::KILL);
    wait_until("it begins anew", LONG, || machine.built() == ["first", "second", "third", "third"]);
    pool.let_go();
    let result = build.wait().succeeded();
    assert!(is_reused(&result), "{}", result.log);
    assert!(result.log.contains("the process that owns the connection to it has ended"), "{}", result.log);
    assert_eq!(head.read(result.output("third")), b"done\n");
    // The machine is not to blame.
    assert!(!head.health_of("link:2022").contains("the process that owns"), "{}", head.health_of("link:2022"));
    pool.await_idle(1);
    head.await_no_lock("afterwards");
    head.verify_store();
}

#[test]
fn a_hook_that_is_killed_while_it_borrows() {
    let pool = Pool::new();
    let Pool { machine, head, .. } = &pool;
    pool.kept_by(&Drv::new("first"));
    let is_cancelled = |case: &str| {
        let daemons = || machine.processes().into_iter().filter(|process| process.name == "guix-daemon").count();
        wait_until(&format!("{case}: nobody builds"), LONG, || daemons() == 1 && !machine.is_building());
        // The session goes on.
        pool.await_idle(1);
        head.await_no_lock(case);
    };
    let start = |name: &str| {
        let mut build = pool.start(&pool.long(name));
        build.wait_for_log("here we are");
        assert!(build.log().contains("debug: borrow: "), "{}", build.log());
        build
    };

    let build = start("interrupted");
    build.interrupt(Signal::INT);
    is_cancelled("a client that goes away");

    pool.kept_by(&Drv::new("second"));
    let build = start("killed");
    let hooks = head
        .processes()
        .into_iter()
        .filter(|process| process.name != "offload-session" && process.command.split(' ').nth(1) == Some("offload"));
    let [hook] = &hooks.collect::<Vec<_>>()[..] else { panic!("not one hook: {:?}", head.processes()) };
    hook.signal(Signal::KILL);
    let result = build.wait();
    assert_ne!(result.status, Some(0), "{}", result.log);
    is_cancelled("a hook that is killed");

    pool.let_go();
    pool.kept_by(&Drv::new("third"));
    head.verify_store();
}

#[test]
fn a_link_that_freezes() {
    let pool = Pool::new();
    let near = pool.lab.build_machine("near").start();
    let Pool { machine, head, .. } = &pool;
    // While nobody uses the connection. Nobody notices before the next build.
    prefer(&pool, pool.entry(), &near);
    pool.kept_by(&Drv::new("first"));
    prefer(&pool, pool.entry().set("connect_timeout", 2), &near);
    pool.link.freeze();
    let result = pool.build(&Drv::new("second"));
    assert_eq!(near.built(), ["second"]);
    assert!(result.log.contains("cannot reuse the persistent connection: "), "{}", result.log);
    assert!(result.log.contains("could not be built on 'link': "), "{}", result.log);
    pool.await_idle(0);

    // While a build goes on over it.
    pool.link.thaw();
    pool.link.cut();
    prefer(&pool, pool.entry().set("stall_timeout", 5), &near);
    pool.kept_by(&Drv::new("third"));
    let mut build = pool.start(&pool.long("fourth"));
    near.write("/var/lab/go", "");
    build.wait_for_log("here we are");
    pool.link.freeze();
    let result = build.wait().succeeded();
    assert!(is_reused(&result), "{}", result.log);
    assert!(result.log.contains("could not be built on 'link': building: "), "{}", result.log);
    assert_eq!(near.built(), ["second", "fourth"]);
    pool.await_idle(0);
    pool.link.cut();
    wait_until("nobody builds", LONG, || !machine.is_building());
    head.await_no_lock("afterwards");
    head.verify_store();
}

/// Stopped, not ended: sshd beside it is well, and takes what is sent until it is full.
#[test]
fn a_daemon_that_stops_while_it_is_sent_to() {
    let pool = Pool::new();
    let near = pool.lab.build_machine("near").start();
    let Pool { machine, head, .. } = &pool;
    prefer(&pool, pool.entry(), &near);
    pool.kept_by(&Drv::new("first"));
    prefer(&pool, pool.entry().set("stall_timeout", 3), &near);
    head.run("sh", &["-c", &format!("head -c {} /dev/urandom >/tmp/large", 16 * MIB)]);
    pool.link.throttle(Some(2 * MIB as u64));
    let before = pool.link.passed(Direction::ToTarget);
    let build = pool.start(&Drv::new("second").file("data", "/tmp/large").script("cp $data $out"));
    wait_until("it is sent", LONG, || pool.link.passed(Direction::ToTarget) > before + MIB as u64);
    machine.freeze_daemon();
    let result = build.wait().succeeded();
    assert!(is_reused(&result), "{}", result.log);
    assert!(result.log.contains("could not be built on 'link': sending inputs: "), "{}", result.log);
    assert_eq!(near.built(), ["second"]);
    machine.thaw();
    head.await_no_lock("afterwards");
}

#[test]
fn much_goes_over_a_borrowed_connection() {
    let pool = Pool::new();
    let Pool { machine, head, .. } = &pool;
    let holder = pool.kept_by(&Drv::new("first"));
    head.run("sh", &["-c", &format!("head -c {} /dev/urandom >/tmp/large", 32 * MIB)]);
    // What is added comes in one stream, what is imported in pieces that the machine's daemon asks for.
    let made = pool.made_here("made", 32 * MIB);
    let large = Drv::new("large").file("data", "/tmp/large").input(&made).script("cat $data $made >$out");
    let result = pool.build(&large);
    assert!(is_reused(&result), "{}", result.log);
    let inputs = [head.read("/tmp/large"), head.read(result.output("made"))].concat();
    assert!(head.read(result.output("large")) == inputs, "the output differs");
    pool.await_idle(1);

    let ids: Vec<String> = (0..100).map(|number| format!("out{number}")).collect();
    let script: String = ids.iter().map(|id| format!("echo {id} >${id}; ")).collect();
    let many = Drv::new("many").outputs(&ids.iter().map(String::as_str).collect::<Vec<_>>()).script(&script);
    let result = pool.build(&many);
    assert!(is_reused(&result), "{}", result.log);
    for id in &ids {
        let output = result.output_of("many", id);
        assert_eq!(head.read(output), format!("{id}\n").as_bytes());
        assert!(head.path_info(output).is_some());
    }
    // And what a builder says.
    pool.await_idle(1);
    let wordy = Drv::new("wordy").script("head -c 3000000 /dev/urandom | base64; echo THE END; echo >$out");
    let result = pool.build(&wordy);
    assert!(is_reused(&result));
    let log = head.build_log(result.derivation("wordy"));
    assert!(log.len() > 4_000_000 && log.trim_end().ends_with("THE END"), "{} bytes", log.len());
    pool.await_idle(1);
    assert_eq!(pool.holders()[0].pid, holder.pid);
    let peak = pool.holders()[0].peak_memory();
    assert!(peak < MODEST, "{peak} bytes");
    head.verify_store();
    machine.verify_store();
}

/// Else the next decision would have to ask, and the daemon would wait for that.
#[test]
fn the_status_is_renewed_beside_a_borrowed_connection() {
    let pool = Pool::new();
    let Pool { head, link, .. } = &pool;
    pool.kept_by(&Drv::new("first"));
    let old = health::now() - 16_000;
    head.change_health(link.name(), |_| Health::reached(MachineStatus::default(), old));
    let connections = link.connections();
    let result = head.build(&[&Drv::new("second")]).succeeded();
    assert!(is_reused(&result), "{}", result.log);
    assert_eq!(link.connections(), connections);
    let renewed = Mutex::new(Health::default());
    head.change_health(link.name(), |health| {
        *renewed.lock().unwrap() = health.clone();
        health
    });
    let renewed = renewed.into_inner().unwrap();
    assert!(renewed.measured.is_some_and(|measured| measured > old), "{renewed:?}");
    assert!(renewed.status.is_some_and(|status| status.load1.is_some()));
    // It is fresh now.
    pool.await_idle(1);
    let result = head.build(&[&Drv::new("third")]).succeeded();
    assert!(is_reused(&result), "{}", result.log);
    assert_eq!(link.connections(), connections);
    pool.await_idle(1);
    head.await_no_lock("afterwards");
}

/// A machine whose record is too old to decide by is probed over the session that is open, and builds over it.
#[test]
fn an_old_record_takes_no_login() {
    let pool = Pool::new();
    let Pool { head, link, .. } = &pool;
    pool.kept_by(&Drv::new("first"));
    let connections = link.connections();
    let old = health::now() - 100_000;
    head.change_health(link.name(), |_| Health::reached(MachineStatus::default(), old));
    let result = head.build(&[&Drv::new("second")]).succeeded();
    assert!(is_reused(&result) && result.log.contains("debug: probe: "), "{}", result.log);
    assert_eq!(link.connections(), connections);
    pool.await_idle(1);
    head.await_no_lock("afterwards");
}

/// All of them are the daemon's user, who may enter the directory: mistakes, not attacks.
#[test]
fn strangers_at_the_socket() {
    let pool = Pool::new();
    let holder = pool.kept_by(&Drv::new("first"));
    let socket = pool.sockets().remove(0);
    // The path is too long for a socket's name, seen from outside.
    let directory = fs::File::open(socket.parent().unwrap()).unwrap();
    let short = format!("/proc/self/fd/{}/{}", directory.as_raw_fd(), socket.file_name().unwrap().to_str().unwrap());
    let connect = || {
        let stream = UnixStream::connect(&short).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    };
    let offers = || pool.sockets().iter().any(|socket| socket.to_str().unwrap().contains(&format!(".{}-", holder.pid)));
    let mut silent = [connect(), connect()];
    let mut wordy = connect();
    wordy.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let hasty = connect();
    drop(hasty);
    // None of them is in a build's way.
    let result = pool.build(&Drv::new("second"));
    assert!(is_reused(&result), "{}", result.log);
    // It turns them away, one after the other: an end, or an error where something had been written.
    for stream in silent.iter_mut().chain([&mut wordy]) {
        match stream.read_to_end(&mut Vec::new()) {
            Ok(0) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(offers());
    let connections = pool.link.connections();
    let result = pool.build(&Drv::new("third"));
    assert!(is_reused(&result), "{}", result.log);
    assert_eq!(pool.link.connections(), connections);
    assert!(offers());
    assert!(pool.holders().iter().any(|process| process.pid == holder.pid));
}

#[test]
fn garbage_is_collected_while_a_connection_is_kept() {
    let pool = Pool::new();
    let Pool { machine, head, .. } = &pool;
    let made = pool.made_here("made", 1000);
    let user = |number: usize| Drv::new(&format!("user-{number}")).input(&made).script("cat $made >$out");
    pool.kept_by(&user(0));
    let output = machine.command("timeout").args(["60", "guix", "gc"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // What the connection does not protect is gone, and sent once more.
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                machine.run("guix", &["gc"]);
                thread::sleep(Duration::from_millis(50));
            }
        });
        let _over = Over(&is_over);
        for number in 1..4 {
            let result = pool.build(&user(number));
            let name = format!("user-{number}");
            assert!(is_reused(&result), "{}", result.log);
            assert_eq!(head.read(result.output(&name)), head.read(result.output("made")));
            pool.await_idle(1);
        }
    });
    head.verify_store();
    machine.verify_store();
}

/// Ends what waits for it, also when a test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
