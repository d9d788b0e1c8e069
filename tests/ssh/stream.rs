//! Bytes through channels in both directions: several channels, large transfers, new keys, deadlines, and errors.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use offload::internals::ssh::{Cause, Channel, Error, Session};

use crate::sshd::{BULLSEYE, Options, SID, Server};

/// Listens on a socket, and calls `serve` for each connection. Returns the path of the socket inside the server.
pub fn listen(server: &Server, serve: impl Fn(UnixStream) + Clone + Send + 'static) -> PathBuf {
    let listener = UnixListener::bind(server.shared().join("socket")).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let serve = serve.clone();
            thread::spawn(move || serve(stream.unwrap()));
        }
    });
    Path::new("/mnt/socket").to_owned()
}

pub fn echo(stream: UnixStream) {
    // The test ends the connection, which may be an error here.
    let _ = io::copy(&mut &stream, &mut &stream);
}

/// A stream of pseudorandom bytes, in which a lost or repeated packet is noticed.
pub struct Noise {
    state: u64,
    left: u64,
}

impl Noise {
    pub fn new(length: u64) -> Noise {
        Noise { state: 1, left: length }
    }
}

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(self.left as usize);
        for byte in &mut buffer[..length] {
            self.state = self.state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            *byte = (self.state >> 56) as u8;
        }
        self.left -= length as u64;
        Ok(length)
    }
}

/// Reads to the end, and asserts that the data is as expected. Returns the number of bytes.
pub fn expect(mut input: impl Read, mut expected: impl Read) -> u64 {
    let (mut found, mut wanted) = (vec![0; 100_000], vec![0; 100_000]);
    let mut count = 0;
    loop {
        let length = input.read(&mut found).unwrap();
        expected.read_exact(&mut wanted[..length]).unwrap();
        assert!(found[..length] == wanted[..length], "differs after {count} bytes");
        if length == 0 {
            assert_eq!(expected.read(&mut wanted).unwrap(), 0, "ends after {count} bytes");
            return count;
        }
        count += length as u64;
    }
}

fn is_send<T: Send>(value: T) -> T {
    value
}

#[test]
fn a_socket_echoes_through_several_channels() {
    let server = Server::start(&SID);
    let socket = listen(&server, echo);
    let session = is_send(Session::connect(&server.machine()).unwrap());
    let mut channels: Vec<Channel> = (0..5).map(|_| is_send(session.open_socket(&socket).unwrap())).collect();
    for round in 0..20 {
        for (i, channel) in channels.iter_mut().enumerate() {
            channel.write_all(format!("{round} {i}\n").as_bytes()).unwrap();
        }
        // The channels are read in another order, after a command.
        let output =
            session.exec(&format!("echo {round}; echo error >&2; exit {round}")).unwrap().output(1000).unwrap();
        assert_eq!((output.stdout, output.stderr), (format!("{round}\n").into_bytes(), b"error\n".to_vec()));
        assert_eq!(output.status, Some(round));
        for (i, channel) in channels.iter_mut().enumerate().rev() {
            let expected = format!("{round} {i}\n");
            let mut line = vec![0; expected.len()];
            channel.read_exact(&mut line).unwrap();
            assert_eq!(line, expected.as_bytes());
        }
    }
    // A channel outlives its session.
    drop(session);
    let mut last = channels.pop().unwrap();
    drop(channels);
    last.write_all(b"still there").unwrap();
    last.send_eof().unwrap();
    let mut rest = String::new();
    last.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "still there");
}

#[test]
fn commands_end_with_their_status() {
    let server = Server::start(&SID);
    let session = Session::connect(&server.machine()).unwrap();
    let run = |command: &str, max| session.exec(command).unwrap().output(max);
    assert_eq!(run("kill -9 $$", 10).unwrap().status, None);
    let large = run("seq 1 1000000; seq 1 1000000 >&2", 10 << 20).unwrap();
    assert!(large.stdout == large.stderr && large.stdout.len() == 6888896);
    let error = run("yes", 100_000).unwrap_err();
    assert!(matches!(error.cause, Cause::TooMuchOutput(100_000)), "{error}");
    // The session is still usable.
    let mut channel = session.exec("cat").unwrap();
    channel.write_all(b"through cat").unwrap();
    channel.send_eof().unwrap();
    assert_eq!(channel.output(100).unwrap().stdout, b"through cat");
}

/// Transfers 200 MiB in each direction while the server requests new keys every 16 MiB.
fn rekey(options: &Options) {
    const LENGTH: u64 = 200 << 20;
    let server = Server::start(&Options { sshd: &["RekeyLimit=16M"], ..*options });
    let socket = listen(&server, |stream| {
        let mut request = [0];
        (&stream).read_exact(&mut request).unwrap();
        match &request {
            b"d" => assert_eq!(io::copy(&mut Noise::new(LENGTH), &mut &stream).unwrap(), LENGTH),
            _ => {
                let count = expect(&stream, Noise::new(LENGTH));
                (&stream).write_all(&count.to_le_bytes()).unwrap();
            }
        }
    });
    let session = Session::connect(&server.machine()).unwrap();

    let mut channel = session.open_socket(&socket).unwrap();
    channel.write_all(b"d").unwrap();
    expect(&mut channel, Noise::new(LENGTH));
    drop(channel);

    let mut channel = session.open_socket(&socket).unwrap();
    channel.write_all(b"u").unwrap();
    io::copy(&mut Noise::new(LENGTH), &mut channel).unwrap();
    channel.send_eof().unwrap();
    let mut count = [0; 8];
    channel.read_exact(&mut count).unwrap();
    assert_eq!(u64::from_le_bytes(count), LENGTH);
}

