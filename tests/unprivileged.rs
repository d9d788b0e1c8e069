//! A head whose guix-daemon runs without privileges, as the service unit of Guix 1.5 has it.

mod lab;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use lab::{Drv, Host, Lab};
use offload::internals::machine::{HostKey, HostKeyKind, Machine, StartedAs};
use offload::internals::state::{Phase, PowerRecord, StateDirectory};

/// Returns the remedy in a message: the text in backquotes after `as root:`.
fn remedy(log: &str) -> String {
    let (_, after) = log.split_once("; as root: `").unwrap_or_else(|| panic!("no remedy in:\n{log}"));
    after.split_once('`').unwrap().0.to_owned()
}

/// An output that only this head has, so that it goes to a build machine signed.
fn own_output(head: &Host, name: &str) -> Drv {
    let drv = Drv::new(&format!("{name}-input")).script("echo from here >$out");
    head.client().no_offload().max_jobs(1).build(&[&drv]).succeeded();
    drv
}

/// The owners of everything at a path and below it.
fn owners(path: &Path) -> BTreeSet<u32> {
    let data = fs::symlink_metadata(path).unwrap();
    let mut found = BTreeSet::from([data.uid()]);
    if data.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| found.extend(owners(&entry.unwrap().path())));
    }
    found
}

#[test]
fn a_daemon_without_privileges_offloads_builds_and_says_which_right_it_lacks() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().unprivileged().start();
    // A build that no machine can take now fails soon.
    // Each build needs all rights. Over a persistent connection it would not need the key.
    let entry = b1.entry().set("keep_connection", false);
    head.write_machine_file(&format!("return {{ {}, wait_for_slot = 1 }}", entry.lua()));
    let daemon = head.processes().into_iter().find(|process| process.name == "guix-daemon").unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid)).unwrap();
    assert!(status.contains("CapEff:\t0000000000000001\n"), "more than CAP_CHOWN:\n{status}");
    assert!(fs::write(head.path("/gnu/store/x"), "").is_err(), "the store is writable outside of the daemon");

    // The daemon can use the files that root's commands create.
    let owner = fs::metadata(head.path("/var/guix")).unwrap().uid();
    let commands: [&[&str]; 7] = [
        &["drain", "b1"],
        &["undrain", "b1"],
        &["eval"],
        &["status"],
        &["test"],
        &["explain", "--system", lab::SYSTEM, "--probe"],
        &["authorize", "b1", "--yes"],
    ];
    for command in commands {
        head.run("/opt/offload/offload", command);
    }
    // The daemon's user can run them as well.
    for command in commands {
        let user = ["--reuid=guix-daemon", "--regid=guix-daemon", "--init-groups", "/opt/offload/offload"];
        head.run("setpriv", &[&user, command].concat());
    }
    assert_ne!(owner, 0);
    assert_eq!(owners(&head.path("/var/guix/offload")), [owner].into());
    let input = own_output(&head, "first");
    let first = Drv::new("first").input(&input).script("mkdir $out; cp $first_input $out/file; ln -s file $out/link");
    let result = head.build(&[&first]).succeeded();
    assert_eq!(b1.built(), ["first"]);
    // The hook can count the descriptors of its daemon.
    assert!(!head.path("/var/guix/offload/accepted").exists());
    assert_eq!(head.read(result.output("first").join("link")), b"from here\n");
    let metadata = fs::metadata(head.path(result.output("first"))).unwrap();
    assert_eq!(
        (metadata.uid(), metadata.mode() & 0o777),
        (fs::metadata(head.path("/gnu/store")).unwrap().uid(), 0o555)
    );
    head.verify_store();

    for (number, (takes, file)) in [
        ("chown root: /etc/guix/keys/ed25519", "/etc/guix/keys/ed25519"),
        ("chmod 600 /etc/guix/machines.lua", "/etc/guix/machines.lua"),
        ("chown root: /etc/guix/signing-key.sec", "/etc/guix/signing-key.sec"),
        ("chown root: /etc/guix/acl; chmod 600 /etc/guix/acl", "/etc/guix/acl"),
        ("chmod 700 /etc/guix; chown root /etc/guix", "/etc/guix"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("lacking-{number}");
        let drv = Drv::new(&name).input(&own_output(&head, &name)).script("echo $lacking >$out");
        head.run("sh", &["-c", takes]);
        let mut build = head.client().start(&[&drv]);
        build.wait_for_log(&format!("'{file}' (owner root, mode 0"));
        head.run("sh", &["-c", &remedy(&build.log())]);
        // A request that was postponed for want of a machine continues; an accepted build has failed.
        if build.wait().status != Some(0) {
            head.build(&[&drv]).succeeded();
        }
    }

    // Without its state the hook postpones builds; they continue later.
    head.run("chown", &["-R", "root:", "/var/guix/offload"]);
    let drv = Drv::new("state").script("echo >$out");
    let mut build = head.client().start(&[&drv]);
    build.wait_for_log("'/var/guix/offload' (owner root, mode 0700)");
    head.run("sh", &["-c", &remedy(&build.log())]);
    build.wait().succeeded();
    assert_eq!(b1.built().len(), 7);
    assert_eq!(owners(&head.path("/var/guix/offload")), [owner].into());
}

