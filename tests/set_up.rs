//! `offload add --write` and `offload init`: from a head without a machine file to one whose builds are offloaded.

mod lab;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Output, Stdio};

use lab::{Drv, Host, Lab, SSH_PORT, USER_KEYS};
use offload::internals::machine::{HostKey, HostKeyKind};

const FILE: &str = "/etc/guix/machines.lua";

/// The owner, group and mode of a file on a host.
fn rights(host: &Host, path: &str) -> (u32, u32, u32) {
    let data = fs::metadata(host.path(path)).unwrap();
    (data.uid(), data.gid(), data.mode() & 0o7777)
}

/// Runs `offload` on the head with the port of the lab. Returns its exit status and all that it prints.
fn offload(head: &Host, arguments: &[&str]) -> (Option<i32>, String) {
    let port = SSH_PORT.to_string();
    let Output { status, stdout, stderr } = head
        .command("/opt/offload/offload")
        .args(arguments)
        .args(["--port", &port])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    println!("offload {}: {status}\n{said}", arguments.join(" "));
    (status.code(), said)
}

fn fingerprint(machine: &Host) -> String {
    HostKey::parse(&machine.host_key(HostKeyKind::Ed25519)).unwrap().fingerprint()
}

/// Gives the machines thresholds that the load of the lab does not pass.
fn ignore_load(head: &Host) {
    let text = String::from_utf8(head.read(FILE)).unwrap();
    let text = text.replace("build_machine {\n", "build_machine {\n    overload_threshold = false,\n");
    fs::write(head.path(FILE), text).unwrap();
}

#[test]
fn a_machine_is_added_to_the_file_and_the_rest_of_the_file_stays() {
    let lab = Lab::new();
    let [b1, b2] = ["b1", "b2"].map(|name| lab.build_machine(name).start());
    let head = lab.head().start();
    let key = format!("{USER_KEYS}/ed25519");
    let add = |name: &str, more: &[&str]| {
        let words = ["add", name, "--user", "root", "--private-key", &key, "--write"];
        offload(&head, &[&words, more].concat())
    };
    fs::remove_file(head.path(FILE)).ok();
    let (status, said) = add("b1", &["--fingerprint", &fingerprint(&b2)]);
    assert_eq!((status, head.path(FILE).exists()), (Some(1), false), "{said}");
    assert!(said.contains(&format!("b1:2022 shows the host key {}", fingerprint(&b1))), "{said}");
    let (status, said) = add("b1", &["--fingerprint", &fingerprint(&b1)]);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("wrote '/etc/guix/machines.lua' with b1:2022"), "{said}");
    assert_eq!(rights(&head, FILE), (0, 0, 0o644));

    // An administrator has changed it, and only a group may read it.
    let text = String::from_utf8(head.read(FILE)).unwrap();
    let (start, end) = text.rsplit_once("},\n").unwrap();
    let mine = format!("-- Ours.\nlocal limit = 2\n{start}}}  -- the first\n  max_attempts = limit,\n{end}");
    let mine = mine.replace("}  -- the first", "},  -- the first");
    fs::write(head.path(FILE), &mine).unwrap();
    head.run("chown", &["root:7", FILE]);
    head.run("chmod", &["640", FILE]);
    // The file has a link, as where a directory under version control has it.
    head.run("mv", &[FILE, "/etc/guix/real.lua"]);
    head.run("ln", &["-s", "real.lua", FILE]);
    let (status, said) = add("b2", &[]);
    assert_eq!(status, Some(0), "{said}");
    let added = String::from_utf8(head.read(FILE)).unwrap();
    let (before, after) = mine.split_once("  -- the first\n").unwrap();
    assert!(added.starts_with(&format!("{before}  -- the first\n  build_machine {{\n    name = \"b2\",\n")), "{added}");
    assert!(added.ends_with(&format!("\n  }},\n{after}")), "{added}");
    assert!(fs::symlink_metadata(head.path(FILE)).unwrap().is_symlink());
    assert_eq!(rights(&head, "/etc/guix/real.lua"), (0, 7, 0o640));
    assert_eq!(head.read("/etc/guix/real.lua.~1~"), mine.as_bytes());
    let pool = head.run("/opt/offload/offload", &["eval"]);
    assert!(pool.contains("b1") && pool.contains("b2"), "{pool}");

    let (status, said) = add("B2", &[]);
    assert_eq!((status, said.contains("has b2:2022 already")), (Some(0), true), "{said}");
    assert_eq!(head.read(FILE), added.as_bytes());

    ignore_load(&head);
    let both = [Drv::new("one"), Drv::new("two")].map(|drv| drv.script("echo >$out"));
    b1.stop_sshd();
    head.build(&[&both[0], &both[1]]).succeeded();
    assert_eq!(b2.built().len(), 2);
}

