//! `offload status` shows machines that are healthy, busy, drained or unreachable, in every form, and clears the recorded
//! failures of a machine that responds.

mod lab;

use std::fs;
use std::io::Read;
use std::process::{Command, Output, Stdio};

use lab::{Drv, Host, LONG, Lab, wait_until};
use rustix::process::{Pid, Signal, kill_process};

fn status(head: &Host, arguments: &[&str]) -> Output {
    head.command("/opt/offload/offload").arg("status").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Every field is in the manual.
fn in_the_manual(names: impl IntoIterator<Item = String>) {
    let manual = fs::read_to_string("doc/manual/commands.md").unwrap();
    for name in names {
        assert!(manual.contains(&format!("`{name}`")), "the manual does not know the field `{name}`");
    }
}

fn names(object: &serde_json::Value) -> Vec<String> {
    object.as_object().unwrap().keys().cloned().collect()
}

/// The records of recutils text: each a list of names and values.
fn records(text: &str) -> Vec<Vec<(String, String)>> {
    let field = |line: &str| {
        let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("{line:?}"));
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric()), "{line:?}");
        (name.to_owned(), value.to_owned())
    };
    let records = text.trim_end().split("\n\n").filter(|record| !record.starts_with('%'));
    records.map(|record| record.lines().map(field).collect()).collect()
}