/// The directory `/etc/guix` is the daemon's user's as well, and so is what root finds there.
#[test]
fn root_exchanges_keys_and_converts_as_the_daemons_user() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").untrusted().untrusting().start();
    let head = lab.head().unprivileged().start();
    let owner = fs::metadata(head.path("/etc/guix")).unwrap().uid();
    head.write_machines(&[b1.entry()]);
    let said = head.command("/opt/offload/offload").args(["authorize", "b1", "--yes"]).output().unwrap();
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("This machine has authorized the key of b1."), "{said}");
    assert_eq!(fs::metadata(head.path("/etc/guix/acl")).unwrap().uid(), owner);
    head.build(&[&Drv::new("first").input(&own_output(&head, "first"))]).succeeded();

    head.write("/etc/guix/machines.scm", r#"(system "id -u >/tmp/who; env >/tmp/environment") '()"#);
    head.run("/opt/offload/offload", &["convert", "/etc/guix/machines.scm"]);
    assert_eq!(head.read("/tmp/who"), format!("{owner}\n").into_bytes());
    assert!(!String::from_utf8(head.read("/tmp/environment")).unwrap().contains("HOME=/root\n"));
    // A file that only root can write is evaluated as root.
    fs::remove_file(head.path("/tmp/who")).unwrap();
    head.write("/root/machines.scm", head.read("/etc/guix/machines.scm"));
    head.run("/opt/offload/offload", &["convert", "/root/machines.scm"]);
    assert_eq!(head.read("/tmp/who"), b"0\n");
}

/// Root can read keys that the hook cannot: what its commands report and record is what the hook would find.
#[test]
fn root_checks_as_the_daemons_user() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().unprivileged().start();
    head.run("sh", &["-c", "mkdir -p -m 700 /root/.ssh && install -m 600 /etc/guix/keys/ed25519 /root/.ssh/offload"]);
    let entry = |key: &str| b1.entry().set("private_key", key).set("keep_connection", false);
    head.write_machines(&[entry("/root/.ssh/offload")]);
    // Otherwise the commands would run as the user who can write the file.
    head.run("chown", &["root:", "/etc/guix", "/etc/guix/machines.lua"]);
    let run = |arguments: &[&str]| {
        let output = head.command("/opt/offload/offload").args(arguments).output().unwrap();
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        (output.status.code(), said)
    };
    for arguments in [&["test", "b1"][..], &["status"], &["explain", "--system", lab::SYSTEM, "--probe"], &["eval"]] {
        let (status, said) = run(arguments);
        // Neither `eval` nor `explain` fails because of a machine.
        assert_eq!(status == Some(0), matches!(arguments[0], "eval" | "explain"), "{arguments:?}: {said}");
        assert!(said.contains("/root"), "{arguments:?}: {said}");
        assert!(!head.health_of("b1:2022").contains("\"measured\":1"), "{arguments:?}: {said}");
    }
    let (_, said) = run(&["test", "b1"]);
    assert!(said.contains("checked as 'guix-daemon', the user that guix-daemon runs as"), "{said}");
    // A draft that only root can read is evaluated as root.
    head.write("/root/draft.lua", "return {}");
    head.run("chmod", &["600", "/root/draft.lua"]);
    assert_eq!(run(&["eval", "/root/draft.lua"]).0, Some(0));
    // The daemon's key passes, and that is recorded.
    head.write_machines(&[entry("/etc/guix/keys/ed25519")]);
    let (status, said) = run(&["test", "b1"]);
    assert_eq!(status, Some(0), "{said}");
    assert!(head.health_of("b1:2022").contains("\"measured\":1"), "{said}");

    // The daemon's user can write the record of a machine that was started. Root takes no host key from there.
    let (real, stranger) = (b1.host_key(HostKeyKind::Ed25519), lab.stranger_host_key());
    for (of_entry, of_record, is_trusted, message) in [
        (Some(&real), &stranger, true, "cloud has "),
        (Some(&stranger), &real, false, "host key"),
        (None, &real, false, "root does not take one from the state of the user guix-daemon"),
    ] {
        let entry = entry("/etc/guix/keys/ed25519").set("name", "cloud");
        let entry = match of_entry {
            Some(key) => entry.set("host_key", key.as_str()),
            None => entry.unset("host_key"),
        };
        let text = entry.lua();
        let fields = text.strip_suffix('}').unwrap();
        let start = "start = function() return {} end, stop = { 'true' }";
        head.write_machine_file(&format!("return {{ {fields} on_demand = {{ {start} }} }} }}"));
        head.run("chown", &["root:", "/etc/guix/machines.lua"]);
        let mut machine = Machine::new("cloud", "root", Vec::new(), Vec::new());
        machine.port = 2022;
        let record = PowerRecord::of(&StateDirectory::new(head.path("/var/guix/offload")), &machine).unwrap();
        let started_as = StartedAs {
            name: Some(b1.ssh_address().ip().to_string()),
            port: Some(2022),
            host_keys: Some(vec![HostKey::parse(of_record).unwrap()]),
        };
        record.change(|power| (power.phase, power.started_as) = (Phase::Running, started_as.clone())).unwrap();
        let (status, said) = run(&["authorize", "--yes", "cloud"]);
        assert_eq!((status == Some(0), said.contains(message)), (is_trusted, true), "{of_entry:?}: {said}");
    }

    // A converted file keeps the name of a key that it names, and leaves the default to the daemon's user.
    let machine = |key: &str| {
        format!(
            "(list (build-machine (name \"b1\") (systems (list \"x86_64-linux\")) (user \"root\") {key} \
             (host-key \"{}\")))",
            b1.host_key(HostKeyKind::Ed25519)
        )
    };
    for (given, kept) in [("(private-key \"/root/.ssh/id_rsa\")", "/root/.ssh/id_rsa"), ("", "~/.ssh/id_rsa")] {
        head.write("/root/machines.scm", machine(given));
        let (_, said) = run(&["convert", "/root/machines.scm"]);
        assert!(said.contains(&format!("private_key = \"{kept}\"")), "{said}");
    }
}
