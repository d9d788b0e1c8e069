//! Many hooks at once: what is sent once, how much at a time, and how they log in.

mod lab;

use std::time::{Duration, Instant};

use lab::{Direction, Drv, Host, LONG, Lab, Proxy, RunningBuild, uptime, wait_until};
use offload::internals::state::Health;
use offload::internals::state::health::{BACK_OFF_MIN, BAN_MIN};

const MIB: usize = 1 << 20;

struct Pool {
    _lab: Lab,
    machine: Host,
    link: Proxy,
    head: Host,
}

/// One machine behind a proxy.
fn pool(change: impl Fn(lab::HostOptions) -> lab::HostOptions, entry: impl Fn(lab::Entry) -> lab::Entry) -> Pool {
    let lab = Lab::new();
    let machine = change(lab.build_machine("b1")).start();
    let link = lab.proxy("link", machine.ssh_address());
    let head = lab.head().start();
    head.write_machines(&[entry(machine.entry().via(&link))]);
    Pool { _lab: lab, machine, link, head }
}

fn random_file(head: &Host, path: &str, size: usize) {
    head.run("sh", &["-c", &format!("head -c {size} /dev/urandom >{path}")]);
}

#[test]
fn an_input_of_ten_builds_is_sent_once() {
    let Pool { machine, link, head, .. } = pool(|host| host.max_jobs(10), |entry| entry);
    random_file(&head, "/tmp/data", 20 * MIB);
    let drvs: Vec<Drv> = (0..10)
        .map(|i| Drv::new(&format!("user-{i}")).file("data", "/tmp/data").script("wc -c <$data >$out"))
        .collect();
    let result = head.build(&drvs.iter().collect::<Vec<_>>()).succeeded();
    assert_eq!(machine.built().len(), 10);
    assert_eq!(head.read(result.output("user-7")), format!("{}\n", 20 * MIB).as_bytes());
    let sent = link.passed(Direction::ToTarget) as usize;
    assert!((20 * MIB..25 * MIB).contains(&sent), "{sent} bytes were sent");
    head.await_no_lock("afterwards");
    machine.verify_store();
}

/// Uploads and downloads each last a second at least, and no two of a kind may overlap. The first upload lasts
/// until others wait for it.
#[test]
fn transfers_are_limited_in_each_direction() {
    let Pool { machine, link, head, .. } = pool(|host| host, |entry| entry.set("max_transfers", 1));
    // All that builds share is there before.
    head.build(&[&Drv::new("first")]).succeeded();
    link.throttle(Some(MIB as u64 / 32));
    let drvs: Vec<Drv> = (0..3)
        .map(|i| {
            let path = format!("/tmp/data-{i}");
            random_file(&head, &path, 2 * MIB);
            Drv::new(&format!("large-{i}")).file("data", &path).script("cat $data >$out")
        })
        .collect();
    let mut build = head.client().start(&drvs.iter().collect::<Vec<_>>());
    build.wait_for_log("waiting for other transfers with 'link'");
    let start = uptime();
    link.throttle(Some(2 * MIB as u64));
    build.wait().succeeded();
    let end = uptime();
    let mut starts: Vec<f64> = machine.builds().iter().skip(1).map(|build| build.start - start).collect();
    starts.sort_by(f64::total_cmp);
    // The rest of one upload, then the others, and the last download.
    let rest: Vec<f64> = starts.iter().copied().filter(|since| *since > 0.0).collect();
    for (number, since) in rest.iter().enumerate() {
        assert!(*since > 0.9 * number as f64, "two uploads at once: {starts:?}");
    }
    assert!(end - start > 0.9 * rest.len() as f64, "{starts:?}, {:?}", end - start);
}

