//! `offload test`: what it finds, and that its remedies mend it.

mod lab;

use std::process::Output;

use lab::{Drv, Host, Lab};

fn offload_test(head: &Host, arguments: &[&str]) -> Output {
    head.command("/opt/offload/offload").arg("test").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The lines about one machine.
fn about(report: &str, name: &str) -> String {
    let mut lines = report.lines().skip_while(|line| !line.starts_with(&format!("{name}:")));
    let first = lines.next().unwrap_or_else(|| panic!("nothing about {name} in:\n{report}"));
    let rest = lines.take_while(|line| !line.contains(" can be used") && !line.contains(" cannot be used"));
    std::iter::once(first).chain(rest).collect::<Vec<_>>().join("\n")
}

#[test]
fn one_bad_machine_hides_nothing_of_the_others() {
    let lab = Lab::new();
    let good = lab.build_machine("b1").start();
    let dead = lab.build_machine("b2").start();
    dead.stop_sshd();
    let head = lab.head().start();
    head.write_machines(&[dead.entry(), good.entry()]);

    let output = offload_test(&head, &[]);
    let report = text(&output.stdout);
    assert_eq!(output.status.code(), Some(4), "{report}{}", text(&output.stderr));
    assert!(about(&report, "b1").starts_with("b1:2022 can be used"), "{report}");
    assert!(about(&report, "b2").contains("!! connection: b2:2022: connect: connection refused"), "{report}");
    assert!(about(&report, "b2").contains("remedy: start the SSH server on b2"), "{report}");
    assert!(report.ends_with("1 of 2 machines in '/etc/guix/machines.lua' can be used\n"), "{report}");

    let output = offload_test(&head, &["/etc/guix/machines.lua", "^b1$", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["version"], &json["machines"][0]["usable"]), (&1.into(), &true.into()));
    assert_eq!(json["machines"].as_array().unwrap().len(), 1);

    let output = offload_test(&head, &["/nowhere.lua"]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(offload_test(&head, &["a", "b", "c", "d", "e"]).status.code(), Some(2));
}

/// Takes the command that follows `remedy: on WHERE: ` and runs it unchanged.
fn run_remedy(report: &str, place: &str, host: &Host) {
    let start = format!("remedy: on {place}: ");
    let command = &report[report.find(&start).unwrap_or_else(|| panic!("no {start:?} in:\n{report}")) + start.len()..];
    let command = &command[..command.find("\nEOF").unwrap() + 5];
    host.run("sh", &["-c", command]);
}

#[test]
fn signing_keys_that_are_not_authorized() {
    let lab = Lab::new();
    // Neither side knows the other's key.
    let b1 = lab.build_machine("b1").untrusted().untrusting().start();
    let head = lab.head().start();
    head.write_machines(&[b1.entry()]);

    let output = offload_test(&head, &[]);
    let report = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert!(report.contains("!! import there:"), "{report}");
    assert!(report.contains("!! import here:"), "{report}");
    run_remedy(&report, "b1", &b1);
    run_remedy(&report, "this machine", &head);

    let output = offload_test(&head, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    head.build(&[&Drv::new("now")]).succeeded();
}
