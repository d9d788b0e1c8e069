//! `offload test` finds faults, and its remedies fix them.

mod lab;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Output;
use std::thread::JoinHandle;
use std::{fs, thread};

use lab::{Drv, Entry, Host, Lab, SSH_PORT, USER_KEYS};
use offload::internals::machine::HostKeyKind;
use rustix::net::{Shutdown, shutdown};

fn offload_test(head: &Host, arguments: &[&str]) -> Output {
    head.command("/opt/offload/offload").arg("test").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The lines about one machine.
fn about(report: &str, name: &str) -> String {
    let mut lines = report.lines().skip_while(|line| !line.starts_with(&format!("{name}:")));
    let first = lines.next().unwrap_or_else(|| panic!("nothing about {name} in:\n{report}"));
    let rest = lines.take_while(|line| !line.contains(" can be used") && !line.contains(" cannot be used"));
    std::iter::once(first).chain(rest).collect::<Vec<_>>().join("\n")
}

#[test]
fn one_bad_machine_hides_no_other() {
    let lab = Lab::new();
    let good = lab.build_machine("b1").start();
    let dead = lab.build_machine("b2").start();
    dead.stop_sshd();
    let head = lab.head().start();
    head.write_machines(&[dead.entry(), good.entry()]);

    let output = offload_test(&head, &[]);
    let report = text(&output.stdout);
    assert_eq!(output.status.code(), Some(4), "{report}{}", text(&output.stderr));
    assert!(about(&report, "b1").starts_with("b1:2022 can be used"), "{report}");
    assert!(about(&report, "b2").contains("  !!  connection    connection refused"), "{report}");
    assert!(report.ends_with("1 of 2 machines in '/etc/guix/machines.lua' can be used\n"), "{report}");

    let output = offload_test(&head, &["/etc/guix/machines.lua", "^b1$", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["version"], &json["machines"][0]["usable"]), (&1.into(), &true.into()));
    assert_eq!(json["machines"].as_array().unwrap().len(), 1);
    check_fields(&json);

    assert_eq!(offload_test(&head, &["/etc/guix/machines.lua", "b3"]).status.code(), Some(5));
    let output = offload_test(&head, &["/nowhere.lua"]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(offload_test(&head, &["b1", "b3"]).status.code(), Some(5));
}

/// The fields of the JSON form are those that the manual lists.
fn check_fields(json: &serde_json::Value) {
    let manual = fs::read_to_string("doc/manual/commands.md").unwrap();
    let names = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let machine = &json["machines"][0];
    let known = [names(json), names(machine), names(&machine["findings"][0])].concat();
    for name in known {
        assert!(manual.contains(&format!("`{name}`")), "the manual does not know the field `{name}`");
    }
}

/// Returns the lines to paste below the line that ends in `intent`.
fn pastes<'a>(report: &'a str, intent: &str) -> Vec<&'a str> {
    let lines: Vec<&str> = report.lines().collect();
    lines.windows(2).filter(|pair| pair[0].ends_with(intent)).map(|pair| pair[1].trim_start()).collect()
}

/// A machine with a fault.
struct FaultyMachine<'a> {
    entry: Entry,
    host: &'a Host,
    /// What the finding says.
    symptom: &'static str,
    /// How many times `test` must run, because one fault can hide another. 0: it has no remedy that can be run here.
    rounds: usize,
    /// Lines that remedies have put into the entry.
    lines: Vec<String>,
}

impl FaultyMachine<'_> {
    fn lua(&self) -> String {
        let field = |line: &str| line.split(' ').next().unwrap().to_owned();
        let entry = self.lines.iter().fold(self.entry.clone(), |entry, line| entry.unset(&field(line))).lua();
        let lines: String = self.lines.iter().map(|line| format!("  {line},\n")).collect();
        format!("{}{lines}}},\n", entry.strip_suffix('}').unwrap())
    }
}