/// An sshd that begins to drop connections at three, and drops every one from six on.
#[test]
fn twelve_builds_pass_an_sshd_with_few_startups() {
    let Pool { machine, link, head, .. } =
        pool(|host| host.max_jobs(12).sshd_option("MaxStartups 3:50:6"), |entry| entry);
    // Logging in takes a while, so that they meet.
    link.delay(Duration::from_millis(15));
    let drvs: Vec<Drv> = (0..12).map(|i| Drv::new(&format!("drv-{i}"))).collect();
    let result = head.client().start(&drvs.iter().collect::<Vec<_>>()).wait();
    assert_eq!(result.status, Some(0), "{}\n{}\n{}", result.error, result.log, machine.sshd_log());
    // A connection that was dropped is tried again, and the machine is not given up for it.
    assert!(!result.log.contains("could not be built"), "{}", result.log);
    assert_eq!(machine.built().len(), 12);
    eprintln!("{} connections, {} dropped", link.connections(), machine.sshd_log().matches("drop connection").count());
}

/// An sshd that counts failures, as it does by default, and has not forgotten them by the time of the next; and a key
/// that it does not know.
#[test]
fn refused_logins_cost_one_connection_for_each_back_off() {
    let lab = Lab::new();
    let closed = lab.build_machine("b1").closed().sshd_option("PerSourcePenalties authfail:300s").start();
    let link = lab.proxy("link", closed.ssh_address());
    let other = lab.build_machine("b2").start();
    let head = lab.head().start();
    head.write_machines(&[closed.entry().via(&link).set("speed", 1000), other.entry()]);
    let mut serial = 0;
    let mut build = |count: usize| {
        let drvs: Vec<Drv> = (serial..serial + count).map(|i| Drv::new(&format!("drv-{i}"))).collect();
        serial += count;
        head.build(&drvs.iter().collect::<Vec<_>>()).succeeded()
    };
    // One connection for each back-off, however many builds there are.
    let start = Instant::now();
    build(4);
    build(4);
    let allowed = 1 + (start.elapsed().as_secs() / BACK_OFF_MIN.as_secs()) as u32;
    assert!((1..=allowed).contains(&link.connections()), "{} in {:?}", link.connections(), start.elapsed());
    let health = head.health_of("link:2022");
    assert!(health.contains("may not log in") || link.connections() > 1 && health.contains("Not allowed"), "{health}");
    // sshd counts: after some failures it says "Not allowed at this time". That is known for what it is, and costs one
    // connection as well.
    let mut connections = link.connections();
    for _ in 0..10 {
        head.forget_health();
        build(1);
        connections += 1;
        assert_eq!(link.connections(), connections);
        let health = head.health_of("link:2022");
        if health.contains("Not allowed at this time") {
            let health: Health = serde_json::from_str(&health).unwrap();
            assert!(health.failures.unwrap().back_off() >= BAN_MIN);
            return;
        }
    }
    panic!("sshd never banned the head: {}", closed.sshd_log());
}

/// While the garbage collector runs, the daemon accepts nothing. The build stays on the machine, and the head's daemon does not
/// end the hook for its silence.
#[test]
fn a_running_garbage_collector_does_not_move_the_build() {
    let Pool { machine, link, head, .. } = pool(
        |host| host,
        |entry| {
            // A persistent connection would protect the sent items, which the garbage collector must delete here.
            entry.set("stall_timeout", 3).set("keep_connection", false)
        },
    );
    head.build(&[&Drv::new("before")]).succeeded();
    let connections = link.connections();
    // The connection of the probe has built, too.
    assert_eq!(connections, 1);
    let lock = lock_store(&machine);
    let mut build = head.client().max_silent_time(10).start(&[&Drv::new("during")]);
    assert_patient(&mut build);
    assert!(machine.built() == ["before"]);
    drop(lock);
    build.wait().succeeded();
    assert_eq!(link.connections(), connections + 1);

    // The same while a program on the machine imports a bundle over a link with latency. The bundle is incomplete when the
    // lock is taken.
    let input = Drv::new("input").script("head -c 48000000 /dev/urandom >$out");
    head.build(&[&input]).succeeded();
    machine.run("sh", &["-c", "guix gc --delete $(ls -d /gnu/store/*-input)"]);
    link.delay(Duration::from_millis(10));
    let mut build = head.client().max_silent_time(10).start(&[&Drv::new("importing").input(&input)]);
    let is_importing = || machine.processes().iter().any(|process| process.command.contains("archive --import"));
    wait_until("a program imports", LONG, is_importing);
    let lock = lock_store(&machine);
    assert_patient(&mut build);
    assert!(is_importing());
    drop(lock);
    build.wait().succeeded();
    assert_eq!((machine.built().pop().as_deref(), link.connections()), (Some("importing"), connections + 3));
}

