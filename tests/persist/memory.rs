//! Private keys in memory. An owner has neither the user key nor the key that signs for the head. The hook never has the user
//! key: only the owner reads it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::lab::{Drv, LONG, Process, USER_KEYS, wait_until};
use crate::pool::{PERSIST_DIRECTORY, Pool};

/// The number of bytes that distinguish a secret from other data in memory.
const NEEDLE_LENGTH: usize = 12;

const PAGE: usize = 4096;

/// The keys, each in the form that `ssh-keygen` writes and in each form that it can convert them to.
const FORMS: [(&str, Option<&str>); 8] = [
    ("ed25519", None),
    ("ecdsa", None),
    ("ecdsa", Some("PEM")),
    ("ecdsa", Some("PKCS8")),
    ("rsa", None),
    ("rsa", Some("PEM")),
    ("rsa", Some("PKCS8")),
    // ssh-keygen has no other form for Ed25519. `write_key` makes this one.
    ("ed25519", Some("PKCS8")),
];

#[test]
fn an_owner_has_no_part_of_a_private_key_in_memory() {
    let pool = Pool::new();
    let mut found = Vec::new();
    for (number, (name, form)) in FORMS.into_iter().enumerate() {
        let file = use_key(&pool, number, name, form);
        // The hook signs this input. The session that used another key ends.
        let made = pool.made_here(&format!("made-{number}"), 1000);
        let owner = pool.owner_after(&Drv::new(&format!("with-{number}")).input(&made));
        let mut needles = user_key(&pool, name, &file);
        needles.add_number("signing key", &signing_key(&text(&pool, "/etc/guix/signing-key.sec")));
        found.extend(needles.secrets_in(&owner).map(|secrets| (name, form, secrets)));
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_hook_has_no_part_of_the_user_key_in_memory() {
    let pool = Pool::new();
    let mut found = Vec::new();
    for (number, (name, form)) in FORMS.into_iter().enumerate() {
        let file = use_key(&pool, number, name, form);
        // The session that used another key ends, so this hook starts an owner.
        let drv = pool.long(&format!("with-{number}"));
        let running = pool.start(&drv);
        wait_until("the build runs", LONG, || pool.machine.built().len() == number + 1);
        let is_hook = |process: &Process| process.command.contains("guix offload") && process.name != "offload-session";
        let hook = pool.head.processes().into_iter().find(is_hook).expect("a hook is running");
        found.extend(user_key(&pool, name, &file).secrets_in(&hook).map(|secrets| (name, form, secrets)));
        pool.release_builds();
        running.wait().succeeded();
        fs::remove_file(pool.machine.path("/var/lab/go")).unwrap();
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// Makes the key `name` the user key of the machine, in this form. Returns its file.
fn use_key(pool: &Pool, number: usize, name: &str, form: Option<&str>) -> String {
    let file = format!("/etc/guix/key-{number}");
    write_key(pool, name, form, &file);
    pool.head.write_machines(&[pool.entry().set("private_key", file.as_str())]);
    file
}

/// Returns the secrets of the key `name`, also as the text of `file`.
fn user_key(pool: &Pool, name: &str, file: &str) -> Needles {
    let mut needles = Needles::default();
    for (what, secret) in secrets(&text(pool, &format!("{USER_KEYS}/{name}"))) {
        needles.add_number(what, &secret);
    }
    for line in body(&text(pool, file)).filter(|line| line.len() >= NEEDLE_LENGTH) {
        needles.add("text", line.as_bytes());
    }
    needles.remove_public(&text(pool, &format!("{USER_KEYS}/{name}.pub")));
    needles
}

fn text(pool: &Pool, file: &str) -> String {
    String::from_utf8(pool.head.read(file)).unwrap()
}

/// Writes the user's key `name` to `file`, in this form.
fn write_key(pool: &Pool, name: &str, form: Option<&str>, file: &str) {
    let from = format!("{USER_KEYS}/{name}");
    pool.head.run("cp", &["-p", &from, file]);
    match form {
        None => {}
        Some("PKCS8") if name == "ed25519" => {
            let (_, seed) = secrets(&text(pool, &from)).remove(0);
            // RFC 8410, with the seed at the end.
            let der = [&[0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20], &seed[..]].concat();
            let body = STANDARD.encode(der);
            fs::write(
                pool.head.path(file),
                format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n"),
            )
            .unwrap();
        }
        Some(form) => {
            pool.head.run("ssh-keygen", &["-q", "-p", "-N", "", "-m", form, "-f", file]);
        }
    }
}

/// Returns the lines of base64.
fn body(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.starts_with('-'))
}

/// Returns the secret numbers of a key in OpenSSH's form (PROTOCOL.key).
fn secrets(text: &str) -> Vec<(&'static str, Vec<u8>)> {
    let bytes = STANDARD.decode(body(text).collect::<String>()).unwrap();
    let mut rest = bytes.strip_prefix(b"openssh-key-v1\0").unwrap();
    // Cipher, key derivation and its options; then the number of keys.
    (0..3).for_each(|_| drop(string(&mut rest)));
    rest = &rest[4..];
    let _public = string(&mut rest);
    let private = string(&mut rest);
    // Two equal numbers.
    let mut rest = &private[8..];
    let kind = String::from_utf8(string(&mut rest)).unwrap();
    let mut fields = || string(&mut rest);
    match kind.as_str() {
        "ssh-ed25519" => {
            let _public = fields();
            vec![("seed", fields()[..32].to_vec())]
        }
        "ssh-rsa" => {
            let [_n, _e, d, _inverse, p, q] = [(); 6].map(|()| fields());
            vec![("d", d), ("p", p), ("q", q)]
        }
        _ => {
            let [_curve, _q, d] = [(); 3].map(|()| fields());
            vec![("d", d)]
        }
    }
}

/// Returns the secret number of a signing key, which its text has as `(d #HEXADECIMAL#)`.
fn signing_key(text: &str) -> Vec<u8> {
    let (_, rest) = text.split_once("(d #").unwrap();
    let digits = rest.split('#').next().unwrap().as_bytes();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn string(rest: &mut &[u8]) -> Vec<u8> {
    let (length, after) = rest.split_first_chunk::<4>().unwrap();
    let (string, after) = after.split_at(u32::from_be_bytes(*length) as usize);
    *rest = after;
    string.to_vec()
}

/// Byte strings to search for, each with the name of its secret.
#[derive(Default)]
struct Needles(HashMap<[u8; NEEDLE_LENGTH], &'static str>);

impl Needles {
    /// Adds each piece of `bytes`.
    fn add(&mut self, what: &'static str, bytes: &[u8]) {
        for piece in bytes.windows(NEEDLE_LENGTH) {
            self.0.insert(piece.try_into().unwrap(), what);
        }
    }

    /// Removes the pieces of a public key: in base64 some of them are also in the file of the private key.
    fn remove_public(&mut self, public: &str) {
        for piece in public.as_bytes().windows(NEEDLE_LENGTH) {
            self.0.remove(piece);
        }
    }

    /// Adds a number in both orders of bytes, without the zero that makes it positive.
    fn add_number(&mut self, what: &'static str, bytes: &[u8]) {
        let mut bytes = bytes.strip_prefix(&[0]).unwrap_or(bytes).to_vec();
        self.add(what, &bytes);
        bytes.reverse();
        self.add(what, &bytes);
    }

    /// Returns the secrets that are in the memory of the process, if there are any, and how many pieces of each.
    fn secrets_in(mut self, process: &Process) -> Option<HashMap<&'static str, usize>> {
        // This name must be in memory, which proves that the search works.
        let directory = "the name of the directory";
        self.add(directory, &PERSIST_DIRECTORY.as_bytes()[..NEEDLE_LENGTH]);
        let mut found = self.found_in(process);
        assert!(found.remove(directory).is_some(), "{}: {found:?}", process.name);
        (!found.is_empty()).then_some(found)
    }

    /// Searches the writable memory of the process. Returns the secrets found, and how many pieces of each.
    fn found_in(&self, process: &Process) -> HashMap<&'static str, usize> {
        let memory = File::open(format!("/proc/{}/mem", process.pid)).unwrap();
        let maps = fs::read_to_string(format!("/proc/{}/maps", process.pid)).unwrap();
        let mut found = HashMap::new();
        for line in maps.lines().filter(|line| line.contains(" rw-p ")) {
            let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
            let [start, end] = [start, end].map(|address| u64::from_str_radix(address, 16).unwrap());
            let mut bytes = vec![0; (end - start) as usize];
            for (page, offset) in bytes.chunks_mut(PAGE).zip((start..).step_by(PAGE)) {
                // A page that was never used may not be mapped yet.
                let _ = memory.read_exact_at(page, offset);
            }
            for from in (0..bytes.len()).step_by(PAGE) {
                let to = bytes.len().min(from + PAGE);
                // Most pages were never used.
                if bytes[from..to].iter().all(|byte| *byte == 0) {
                    continue;
                }
                for window in bytes[from..bytes.len().min(to + NEEDLE_LENGTH - 1)].windows(NEEDLE_LENGTH) {
                    if let Some(what) = self.0.get(window) {
                        *found.entry(*what).or_default() += 1;
                    }
                }
            }
        }
        found
    }
}
