//! A private key that exists, and that the program does not see.

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

/// What `offload test` says of a machine with this key, or with none, in a mount name space where nothing is in `hidden`.
fn said_without(hidden: &Path, key: &Path) -> String {
    let directory = TempDir::new().unwrap();
    let machines = directory.path().join("machines.lua");
    fs::write(&machines, machine_file(key)).unwrap();
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
    assert!(said.contains("exists, but is hidden from this process") && said.contains("ProtectHome"), "{said}");
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

/// Rights of a home directory are not loosened for the sake of a key.
#[test]
fn a_key_in_a_home_directory_of_somebody_else_leaves_that_closed() {
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
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("cannot read private key") && said.contains("Give that user a separate key"), "{said}");
    assert!(!said.contains("chmod"), "{said}");
}
