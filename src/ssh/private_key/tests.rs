use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use tempfile::TempDir;

use super::encoding::string;
use super::*;

/// Creates a key with ssh-keygen and these arguments. Returns its directory and its path.
fn key(arguments: &[&str]) -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("key");
    let output =
        Command::new("ssh-keygen").args(["-q", "-C", "comment", "-f"]).arg(&path).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (directory, path)
}

/// Creates a file with this text and mode. Returns its directory and its path.
fn file(text: &str, mode: u32) -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("key");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    (directory, path)
}

/// Returns the cause for which the key is refused.
fn refusal(path: &Path) -> Cause {
    match load(Some(path)) {
        Ok(_) => panic!("{} was accepted", path.display()),
        Err(cause) => cause,
    }
}

#[test]
fn keys_without_passphrase_are_accepted_in_all_formats() {
    for kind in [&["-t", "ed25519"][..], &["-t", "ecdsa", "-b", "384"], &["-t", "rsa", "-b", "2048"]] {
        for form in [&[][..], &["-m", "PEM"], &["-m", "PKCS8"]] {
            let (_directory, path) = key(&[kind, form, &["-N", ""]].concat());
            let key = load(Some(&path)).unwrap_or_else(|cause| panic!("{kind:?} {form:?}: {cause}"));
            let public = fs::read_to_string(path.with_extension("pub")).unwrap();
            assert_eq!(key.line(), public.trim_end().strip_suffix(" comment").unwrap());
        }
    }
}

/// A key in the format of `openssl genpkey`. ssh-keygen writes Ed25519 keys only in OpenSSH's format.
const ED25519_PKCS8: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
";

/// The key is the example of RFC 8410.
#[test]
fn an_ed25519_key_is_accepted_in_pkcs8() {
    let (_directory, path) = file(ED25519_PKCS8, 0o600);
    let key = load(Some(&path)).unwrap_or_else(|cause| panic!("{cause}"));
    let public = STANDARD.decode("MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=").unwrap();
    assert_eq!(key.public()[key.public().len() - 32..], public[public.len() - 32..]);
    assert!(key.line().starts_with("ssh-ed25519 AAAA"));
}

/// A file without the public key is rare, but valid.
#[test]
fn computed_public_keys_are_those_of_ssh_keygen() {
    for bits in ["256", "384", "521"] {
        let (_directory, path) = key(&["-t", "ecdsa", "-b", bits, "-N", ""]);
        let bytes = decode(&fs::read_to_string(&path).unwrap(), "OPENSSH PRIVATE KEY").unwrap();
        let openssh = OpenSshKey::parse(&bytes).unwrap();
        let Some(Secret::Ecdsa { curve, d, .. }) = openssh.secret() else { panic!("another key") };
        let computed = LoginKey::new(&Secret::Ecdsa { curve, d, public: None }).unwrap();
        assert_eq!(computed.public(), openssh.public);
    }
}

/// `openssl ecparam -genkey` writes such files.
#[test]
fn parameters_may_precede_a_key() {
    let (_directory, path) = key(&["-t", "ecdsa", "-b", "521", "-m", "PEM", "-N", ""]);
    let before = load(Some(&path)).unwrap_or_else(|cause| panic!("{cause}")).line();
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("-----BEGIN EC PARAMETERS-----\nBgUrgQQAIw==\n-----END EC PARAMETERS-----\n{text}"))
        .unwrap();
    assert_eq!(load(Some(&path)).unwrap_or_else(|cause| panic!("{cause}")).line(), before);
}

/// Returns the data of a login with this algorithm, which the client signs.
fn data(algorithm: &str) -> Vec<u8> {
    let parts: [&[u8]; 5] = [b"session", b"\x32", b"user", b"ssh-connection", b"publickey"];
    let mut data = Vec::new();
    for part in parts {
        if part == b"\x32" { data.push(0x32) } else { encoding::write_string(&mut data, part) }
    }
    data.push(1);
    encoding::write_string(&mut data, algorithm.as_bytes());
    data
}

