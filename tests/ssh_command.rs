//! `offload ssh` with the real client and server of OpenSSH. The root directories of the lab have no client, so the program
//! runs outside of them.

mod lab;

use std::path::Path;
use std::process::Command;

use lab::{Host, Lab};

/// Runs `offload ssh` with these arguments, and returns its exit status, output and messages.
fn ssh(file: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_offload"));
    command.args(["ssh", "--machine-file"]).arg(file).args(arguments);
    let output = command.env("GUIX_STATE_DIRECTORY", file.parent().unwrap()).output().unwrap();
    let [out, messages] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (output.status.code(), out, messages)
}

#[test]
fn a_session_is_opened_with_the_keys_of_the_entry() {
    let lab = Lab::new();
    let [b1, b2] = ["b1", "b2"].map(|name| lab.build_machine(name).start());
    b2.write("/root/which", "the second");
    let head = lab.head().start();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("machines.lua");
    let key = head.path("/etc/guix/keys/ed25519").to_str().unwrap().to_owned();
    let name = |machine: &Host| machine.ssh_address().ip().to_string();
    let entry = |machine: &Host| machine.entry().set("name", name(machine).as_str()).set("private_key", key.as_str());
    let write = |second: lab::Entry| {
        std::fs::write(&file, format!("return {{ {}, {} }}", entry(&b1).lua(), second.lua())).unwrap();
    };
    write(entry(&b2));
    let (status, out, messages) = ssh(&file, &[&name(&b2), "cat", "/root/which"]);
    assert_eq!((status, out.as_str()), (Some(0), "the second"), "{messages}");
    // The status is that of the command, and its options are not taken by this program.
    assert_eq!(ssh(&file, &[&format!("{}:2022", name(&b2)), "sh", "-c", "'exit 7'"]).0, Some(7));
    let (status, out, messages) = ssh(&file, &[&name(&b1), "cat", "--help"]);
    assert!(status == Some(0) && out.contains("cat") && !out.contains("offload"), "{out}{messages}");

    // Another machine has the place of the pinned one.
    write(entry(&b2).set("host_key", lab.stranger_host_key()));
    let (status, out, messages) = ssh(&file, &[&name(&b2), "cat", "/root/which"]);
    assert_eq!((status, out.as_str()), (Some(255), ""), "{messages}");
    assert!(messages.contains("Host key verification failed"), "{messages}");

    let (status, _, messages) = ssh(&file, &["b3"]);
    assert_eq!(status, Some(5), "{messages}");
    assert!(messages.contains("no machine matches 'b3'; the machine file has "), "{messages}");
}