#[test]
fn a_file_that_cannot_be_extended_stays_and_the_entry_is_printed() {
    let lab = Lab::new();
    let _b1 = lab.build_machine("b1").start();
    let head = lab.head().start();
    let other = format!("{:?}", lab.stranger_host_key());
    let known = format!(
        "return {{ build_machine {{ name = 'b1', port = 2022, user = 'root', systems = {{ 'x86_64-linux' }}, host_key = {other} }} }}"
    );
    for (text, message, has_entry) in [
        ("local list = {}\nreturn list\n", "it does not end in `return { … }`", true),
        ("return { x = 1 }\n", "machines.lua:1: error: the pool: unknown field 'x'", false),
        (
            "local make = build_machine\nfunction build_machine(t) t.port = 1 return make(t) end\nreturn {}",
            "was not changed: the entry would change other machines or settings in it",
            true,
        ),
        (&known, "it has an entry for b1:2022 already, with another host key", false),
    ] {
        // The function of the third file gives each entry another port.
        fs::write(head.path(FILE), text).unwrap();
        let (status, said) = offload(&head, &["add", "b1", "--write"]);
        assert_eq!(status, Some(3), "{text}: {said}");
        assert!(said.contains(message), "{text}: {said}");
        assert_eq!(said.contains("build_machine {\n"), has_entry, "{text}: {said}");
        assert_eq!(head.read(FILE), text.as_bytes());
    }
    let others: Vec<_> =
        fs::read_dir(head.path("/etc/guix")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!others.iter().any(|name| name.to_string_lossy().starts_with("machines.lua.")), "{others:?}");
}

/// Root's command runs as the user who owns the file, and this user cannot replace it.
#[test]
fn a_file_of_the_daemons_user_in_a_directory_of_roots_has_a_remedy() {
    let lab = Lab::new();
    let _b1 = lab.build_machine("b1").start();
    let head = lab.head().unprivileged().start();
    head.write(FILE, "return {}\n");
    head.run("sh", &["-c", &format!("chown root: /etc/guix && chown guix-daemon: {FILE}")]);
    fs::set_permissions(head.path("/etc/guix"), fs::Permissions::from_mode(0o755)).unwrap();
    let add = || offload(&head, &["add", "b1", "--write"]);
    let (status, said) = add();
    assert_eq!(status, Some(1), "{said}");
    assert!(!said.contains("run this command as root"), "{said}");
    let (_, remedy) = said.split_once("hint: as root: `").unwrap_or_else(|| panic!("{said}"));
    head.run("sh", &["-c", remedy.split('`').next().unwrap()]);
    let (status, said) = add();
    assert_eq!((status, rights(&head, FILE).0), (Some(0), 0), "{said}");
}

/// A machine without the account, and a head and a machine that do not know each other's keys.
fn strangers(lab: &Lab) -> Host {
    let machine = lab.build_machine("b1").closed().untrusted().untrusting().start();
    machine.run("userdel", &["--remove", "offload"]);
    machine
}

/// Does what `init` tells root to do on the machine.
fn obey(machine: &Host, said: &str) {
    let (_, commands) = said.split_once("As root on b1").unwrap_or_else(|| panic!("{said}"));
    let commands: Vec<&str> = commands.lines().skip(1).take_while(|line| line.starts_with("  ")).collect();
    assert!(!commands.is_empty(), "{said}");
    machine.run("sh", &["-ec", &commands.join("\n")]);
}