#[test]
fn rekeying_does_not_change_a_transfer() {
    rekey(&SID);
    rekey(&BULLSEYE);
}

#[test]
fn large_transfers_both_ways_at_once_do_not_block_each_other() {
    const LENGTH: u64 = 20 << 20;
    let server = Server::start(&Options { sshd: &["RekeyLimit=1M"], ..SID });
    let socket = listen(&server, echo);
    let session = Session::connect(&server.machine()).unwrap();
    let mut channel = session.open_socket(&socket).unwrap();
    let (mut sent, mut received) = (Noise::new(LENGTH), Noise::new(LENGTH));
    let mut piece = vec![0; 1 << 20];
    let mut expected = vec![0; 1 << 20];
    for _ in 0..LENGTH >> 20 {
        sent.read_exact(&mut piece).unwrap();
        channel.write_all(&piece).unwrap();
        channel.read_exact(&mut piece).unwrap();
        received.read_exact(&mut expected).unwrap();
        assert!(piece == expected);
    }
}

#[test]
fn a_deadline_ends_a_read_and_leaves_the_channel_usable() {
    let server = Server::start(&SID);
    let socket = listen(&server, echo);
    let session = Session::connect(&server.machine()).unwrap();
    let mut channel = session.open_socket(&socket).unwrap();
    let start = Instant::now();
    channel.set_deadline(Some(start + Duration::from_millis(300)));
    let error = channel.read(&mut [0; 10]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(matches!(Error::in_io(&error).unwrap().cause, Cause::Deadline));
    assert!((Duration::from_millis(300)..Duration::from_secs(30)).contains(&start.elapsed()));
    channel.set_deadline(None);
    channel.write_all(b"xyz").unwrap();
    channel.read_exact(&mut [0]).unwrap();
    // A deadline applies even if data can be read or written immediately.
    let mut channel = session.open_socket(&socket).unwrap();
    channel.write_all(&[0; 100_000]).unwrap();
    thread::sleep(Duration::from_millis(50));
    channel.set_deadline(Some(Instant::now()));
    assert_eq!(channel.read(&mut [0; 50_000]).unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert_eq!(channel.write(b"x").unwrap_err().kind(), io::ErrorKind::TimedOut);
    channel.set_deadline(None);
    channel.read_exact(&mut [0; 100_000]).unwrap();
}

#[test]
fn an_abandoned_write_makes_the_session_unusable() {
    let server = Server::start(&SID);
    let socket = listen(&server, |_| thread::sleep(Duration::from_secs(100)));
    let session = Session::connect(&server.machine()).unwrap();
    let mut channel = session.open_socket(&socket).unwrap();
    let start = Instant::now();
    channel.set_deadline(Some(start + Duration::from_millis(500)));
    let error = io::copy(&mut Noise::new(1 << 30), &mut channel).unwrap_err();
    assert!(matches!(Error::in_io(&error).unwrap().cause, Cause::Deadline), "{error}");
    assert!(start.elapsed() < Duration::from_secs(30));
    let error = session.exec("true").err().unwrap();
    assert!(matches!(error.cause, Cause::Unusable), "{error}");
}

#[test]
fn a_closed_channel_fails_writes_and_leaves_its_last_data_readable() {
    let server = Server::start(&SID);
    let socket = listen(&server, |mut stream| stream.write_all(b"goodbye").unwrap());
    let session = Session::connect(&server.machine()).unwrap();
    let mut channel = session.open_socket(&socket).unwrap();
    let start = Instant::now();
    let error = io::copy(&mut Noise::new(100 << 20), &mut channel).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "{error}");
    assert_eq!(channel.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    assert!(matches!(Error::in_io(&error).unwrap().cause, Cause::ChannelClosed));
    assert!(start.elapsed() < Duration::from_secs(50), "{:?}", start.elapsed());
    let mut words = String::new();
    channel.read_to_string(&mut words).unwrap();
    assert_eq!(words, "goodbye");
    // The session is still usable.
    session.open_socket(&socket).unwrap();
}

/// Prints the throughput: `cargo test --release --test ssh -- --ignored --nocapture throughput`.
#[test]
#[ignore = "a measurement"]
fn throughput() {
    const LENGTH: u64 = 1 << 30;
    let server = Server::start(&SID);
    let socket = listen(&server, |stream| {
        let mut request = [0];
        match (&stream).read(&mut request).unwrap() {
            1 if request == *b"d" => {
                io::copy(&mut io::repeat(b'x').take(LENGTH), &mut &stream).unwrap();
            }
            1 => {
                io::copy(&mut &stream, &mut io::sink()).unwrap();
                (&stream).write_all(b"k").unwrap();
            }
            _ => {}
        }
    });
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..20 {
        let start = Instant::now();
        let session = Session::connect(&server.machine()).unwrap();
        session.open_socket(&socket).unwrap();
        times.push(start.elapsed());
    }
    times.sort();
    println!("connect and open a socket: median {:?}, best {:?}", times[10], times[0]);
    let session = Session::connect(&server.machine()).unwrap();
    println!("{}", session.algorithms());
    for size in [32 << 10, 64 << 10, 256 << 10, 1 << 20] {
        let mut piece = vec![b'x'; size];
        let mut channel = session.open_socket(&socket).unwrap();
        let watch = Watch::start();
        channel.write_all(b"d").unwrap();
        while channel.read(&mut piece).unwrap() > 0 {}
        let down = watch.rate(LENGTH);
        let mut channel = session.open_socket(&socket).unwrap();
        channel.write_all(b"u").unwrap();
        let watch = Watch::start();
        io::copy(&mut io::repeat(b'x').take(LENGTH), &mut io::BufWriter::with_capacity(size, &mut channel)).unwrap();
        channel.send_eof().unwrap();
        channel.read_exact(&mut [0]).unwrap();
        println!("pieces of {:4} KiB: down {down}, up {}", size >> 10, watch.rate(LENGTH));
    }
}

pub struct Watch {
    start: Instant,
    processor: f64,
}

impl Watch {
    fn start() -> Watch {
        Watch { start: Instant::now(), processor: Watch::processor() }
    }

    /// Returns the processor time of this thread, in seconds.
    pub fn processor() -> f64 {
        let times = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        times.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
    }

    fn rate(&self, bytes: u64) -> String {
        let mebibytes = (bytes >> 20) as f64;
        let processor = mebibytes / (Watch::processor() - self.processor);
        format!(
            "{:.0} MiB/s ({processor:.0} for each second of this thread)",
            mebibytes / self.start.elapsed().as_secs_f64()
        )
    }
}

/// Prints the effect of latency: `cargo test --release --test ssh -- --ignored --nocapture distance`.
#[test]
#[ignore = "a measurement"]
fn distance() {
    const LENGTH: u64 = 128 << 20;
    let server = Server::start(&SID);
    let socket = listen(&server, |stream| {
        let mut request = [0];
        match (&stream).read(&mut request).unwrap() {
            1 if request == *b"d" => {
                // The test may have closed the connection.
                let _ = io::copy(&mut io::repeat(b'x').take(LENGTH), &mut &stream);
            }
            1 => {
                io::copy(&mut &stream, &mut io::sink()).unwrap();
                (&stream).write_all(b"k").unwrap();
            }
            _ => {}
        }
    });
    for round_trip in [0, 20, 50, 100] {
        let mut machine = server.machine();
        machine.port = delay(server.address, Duration::from_millis(round_trip / 2));
        let start = Instant::now();
        let session = Session::connect(&machine).unwrap();
        let connected = start.elapsed();
        let mut channel = session.open_socket(&socket).unwrap();
        let opened = start.elapsed() - connected;
        let watch = Watch::start();
        channel.write_all(b"d").unwrap();
        let mut piece = vec![0; 64 << 10];
        while channel.read(&mut piece).unwrap() > 0 {}
        let down = watch.rate(LENGTH);
        let mut channel = session.open_socket(&socket).unwrap();
        let watch = Watch::start();
        channel.write_all(b"u").unwrap();
        io::copy(&mut io::repeat(b'x').take(LENGTH), &mut io::BufWriter::with_capacity(64 << 10, &mut channel))
            .unwrap();
        channel.send_eof().unwrap();
        channel.read_exact(&mut [0]).unwrap();
        let up = watch.rate(LENGTH);
        println!("{round_trip} ms: connect {connected:?}, open {opened:?}, down {down}, up {up}");
    }
}

/// Returns a port that forwards to `address` and delays each byte by `time`.
fn delay(address: std::net::SocketAddr, time: Duration) -> u16 {
    let listener = std::net::TcpListener::bind((address.ip(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let (near, _) = listener.accept().unwrap();
        let far = std::net::TcpStream::connect(address).unwrap();
        for (mut from, mut to) in [
            (near.try_clone().unwrap(), far.try_clone().unwrap()),
            (far.try_clone().unwrap(), near.try_clone().unwrap()),
        ] {
            to.set_nodelay(true).unwrap();
            let (sender, receiver) = std::sync::mpsc::channel::<(Instant, Vec<u8>)>();
            thread::spawn(move || {
                let mut piece = vec![0; 64 << 10];
                while let Ok(length @ 1..) = from.read(&mut piece) {
                    sender.send((Instant::now() + time, piece[..length].to_vec())).unwrap();
                }
            });
            thread::spawn(move || {
                while let Ok((due, piece)) = receiver.recv() {
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    if to.write_all(&piece).is_err() {
                        break;
                    }
                }
                let _ = to.shutdown(std::net::Shutdown::Write);
            });
        }
    });
    port
}
