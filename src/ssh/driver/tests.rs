//! Servers that never pause, on the other end of a socket pair: libssh2 comes back, and something is made of it.

use super::*;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::thread;

/// A link to a server that says this, and then that for ever.
fn link_to(first: &'static [u8], flood: Vec<u8>) -> Driver {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    thread::spawn(move || {
        theirs.write_all(first).unwrap();
        while theirs.write_all(&flood).is_ok() {}
    });
    link_over(ours)
}

fn link_over(ours: UnixStream) -> Driver {
    let socket = Arc::new(OwnedFd::from(ours));
    let mut ssh = ssh2::Session::new().unwrap();
    ssh.set_blocking(false);
    ssh.set_tcp_stream(Arc::clone(&socket));
    let machine = Machine::new("flood", "nobody", Vec::new(), Vec::new());
    Driver::new(&machine, ssh, socket, None)
}

/// A call that gets its answer when the key exchange is through: never.
fn ask(driver: &Driver, kind: Kind, limit: Option<Deadline>) -> Cause {
    let mut ssh = driver.ssh().clone();
    driver.run(kind, limit, || ssh.handshake()).unwrap_err()
}

/// Packets of a type that libssh2 does not know, and keeps. A length of 30,000, padding included; no padding; type 250.
fn unknown() -> Vec<u8> {
    let mut packet = 30_000u32.to_be_bytes().to_vec();
    packet.extend([0, 250]);
    packet.resize(4 + 30_000, 0);
    packet
}

/// Packets that libssh2 throws away (`SSH_MSG_IGNORE`).
fn ignored() -> Vec<u8> {
    [&[0, 0, 0, 12, 6, 2][..], &[0; 10]].concat().repeat(1000)
}

#[test]
fn before_the_login_it_is_soon_too_much() {
    for flood in [unknown(), ignored()] {
        let driver = link_to(b"SSH-2.0-x\r\n", flood);
        assert!(matches!(ask(&driver, Kind::Negotiation, None), Cause::TooMuchBeforeLogin(_)));
        assert!(matches!(ask(&driver, Kind::Negotiation, None), Cause::OutOfUse));
    }
}

#[test]
fn nor_does_a_read_without_a_limit_go_on_for_ever() {
    for flood in [unknown(), ignored()] {
        let driver = link_to(b"SSH-2.0-x\r\n", flood);
        driver.log_in();
        assert!(matches!(ask(&driver, Kind::Read, None), Cause::TooMuchUnasked));
        assert!(matches!(ask(&driver, Kind::Read, None), Cause::OutOfUse));
    }
}

#[test]
fn the_clock_is_looked_at_while_the_server_talks() {
    // libssh2 reads the version byte by byte: what may be sent would take it many seconds.
    let driver = link_to(b"", vec![b'x'; 10_000]);
    driver.log_in();
    let limit = Deadline::after(Duration::from_millis(20));
    assert!(matches!(ask(&driver, Kind::Read, Some(limit)), Cause::TimedOut(_)));
}

/// What libssh2 has taken from the socket while it was asked for one thing may be what it was asked for before.
#[test]
fn a_read_that_has_received_something_is_made_again() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(b"SSH-2.0-").unwrap();
    let driver = link_over(ours);
    let mut ssh = driver.ssh().clone();
    let mut calls = 0;
    let limit = Deadline::after(Duration::from_secs(20));
    let read = driver.run(Kind::Read, Some(limit), || {
        calls += 1;
        if calls == 1 { ssh.handshake() } else { Ok(()) }
    });
    assert!(read.is_ok() && calls == 2, "{:?}, {calls} calls", read.err());
}