fn init_without_a_terminal(head: &Host, machine: &Host, owner: u32) {
    fs::remove_file(head.path(FILE)).ok();
    fs::remove_file(head.path("/etc/guix/offload_ed25519")).ok();
    let (status, said) = offload(head, &["init", "b1"]);
    assert_eq!(status, Some(1), "{said}");
    let again = format!("if it is the same: offload init b1 --port 2022 --fingerprint {}\n", fingerprint(machine));
    assert!(said.contains("made  user key") && said.contains(&again), "{said}");
    assert_eq!(rights(head, "/etc/guix/offload_ed25519"), (owner, owner, 0o600));
    let fingerprint = fingerprint(machine);
    let complete = ["init", "b1", "--yes", "--fingerprint", &fingerprint];
    let (status, said) = offload(head, &complete);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("ok    user key") && said.contains("to do account"), "{said}");
    let again = format!("then: offload init b1 --port 2022 --fingerprint {fingerprint} --yes\n");
    assert!(said.contains(&again), "{said}");
    assert!(!head.path(FILE).exists(), "{said}");
    obey(machine, &said);
    obey(machine, &said);
    let keys = machine.run("sh", &["-c", "cat ~offload/.ssh/authorized_keys"]);
    assert_eq!(keys.lines().count(), 1, "{keys}");
    let (status, said) = offload(head, &complete);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("made  entry") && said.contains("This machine has authorized the key of b1."), "{said}");
    // Everything is done.
    let before = head.read(FILE);
    let (status, said) = offload(head, &["init", "b1"]);
    assert_eq!(status, Some(0), "{said}");
    assert!(!said.contains("made  ") && !said.contains("to do ") && said.contains("ok    entry"), "{said}");
    assert_eq!(said.matches("has already authorized").count(), 2, "{said}");
    assert_eq!(head.read(FILE), before);
    ignore_load(head);
    head.build(&[&Drv::new("built").script("echo >$out")]).succeeded();
    assert_eq!(machine.built(), ["built"]);
}

#[test]
fn a_head_is_set_up_from_nothing() {
    let lab = Lab::new();
    let b1 = strangers(&lab);
    let head = lab.head().start();
    // Nobody is trusted here, and nothing can be signed.
    head.write("/etc/guix/acl", b1.read("/etc/guix/acl"));
    init_without_a_terminal(&head, &b1, 0);
}

#[test]
fn the_keys_of_an_unprivileged_daemon_are_its_users() {
    let lab = Lab::new();
    let b1 = strangers(&lab);
    for (name, is_roots) in [("owned", false), ("roots", true)] {
        let head = lab.head().name(name).unprivileged().start();
        head.write("/etc/guix/acl", b1.read("/etc/guix/acl"));
        let owner = rights(&head, "/var/guix").0;
        assert_ne!(owner, 0);
        if is_roots {
            // As Debian's package leaves it: the directory is root's, and so is the machine file.
            b1.run("userdel", &["--remove", "offload"]);
            b1.run("sh", &["-c", "echo '(acl)' >/etc/guix/acl"]);
            head.run("chown", &["root:", "/etc/guix"]);
            fs::set_permissions(head.path("/etc/guix"), fs::Permissions::from_mode(0o755)).unwrap();
        } else {
            head.run("sh", &["-c", "chown guix-daemon: /etc/guix/acl"]);
        }
        // Root can log in with this key, and the hook cannot.
        head.run("chown", &["root:", "/etc/guix/keys/ed25519"]);
        let (status, said) =
            offload(&head, &["add", "b1", "--user", "root", "--private-key", "/etc/guix/keys/ed25519"]);
        assert_eq!(status, Some(0), "{said}");
        assert!(said.contains("No login yet: b1:2022: private key: cannot read"), "{said}");
        let (status, said) = offload(&head, &["init", "b1", "--user", "root", "--private-key", "/root/.ssh/offload"]);
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains("'/root'") && !head.path("/root/.ssh/offload").exists(), "{said}");
        if !is_roots {
            init_without_a_terminal(&head, &b1, owner);
            continue;
        }
        let fingerprint = fingerprint(&b1);
        let (status, said) = offload(&head, &["init", "b1", "--yes", "--fingerprint", &fingerprint]);
        assert_eq!((status, rights(&head, "/etc/guix/offload_ed25519").0), (Some(1), owner), "{said}");
        obey(&b1, &said);
        let (status, said) = offload(&head, &["init", "b1", "--yes", "--fingerprint", &fingerprint]);
        assert_eq!((status, rights(&head, FILE).0), (Some(0), 0), "{said}");
        ignore_load(&head);
        head.build(&[&Drv::new("again").script("echo >$out")]).succeeded();
        assert_eq!(b1.built(), ["built", "again"]);
    }
}

