//! An owner leaves no bytes of a stream unread, and passes no stream with unread bytes to another hook. The session is
//! real. The test plays the hooks and the daemon behind a stream.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use rustix::net::sockopt::set_socket_send_buffer_size;
use serde_json::{Value, json};

use crate::lab::{Drv, LONG, wait_until};
use crate::pool::Pool;
use crate::protocol::{connect, receive, send};

/// The socket of the daemon that the test plays.
const SOCKET: &str = "/var/lab/scripted";

/// A session whose owner serves the test.
struct Session {
    control: UnixStream,
    daemons: UnixListener,
    _pool: Pool,
}

/// The hook's side of a stream.
struct Stream {
    data: UnixStream,
    status: UnixStream,
}

fn pair() -> (UnixStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(LONG)).unwrap();
    (ours, theirs)
}

impl Session {
    fn new() -> Session {
        let pool = Pool::new();
        // A keep-alive reply would wake an owner that has bytes to read.
        let entry = pool.entry().set("keepalive_interval", 600).set("stall_timeout", 3600);
        pool.head.write_machines(&[entry.set("parallel_builds", 4)]);
        pool.owner_after(&Drv::new("first"));
        let control = connect(&pool.sockets()[0]);
        let daemons = UnixListener::bind(pool.machine.path(SOCKET)).unwrap();
        Session { control, daemons, _pool: pool }
    }

    /// Requests a stream. The send buffer on the owner's side has `space` bytes, if that is given.
    fn ask(&self, request: &Value, space: Option<usize>) -> (Stream, Value) {
        let ((data, their_data), (status, their_status)) = (pair(), pair());
        if let Some(space) = space {
            set_socket_send_buffer_size(&their_data, space).unwrap();
        }
        send(&self.control, request, &[their_data.as_fd(), their_status.as_fd()]);
        drop((their_data, their_status));
        let reply = receive(&status);
        (Stream { data, status }, reply)
    }

    /// Opens a stream to the test's daemon. Returns both sides.
    fn open(&self, space: Option<usize>) -> (Stream, UnixStream) {
        let limit = json!({ "secs": LONG.as_secs(), "nanos": 0 });
        let request = json!({ "Open": { "target": { "Socket": SOCKET }, "limit": limit } });
        let (stream, reply) = self.ask(&request, space);
        assert_eq!(reply, json!("Opened"));
        let (daemon, _) = self.daemons.accept().unwrap();
        daemon.set_read_timeout(Some(LONG)).unwrap();
        (stream, daemon)
    }

    /// Requests a stream that was released. Returns `None` if there is none.
    fn resume(&self) -> Option<Stream> {
        let (stream, reply) = self.ask(&json!({ "Resume": { "stream": "released", "unless_busy": false } }), None);
        match reply.as_object().and_then(|reply| reply.keys().next()).map(String::as_str) {
            Some("Resumed") => Some(stream),
            Some("NoStream") => None,
            _ => panic!("{reply}"),
        }
    }

    /// Releases a stream, and waits until no hook has it.
    fn release(&self, stream: &Stream) {
        let greeting = json!({ "version": 0x163, "round_trip": { "secs": 0, "nanos": 0 } });
        send(&stream.status, &json!({ "stream": "released", "greeting": greeting }), &[]);
        wait_until("no hook has the stream", LONG, || {
            let (status, theirs) = pair();
            send(&self.control, &json!("Report"), &[theirs.as_fd()]);
            receive(&status)["Report"]["streams"] == json!(0)
        });
    }
}

/// libssh2 reads packets of all streams when one of them is read. Packets for a stream that was read before must not wait
/// for the next packet.
#[test]
fn no_reply_is_left_unread_beside_a_second_stream() {
    let session = Session::new();
    let (stream, mut daemon) = session.open(None);
    let _second = session.open(None);
    // As an import: the daemon requests each piece.
    let piece = [1; 32 << 10];
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut received = piece;
            while daemon.read_exact(&mut received).is_ok() && daemon.write_all(b"next").is_ok() {}
        });
        for number in 0..3000 {
            (&stream.data).write_all(&piece).unwrap();
            let mut reply = [0; 4];
            let read = (&stream.data).read_exact(&mut reply);
            assert!(read.is_ok(), "reply {number} does not arrive: {read:?}");
        }
        stream.data.shutdown(Shutdown::Both).unwrap();
    });
}

#[test]
fn a_released_stream_over_which_something_arrives_is_closed() {
    let session = Session::new();
    let (stream, mut daemon) = session.open(None);
    session.release(&stream);
    // The next hook gets the same stream, unchanged.
    let stream = session.resume().expect("a stream that was released is there for the next hook");
    (&stream.data).write_all(b"more").unwrap();
    let mut received = [0; 4];
    daemon.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"more");

    session.release(&stream);
    daemon.write_all(b"!").unwrap();
    let end = daemon.read(&mut received);
    assert!(matches!(end, Ok(0)), "the stream stays open after an unrequested byte: {end:?}");
    assert!(session.resume().is_none(), "the next hook gets a stream with an unrequested byte");
}

#[test]
fn a_stream_that_is_released_with_unread_bytes_is_closed() {
    let session = Session::new();
    let (stream, mut daemon) = session.open(Some(2048));
    // One SSH packet, which is larger than the send buffer on the owner's side.
    daemon.write_all(&[b'!'; 16 << 10]).unwrap();
    (&stream.data).read_exact(&mut [0]).unwrap();
    session.release(&stream);
    assert!(session.resume().is_none(), "the next hook gets a stream with an unread reply");
    let end = daemon.read(&mut [0]);
    assert!(matches!(end, Ok(0)), "the stream stays open: {end:?}");
}
