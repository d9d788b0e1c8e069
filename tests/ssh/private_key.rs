//! A private key that exists, and that the program does not see.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::sshd::keygen;

/// What `offload status` says of a machine with this key, or with none, in a mount name space where nothing is in `hidden`.
fn said_without(hidden: &Path, key: &Path) -> String {
    let directory = TempDir::new().unwrap();
    let host_key = directory.path().join("host");
    keygen(&host_key, &["-t", "ed25519"]);
    let machines = directory.path().join("machines.lua");
    let text = format!(
        "return {{ build_machine {{ name = \"127.0.0.1\", port = 1, user = \"root\", systems = {{ \"x86_64-linux\" }},
           host_key = {:?}, private_key = {key:?} }} }}",
        fs::read_to_string(host_key.with_extension("pub")).unwrap().trim(),
    );
    fs::write(&machines, text).unwrap();
    // The outer shell is the first process of what the program sees as the system.
    let inner = "mount -t tmpfs tmpfs \"$1\" && exec \"$2\" test --machine-file \"$3\"";
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child=KILL", "sh", "-c"])
        .arg(format!("mount -t proc proc /proc; unshare --mount --propagation private sh -c '{inner}' \"$@\"; exit"))
        .args([Path::new("sh"), Path::new("sh"), hidden, Path::new(env!("CARGO_BIN_EXE_offload")), &machines])
        .env("GUIX_STATE_DIRECTORY", directory.path())
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// As under `ProtectHome=yes`: the remedy for a key that does not exist would put another in its place.
#[test]
fn a_key_outside_of_the_mount_name_space_is_not_made_again() {
    let home = TempDir::new().unwrap();
    let key = home.path().join("key");
    keygen(&key, &["-t", "ed25519"]);
    let said = said_without(home.path(), &key);
    assert!(said.contains("exists, and is hidden from this process") && said.contains("ProtectHome"), "{said}");
    assert!(!said.contains("ssh-keygen"), "{said}");
}

/// Where nothing is known of what is outside, the command to paste does no harm there.
#[test]
fn the_command_that_makes_a_key_leaves_one_that_is_there() {
    let home = TempDir::new().unwrap();
    let key = home.path().join("a key");
    let said = said_without(home.path(), &key);
    let command =
        said.lines().map(str::trim).find(|line| line.contains("ssh-keygen")).unwrap_or_else(|| panic!("{said}"));
    let run = || assert!(Command::new("sh").args(["-c", command]).status().unwrap().success());
    run();
    let made = fs::read(&key).unwrap();
    run();
    assert_eq!(fs::read(&key).unwrap(), made);
}
