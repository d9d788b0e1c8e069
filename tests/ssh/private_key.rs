//! A private key that exists, and that the program cannot see or read.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::sshd::keygen;

fn machine_file(key: &Path) -> String {
    let directory = TempDir::new().unwrap();
    let host_key = directory.path().join("host");
    keygen(&host_key, &["-t", "ed25519"]);
    format!(
        "return {{ build_machine {{ name = \"127.0.0.1\", port = 1, user = \"root\", systems = {{ \"x86_64-linux\" }},
           host_key = {:?}, private_key = {key:?} }} }}",
        fs::read_to_string(host_key.with_extension("pub")).unwrap().trim(),
    )
}

/// Runs `offload test` for a machine with this key, in a mount namespace where `hidden` is empty. Returns its output.
fn output_without(hidden: &Path, key: &Path) -> String {
    let directory = TempDir::new().unwrap();
    let machines = directory.path().join("machines.lua");
    fs::write(&machines, machine_file(key)).unwrap();
    // The outer shell is the first process in the process namespace of the program.
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

/// `ProtectHome=yes` hides keys like this. The hint for a missing key would replace the key.
#[test]
fn no_hint_recreates_a_key_that_the_mount_namespace_hides() {
    let home = TempDir::new().unwrap();
    let key = home.path().join("key");
    keygen(&key, &["-t", "ed25519"]);
    let report = output_without(home.path(), &key);
    assert!(report.contains("exists, but is hidden from this process") && report.contains("ProtectHome"), "{report}");
    assert!(!report.contains("ssh-keygen"), "{report}");
}

/// The program does not know whether a key exists outside of its namespace, so its command must not overwrite one.
#[test]
fn the_command_that_makes_a_key_overwrites_none() {
    let home = TempDir::new().unwrap();
    let key = home.path().join("a key");
    let report = output_without(home.path(), &key);
    let command =
        report.lines().map(str::trim).find(|line| line.contains("ssh-keygen")).unwrap_or_else(|| panic!("{report}"));
    let run = || assert!(Command::new("sh").args(["-c", command]).status().unwrap().success());
    run();
    let made = fs::read(&key).unwrap();
    run();
    assert_eq!(fs::read(&key).unwrap(), made);
}

/// No hint suggests wider permissions of a home directory.
#[test]
fn no_hint_opens_the_home_directory_of_another_user() {
    let home = TempDir::new().unwrap();
    let key = home.path().join("key");
    keygen(&key, &["-t", "ed25519"]);
    let directory = TempDir::new().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let offload = directory.path().join("program");
    fs::copy(env!("CARGO_BIN_EXE_offload"), &offload).unwrap();
    let machines = directory.path().join("machines.lua");
    fs::write(&machines, machine_file(&key)).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(&offload)
        .args(["test", "--machine-file"])
        .arg(&machines)
        .env("GUIX_STATE_DIRECTORY", directory.path())
        .output()
        .unwrap();
    let report = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let report = report.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(report.contains("cannot read private key") && report.contains("run this command as root"), "{report}");
    assert!(!report.contains("chmod"), "{report}");
}