/// A lab has no init system. This script starts, restarts and reloads the services of a host instead.
const SYSTEMCTL: &str = "#!/bin/sh
case \"$1 $2\" in
  'start ssh') /usr/sbin/sshd -f /etc/ssh/sshd_config ;;
  'reload ssh') kill -HUP \"$(cat /run/sshd.pid)\" ;;
  'start guix-daemon')
    setsid guix-daemon --disable-chroot --no-substitutes >/tmp/daemon.log 2>&1 </dev/null &
    until test -S /var/guix/daemon-socket/socket; do sleep 0.1; done ;;
  *) exit 1 ;;
esac
";

fn write_program(host: &Host, path: &str, text: &str) {
    let _ = fs::remove_file(host.path(path));
    host.write(path, text);
    fs::set_permissions(host.path(path), fs::Permissions::from_mode(0o755)).unwrap();
}

/// Says `greeting` to each of these connections, then nothing, and keeps them open for as long as there may be more.
fn greet<S: Write + Send + 'static>(connections: impl Iterator<Item = io::Result<S>>, greeting: &[u8]) {
    let mut kept = Vec::new();
    for mut stream in connections.map_while(Result::ok) {
        stream.write_all(greeting).unwrap();
        kept.push(stream);
    }
}

/// An SSH server at `address` that greets like this.
fn strange_server(address: SocketAddr, greeting: &'static [u8]) {
    let listener = TcpListener::bind(address).unwrap();
    thread::spawn(move || greet(listener.incoming(), greeting));
}

/// A daemon that greets, and says nothing more. Ends when dropped: its sockets keep the host's file system busy.
struct StrangeDaemon {
    listener: UnixListener,
    thread: Option<JoinHandle<()>>,
}

impl StrangeDaemon {
    fn start(host: &Host, socket: &str, greeting: &'static [u8]) -> StrangeDaemon {
        let listener = UnixListener::bind(host.path(socket)).unwrap();
        let ours = listener.try_clone().unwrap();
        let thread = thread::spawn(move || greet(ours.incoming(), greeting));
        StrangeDaemon { listener, thread: Some(thread) }
    }
}

