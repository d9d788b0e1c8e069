use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use tempfile::TempDir;

use super::*;

/// Runs ssh-keygen with these arguments; the key is DIR/key.
fn key(arguments: &[&str]) -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("key");
    let output =
        Command::new("ssh-keygen").args(["-q", "-C", "comment", "-f"]).arg(&path).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (directory, path)
}

fn file(text: &str, mode: u32) -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("key");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    (directory, path)
}

fn refusal(path: &Path) -> Cause {
    match load(Some(path)) {
        Ok(_) => panic!("{} was accepted", path.display()),
        Err(cause) => cause,
    }
}

#[test]
fn keys_without_passphrase_are_taken_in_both_forms() {
    for kind in [&["-t", "ed25519"][..], &["-t", "ecdsa", "-b", "384"], &["-t", "rsa", "-b", "2048"]] {
        for form in [&[][..], &["-m", "PEM"], &["-m", "PKCS8"]] {
            let (_directory, path) = key(&[kind, form, &["-N", ""]].concat());
            let key = load(Some(&path)).unwrap_or_else(|cause| panic!("{kind:?} {form:?}: {cause}"));
            let public = fs::read_to_string(path.with_extension("pub")).unwrap();
            assert_eq!(key.public_key.unwrap(), public.trim_end().strip_suffix(" comment").unwrap());
        }
    }
}

#[test]
fn the_public_key_is_told_from_the_openssh_form_alone() {
    let (_directory, path) = key(&["-t", "ed25519", "-N", ""]);
    let public = fs::read_to_string(path.with_extension("pub")).unwrap();
    fs::remove_file(path.with_extension("pub")).unwrap();
    assert!(public.starts_with(&load(Some(&path)).unwrap().public_key.unwrap()));
    let (_directory, path) = key(&["-t", "rsa", "-m", "PEM", "-N", ""]);
    fs::remove_file(path.with_extension("pub")).unwrap();
    assert_eq!(load(Some(&path)).unwrap().public_key, None);
}

#[test]
fn a_passphrase_is_noticed_in_every_form() {
    for form in [&["-t", "ed25519"][..], &["-t", "rsa", "-m", "PEM"], &["-t", "ecdsa", "-m", "PKCS8"]] {
        let (_directory, path) = key(&[form, &["-N", "secret"]].concat());
        assert!(matches!(refusal(&path), Cause::PrivateKeyEncrypted { .. }), "{form:?}");
    }
}

#[test]
fn a_file_that_others_may_read_is_refused() {
    let (_directory, path) = key(&["-t", "ed25519", "-N", ""]);
    for mode in [0o640, 0o604, 0o620, 0o644] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        match refusal(&path) {
            Cause::PrivateKeyExposed { mode: found, .. } => assert_eq!(found, mode),
            cause => panic!("{cause}"),
        }
    }
    fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
    load(Some(&path)).unwrap();
}

#[test]
fn what_is_not_a_private_key_is_said() {
    let public = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me\n";
    let damaged = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n";
    for (text, expected) in [
        (public, "it is a public key"),
        ("", "it is empty"),
        ("hello\n", "it holds no key"),
        ("PuTTY-User-Key-File-3: ssh-ed25519\n", "a key in the form of PuTTY"),
        ("-----BEGIN CERTIFICATE-----\n", "it holds a certificate"),
        (damaged, "damaged OpenSSH private key"),
    ] {
        let (_directory, path) = file(text, 0o600);
        match refusal(&path) {
            Cause::NotAPrivateKey { found, .. } => assert_eq!(found, expected),
            cause => panic!("{cause}"),
        }
    }
    let (directory, _) = file("", 0o600);
    assert!(matches!(refusal(directory.path()), Cause::NotAPrivateKey { .. }));
    assert!(matches!(refusal(&directory.path().join("none")), Cause::PrivateKeyMissing { .. }));
    assert!(matches!(refusal(&directory.path().join("key/none")), Cause::PrivateKeyUnreadable { .. }));
}

#[test]
fn every_cut_of_an_openssh_key_is_damaged_or_whole() {
    let (_directory, path) = key(&["-t", "ed25519", "-N", ""]);
    let text = fs::read_to_string(&path).unwrap();
    assert!(OpenSshKey::parse(&text).is_some());
    for length in 0..text.len() {
        OpenSshKey::parse(&text[..length]);
    }
}

#[test]
fn the_first_default_key_that_exists_is_taken() {
    let home = TempDir::new().unwrap();
    fs::create_dir(home.path().join(".ssh")).unwrap();
    match first_default(home.path()) {
        Err(Cause::NoPrivateKey { tried }) => assert_eq!(tried.len(), 3),
        _ => panic!("there is none"),
    }
    for name in ["id_rsa", "id_ecdsa", "id_ed25519"] {
        fs::write(home.path().join(".ssh").join(name), "").unwrap();
        assert_eq!(first_default(home.path()).unwrap(), home.path().join(".ssh").join(name));
    }
}

#[test]
fn the_home_directory_is_that_of_the_user_number() {
    let passwd = "root:x:0:0:root:/root:/bin/sh\n# comment\nbad\nguix:x:999:999::/var/lib/guix:/sbin/nologin\nx:x:5:5::none:/bin/sh\n";
    assert_eq!(home_in(passwd, 0), Some(PathBuf::from("/root")));
    assert_eq!(home_in(passwd, 999), Some(PathBuf::from("/var/lib/guix")));
    assert_eq!(home_in(passwd, 99), None);
    assert_eq!(home_in(passwd, 5), None);
}
