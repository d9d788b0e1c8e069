//! What stays with the hook: secrets, descriptors, what others on this machine may read.

mod lab;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lab::{Drv, Host, Lab, USER_KEYS};
use offload::internals::store::base16;

/// A machine file that starts children in all ways that Lua has, and asks what they were given. `exec` and `io.popen`
/// give what the child prints; `os.execute` has it go to the log.
const CHILDREN: &str = r#"
local offload = require "offload"
local function keep(name, text) local file = assert(io.open("/tmp/" .. name, "w")); file:write(text); file:close() end
keep("environment", offload.read_file("/proc/self/environ"))
keep("exec-environment", assert(offload.exec { "cat", "/proc/self/environ" }))
keep("exec", assert(offload.exec { "ls", "-l", "/proc/self/fd" }))
local popen = io.popen("exec ls -l /proc/self/fd")
keep("popen", popen:read "a")
popen:close()
os.execute("exec ls -l /proc/self/fd >/tmp/execute")
offload.cached("something", 60, function() return 1 end)
"#;

/// The descriptors in a listing by `ls`, without the one that it has opened itself.
fn descriptors(head: &Host, listing: &str) -> Vec<(String, String)> {
    let text = String::from_utf8(head.read(Path::new("/tmp").join(listing))).unwrap();
    let all = text.lines().filter_map(|line| {
        let (before, file) = line.split_once(" -> ")?;
        Some((before.rsplit(' ').next()?.to_owned(), file.to_owned()))
    });
    all.filter(|(_, file)| !file.starts_with("/proc/")).collect()
}

/// What must not be seen anywhere of the keys of a head, each with a name for messages.
fn secrets(head: &Host) -> Vec<(&'static str, String)> {
    let mut secrets = Vec::new();
    // The latter half of an OpenSSH key has the secret number: four lines of base 64 in all.
    let key = String::from_utf8(head.read(format!("{USER_KEYS}/ed25519"))).unwrap();
    let body: String = key.lines().filter(|line| !line.starts_with('-')).collect();
    let bytes = STANDARD.decode(&body).unwrap();
    let public = String::from_utf8(head.read(format!("{USER_KEYS}/ed25519.pub"))).unwrap();
    let public = STANDARD.decode(public.split(' ').nth(1).unwrap()).unwrap();
    let point = &public[public.len() - 32..];
    // The secret number, 64 bytes that end in the public point, comes after the second occurrence of the point.
    let places: Vec<usize> = (0..bytes.len() - 32).filter(|&at| &bytes[at..at + 32] == point).collect();
    let [_, _, end] = places[..] else { panic!("{places:?}") };
    let number = &bytes[end - 32..end];
    secrets.push(("private key, its number in base 16", base16::encode(number)));
    secrets.push(("private key, a line", body[body.len() / 2..][..40].to_owned()));
    secrets.push(("private key, its beginning", "BEGIN OPENSSH PRIVATE KEY".to_owned()));

    let key = String::from_utf8(head.read("/etc/guix/signing-key.sec")).unwrap();
    let (_, number) = key.split_once("(d #").expect("the secret number of a signing key");
    let number = number.split('#').next().unwrap().to_lowercase();
    assert!(number.len() >= 62, "{number}");
    secrets.push(("signing key, its number in base 64", STANDARD.encode(base16::decode(number.as_bytes()).unwrap())));
    secrets.push(("signing key, its number in base 16", number));
    secrets.push(("signing key, its form", "(private-key".to_owned()));
    secrets
}

/// Everything below a directory, with its mode.
fn tree(directory: &Path, all: &mut Vec<(PathBuf, u32)>) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let metadata = entry.metadata().unwrap();
        all.push((entry.path(), metadata.mode() & 0o7777));
        if metadata.is_dir() {
            tree(&entry.path(), all);
        }
    }
}

#[test]
fn children_logs_and_state_disclose_no_more_than_necessary() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let b2 = lab.build_machine("b2").start();
    let head = lab.head().env("OFFLOAD_LOG", "trace").start();
    let machines = |machine: &Host| format!("{CHILDREN}\nreturn {{ {} }}\n", machine.entry().lua());

    // The second machine gets an output of the first, signed here.
    let first = Drv::new("first").script("echo words; echo $name >$out");
    head.write_machine_file(&machines(&b1));
    let mut log = head.build(&[&first]).succeeded().log;
    // The permissions do not depend on the mask.
    head.run("sh", &["-c", "umask 0; exec /opt/offload/offload drain b1"]);
    head.write_machine_file(&machines(&b2));
    log += &head.build(&[&Drv::new("second").input(&first).script("cat $first >$out")]).succeeded().log;
    assert_eq!((b1.built(), b2.built()), (vec!["first".to_owned()], vec!["second".to_owned()]));

    // Children have standard input, output and error, none of them the daemon's, and the environment that the hook has.
    for listing in ["exec", "popen", "execute"] {
        let found = descriptors(&head, listing);
        let numbers: Vec<&str> = found.iter().map(|(number, _)| number.as_str()).collect();
        assert_eq!(numbers, ["0", "1", "2"], "{listing}: {found:?}");
        assert_eq!(found[0].1, "/dev/null", "{listing}");
    }
    assert!(!head.read("/tmp/environment").is_empty());
    assert_eq!(head.read("/tmp/exec-environment"), head.read("/tmp/environment"));

    // With everything logged, no secret is.
    assert!(log.contains("offload: debug: "), "{log}");
    let mut texts = vec![("the log".to_owned(), log.into_bytes())];
    let mut files = Vec::new();
    tree(&head.path("/var/guix/offload"), &mut files);
    tree(&head.path("/var/cache/offload"), &mut files);
    tree(&head.path("/var/log"), &mut files);
    let logs = files.iter().filter(|(path, _)| path.is_file());
    texts.extend(logs.map(|(path, _)| (path.display().to_string(), fs::read(path).unwrap())));
    for (secret, text) in secrets(&head) {
        for (place, found) in &texts {
            let found = String::from_utf8_lossy(found).to_lowercase();
            assert!(!found.contains(&text.to_lowercase()), "{secret} is in {place}");
        }
    }

    // Who builds what, and where, is for the daemon's user alone.
    let mut state = Vec::new();
    tree(&head.path("/var/guix/offload"), &mut state);
    assert!(state.len() > 5, "{state:?}");
    // On this head `/var/guix` belongs to another user than the daemon's, who could write what root believes.
    let count = state.len();
    tree(&head.path("/var/cache/offload"), &mut state);
    assert!(state.len() > count + 3, "{state:?}");
    for (path, mode) in state {
        assert_eq!(mode & 0o077, 0, "{} {mode:o}", path.display());
    }
    assert_eq!(fs::metadata(head.path("/var/guix/offload")).unwrap().mode() & 0o777, 0o700);
}
