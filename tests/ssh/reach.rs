//! The connection to the daemon of a build machine: direct, through the relay, or impossible. And the probe.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use offload::internals::machine::Machine;
use offload::internals::remote::{Connection, Error, SilencePolicy};
use offload::internals::status::MachineStatus;

use crate::sshd::{BULLSEYE, Options, SID, Server};
use crate::stream::{Noise, echo, expect, listen};

const FORBIDDEN: &str = "AllowStreamLocalForwarding=no";
const STORE: &str = "/gnu/store";

/// Starts the worker protocol. Returns the daemon's version.
fn greet(mut stream: impl Read + Write) -> u64 {
    stream.write_all(&0x6e697863_u64.to_le_bytes()).unwrap();
    let mut words = [0; 16];
    stream.read_exact(&mut words).unwrap();
    assert_eq!(words[..8], 0x6478696f_u64.to_le_bytes());
    u64::from_le_bytes(words[8..].try_into().unwrap())
}

#[test]
fn the_daemon_answers_directly_and_through_the_relay() {
    for (options, version) in [(&SID, 0x164), (&BULLSEYE, 0x163)] {
        for sshd in [&[][..], &[FORBIDDEN]] {
            let server = Server::start(&Options { sshd, daemon: true, ..*options });
            let connection = Connection::open(&server.machine()).unwrap();
            let mut first = connection.daemon().unwrap();
            assert_eq!(greet(&mut first), version);
            // The probe and a second stream on the same session, while the first is open.
            assert!(connection.probe(STORE).unwrap().cores.is_some());
            assert_eq!(greet(connection.daemon().unwrap()), version);
        }
    }
}

#[test]
fn the_relay_causes_a_warning() {
    for (sshd, is_relayed) in [(&[][..], false), (&[FORBIDDEN], true)] {
        let server = Server::start(&Options { sshd, daemon: true, ..SID });
        let connection = Connection::open(&server.machine()).unwrap();
        assert_eq!(connection.warning(), None);
        greet(connection.daemon().unwrap());
        let says = format!("{}: its SSH server does not forward to sockets", server.machine().address());
        assert_eq!(connection.warning().is_some_and(|warning| warning.starts_with(&says)), is_relayed);
    }
}

#[test]
fn the_relay_passes_every_byte_both_ways_at_once() {
    for options in [&SID, &BULLSEYE] {
        let server = Server::start(&Options { sshd: &[FORBIDDEN], ..*options });
        let mut machine = server.machine();
        machine.daemon_socket = listen(&server, echo);
        let connection = Connection::open(&machine).unwrap();
        let mut stream = connection.daemon().unwrap();

        let all: Vec<u8> = (0..=255).collect();
        stream.write_all(&all).unwrap();
        let mut back = vec![0; 256];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(back, all);

        // More data than all buffers between the sides hold: neither direction may wait for the other.
        let length = 20 << 20;
        let mut sent = Noise::new(length);
        let mut received = Noise::new(length);
        let mut piece = vec![0; 1 << 20];
        while sent.read(&mut piece).unwrap() > 0 {
            stream.write_all(&piece).unwrap();
            let mut back = (&mut stream).take(piece.len() as u64);
            expect(&mut back, (&mut received).take(piece.len() as u64));
        }
    }
}

#[test]
fn the_relay_ends_with_either_side() {
    let server = Server::start(&Options { sshd: &[FORBIDDEN], ..SID });
    let mut machine = server.machine();
    machine.daemon_socket = listen(&server, |mut stream| {
        stream.read_exact(&mut [0]).unwrap();
        stream.write_all(b"goodbye").unwrap();
    });
    let connection = Connection::open(&machine).unwrap();
    let mut stream = connection.daemon().unwrap();
    stream.write_all(b"x").unwrap();
    let mut words = String::new();
    stream.read_to_string(&mut words).unwrap();
    assert_eq!(words, "goodbye");

    let stream = connection.daemon().unwrap();
    let is_running = || connection.probe(STORE).is_ok() && server.runs("guix repl");
    assert!(is_running());
    drop(stream);
    let start = Instant::now();
    while is_running() {
        assert!(start.elapsed() < Duration::from_secs(60), "the relay is still running");
    }
}

fn refusal(connection: &Connection) -> Error {
    match connection.daemon() {
        Ok(_) => panic!("there is a daemon"),
        Err(error) => error,
    }
}

