//! Servers that send without a pause, on the other end of a socket pair. Each call of libssh2 returns.

use super::*;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::thread;

/// Returns a driver for a server that sends `first`, and then `flood` without a limit.
fn flooding_server(first: &'static [u8], flood: Vec<u8>) -> Driver {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    thread::spawn(move || {
        theirs.write_all(first).unwrap();
        while theirs.write_all(&flood).is_ok() {}
    });
    driver_over(ours)
}

fn driver_over(ours: UnixStream) -> Driver {
    let socket = Arc::new(OwnedFd::from(ours));
    let mut ssh = ssh2::Session::new().unwrap();
    ssh.set_blocking(false);
    ssh.set_tcp_stream(Arc::clone(&socket));
    let machine = Machine::new("flood", "nobody", Vec::new(), Vec::new());
    Driver::new(&machine, ssh, socket, None)
}

/// Makes a call that ends after the key exchange, so it never succeeds. Returns its error.
fn call(driver: &Driver, kind: CallKind, limit: Option<Deadline>) -> Cause {
    let mut ssh = driver.ssh().clone();
    driver.run(kind, limit, || ssh.handshake()).unwrap_err()
}

/// Returns a packet of a type that libssh2 does not know and stores: the length 30,000, no padding, the type 250.
fn unknown() -> Vec<u8> {
    let mut packet = 30_000u32.to_be_bytes().to_vec();
    packet.extend([0, 250]);
    packet.resize(4 + 30_000, 0);
    packet
}

/// Returns packets that libssh2 discards (`SSH_MSG_IGNORE`).
fn ignored() -> Vec<u8> {
    [&[0, 0, 0, 12, 6, 2][..], &[0; 10]].concat().repeat(1000)
}

#[test]
fn a_flood_before_the_login_is_limited() {
    for flood in [unknown(), ignored()] {
        let driver = flooding_server(b"SSH-2.0-x\r\n", flood);
        assert!(matches!(call(&driver, CallKind::Negotiation, None), Cause::TooMuchBeforeLogin(_)));
        assert!(matches!(call(&driver, CallKind::Negotiation, None), Cause::Unusable));
    }
}

#[test]
fn a_read_without_a_time_limit_ends_in_a_flood() {
    for flood in [unknown(), ignored()] {
        let driver = flooding_server(b"SSH-2.0-x\r\n", flood);
        driver.set_logged_in();
        assert!(matches!(call(&driver, CallKind::Read, None), Cause::TooMuchUnrequested));
        assert!(matches!(call(&driver, CallKind::Read, None), Cause::Unusable));
    }
}

#[test]
fn the_time_limit_applies_while_the_server_sends() {
    // libssh2 reads the version byte by byte, so the receive limit alone would allow many seconds.
    let driver = flooding_server(b"", vec![b'x'; 10_000]);
    driver.set_logged_in();
    let limit = Deadline::after(Duration::from_millis(20));
    assert!(matches!(call(&driver, CallKind::Read, Some(limit)), Cause::TimedOut(_)));
}

/// While libssh2 waits for one reply, it may read another one from the socket that it waited for before.
#[test]
fn a_read_that_has_received_bytes_is_repeated() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(b"SSH-2.0-").unwrap();
    let driver = driver_over(ours);
    let mut ssh = driver.ssh().clone();
    let mut calls = 0;
    let limit = Deadline::after(Duration::from_secs(20));
    let read = driver.run(CallKind::Read, Some(limit), || {
        calls += 1;
        if calls == 1 { ssh.handshake() } else { Ok(()) }
    });
    assert!(read.is_ok() && calls == 2, "{:?}, {calls} calls", read.err());
}
