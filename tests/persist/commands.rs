//! The commands that report and end the sessions that builds leave open.

use serde_json::{Value, json};

use crate::lab::{Drv, LONG, wait_until};
use crate::pool::{PERSIST_DIRECTORY, Pool, is_reused};
use crate::protocol::{connect, send};

fn status(pool: &Pool) -> Value {
    serde_json::from_str(&pool.head.run("/opt/offload/offload", &["status", "--json"])).unwrap()
}

#[test]
fn status_shows_an_open_session_and_probes_over_it() {
    let pool = Pool::new();
    let owner = pool.owner_after(&Drv::new("first"));
    let connections = pool.link.connections();
    let status = status(&pool);
    assert_eq!(pool.link.connections(), connections, "no login is needed");
    let machine = &status["machines"][0];
    assert_eq!(machine["state"], "ready", "{machine:#}");
    assert!(machine["cores"].as_u64().is_some(), "{machine:#}");
    let [connection] = &machine["connections"].as_array().unwrap()[..] else { panic!("{machine:#}") };
    assert_eq!(connection["pid"], owner.pid);
    assert_eq!(connection["streams"], 0);
    assert_eq!(connection["idle"], 1);
    let age = status["time"].as_u64().unwrap() - connection["since"].as_u64().unwrap();
    assert!(age < 600, "{connection:#}");
    // A build sends its derivation and receives its output and messages, so both directions count.
    for direction in ["sent", "received"] {
        assert!(connection[direction].as_u64().is_some_and(|bytes| bytes > 500), "{connection:#}");
    }
    let table = pool.head.run("/opt/offload/offload", &["status"]);
    assert!(table.contains("CONNECTION") && table.contains(&format!("{}", owner.pid)), "{table}");
    let records = pool.head.run("/opt/offload/offload", &["status", "--format=recutils"]);
    assert!(records.contains(&format!("Connection: {} ", owner.pid)), "{records}");
    // The next build still finds the stream of the first one.
    let result = pool.build(&Drv::new("second"));
    assert!(is_reused(&result) && !result.log.contains("debug: greet: "), "{}", result.log);
}

#[test]
fn status_logs_in_where_an_open_session_is_dead() {
    let pool = Pool::new();
    pool.owner_after(&Drv::new("first"));
    pool.link.cut();
    let status = status(&pool);
    assert_eq!(status["machines"][0]["state"], "ready", "{status:#}");
}

#[test]
fn a_quick_test_needs_no_login_where_a_session_is_open() {
    let pool = Pool::new();
    pool.owner_after(&Drv::new("first"));
    let connections = pool.link.connections();
    let built = pool.machine.built();
    let test = |arguments: &[&str]| {
        let report = pool.head.run("/opt/offload/offload", &[&["test", "--json"], arguments].concat());
        serde_json::from_str::<Value>(&report).unwrap()["machines"][0].take()
    };
    let has_step = |machine: &Value, step: &str| {
        machine["findings"].as_array().unwrap().iter().any(|finding| finding["step"] == step)
    };
    let quick = test(&["--quick"]);
    assert_eq!(quick["usable"], true, "{quick:#}");
    assert_eq!(pool.link.connections(), connections, "no login is needed");
    assert!(has_step(&quick, "export") && !has_step(&quick, "build"), "{quick:#}");
    // It has not logged in, so it reports nothing about that.
    assert!(has_step(&quick, "connect") && !has_step(&quick, "authenticate"), "{quick:#}");
    assert_eq!(pool.machine.built(), built);

    let whole = test(&[]);
    assert!(pool.link.connections() > connections);
    assert!(has_step(&whole, "build") && has_step(&whole, "authenticate"), "{whole:#}");

    // Without an open session, and with one that is dead, it logs in.
    pool.link.cut();
    let quick = test(&["--quick"]);
    assert_eq!(quick["usable"], true, "{quick:#}");
    assert!(has_step(&quick, "authenticate"), "{quick:#}");
}