#[test]
fn a_missing_daemon_and_a_missing_route_have_their_own_errors() {
    for sshd in [&[][..], &[FORBIDDEN]] {
        let server = Server::start(&Options { sshd, ..SID });
        let mut machine = server.machine();
        let connection = Connection::open(&machine).unwrap();
        let error = refusal(&connection);
        let text = format!(
            "{}: no daemon answers on '/var/guix/daemon-socket/socket': No such file or directory",
            machine.address()
        );
        assert_eq!(error.to_string(), text);
        assert!(matches!(error, Error::NoDaemon { .. }) && error.hint().is_some());

        // A socket without a listener, whose name needs quoting.
        drop(std::os::unix::net::UnixListener::bind(server.shared().join("so\\ck\"et")).unwrap());
        machine.daemon_socket = "/mnt/so\\ck\"et".into();
        let error = refusal(&Connection::open(&machine).unwrap());
        assert!(error.to_string().ends_with("Connection refused"), "{error}");
    }

    let server = Server::start(&Options { sshd: &[FORBIDDEN, "ForceCommand=echo no entry >&2; exit 1"], ..SID });
    let error = refusal(&Connection::open(&server.machine()).unwrap());
    assert!(matches!(error, Error::NoRoute { .. }), "{error}");
    assert!(error.to_string().ends_with("relay failed: 'guix repl -t machine' ended: no entry"), "{error}");
}

#[test]
fn a_machine_without_guix_is_reported() {
    let server = Server::start(&Options { sshd: &[FORBIDDEN, "SetEnv=PATH=/nonexistent"], ..SID });
    let error = refusal(&Connection::open(&server.machine()).unwrap());
    assert!(matches!(error, Error::NoRoute { .. }), "{error}");
    assert!(
        error.to_string().contains("guix: command not found") || error.to_string().contains("guix: not found"),
        "{error}"
    );
}

#[test]
fn the_probe_reports_the_status_of_the_machine() {
    // The other root has no store before the first item is added.
    for (options, store) in [(&SID, STORE), (&BULLSEYE, "/")] {
        let server = Server::start(options);
        let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let before = now();
        let status = Connection::open(&server.machine()).unwrap().probe(store).unwrap();
        assert!((before - 5..now() + 5).contains(&status.clock.unwrap()), "{before}: {status:?}");
        assert!(status.load1.is_some() && status.load5.is_some() && status.load15.is_some(), "{status:?}");
        assert!(status.cores > Some(0) && status.free_memory > Some(1 << 20), "{status:?}");
        assert!(status.free_disk > Some(1 << 20) && status.build_free > Some(1 << 20), "{status:?}");
        assert!(status.kernel.is_some_and(|kernel| kernel.starts_with("Linux ")) && status.host_name.is_some());
        assert_eq!(status.architecture.as_deref(), Some(std::env::consts::ARCH));
    }
}

#[test]
fn an_account_that_runs_no_commands_reaches_the_daemon() {
    let forced = Server::start(&Options { sshd: &["ForceCommand=cat"], daemon: true, ..SID });
    // The shell of Debian's account 'nobody' is /usr/sbin/nologin.
    let nologin = Server::start(&Options { daemon: true, ..SID });
    let mut restricted = nologin.machine();
    restricted.user = "nobody".to_owned();
    for machine in [forced.machine(), restricted] {
        // The time limit of the probe. The probe ends before it.
        let machine = Machine { connect_timeout: Duration::from_secs(120), ..machine };
        let connection = Connection::open(&machine).unwrap();
        let start = Instant::now();
        assert_eq!(connection.probe(STORE).unwrap(), MachineStatus::default());
        assert!(start.elapsed() < Duration::from_secs(60));
        assert_eq!(greet(connection.daemon().unwrap()), 0x164);
    }
}

#[test]
fn extra_output_of_a_shell_is_ignored() {
    let talkative = Server::start(&Options {
        sshd: &["ForceCommand=echo load 99 99 99; sh -c \"$SSH_ORIGINAL_COMMAND\"; echo load 98 98 98", FORBIDDEN],
        daemon: true,
        ..SID
    });
    let connection = Connection::open(&talkative.machine()).unwrap();
    let status = connection.probe(STORE).unwrap();
    assert!(status.load1.unwrap() < 90.0 && status.cores.is_some(), "{status:?}");
    assert_eq!(greet(connection.daemon().unwrap()), 0x164);
}

#[test]
fn a_read_over_a_dead_connection_reports_the_cause() {
    let server = Server::start(&Options { daemon: true, ..SID });
    let connection = Connection::open(&server.machine()).unwrap();
    let mut stream = connection.daemon().unwrap();
    let silence_policy = stream.silence_policy().clone();
    stream.set_silence_policy(SilencePolicy::greeting(Duration::from_millis(100)));
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(error.to_string().contains("its daemon has been silent"), "{error}");
    stream.set_silence_policy(silence_policy);
    server.signal(rustix::process::Signal::KILL, "sshd-session");
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert!(matches!(connection.probe(STORE), Err(Error::Ssh(_))));
}
