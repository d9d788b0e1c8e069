//! An account on a build machine that may only connect to the daemon's socket: which settings of sshd permit this, and the
//! messages where they forbid too much. `doc/manual/security.md` has the settings and the table.
//!
//! `cargo test --test locked_down -- --nocapture` shows how long a build takes each way.

mod lab;

use std::io::Read;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use lab::{Drv, Host, Lab, Release};

/// The kind of connection to the daemon's socket.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Direct,
    Relay,
    None,
}

const SOCKET_ALONE: &str = "PermitOpen [/var/guix/daemon-socket/socket]:*";
const NO_COMMAND: &str = "ForceCommand false";

/// Other abilities of the account: to make TCP connections through the server, and to run commands, which show the load.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ability {
    Tcp,
    Load,
}
use Ability::{Load, Tcp};

/// Settings for the account, with its connection to the socket and its other abilities.
const CASES: [(&[&str], Way, &[Ability]); 9] = [
    (&[], Way::Direct, &[Tcp, Load]),
    (&[NO_COMMAND], Way::Direct, &[Tcp]),
    (&[NO_COMMAND, SOCKET_ALONE], Way::Direct, &[]),
    (&[NO_COMMAND, "PermitOpen [/var/guix/other]:*"], Way::None, &[]),
    (&["AllowStreamLocalForwarding no"], Way::Relay, &[Tcp, Load]),
    // A server that forbids all TCP connections forbids sockets too.
    (&["AllowTcpForwarding no"], Way::Relay, &[Load]),
    (&["PermitOpen none"], Way::Relay, &[Load]),
    (&["DisableForwarding yes"], Way::Relay, &[Load]),
    (&[NO_COMMAND, "AllowTcpForwarding no"], Way::None, &[]),
];

/// The block of the manual with the settings that it recommends.
fn recommended() -> Vec<&'static str> {
    let page = include_str!("../doc/manual/security.md");
    let block = page.split("```sshd_config\n").nth(1).expect("a block sshd_config").split("```").next().unwrap();
    let mut lines = block.lines().map(str::trim);
    assert_eq!(lines.next(), Some("Match User offload"));
    lines.filter(|line| !line.is_empty()).collect()
}

/// The findings of `offload test` about the one machine: for each step the outcome and the text, with all remedies.
struct Report(serde_json::Value);

impl Report {
    fn of(head: &Host) -> Report {
        let output = head.command("/opt/offload/offload").args(["test", "--json"]).output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        Report(report["machines"][0]["findings"].clone())
    }

    fn outcome(&self, step: &str) -> Option<&str> {
        self.0.as_array().unwrap().iter().find(|finding| finding["step"] == step)?["outcome"].as_str()
    }

    fn way(&self) -> Way {
        match self.outcome("channel") {
            Some("ok") => Way::Direct,
            Some("warning") => Way::Relay,
            _ => Way::None,
        }
    }
}

/// Gives the account these settings.
fn configure(machine: &Host, lines: &[&str]) {
    let file = "/etc/ssh/sshd_config";
    let text = String::from_utf8(machine.read(file)).unwrap();
    let common = text.split("Match User").next().unwrap();
    let own: String = lines.iter().map(|line| format!("    {line}\n")).collect();
    machine.stop_sshd();
    machine.write(file, format!("{common}Match User offload\n{own}"));
    machine.start_sshd();
}

/// Whether a TCP connection can be made through the account: to the SSH server itself.
fn passes_tcp(head: &Host, machine: &Host) -> bool {
    let address = machine.ssh_address();
    let mut session = ssh2::Session::new().unwrap();
    session.set_tcp_stream(TcpStream::connect(address).unwrap());
    session.handshake().unwrap();
    session.userauth_pubkey_file("offload", None, &head.path("/etc/guix/keys/ed25519"), None).unwrap();
    match session.channel_direct_tcpip(&address.ip().to_string(), address.port(), None) {
        Ok(mut channel) => {
            let mut greeting = [0; 7];
            channel.read_exact(&mut greeting).unwrap();
            assert_eq!(&greeting, b"SSH-2.0");
            true
        }
        Err(error) => {
            assert_eq!(error.code(), ssh2::ErrorCode::Session(-21), "{error}");
            false
        }
    }
}

