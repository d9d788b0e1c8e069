//! The keys of a lab, ready-made by `tests/setup`: putting them where hosts look for them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use offload::internals::machine::HostKeyKind;

use super::USER_KEYS;
use super::roots::made_by_setup;

/// How many hosts have keys.
const HOSTS: usize = 10;

/// The keys whose private half opens accounts, and that of the stranger, by their names in [`USER_KEYS`].
const USERS: [&str; 4] = ["ed25519", "ecdsa", "rsa", "passphrase"];

fn host_key_file(kind: HostKeyKind) -> &'static str {
    match kind {
        HostKeyKind::Ed25519 => "ed25519",
        HostKeyKind::EcdsaP256 => "ecdsa256",
        HostKeyKind::EcdsaP384 => "ecdsa384",
        HostKeyKind::EcdsaP521 => "ecdsa521",
        HostKeyKind::Rsa => "rsa",
    }
}

/// The public key of type `kind` of host `number`, in OpenSSH form with a comment. Each number has its own keys.
pub fn host_key(number: usize, kind: HostKeyKind) -> String {
    assert!(number < HOSTS, "tests/setup makes keys for {HOSTS} hosts in a lab, no more");
    read(&format!("{number}/{}.pub", host_key_file(kind)))
}

/// A host key that no host has.
pub fn stranger_host_key() -> String {
    read("stranger/ed25519.pub")
}

/// The public half of a signing key, as `/etc/guix/signing-key.pub` has it; `None`: that of the stranger.
pub fn signing_key(number: Option<usize>) -> String {
    read(&format!("{}/signing-key.pub", directory(number)))
}

/// Gives a host the signing key of host `number`, or of the stranger whom nobody trusts.
pub fn install_signing_key(root: &Path, number: Option<usize>) {
    let from = directory(number);
    copy(&format!("{from}/signing-key.pub"), &root.join("etc/guix/signing-key.pub"), 0o444);
    copy(&format!("{from}/signing-key.sec"), &root.join("etc/guix/signing-key.sec"), 0o400);
}

/// The access-control list that trusts all hosts of a lab, or nobody.
pub fn install_acl(root: &Path, trusting: bool) {
    let entries: String = (0..if trusting { HOSTS } else { 0 })
        .map(|number| format!(" (entry {} (tag (guix import)))\n", signing_key(Some(number))))
        .collect();
    fs::write(root.join("etc/guix/acl"), format!("(acl\n{entries})\n")).unwrap();
}

/// Gives a host its SSH host keys; returns the lines of sshd's configuration that name them.
pub fn install_host_keys(root: &Path, number: usize, kinds: &[HostKeyKind]) -> String {
    let mut lines = String::new();
    for kind in kinds {
        let name = host_key_file(*kind);
        copy(&format!("{number}/{name}"), &root.join("etc/ssh").join(name), 0o600);
        lines += &format!("HostKey /etc/ssh/{name}\n");
    }
    lines
}

/// Gives a head the private keys of its users.
pub fn install_user_keys(root: &Path) {
    let to = root.join(&USER_KEYS[1..]);
    fs::create_dir_all(&to).unwrap();
    for name in USERS {
        copy(&format!("user/{name}"), &to.join(name), 0o600);
        copy(&format!("user/{name}.pub"), &to.join(format!("{name}.pub")), 0o644);
    }
    copy("stranger/user", &to.join("stranger"), 0o600);
    copy("stranger/user.pub", &to.join("stranger.pub"), 0o644);
}

/// Opens the accounts `root` and `offload` of a host to the users.
pub fn authorize_users(root: &Path) {
    let keys: String = USERS.iter().map(|name| read(&format!("user/{name}.pub")) + "\n").collect();
    for (home, uid) in [("root", 0), ("home/offload", 1000)] {
        let directory = root.join(home).join(".ssh");
        let file = directory.join("authorized_keys");
        fs::create_dir_all(&directory).unwrap();
        fs::write(&file, &keys).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
        chown(&directory, Some(uid), Some(uid)).unwrap();
        chown(&file, Some(uid), Some(uid)).unwrap();
    }
}

fn directory(number: Option<usize>) -> String {
    number.map_or("stranger".to_owned(), |number| number.to_string())
}

fn read(name: &str) -> String {
    fs::read_to_string(made_by_setup("keys").join(name)).unwrap().trim_end().to_owned()
}

fn copy(from: &str, to: &Path, mode: u32) {
    let from = made_by_setup("keys").join(from);
    fs::copy(&from, to).unwrap_or_else(|error| panic!("{} to {}: {error}", from.display(), to.display()));
    fs::set_permissions(to, fs::Permissions::from_mode(mode)).unwrap();
}