/// The command reports the machine and does not retire the session: its owner withdraws it.
#[test]
fn a_session_that_opens_no_channel_is_withdrawn() {
    let pool = Pool::new();
    pool.owner_after(&Drv::new("first"));
    pool.head.write_machines(&[pool.entry().set("connect_timeout", 2)]);
    pool.link.freeze();
    let output = pool.head.command("/opt/offload/offload").args(["test", "--quick"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(pool.sockets().is_empty(), "{:?}", pool.sockets());
}

#[test]
fn a_build_continues_over_a_withdrawn_session() {
    let pool = Pool::new();
    pool.head.write_machines(&[pool.entry().set("connect_timeout", 2)]);
    let mut build = pool.start(&pool.long("first"));
    build.wait_for_log("here we are");
    pool.await_idle(1);
    // Another hook has the session, too.
    let socket = pool.sockets().remove(0);
    let other = connect(&socket);
    let name = socket.file_name().unwrap().to_str().unwrap();
    let prefix = name.strip_suffix(&format!("{}-0", pool.owners()[0].pid)).unwrap();
    let keep_open = json!({ "KeepOpen": {
        "socket": format!("{PERSIST_DIRECTORY}/{prefix}"), "idle_timeout": { "secs": 600, "nanos": 0 }, "streams": 1,
        "probe": "true", "has_daemon": false,
    } });
    send(&other, &keep_open, &[]);
    pool.link.freeze();
    let output = pool.head.command("/opt/offload/offload").args(["test", "--quick"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(pool.sockets().is_empty(), "{:?}", pool.sockets());
    // That hook cannot offer it to others again.
    send(&other, &keep_open, &[]);
    drop(other);
    pool.link.thaw();
    pool.release_builds();
    let result = build.wait().succeeded();
    assert!(!result.log.contains("could not be built on"), "{}", result.log);
    wait_until("the session has ended", LONG, || pool.has_no_session() && pool.owners().is_empty());
    assert!(pool.sockets().is_empty(), "{:?}", pool.sockets());
}

#[test]
fn disconnect_ends_idle_sessions_and_lets_builds_end() {
    let pool = Pool::new();
    let disconnect = |arguments: &[&str]| {
        let output = pool.head.command("/opt/offload/offload").arg("disconnect").args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(disconnect(&[]), (Some(0), "no connection is open\n".to_owned()));
    assert_eq!(disconnect(&["link"]), (Some(0), "link:2022: no connection is open\n".to_owned()));

    pool.owner_after(&Drv::new("first"));
    assert_eq!(disconnect(&["link"]), (Some(0), "link:2022: disconnected\n".to_owned()));
    wait_until("the machine has no session", LONG, || pool.has_no_session());
    pool.await_idle(0);

    // While a build uses the session: that build continues, and the next one finds no session.
    pool.owner_after(&Drv::new("second"));
    let mut build = pool.start(&pool.long("third"));
    build.wait_for_log("here we are");
    let (status, text) = disconnect(&[]);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.starts_with("link:2022: disconnects at the end of "), "{text}");
    wait_until("no hook can find the session", LONG, || pool.sockets().is_empty());
    pool.release_builds();
    let result = build.wait().succeeded();
    assert!(!result.log.contains("could not be built on"), "{}", result.log);
    wait_until("the machine has no session", LONG, || pool.has_no_session());

    // The command also ends sessions to a machine that is no longer in the machine file.
    pool.owner_after(&Drv::new("fourth"));
    pool.head.write("/etc/guix/machines.lua", "return {}");
    assert_eq!(disconnect(&[]), (Some(0), "link:2022: disconnected\n".to_owned()));
    wait_until("the machine has no session", LONG, || pool.has_no_session());
    let (status, text) = disconnect(&["link"]);
    assert_eq!(status, Some(5), "{text}");
}
