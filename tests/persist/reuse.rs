//! Which builds share a session.

use crate::lab::{Drv, Entry, HostOptions, LONG, Release, Signal, wait_until};
use crate::pool::{MIB, Pool, is_reused};

#[test]
fn later_builds_use_the_session_of_the_first() {
    assert_later_builds_use_the_session_of_the_first(Pool::new());
}

/// The owner runs as the user of the daemon.
#[test]
fn later_builds_of_an_unprivileged_daemon_use_the_session_of_the_first() {
    assert_later_builds_use_the_session_of_the_first(Pool::with(|machine| machine, HostOptions::unprivileged));
}

#[test]
fn later_builds_on_an_old_machine_use_the_session_of_the_first() {
    assert_later_builds_use_the_session_of_the_first(Pool::with(
        |machine| machine.release(Release::Bullseye),
        |head| head,
    ));
}

fn assert_later_builds_use_the_session_of_the_first(pool: Pool) {
    let owner = pool.owner_after(&Drv::new("first"));
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
    assert_eq!(pool.owners()[0].pid, owner.pid);
    assert_eq!(pool.machine.built(), ["first", "user-0", "user-1"]);
    assert_eq!(pool.lab.substitute_requests(), [""; 0]);

    // A failed builder is the fault of the derivation, also over a reused session.
    let bad = pool.start(&Drv::new("bad").script("echo out of luck; exit 3")).wait();
    assert_eq!(bad.status, Some(100), "{}\n{}", bad.error, bad.log);
    assert!(is_reused(&bad) && !bad.log.contains("could not be built on"), "{}", bad.log);
    assert!(pool.head.build_log(bad.derivation("bad")).contains("out of luck"));
    // No hook uses the stream again, but later hooks use the session.
    let next = pool.owner_after(&Drv::new("next"));
    assert_eq!(owner.pid, next.pid);
    assert_eq!(pool.link.connections(), connections);
    assert_eq!(pool.machine.built().last().map(String::as_str), Some("next"));
    pool.head.await_no_lock("afterwards");
    pool.head.verify_store();
    pool.machine.verify_store();
}

/// If the server does not forward to sockets, a program on the build machine passes the data.
#[test]
fn a_session_with_a_relay_is_reused() {
    let pool = Pool::with(|machine| machine.sshd_option("AllowStreamLocalForwarding no"), |head| head);
    let owner = pool.owner_after(&Drv::new("first"));
    let connections = pool.link.connections();
    let made = pool.made_here("made", 3 * MIB);
    let result = pool.build(&Drv::new("second").input(&made).script("cat $made >$out"));
    assert!(is_reused(&result), "{}", result.log);
    assert_eq!(pool.head.read(result.output("second")), pool.head.read(result.output("made")));
    assert_eq!(pool.link.connections(), connections);
    pool.await_idle(1);
    // The relay ends with the session.
    let relays = || pool.machine.processes().into_iter().filter(|process| process.command.contains("repl"));
    assert!(relays().count() > 0, "{:?}", pool.machine.processes());
    assert_eq!(pool.owners()[0].pid, owner.pid);
    owner.signal(Signal::KILL);
    wait_until("the machine has no session, and no relay runs", LONG, || {
        pool.has_no_session() && relays().count() == 0
    });
}

#[test]
fn changed_options_open_a_new_session() {
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
    // These settings do not open a new session: the daemon gets them over a new stream.
    build(entry().set("substitutes", "never"), usual, false, 2);
    build(entry().set("speed", 7).set("connect_timeout", 6), usual, false, 2);
    build(entry().set("compression", "zlib"), usual, false, 2);
    // New limits replace the earlier ones.
    build(entry(), [1001, 2001], false, 2);

    // Another user or `keep_connection = false` ends the other sessions.
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
fn no_more_sessions_stay_open_than_there_are_slots() {
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
    wait_until("no more sessions stay open than there are slots", LONG, || {
        pool.owners().len() == pool.sockets().len() && pool.owners().len() <= 2
    });
    assert!(!pool.owners().is_empty());
    pool.head.await_no_lock("afterwards");
    pool.head.verify_store();

    // Builds at the same time share the sessions.
    let slots = |count: i32| pool.head.write_machines(&[pool.entry().set("parallel_builds", count)]);
    slots(3);
    let connections = pool.link.connections();
    let count = pool.owners().len();
    let together: Vec<Drv> = (0..3).map(|number| pool.long(&format!("together-{number}"))).collect();
    pool.head.mark_healthy(pool.link.name());
    let build = pool.head.client().start(&together.iter().collect::<Vec<_>>());
    wait_until("they build at the same time", LONG, || pool.machine.built().len() == 19);
    pool.release_builds();
    build.wait().succeeded();
    // They used the same sessions.
    pool.await_idle(count);
    assert_eq!(pool.link.connections(), connections);
}