/// The hook says that the machine's daemon is silent, and waits on.
#[track_caller]
fn assert_patient(build: &mut RunningBuild) {
    build.wait_for_log("its daemon has been silent for");
    let start = Instant::now();
    // Beyond the limit for its silence, of which the half has passed.
    while start.elapsed() < Duration::from_secs(7) {
        assert!(!build.is_done() && !build.log().contains("could not be built"), "{}", build.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// As the garbage collector does.
fn lock_store(machine: &Host) -> std::fs::File {
    let lock = std::fs::OpenOptions::new().write(true).open(machine.path("/var/guix/gc.lock")).unwrap();
    rustix::fs::fcntl_lock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    lock
}

/// How many sockets the processes of a machine's SSH server have.
fn sockets_of_sshd(machine: &Host) -> usize {
    let servers = machine.processes().into_iter().filter(|process| process.name.starts_with("sshd"));
    let files = servers.flat_map(|server| std::fs::read_dir(format!("/proc/{}/fd", server.pid)).into_iter().flatten());
    let targets = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

/// A machine that swaps, say: it is there, and takes longer to greet once more than one that is called for the first
/// time may.
#[test]
fn a_slow_second_greeting_is_accepted() {
    const CONNECT_TIMEOUT: u64 = 2;
    let Pool { machine, link: _link, head, .. } =
        pool(|host| host, |entry| entry.set("connect_timeout", CONNECT_TIMEOUT as i32).set("stall_timeout", 5));
    let mut build = head.client().start(&[&Drv::new("long").script("echo here we are; sleep 7; echo done >$out")]);
    build.wait_for_log("here we are");
    // sshd has one socket more for each channel to the daemon.
    let before = sockets_of_sshd(&machine);
    machine.freeze_daemon();
    wait_until("the daemon is greeted once more", LONG, || sockets_of_sshd(&machine) > before);
    let asked = Instant::now();
    let limit = Duration::from_secs(CONNECT_TIMEOUT) + Duration::from_millis(500);
    wait_until("a machine that is called for the first time would be given up", LONG, || asked.elapsed() > limit);
    machine.thaw();
    let result = build.wait().succeeded();
    assert!(!result.log.contains("could not be built"), "{}", result.log);
    assert_eq!(machine.built(), ["long"]);
}

/// The daemon is stopped, not ended: its socket accepts connections, and sshd works.
#[test]
fn a_stopped_daemon_moves_the_build() {
    let lab = Lab::new();
    let (bad, good) = (lab.build_machine("b1").start(), lab.build_machine("b2").start());
    let head = lab.head().start();
    // Each attempt takes a login, so that they can be counted.
    let entry = bad.entry().set("speed", 1000).set("keep_connection", false);
    head.write_machines(&[entry.set("connect_timeout", 4).set("stall_timeout", 3), good.entry()]);

    // During a build without limits, only the daemon's silence shows it.
    let drv = Drv::new("stopped").script("echo here we are; sleep 5; echo done >$out");
    head.mark_healthy("b1");
    let mut build = head.client().max_silent_time(0).timeout(0).start(&[&drv]);
    build.wait_for_log("here we are");
    bad.freeze_daemon();
    let result = build.wait().succeeded();
    assert!(result.log.contains("building: ") && result.log.contains("does not respond"), "{}", result.log);
    assert_eq!(good.built(), ["stopped"]);

    // Before one: the first pays a deadline, the next nothing, until the first back-off is over.
    head.forget_health();
    let logins = || bad.sshd_log().matches("Accepted publickey").count();
    let (start, before) = (Instant::now(), logins());
    head.build(&[&Drv::new("next")]).succeeded();
    head.build(&[&Drv::new("last")]).succeeded();
    let allowed = 1 + (start.elapsed().as_secs() / BACK_OFF_MIN.as_secs()) as usize;
    assert!((1..=allowed).contains(&(logins() - before)), "{} in {:?}", logins() - before, start.elapsed());
    assert_eq!(good.built(), ["stopped", "next", "last"]);
    head.await_no_lock("afterwards");
    bad.thaw();
}