#[test]
fn status_shows_machines_that_build_are_drained_or_cannot_be_reached() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let b2 = lab.build_machine("b2").start();
    let gone = lab.build_machine("gone").start();
    gone.stop_sshd();
    let head = lab.head().start();
    let with_long_timeout = |host: &Host| host.entry().set("connect_timeout", 60);
    head.write_machines(&[
        with_long_timeout(&b1),
        with_long_timeout(&b2),
        gone.entry().set("systems", ["mips64el-linux"]),
    ]);
    head.run("/opt/offload/offload", &["drain", "b2", "--for", "2h"]);
    let drv = Drv::new("long").script("while ! test -e /var/lab/go; do busybox sleep 0.1; done; echo >$out");
    let build = head.client().start(&[&drv]);
    wait_until("the build runs", LONG, || b1.is_building());

    let output = status(&head, &[]);
    let table = text(&output.stdout);
    println!("{table}");
    assert_eq!(output.status.code(), Some(4), "{table}{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
    let line = |start: &str| table.lines().find(|line| line.starts_with(start)).unwrap().to_owned();
    assert!(line("b1:2022 ").contains(" ready ") && line("b1:2022 ").contains(" 1/4 "), "{table}");
    assert!(line("b2:2022 ").contains(" drained "), "{table}");
    assert!(line("gone:2022 ").contains(" unreachable "), "{table}");
    assert!(line("b1:2022     0 ").ends_with("-long.drv"), "{table}");
    assert!(line("gone:2022: ").contains("connect: connection refused"), "{table}");
    let drained = line("b2:2022: ");
    assert!(drained.contains(" ago, for "), "{table}");
    assert!(
        ["1 h 59 min more", "1 h 58 min more", "2 h 0 min more"].iter().any(|left| drained.ends_with(left)),
        "{table}"
    );

    let output = status(&head, &["--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let machines = json["machines"].as_array().unwrap();
    in_the_manual(
        [&json, &machines[0], &machines[0]["builds"][0], &machines[1]["drained"]].into_iter().flat_map(names),
    );
    assert_eq!(json["version"], 1);
    assert_eq!(machines[0]["state"], "ready");
    assert_eq!(machines[0]["protocol"], "0x164");
    // The answer may take a while.
    assert!(machines[0]["clock_skew"].as_f64().unwrap().abs() < 60.0, "{}", machines[0]);
    assert_eq!((&machines[0]["slots"], &machines[0]["taken"]), (&4.into(), &1.into()));
    assert!(machines[0]["builds"][0]["derivation"].as_str().unwrap().ends_with("-long.drv"));
    for known in ["host_name", "kernel", "architecture", "load1", "cores", "free_memory", "free_disk"] {
        assert!(!machines[0][known].is_null(), "{known}: {}", machines[0]);
    }
    assert_eq!(machines[2]["reachable"], false);
    assert!(machines[2]["hint"].as_str().unwrap().contains("start the SSH server"));

    let output = status(&head, &["--format=recutils"]);
    let records = records(&text(&output.stdout));
    assert_eq!(records.len(), 3);
    in_the_manual(records.iter().flatten().map(|(name, _)| name.clone()));
    let value = |record: usize, name: &str| {
        records[record].iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.as_str())
    };
    assert_eq!((value(0, "Name"), value(0, "State"), value(0, "Taken")), ("b1", "ready", "1"));
    assert!(value(0, "Build").starts_with("0 ") && value(0, "Build").ends_with("-long.drv"));
    assert_eq!((value(2, "Reachable"), value(2, "Load1")), ("no", ""));

    // GNU recutils reads them.
    let recsel = lab::recsel(
        &text(&output.stdout),
        &["-t", "Machine", "-e", "Slots = 4 && Reachable = 'yes'", "-P", "Name,State"],
    );
    assert_eq!(recsel, "b1\nready\n\nb2\ndrained\n");
    assert_eq!(lab::recsel(&text(&output.stdout), &["-t", "Queued", "-c"]), "0\n");

    let usual = "/etc/guix/machines.lua";
    for (arguments, code) in [
        (&[usual, "b[12]"][..], 0),
        (&["b1", "b2"], 0),
        (&[usual, "gone"], 1),
        (&[usual, "nothing"], 5),
        (&["/nowhere.lua"], 3),
        (&["--format=xml"], 2),
    ] {
        assert_eq!(status(&head, arguments).status.code(), Some(code), "{arguments:?}");
    }
    b1.write("/var/lab/go", "");
    build.wait().succeeded();
}

/// Ends the `offload` of this host as Ctrl-C does.
fn interrupt(head: &Host) {
    let process = head.processes().into_iter().find(|process| process.command.contains("status --watch")).unwrap();
    kill_process(Pid::from_raw(process.pid as i32).unwrap(), Signal::INT).unwrap();
}

#[test]
fn a_live_view_is_drawn_in_place_and_leaves_nothing_behind() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().start();
    head.write_machines(&[b1.entry().set("connect_timeout", 60)]);

    // A line for each time, where nothing is in place.
    let mut command = head.command("/opt/offload/offload");
    let mut child = command.args(["status", "--watch=1s", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    let mut seen = Vec::new();
    wait_until("two lines", LONG, || {
        let mut piece = [0; 4096];
        let read = output.read(&mut piece).unwrap();
        seen.extend_from_slice(&piece[..read]);
        seen.iter().filter(|byte| **byte == b'\n').count() >= 2
    });
    interrupt(&head);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    for line in text(&seen).lines().take(2) {
        let json: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(json["machines"][0]["state"], "ready");
    }
    // One connection for both.
    assert_eq!(b1.sshd_log().matches("Accepted publickey").count(), 1);

    let program = format!("chroot {} /opt/offload/offload status --watch=1s", head.root().display());
    let typescript = lab.directory().join("typescript");
    let mut child = Command::new("script")
        .args(["--quiet", "--return", "--flush", "--command", &format!("stty cols 60 rows 24; exec {program}")])
        .arg(&typescript)
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let screens = || fs::read_to_string(&typescript).unwrap_or_default().matches("offload status, every 1 s").count();
    wait_until("two screens", LONG, || screens() >= 2);
    interrupt(&head);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let drawn = fs::read_to_string(&typescript).unwrap();
    let start = drawn.find("\x1b[?1049h\x1b[?25l").unwrap();
    assert!(drawn[start..].contains("\x1b[32mready\x1b[0m"), "{drawn:?}");
    assert!(drawn.contains("too narrow for"), "{drawn:?}");
    assert!(drawn.contains("\x1b[?25h\x1b[?1049l"), "{drawn:?}");
}

/// Such a machine responds: somebody has to correct a key, and not the network.
#[test]
fn a_machine_with_a_wrong_key_is_misconfigured() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().start();
    let entry = || b1.entry().set("connect_timeout", 60);
    for wrong in [
        entry().set("host_key", lab.stranger_host_key()),
        entry().set("private_key", "/etc/guix/keys/missing"),
        entry().set("user", "nobody"),
    ] {
        head.write_machines(&[wrong]);
        let output = status(&head, &["--json"]);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let machine = &json["machines"][0];
        assert_eq!((&machine["state"], &machine["reachable"]), (&"misconfigured".into(), &false.into()), "{machine}");
        assert_eq!(output.status.code(), Some(1), "{machine}");
    }
    let table = text(&status(&head, &[]).stdout);
    assert!(table.lines().any(|line| line.starts_with("b1:2022 ") && line.contains(" misconfigured ")), "{table}");
}

/// The next build uses a machine that an administrator has just fixed, however long the hooks would have skipped it.
#[test]
fn a_machine_that_works_again_is_used_at_once() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().start();
    head.write_machines(&[b1.entry().set("connect_timeout", 60).set("overload_threshold", false)]);
    let fail = || {
        head.mark_healthy("b1");
        head.change_health("b1", |health| {
            health.after_failure("the cable is out", offload::internals::state::health::now())
        });
        head.avoid("b1");
    };
    let offload = |arguments: &[&str]| {
        let output = head.command("/opt/offload/offload").args(arguments).output().unwrap();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let explain = ["explain", "--system", lab::SYSTEM];
    let probe = [&explain[..], &["--probe"]].concat();
    let commands = [&["status"][..], &probe, &["test"], &["authorize", "b1"]];
    for (number, arguments) in commands.into_iter().enumerate() {
        fail();
        let (_, said) = offload(&explain);
        assert!(said.contains("the cable is out"), "{said}");
        let (code, said) = offload(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {said}");
        assert!(!said.contains("the cable is out"), "{arguments:?}: {said}");
        let (_, said) = offload(&explain);
        assert!(said.contains("  can take it\n"), "{arguments:?}: {said}");
        head.build(&[&Drv::new(&format!("again-{number}"))]).succeeded();
        assert_eq!(b1.built().len(), number + 1, "{arguments:?}");
    }

    // A machine that still fails is asked, too, and the message is that of now.
    fail();
    b1.stop_sshd();
    for arguments in [&["status"][..], &probe] {
        let (code, said) = offload(arguments);
        assert_eq!(code, Some(if arguments[0] == "status" { 1 } else { 0 }), "{arguments:?}: {said}");
        assert!(said.contains("connection refused"), "{arguments:?}: {said}");
    }
    assert!(offload(&["test"]).1.contains("connection refused"));
    assert!(head.health_of("b1:2022").contains("\"count\":100"), "{}", head.health_of("b1:2022"));
}