impl Drop for StrangeDaemon {
    fn drop(&mut self) {
        // What waits for a connection hears that there will be none.
        let _ = shutdown(&self.listener, Shutdown::Both);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The greeting of Guix 0.13: the magic number, and version 0x161.
const OLD_DAEMON: &[u8] = b"oixd\0\0\0\0\x61\x01\0\0\0\0\0\0";

#[test]
fn every_fault_is_found_and_its_remedy_fixes_it() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let refusing = lab.build_machine("refusing").start();
    refusing.stop_sshd();
    let idle = lab.build_machine("idle").start();
    idle.stop_daemon();
    let plain = lab.build_machine("plain").account("offload").start();
    let unforwarding = lab.build_machine("unforwarding").sshd_option("AllowStreamLocalForwarding no").start();
    let strangers = lab.build_machine("strangers").untrusted().untrusting().start();
    let keyless = lab.build_machine("keyless").start();
    let full = lab.build_machine("full").start();
    for host in [&refusing, &idle, &unforwarding] {
        write_program(host, "/usr/bin/systemctl", SYSTEMCTL);
    }
    // Names for the same host with different faults.
    for name in
        ["other-key", "other-type", "closed", "exposed", "no-key", "moved", "drained", "old", "mute", "passphrase"]
    {
        lab.add_name(name, ip(&b1));
    }
    lab.add_name("skewed", ip(&full));
    for name in ["locked", "unentitled"] {
        lab.add_name(name, ip(&plain));
    }
    for (name, greeting) in [("silent", &b""[..]), ("mail", b"220 mail.example.org ESMTP\r\n")] {
        let address = lab.unused_address();
        lab.add_name(name, address);
        strange_server(SocketAddr::from((address, SSH_PORT)), greeting);
    }
    let head = lab.head().start();
    std::os::unix::fs::symlink("/opt/offload/offload", head.path("/usr/bin/offload")).unwrap();

    let key = |file: &str| format!("{USER_KEYS}/{file}");
    fs::copy(head.path(key("ed25519")), head.path(key("exposed"))).unwrap();
    fs::set_permissions(head.path(key("exposed")), fs::Permissions::from_mode(0o644)).unwrap();
    let _old = StrangeDaemon::start(&b1, "/var/guix/old", OLD_DAEMON);
    let _mute = StrangeDaemon::start(&b1, "/var/guix/mute", b"");
    plain.run("usermod", &["--password", "!", "offload"]);
    plain.run("groupadd", &["builders"]);
    plain.run("sh", &["-c", "cd /var/guix && chgrp builders daemon-socket && chmod 750 daemon-socket"]);
    plain.run("useradd", &["--create-home", "--shell", "/bin/sh", "--password", "*", "other"]);
    plain.run("sh", &["-c", "cp -a /home/offload/.ssh ~other/ && chown -R other: ~other/.ssh"]);
    keyless.run("sh", &["-c", "rm /etc/guix/signing-key.*"]);
    fill_the_store(&full);
    // A host's clock is that of the machine.
    write_program(&full, "/usr/local/bin/date", "#!/bin/sh\nexec /bin/date -d '1 hour' \"$@\"\n");
    write_program(&full, "/usr/bin/timedatectl", "#!/bin/sh\nrm -f /usr/local/bin/date\n");

    let machine = |name: &str, host, symptom, rounds, change: &dyn Fn(Entry) -> Entry| FaultyMachine {
        entry: change(Host::entry(host).set("name", name)),
        host,
        symptom,
        rounds,
        lines: Vec::new(),
    };
    let same = |entry: Entry| entry;
    let mut machines = [
        machine("nowhere", &b1, "!!  name          name does not resolve", 0, &same),
        machine("silent", &b1, "!!  connection    timed out", 0, &|entry| entry.set("connect_timeout", 3.0)),
        machine("mail", &b1, "!!  connection    not an SSH server: it sent", 0, &same),
        machine("refusing", &refusing, "!!  connection    connection refused", 1, &same),
        machine("other-key", &b1, "!!  host key      the server shows another", 1, &|entry| {
            entry.set("host_key", lab.stranger_host_key())
        }),
        machine("other-type", &b1, "the server has no host key of a pinned type", 1, &|entry| {
            entry.set("host_key", b1.host_key(HostKeyKind::Rsa))
        }),
        machine("closed", &b1, "!!  login         user 'root' may not log in", 1, &|entry| {
            entry.set("private_key", key("stranger"))
        }),
        machine("exposed", &b1, "!!  private key", 1, &|entry| entry.set("private_key", key("exposed"))),
        machine("passphrase", &b1, "!!  private key", 0, &|entry| entry.set("private_key", key("passphrase"))),
        machine("no-key", &b1, "does not exist", 2, &|entry| entry.set("private_key", key("new"))),
        machine("locked", &plain, "user 'offload' may not log in", 2, &same),
        machine("unentitled", &plain, "Permission denied", 1, &|entry| entry.set("user", "other")),
        machine("moved", &b1, "no daemon answers on '/run/guix'", 1, &|entry| entry.set("daemon_socket", "/run/guix")),
        machine("idle", &idle, "!!  channel       no daemon answers", 1, &same),
        machine(
            "unforwarding",
            &unforwarding,
            "??  channel       to '/var/guix/daemon-socket/socket' through",
            1,
            &same,
        ),
        machine("old", &b1, "the daemon speaks protocol version 0x161; 0x163 to 0x164", 0, &|entry| {
            entry.set("daemon_socket", "/var/guix/old")
        }),
        machine("mute", &b1, "!!  daemon", 0, &|entry| {
            entry.set("daemon_socket", "/var/guix/mute").set("connect_timeout", 3.0)
        }),
        machine("strangers", &strangers, "!!  import there  it does not trust this machine's signing key", 1, &same),
        machine("keyless", &keyless, "!!  import here", 2, &same),
        machine("full", &full, "free in the store, 45.0 MiB wanted", 1, &|entry| {
            entry.set("minimum_disk_space", f64::from(45 << 20))
        }),
        // About an hour: a second may begin between the two clocks' being read.
        machine("skewed", &full, "??  clock         differs by 3", 1, &|entry| entry.set("minimum_disk_space", 0.0)),
        machine("drained", &b1, "it is drained: it gets no builds", 1, &same),
        machine("b1", &b1, "ok  import there", 0, &same),
    ];
    write_pool(&head, &machines);
    head.run("offload", &["drain", "drained"]);

    let mut states = BTreeMap::new();
    for round in 0.. {
        let output = offload_test(&head, &["--verbose"]);
        let report = text(&output.stdout);
        assert_eq!(output.status.code(), Some(4), "{report}{}", text(&output.stderr));
        if round == 0 {
            println!("{report}");
            for machine in &machines {
                let found = about(&report, &name(&machine.entry));
                assert!(found.contains(machine.symptom), "no '{}' in:\n{found}", machine.symptom);
            }
        }
        states = machines.iter().map(|one| (name(&one.entry), about(&report, &name(&one.entry)))).collect();
        let left: Vec<_> = machines.iter_mut().filter(|machine| machine.rounds > round).collect();
        if left.is_empty() {
            break;
        }
        for machine in left {
            fix(machine, &states[&name(&machine.entry)], &head);
        }
        write_pool(&head, &machines);
    }
    for machine in &machines {
        let state = &states[&name(&machine.entry)];
        let passes = !["!!", "??"].iter().any(|mark| state.contains(&format!("  {mark}  ")));
        assert_eq!(passes, machine.rounds > 0 || name(&machine.entry) == "b1", "{state}");
    }
    let advice = [
        ("nowhere", "`getent hosts nowhere`"),
        ("silent", "'connect_timeout' is the limit"),
        ("mail", "correct 'port'"),
        ("passphrase", "ssh-keygen -p -N '' -f /etc/guix/keys/passphrase"),
        ("old", "guix pull && systemctl restart guix-daemon"),
        ("mute", "systemctl restart guix-daemon"),
    ];
    for (name, words) in advice {
        assert!(states[name].contains(words), "{}", states[name]);
    }
    head.write_machines(&[strangers.entry()]);
    head.build(&[&Drv::new("now")]).succeeded();
}

fn ip(host: &Host) -> Ipv4Addr {
    match host.ssh_address() {
        SocketAddr::V4(address) => *address.ip(),
        SocketAddr::V6(address) => panic!("{address}"),
    }
}

fn name(entry: &Entry) -> String {
    let lua = entry.lua();
    lua.split("name = \"").nth(1).unwrap().split('"').next().unwrap().to_owned()
}

fn write_pool(head: &Host, machines: &[FaultyMachine<'_>]) {
    let entries: String = machines.iter().map(FaultyMachine::lua).collect();
    head.write_machine_file(&format!("return {{\n{entries}}}\n"));
}

/// Does what the report says, to the letter.
fn fix(machine: &mut FaultyMachine<'_>, found: &str, head: &Host) {
    let name = name(&machine.entry);
    let mut count = 0;
    for (intent, host) in [("on this machine, as root:", head), (&*format!("on {name}, as root:"), machine.host)] {
        for command in pastes(found, intent) {
            host.run("sh", &["-c", command]);
            count += 1;
        }
    }
    for line in pastes(found, &format!("in the machine file, for {name}:")) {
        machine.lines.push(line.to_owned());
        count += 1;
    }
    assert!(count > 0, "no remedy in:\n{found}");
}

/// A small store, most of it garbage.
fn fill_the_store(host: &Host) {
    let store = host.path("/gnu/store");
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64m,mode=1775", "tmpfs"])
        .arg(store)
        .status()
        .unwrap();
    assert!(mounted.success());
    let code = "(use-modules (guix)) (call-with-output-file \"/tmp/junk\" (lambda (port) (display (make-string 30000000 #\\x) port)))
                (with-store store (add-to-store store \"junk\" #f \"sha256\" \"/tmp/junk\"))";
    let output = host.guile(code, &[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
}
