//! Links that break or become silent, in each phase in which the program waits for data.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use offload::internals::machine::Machine;
use offload::internals::ssh::{Cause, Error, Session};

use rustix::process::Signal;

use crate::sshd::{SID, Server};
use crate::stream::{Noise, Watch, echo, listen};

/// The start of the command lines of those processes of sshd that carry sessions.
const SESSIONS: &str = "sshd-session";

const STALL_TIMEOUT: Duration = Duration::from_secs(3);

/// A time limit that no operation reaches, also on a busy machine.
const LONG: Duration = Duration::from_secs(60);

fn with_short_timeouts(server: &Server) -> Machine {
    let mut machine = server.machine();
    machine.stall_timeout = STALL_TIMEOUT;
    machine.keepalive_interval = Duration::from_secs(1);
    machine
}

fn cause(error: &io::Error) -> &Cause {
    &Error::in_io(error).unwrap_or_else(|| panic!("{error} has no cause")).cause
}

/// Asserts that the stall timeout has ended the link. It begins with the last data received, which came after `start`.
fn assert_stalled(start: Instant, error: &io::Error) {
    assert!(matches!(cause(error), Cause::LinkDead(STALL_TIMEOUT)), "{error}");
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    let took = start.elapsed();
    assert!((STALL_TIMEOUT..LONG).contains(&took), "{took:?}");
}

#[test]
fn reading_from_a_frozen_server_fails_after_the_stall_timeout() {
    let server = Server::start(&SID);
    let socket = listen(&server, echo);
    let session = Session::connect(&with_short_timeouts(&server)).unwrap();
    let mut channel = session.open_socket(&socket).unwrap();
    let start = Instant::now();
    channel.write_all(b"x").unwrap();
    channel.read_exact(&mut [0]).unwrap();
    server.signal(Signal::STOP, SESSIONS);
    assert_stalled(start, &channel.read(&mut [0]).unwrap_err());
    // All later operations fail immediately.
    let start = Instant::now();
    assert!(matches!(cause(&channel.write(b"x").unwrap_err()), Cause::Unusable));
    assert!(session.open_socket(&socket).is_err() && session.exec("true").is_err());
    drop(channel);
    drop(session);
    assert!(start.elapsed() < STALL_TIMEOUT, "{:?}", start.elapsed());
}

#[test]
fn writing_to_a_frozen_server_fails_after_the_stall_timeout() {
    let server = Server::start(&SID);
    let socket = listen(&server, |stream| {
        let _ = io::copy(&mut &stream, &mut io::sink());
    });
    let session = Session::connect(&with_short_timeouts(&server)).unwrap();
    let start = Instant::now();
    let mut channel = session.open_socket(&socket).unwrap();
    channel.write_all(&[0; 100_000]).unwrap();
    server.signal(Signal::STOP, SESSIONS);
    let error = io::copy(&mut Noise::new(1 << 30), &mut channel).unwrap_err();
    assert_stalled(start, &error);
}

#[test]
fn opening_a_channel_on_a_frozen_server_fails_after_the_stall_timeout() {
    let server = Server::start(&SID);
    let session = Session::connect(&with_short_timeouts(&server)).unwrap();
    // The server starts its last process for the session after the login.
    let start = Instant::now();
    session.exec("true").unwrap().output(0).unwrap();
    server.signal(Signal::STOP, SESSIONS);
    let error = session.exec("true").err().unwrap();
    assert!(matches!(error.cause, Cause::LinkDead(_) | Cause::TimedOut(_)), "{error}");
    assert!((STALL_TIMEOUT..LONG).contains(&start.elapsed()), "{:?}", start.elapsed());
}

#[test]
fn closing_a_session_does_not_wait_for_a_frozen_server() {
    let server = Server::start(&SID);
    let socket = listen(&server, echo);
    // The default timeouts are longer.
    let session = Session::connect(&server.machine()).unwrap();
    let channel = session.open_socket(&socket).unwrap();
    server.signal(Signal::STOP, SESSIONS);
    let start = Instant::now();
    drop(channel);
    drop(session);
    assert!(start.elapsed() < STALL_TIMEOUT, "{:?}", start.elapsed());
}

#[test]
fn keepalives_preserve_an_idle_link() {
    let server = Server::start(&SID);
    let socket = listen(&server, |mut stream| {
        thread::sleep(Duration::from_secs(8));
        stream.write_all(b"at last").unwrap();
    });
    let session = Session::connect(&with_short_timeouts(&server)).unwrap();
    let mut channel = session.open_socket(&socket).unwrap();
    let mut text = String::new();
    let processor = Watch::processor();
    channel.read_to_string(&mut text).unwrap();
    assert_eq!(text, "at last");
    assert!(Watch::processor() - processor < 0.5, "it does not sleep");
}

#[test]
fn a_write_waits_for_a_slow_reader() {
    let server = Server::start(&SID);
    let socket = listen(&server, |mut stream| {
        thread::sleep(Duration::from_secs(5));
        let count = io::copy(&mut &stream, &mut io::sink()).unwrap();
        stream.write_all(&count.to_le_bytes()).unwrap();
    });
    let session = Session::connect(&with_short_timeouts(&server)).unwrap();
    let mut channel = session.open_socket(&socket).unwrap();
    let mut bytes = Vec::new();
    Noise::new(10 << 20).read_to_end(&mut bytes).unwrap();
    let processor = Watch::processor();
    channel.write_all(&bytes).unwrap();
    assert!(Watch::processor() - processor < 0.5, "it does not sleep");
    channel.send_eof().unwrap();
    let mut count = [0; 8];
    channel.read_exact(&mut count).unwrap();
    assert_eq!(u64::from_le_bytes(count), 10 << 20);
}