/// Builds a derivation with an input; prints the time of a build on a known machine.
fn builds(head: &Host, machine: &Host, label: &str) {
    let input = Drv::new(&format!("input-{label}")).script("head -c 100000 /dev/urandom >$out");
    head.client().no_offload().max_jobs(1).build(&[&input]).succeeded();
    for number in 1..=2 {
        let drv = Drv::new(&format!("{label}-{number}")).input(&input).script("head -c 1000000 /dev/zero >$out");
        let result = head.build(&[&drv]).succeeded();
        println!("{label}: {:.2} s", result.elapsed.as_secs_f64());
        assert_eq!(machine.built().last().map(String::as_str), Some(drv.name()));
    }
}

#[test]
fn each_setting_permits_what_the_table_says() {
    let lab = Lab::new();
    let machine = lab.build_machine("b1").account("offload").start();
    let head = lab.head().start();
    head.write_machines(&[machine.entry()]);
    for (lines, expected, abilities) in CASES {
        configure(&machine, lines);
        head.forget_health();
        let report = Report::of(&head);
        assert_eq!(report.way(), expected, "{lines:?}\n{}", report.0);
        assert_eq!(report.outcome("load").is_some(), abilities.contains(&Load), "{lines:?}\n{}", report.0);
        assert_eq!(passes_tcp(&head, &machine), abilities.contains(&Tcp), "{lines:?}");
        match expected {
            Way::None => {
                let said = report.0.to_string();
                for words in ["cannot reach the daemon's socket '/var/guix/daemon-socket/socket'", "AllowTcpForwarding"]
                {
                    assert!(said.contains(words), "{said}");
                }
            }
            way => builds(&head, &machine, &format!("{way:?}-{}", machine.built().len()).to_lowercase()),
        }
    }
    head.verify_store();
}

#[test]
fn the_settings_of_the_manual_work_with_both_releases() {
    let lab = Lab::new();
    let machines = [Release::Sid, Release::Bullseye].map(|release| {
        lab.build_machine(&format!("{release:?}").to_lowercase()).release(release).account("offload").start()
    });
    let head = lab.head().start();
    for machine in &machines {
        head.write_machines(&[machine.entry()]);
        configure(machine, &recommended());
        assert_eq!(Report::of(&head).way(), Way::Direct);
        assert!(!passes_tcp(&head, machine));
        builds(&head, machine, machine.name());
    }

    // The word `restrict` before a key forbids too much by itself.
    let [machine, _] = &machines;
    head.write_machines(&[machine.entry()]);
    let keys = String::from_utf8(machine.read("/home/offload/.ssh/authorized_keys")).unwrap();
    for (options, expected) in [("restrict", Way::Relay), ("restrict,port-forwarding", Way::Direct)] {
        let restricted: String = keys.lines().map(|key| format!("{options} {key}\n")).collect();
        machine.write("/etc/ssh/restricted", restricted);
        configure(machine, &["AuthorizedKeysFile /etc/ssh/restricted"]);
        assert_eq!(Report::of(&head).way(), expected, "{options}");
    }
}

#[test]
fn file_permissions_alone_limit_which_sockets_it_reaches() {
    let lab = Lab::new();
    let machine = lab.build_machine("b1").account("offload").start();
    let head = lab.head().start();
    configure(&machine, &[NO_COMMAND]);
    let reaches = |name: &str, mode: u32| {
        let path = machine.path(format!("/run/{name}"));
        let listener = UnixListener::bind(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let entry = machine.entry().set("daemon_socket", format!("/run/{name}").as_str()).set("connect_timeout", 6.0);
        head.write_machines(&[entry]);
        Report::of(&head);
        listener.set_nonblocking(true).unwrap();
        listener.accept().is_ok()
    };
    assert!(reaches("public", 0o666));
    assert!(!reaches("private", 0o600));
    // Settings can do more than permissions.
    configure(&machine, &recommended());
    assert!(!reaches("other", 0o666));
}