/// Servers verify signatures in `tests/ssh/login.rs`.
#[test]
fn signatures_have_the_encoding_of_ssh() {
    let signed = |arguments: &[&str], algorithm: &str| {
        let (_directory, path) = key(&[arguments, &["-N", ""]].concat());
        load(Some(&path)).unwrap_or_else(|cause| panic!("{cause}")).sign(&data(algorithm))
    };
    assert_eq!(signed(&["-t", "ed25519"], "ssh-ed25519").unwrap().len(), 64);
    let signature = signed(&["-t", "ecdsa", "-b", "384"], "ecdsa-sha2-nistp384").unwrap();
    let (r, rest) = string(&signature).unwrap();
    let (s, rest) = string(rest).unwrap();
    assert!([r, s].iter().all(|number| (40..=49).contains(&number.len())) && rest.is_empty(), "{signature:?}");
    for algorithm in ["rsa-sha2-512", "rsa-sha2-256", "ssh-rsa"] {
        assert_eq!(signed(&["-t", "rsa", "-b", "2048"], algorithm).unwrap().len(), 256, "{algorithm}");
    }
    assert!(signed(&["-t", "rsa", "-b", "2048"], "rsa-sha3").unwrap_err().contains("unknown type"));
}

/// The file has the public key of one key and the private key of another.
#[test]
fn a_file_with_parts_of_two_keys_is_damaged() {
    let text = |path: &Path| fs::read_to_string(path).unwrap();
    let [(_one, path), (_two, other)] = [(); 2].map(|()| key(&["-t", "ed25519", "-N", ""]));
    let [mine, others] = [&path, &other].map(|path| decode(&text(path), "OPENSSH PRIVATE KEY").unwrap());
    let public = OpenSshKey::parse(&mine).unwrap().public;
    let foreign = OpenSshKey::parse(&others).unwrap().public;
    let at = mine.windows(public.len()).position(|window| window == public).unwrap();
    let mixed = [&mine[..at], foreign, &mine[at + public.len()..]].concat();
    let body = STANDARD.encode(mixed);
    fs::write(&path, format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{body}\n-----END OPENSSH PRIVATE KEY-----\n"))
        .unwrap();
    assert!(matches!(refusal(&path), Cause::NotAPrivateKey { .. }));
}

#[test]
fn a_passphrase_is_detected_in_every_format() {
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
fn files_that_are_not_private_keys_are_described() {
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
fn every_truncated_key_is_damaged() {
    for kind in ["ed25519", "ecdsa", "rsa"] {
        for form in [&[][..], &["-m", "PEM"], &["-m", "PKCS8"]] {
            let (_directory, path) = key(&[&["-t", kind][..], form, &["-N", ""]].concat());
            let text = fs::read_to_string(&path).unwrap();
            let label = text.lines().next().unwrap().strip_prefix("-----BEGIN ").unwrap().trim_end_matches('-');
            let bytes = decode(&text, label).unwrap();
            let is_whole = |bytes: &[u8]| match label {
                "OPENSSH PRIVATE KEY" => OpenSshKey::parse(bytes).is_some_and(|key| key.secret().is_some()),
                "RSA PRIVATE KEY" => der::pkcs1(bytes).is_some(),
                "EC PRIVATE KEY" => der::sec1(bytes, None).is_some(),
                _ => der::pkcs8(bytes).is_some(),
            };
            assert!(is_whole(&bytes), "{kind} {label}");
            assert!((0..bytes.len()).all(|length| !is_whole(&bytes[..length])), "{kind} {label}");
        }
    }
}

/// Parsing ends for any contents of a key.
#[test]
fn a_changed_byte_does_not_panic() {
    for form in [&["-t", "ed25519"][..], &["-t", "ecdsa", "-m", "PKCS8"], &["-t", "rsa", "-b", "1024", "-m", "PEM"]] {
        let (_directory, path) = key(&[form, &["-N", ""]].concat());
        let text = fs::read_to_string(&path).unwrap();
        let label = text.lines().next().unwrap().strip_prefix("-----BEGIN ").unwrap().trim_end_matches('-');
        let bytes = decode(&text, label).unwrap();
        for position in 0..bytes.len() {
            for change in [1, 0x80, 0xff] {
                let mut bytes = bytes.to_vec();
                bytes[position] ^= change;
                let _ = (der::pkcs1(&bytes), der::sec1(&bytes, None), der::pkcs8(&bytes));
                let _ = OpenSshKey::parse(&bytes).map(|key| (key.kind().len(), key.secret().is_some()));
            }
        }
    }
}

#[test]
fn the_first_default_key_that_exists_is_used() {
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