#[test]
fn a_killed_server_ends_a_transfer_before_the_stall_timeout() {
    for is_reading in [true, false] {
        let server = Server::start(&SID);
        let socket = listen(&server, |stream| {
            // Both directions continue until the server is gone.
            let copy = stream.try_clone().unwrap();
            thread::spawn(move || io::copy(&mut Noise::new(u64::MAX), &mut &copy));
            let _ = io::copy(&mut &stream, &mut io::sink());
        });
        let session = Session::connect(&server.machine()).unwrap();
        let mut channel = session.open_socket(&socket).unwrap();
        let end = thread::spawn(move || {
            let error = if is_reading {
                io::copy(&mut channel, &mut io::sink()).unwrap_err()
            } else {
                io::copy(&mut Noise::new(u64::MAX), &mut channel).unwrap_err()
            };
            (Instant::now(), error)
        });
        thread::sleep(Duration::from_millis(500));
        let start = Instant::now();
        server.signal(Signal::KILL, SESSIONS);
        let (noticed, error) = end.join().unwrap();
        // Long before the stall timeout, which is a minute by default.
        assert!(noticed.saturating_duration_since(start) < Duration::from_secs(30));
        assert!(matches!(cause(&error), Cause::Closed), "{error}");
        let kind = if is_reading { io::ErrorKind::UnexpectedEof } else { io::ErrorKind::BrokenPipe };
        assert_eq!(error.kind(), kind);
    }
}

/// A fault of a connection after some bytes from the server.
#[derive(Clone, Copy)]
enum Fault {
    Cut,
    DamagedByte,
}

/// Returns a port that forwards to the server, with a fault after `limit` bytes from it.
fn fault_after(server: &Server, limit: u64, fault: Fault) -> u16 {
    let listener = TcpListener::bind((server.address.ip(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let address = server.address;
    thread::spawn(move || {
        let (near, _) = listener.accept().unwrap();
        let far = TcpStream::connect(address).unwrap();
        let (to_far, from_near) = (far.try_clone().unwrap(), near.try_clone().unwrap());
        thread::spawn(move || io::copy(&mut &from_near, &mut &to_far));
        let _ = io::copy(&mut (&far).take(limit), &mut &near);
        if let Fault::DamagedByte = fault {
            let mut byte = [0];
            let _ = (&far).read_exact(&mut byte).and_then(|()| (&near).write_all(&[!byte[0]]));
            let _ = io::copy(&mut &far, &mut &near);
        }
        let _ = near.shutdown(Shutdown::Both);
        let _ = far.shutdown(Shutdown::Both);
    });
    port
}

#[test]
fn a_connection_cut_anywhere_is_an_error_and_never_a_hang() {
    let server = Server::start(&SID);
    let socket = listen(&server, echo);
    let mut machine = server.machine();
    machine.connect_timeout = 2 * LONG;
    let mut outcomes = Vec::new();
    for limit in (0..6600).step_by(75) {
        machine.port = fault_after(&server, limit, Fault::Cut);
        let start = Instant::now();
        let outcome = Session::connect(&machine).and_then(|session| {
            let mut channel = session.open_socket(&socket)?;
            let result = channel.write_all(&[7; 3000]).and_then(|()| channel.read_exact(&mut [0; 3000]));
            // The error must be one of the `ssh` module.
            result.map_err(|error| error.downcast::<Error>().expect("an error of ssh"))
        });
        assert!(start.elapsed() < LONG, "{limit} bytes: {:?}", start.elapsed());
        if let Err(error) = &outcome {
            assert!(matches!(error.cause, Cause::Closed | Cause::Dropped { .. }), "{limit} bytes: {error}");
        }
        outcomes.push(outcome.map_err(|error| error.phase));
    }
    // Each phase was cut, and the last connections were complete.
    let described = format!("{outcomes:?}");
    for phase in ["Handshake", "Authenticate", "OpenChannel", "Transfer", "Ok"] {
        assert!(described.contains(phase), "no cut in phase {phase}: {described}");
    }
}

#[test]
fn a_damaged_byte_anywhere_is_an_error_and_never_a_hang() {
    let server = Server::start(&SID);
    let socket = listen(&server, echo);
    let mut machine = server.machine();
    machine.connect_timeout = Duration::from_secs(1);
    machine.stall_timeout = Duration::from_secs(1);
    let mut failures = 0;
    for limit in (0..6600).step_by(143) {
        machine.port = fault_after(&server, limit, Fault::DamagedByte);
        let start = Instant::now();
        let outcome = Session::connect(&machine).and_then(|session| {
            let mut channel = session.open_socket(&socket)?;
            channel.set_deadline(Some(Instant::now() + Duration::from_secs(1)));
            let mut back = [0; 3000];
            let result = channel.write_all(&[7; 3000]).and_then(|()| channel.read_exact(&mut back));
            result.map_err(|error| error.downcast::<Error>().expect("an error of ssh"))?;
            assert_eq!(back, [7; 3000], "{limit} bytes");
            Ok(())
        });
        assert!(start.elapsed() < LONG, "{limit} bytes: {:?}", start.elapsed());
        failures += u32::from(outcome.is_err());
    }
    assert!(failures > 20, "only {failures} failures");
}
