//! `offload add` and `offload authorize`: from a machine that nobody knows to one that builds.

mod lab;

use std::io::Write;
use std::process::{Output, Stdio};

use lab::{Drv, Host, Lab, SSH_PORT, USER_KEYS};

fn offload(head: &Host, arguments: &[&str], answers: &str) -> Output {
    let mut command = head.command("/opt/offload/offload");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(answers.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_new_machine_is_added_authorized_and_builds() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").untrusted().untrusting().start();
    let head = lab.head().start();
    let port = SSH_PORT.to_string();
    let key = format!("{USER_KEYS}/ed25519");
    let add = ["add", "b1", "--port", &port, "--user", "root", "--private-key", &key];
    let output = offload(&head, &add, "");
    let (entry, said) = (text(&output.stdout), text(&output.stderr));
    println!("{said}{entry}");
    assert_eq!(output.status.code(), Some(0), "{said}");
    // What it is to be compared with.
    let own = b1.run("sh", &["-c", "ssh-keygen -lf /etc/ssh/ed25519"]);
    let fingerprint = own.split(' ').find(|word| word.starts_with("SHA256:")).unwrap();
    assert!(said.contains(&format!("b1:2022 shows the host key {fingerprint}\n")), "{said}\n{own}");
    head.write_machine_file(&format!("return {{\n{entry}}}\n"));
    head.run("/opt/offload/offload", &["eval"]);

    // A no changes nothing, and neither does the end of the input.
    for answers in ["n\nno\n", ""] {
        let output = offload(&head, &["authorize", "b1"], answers);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        assert_eq!(text(&output.stderr).matches("[y/N]").count(), 2, "{}", text(&output.stderr));
    }
    let output = offload(&head, &["authorize", "b1"], "y\nyes\n");
    let said = text(&output.stderr);
    println!("{said}");
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("b1 has authorized this machine's key.\n"), "{said}");
    assert!(said.contains("This machine has authorized the key of b1.\n"), "{said}");
    let output = offload(&head, &["authorize", "b1", "--yes"], "");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stderr).matches("already").count(), 2, "{}", text(&output.stderr));
    assert_eq!(offload(&head, &["authorize", "b2"], "").status.code(), Some(5));

    // The machine of the lab may have much else to do.
    let entry = entry.replace("build_machine {", "build_machine {\n  overload_threshold = false,");
    head.write_machine_file(&format!("return {{\n{entry}}}\n"));
    head.build(&[&Drv::new("first").input(&Drv::new("input").script("head -c 100 /dev/urandom >$out"))]).succeeded();
}

#[test]
fn an_account_without_the_right_is_told_what_root_has_to_do() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").account("offload").untrusting().start();
    let head = lab.head().start();
    head.write_machines(&[b1.entry()]);
    let output = offload(&head, &["authorize", "b1", "--yes"], "");
    let said = text(&output.stderr);
    println!("{said}");
    assert_eq!(output.status.code(), Some(1), "{said}");
    let (_, command) = said.split_once("As root on b1:\n  ").unwrap_or_else(|| panic!("{said}"));
    b1.run("sh", &["-c", command.lines().next().unwrap()]);
    let output = offload(&head, &["authorize", "b1"], "");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[test]
fn a_machine_that_lets_nobody_in_has_an_entry_all_the_same() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").closed().start();
    let head = lab.head().start();
    let port = SSH_PORT.to_string();
    let output = offload(&head, &["add", "b1", "--port", &port, "--private-key", &format!("{USER_KEYS}/ed25519")], "");
    let (entry, said) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("No login yet: ") && said.contains("authorized_keys"), "{said}");
    assert!(entry.contains("-- a guess"), "{entry}");
    b1.stop_sshd();
    let output = offload(&head, &["add", "b1", "--port", &port], "");
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), String::new()));
    assert!(text(&output.stderr).contains("connection refused"), "{}", text(&output.stderr));
}