/// The entry has a proxy and two host keys, and the host has two entries.
#[test]
fn a_known_entry_is_used_as_it_is() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let [first, second] = [lab.stranger_host_key(), b1.host_key(HostKeyKind::Ed25519)];
    let common = format!(
        "name = 'b1', user = 'offload', systems = {{ 'x86_64-linux' }}, private_key = '{USER_KEYS}/ed25519', \
         overload_threshold = false, host_key = {{ [[{first}]], [[{second}]] }}"
    );
    let proxy = "{ 'sh', '-c', 'exec busybox nc b1 2022' }";
    for head in [lab.head().name("privileged").start(), lab.head().name("unprivileged").unprivileged().start()] {
        head.write(
            FILE,
            format!(
                "return {{ build_machine {{ {common}, port = 2022 }}, build_machine {{ {common}, proxy_command = {proxy} }} }}"
            ),
        );
        let init = |more: &[&str]| {
            let mut command = head.command("/opt/offload/offload");
            let output = command.args(["init", "b1", "--yes"]).args(more).stdin(Stdio::null()).output().unwrap();
            (
                output.status.code(),
                String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout),
            )
        };
        let (status, said) = init(&[]);
        assert_eq!(status, Some(0), "{said}");
        assert!(said.contains("b1:22 is ready"), "{said}");
        let (status, said) = init(&["--fingerprint", &fingerprint(&b1)]);
        assert_eq!(status, Some(0), "{said}");
        let stranger = HostKey::parse(&b1.host_key(HostKeyKind::Rsa)).unwrap().fingerprint();
        let (status, said) = init(&["--fingerprint", &stranger]);
        assert_eq!(status, Some(1), "{said}");
        let keys = [first.as_str(), &second].map(|key| HostKey::parse(key).unwrap().fingerprint());
        let refused = format!("has the host keys {} for b1:22, not {stranger}", keys.join(", "));
        assert!(said.contains(&refused) && !said.contains("ok    account"), "{said}");
    }
}

/// `script` makes the terminal. The command asks for the name and for a comparison of the key, and waits until root has
/// run the commands on the machine.
#[test]
fn on_a_terminal_it_asks_and_waits() {
    let lab = Lab::new();
    let b1 = strangers(&lab);
    let head = lab.head().start();
    head.write("/etc/guix/acl", b1.read("/etc/guix/acl"));
    head.run("sh", &["-c", "rm -f /etc/guix/machines.lua /etc/guix/signing-key.*"]);
    let log = lab.directory().join("terminal");
    // Terminals are made outside of the host.
    let mut init = head.command("/opt/offload/offload");
    init.args(["init", "--port", &SSH_PORT.to_string()]);
    let words = [init.get_program()].into_iter().chain(init.get_args());
    let words: Vec<String> = words.map(|word| format!("'{}'", word.to_str().unwrap())).collect();
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--flush", "--command", &words.join(" "), "/dev/null"]);
    command.envs(init.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = fs::File::create(&log).unwrap();
    command.stdin(Stdio::piped()).stderr(output.try_clone().unwrap()).stdout(output);
    let mut child = command.spawn().unwrap();
    let mut keyboard = child.stdin.take().unwrap();
    let said = || String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).replace("\r\n", "\n");
    let mut seen = 0;
    let mut answer = |question: &str, text: &str| {
        let start = std::time::Instant::now();
        while !said()[seen..].contains(question) {
            assert!(start.elapsed() < lab::LONG, "no {question:?} in:\n{}", said());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let all = said();
        seen = all.len();
        keyboard.write_all(text.as_bytes()).unwrap();
        all
    };
    answer("Name or address", "b1\n");
    let all = answer("Is it the same? [y/N]", "y\n");
    assert!(all.contains("made  signing key") && all.contains(&fingerprint(&b1)), "{all}");
    let all = answer("Press Enter", "");
    obey(&b1, &all);
    let (from, mut keyboard) = (seen, keyboard);
    keyboard.write_all(b"\n").unwrap();
    lab::wait_until("the question about the key", lab::LONG, || said()[from..].contains("Authorize it?"));
    keyboard.write_all(b"y\n").unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(0), "{}", said());
    assert!(said().contains("b1:2022 is ready. Next: offload status"), "{}", said());
}
