//! The protocol against a scripted daemon: the bytes and writes that are sent, and the reaction to invalid answers.
//! `tests/daemon.rs` uses real daemons.

use std::collections::BTreeSet;
use std::io::{self, Cursor, Read, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::store::path::{StoreDir, StorePath};
use crate::store::wire;

const NEXT: u64 = 0x6f6c6d67;
const WRITE: u64 = 0x64617416;
const READ: u64 = 0x64617461;
const LAST: u64 = 0x616c7473;
const ERROR: u64 = 0x63787470;

const FOO: &str = "/gnu/store/xnryj9c4k27hjviqs29c3dydawc71ga6-foo";
const BAR: &str = "/gnu/store/hxbwv0n6dyadh2d3q6h1286kinrfp6gk-bar";

/// The writes, one by one.
type Writes = Arc<Mutex<Vec<Vec<u8>>>>;

/// A stream that reads from a script, and records each write.
struct Script {
    answers: Cursor<Vec<u8>>,
    writes: Writes,
}

impl Read for Script {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.answers.read(buffer)
    }
}

impl Write for Script {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writes.lock().unwrap().push(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn ints(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn string(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    wire::write_bytes(&mut out, bytes).unwrap();
    out
}

fn greeting() -> Vec<u8> {
    ints(&[0x6478696f, 0x164, LAST])
}

/// Returns a client whose daemon greets and then sends `answers`, and the writes of the client after its own greeting.
fn client(answers: &[Vec<u8>]) -> (Client<Script>, Writes) {
    let writes = Arc::default();
    let answers = Cursor::new([greeting(), answers.concat()].concat());
    let client = Client::connect(Script { answers, writes: Arc::clone(&writes) }, StoreDir::default()).unwrap();
    writes.lock().unwrap().clear();
    (client, writes)
}

fn path(text: &str) -> StorePath {
    StorePath::parse(&StoreDir::default(), text.as_bytes()).unwrap()
}

fn refused(answers: Vec<u8>) -> Error {
    let script = Script { answers: Cursor::new(answers), writes: Arc::default() };
    Client::connect(script, StoreDir::default()).err().unwrap()
}

/// Reads `true` from one more request: the connection is in step.
fn assert_in_step<S: Read + Write>(client: &mut Client<S>) {
    assert!(client.is_usable());
    assert!(client.is_valid_path(&path(FOO)).unwrap());
}

fn yes() -> Vec<u8> {
    ints(&[LAST, 1])
}

#[test]
fn the_greeting_is_one_write() {
    let writes: Writes = Arc::default();
    let script = Script { answers: Cursor::new(greeting()), writes: Arc::clone(&writes) };
    let client = Client::connect(script, StoreDir::default()).unwrap();
    assert_eq!(client.version(), Version(0x164));
    assert_eq!(*writes.lock().unwrap(), [ints(&[0x6e697863, 0x164, 0, 1])]);
}

#[test]
fn other_greetings_are_refused() {
    let message = |answers| refused(answers).to_string();
    assert!(message(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()).contains("is this guix-daemon?"));
    assert!(message(ints(&[0x6478696f, 0x162, LAST])).contains("protocol version 0x162"));
    assert!(message(ints(&[0x6478696f, 0x264, LAST])).contains("protocol version 0x264"));
    assert!(matches!(refused(ints(&[0x6478696f])), Error::Link { .. }));
    let says = [ints(&[0x6478696f, 0x164, ERROR]), string(b"no space\n"), ints(&[1])].concat();
    assert_eq!(message(says), "handshake: the daemon says: no space");
}

#[test]
fn a_request_is_one_write() {
    let (mut client, writes) = client(&[ints(&[LAST, 0]), ints(&[LAST, 1]), ints(&[LAST])]);
    assert!(!client.is_valid_path(&path(FOO)).unwrap());
    client.build_paths(&BTreeSet::from([path(FOO), path(BAR)])).unwrap();
    let limit = Some(Duration::from_millis(1500));
    client.set_options(&Options { max_silent_time: limit, build_cores: Some(0), ..Options::default() }).unwrap();
    let expected = [
        [ints(&[1]), string(FOO.as_bytes())].concat(),
        [ints(&[9, 2]), string(BAR.as_bytes()), string(FOO.as_bytes()), ints(&[0])].concat(),
        [
            ints(&[19, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]),
            string(b"build-max-silent-time"),
            string(b"2"),
            string(b"build-cores"),
            string(b"0"),
        ]
        .concat(),
    ];
    assert_eq!(*writes.lock().unwrap(), expected);
}

#[test]
fn log_text_arrives_as_it_is() {
    let long = vec![b'x'; 100_000];
    let (mut client, _) =
        client(&[ints(&[NEXT]), string(b"half a l\xffne"), ints(&[NEXT]), string(&long), ints(&[NEXT, 0]), yes()]);
    let text = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&text);
    client.set_log(Some(Box::new(move |bytes| sink.lock().unwrap().extend_from_slice(bytes))));
    assert_in_step(&mut client);
    assert_eq!(*text.lock().unwrap(), [&b"half a l\xffne"[..], &long].concat());
}

#[test]
fn unwanted_log_text_is_limited() {
    /// Greets, replies, and then logs indefinitely.
    struct Endless(Cursor<Vec<u8>>, Cursor<Vec<u8>>);
    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.position() < self.0.get_ref().len() as u64 {
                return self.0.read(buffer);
            }
            if self.1.position() == self.1.get_ref().len() as u64 {
                self.1.set_position(0);
            }
            self.1.read(buffer)
        }
    }
    impl Write for Endless {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    // Large frames, and empty ones.
    for text in [vec![b'x'; 60_000], Vec::new()] {
        let frame = Cursor::new([ints(&[NEXT]), string(&text)].concat());
        let stream = Endless(Cursor::new([greeting(), ints(&[LAST, 1])].concat()), frame.clone());
        let mut client = Client::connect(stream, StoreDir::default()).unwrap();
        assert_in_step(&mut client);
        let error = client.is_valid_path(&path(FOO)).unwrap_err();
        assert!(error.to_string().contains("more than 1048576 bytes of log text"), "{error}");
        let greeting = Endless(Cursor::new(ints(&[0x6478696f, 0x164])), frame);
        let error = Client::connect(greeting, StoreDir::default()).err().unwrap();
        assert!(error.to_string().starts_with("handshake: unexpected answer"), "{error}");
    }
}

#[test]
fn a_message_is_fit_for_a_terminal() {
    let wild = [b"\x1b[2J\xff".to_vec(), vec![b'x'; 100_000]].concat();
    let (mut client, _) = client(&[ints(&[ERROR]), string(&wild), ints(&[1]), yes()]);
    let message = client.build_paths(&BTreeSet::new()).unwrap_err().to_string();
    assert!(
        message.starts_with("BuildPaths: the daemon says: \\u{1b}[2J\u{fffd}xxx") && message.len() < 17_000,
        "{message}"
    );
    assert_in_step(&mut client);
}

#[test]
fn an_invalid_answer_is_reported_with_its_position() {
    let (mut client, _) = client(&[ints(&[LAST, 1]), ints(&[LAST, 2])]);
    assert_in_step(&mut client);
    let message = client.is_valid_path(&path(FOO)).unwrap_err().to_string();
    assert_eq!(message, "IsValidPath: unexpected answer from the daemon, at byte 56: 0x2 is not a boolean");
}

#[test]
fn the_daemons_error_leaves_the_connection_usable() {
    let (mut client, _) = client(&[ints(&[ERROR]), string(b"build failed\n"), ints(&[100]), yes()]);
    match client.build_paths(&BTreeSet::new()).unwrap_err() {
        Error::Daemon { message, status: 100, operation: "BuildPaths" } => assert_eq!(message, "build failed"),
        other => panic!("{other:?}"),
    }
    assert_in_step(&mut client);
}

#[test]
fn a_broken_protocol_breaks_the_connection() {
    let dirty = [ints(&[NEXT, 1]), b"a\0\0\0\0\0\0!".to_vec()].concat();
    let foo_and_bar = [ints(&[LAST, 2]), string(FOO.as_bytes()), string(BAR.as_bytes())].concat();
    for (answers, what) in [
        (ints(&[0x6f6c6d68]), "a frame of type 0x6f6c6d68"),
        (ints(&[NEXT, 1 << 32]), "32 bits"),
        (ints(&[NEXT, 65 << 20]), "a frame of 68157440 bytes"),
        (dirty, "padding"),
        (ints(&[WRITE, 8, 0]), "Write(8)"),
        (ints(&[READ, 32768]), "Read(32768)"),
        (ints(&[ERROR, 2 << 20]), "a string of 2097152 bytes"),
        (foo_and_bar, "list of 2"),
        ([ints(&[LAST, 1]), string(BAR.as_bytes())].concat(), "which was not queried"),
        ([ints(&[LAST, 1]), string(b"/gnu/store/..")].concat(), "'/gnu/store/..' is not a store path"),
    ] {
        let (mut client, writes) = client(&[answers]);
        let error = client.query_valid_paths(&BTreeSet::from([path(FOO)])).unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
        assert!(error.to_string().contains(what), "{error} should mention {what}");
        writes.lock().unwrap().clear();
        assert!(!client.is_usable());
        assert!(matches!(client.is_valid_path(&path(FOO)), Err(Error::Broken { operation: "IsValidPath" })));
        assert!(writes.lock().unwrap().is_empty());
    }
}

#[test]
fn an_end_in_the_middle_is_a_failure_of_the_link() {
    let whole = [ints(&[NEXT]), string(b"abc"), ints(&[LAST]), ints(&[1]), string(FOO.as_bytes())].concat();
    for end in 0..whole.len() {
        let (mut client, _) = client(&[whole[..end].to_vec()]);
        let error = client.query_valid_paths(&BTreeSet::from([path(FOO)])).unwrap_err();
        assert!(matches!(error, Error::Link { .. }), "{end}: {error:?}");
    }
}

#[test]
fn path_info_is_read_and_bad_hashes_are_refused() {
    let hash = "1c37d01af40be2e80691de3cc3df44377a699afbb17c68f080964b2fd071fc13";
    let info = |hash: &str| {
        let references = [ints(&[1]), string(FOO.as_bytes())].concat();
        [ints(&[LAST, 0]), string(hash.as_bytes()), references, ints(&[1_700_000_000, 1 << 40])].concat()
    };
    let (mut client, _) = client(&[info(hash), info(&hash[1..])]);
    let known = client.query_path_info(&path(BAR)).unwrap();
    assert_eq!((known.nar_hash[0], known.nar_hash[31]), (0x1c, 0x13));
    assert_eq!((known.deriver, known.references), (None, BTreeSet::from([path(FOO)])));
    assert_eq!((known.registration_time, known.nar_size), (1_700_000_000, 1 << 40));
    assert!(client.query_path_info(&path(BAR)).unwrap_err().to_string().contains("SHA-256"));
}

/// Returns at most 1000 bytes at a time, and an error instead of the end if the flag is set.
struct Trickle<'a>(&'a [u8], bool);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() && self.1 {
            return Err(io::Error::other("the disk is on fire"));
        }
        let size = buffer.len().min(1000);
        self.0.read(&mut buffer[..size])
    }
}

#[test]
fn an_import_answers_each_request() {
    let bundle: Vec<u8> = (0..40_001u32).map(|index| index as u8).collect();
    let imported = [ints(&[LAST, 1]), string(FOO.as_bytes())].concat();
    let (mut client, writes) = client(&[ints(&[READ, 32768, READ, 1, READ, 32768]), imported, yes()]);
    assert_eq!(client.import_paths(&mut Trickle(&bundle, false)).unwrap(), [path(FOO)]);
    let expected = [ints(&[27]), string(&bundle[..32768]), string(&bundle[32768..32769]), string(&bundle[32769..])];
    assert_eq!(*writes.lock().unwrap(), expected);
    assert_in_step(&mut client);
}

#[test]
fn a_failing_import_is_ended() {
    for (fails, cause) in [(true, "the disk is on fire"), (false, "the bundle ends too early")] {
        let gave_up = [ints(&[ERROR]), string(b"unexpected end-of-file"), ints(&[1])].concat();
        // A source that fails after some bytes fails at once; for one that ends, the daemon makes another request.
        let asked = if fails { ints(&[READ, 8]) } else { ints(&[READ, 8, READ, 8]) };
        let (mut client, writes) = client(&[asked, gave_up, yes()]);
        let error = client.import_paths(&mut Trickle(b"abc", fails)).unwrap_err();
        assert!(matches!(error, Error::Source { .. }), "{error:?}");
        assert!(error.to_string().ends_with(cause), "{error}");
        let last = writes.lock().unwrap().last().unwrap().clone();
        assert_eq!(last, ints(&[0]));
        assert_in_step(&mut client);
    }
}

#[test]
fn an_import_may_be_refused_at_any_point() {
    let refused = [ints(&[READ, 8, ERROR]), string(b"unauthorized public key"), ints(&[1])].concat();
    let (mut client, _) = client(&[refused, yes()]);
    let error = client.import_paths(&mut Trickle(&[0; 100], false)).unwrap_err();
    assert_eq!(error.to_string(), "ImportPaths: the daemon says: unauthorized public key");
    assert_in_step(&mut client);
}

fn export<T>(
    client: &mut Client<Script>,
    consume: impl FnOnce(&mut dyn Read) -> io::Result<T>,
) -> Result<T, ExportError<io::Error>> {
    client.export_path(&path(FOO), true, consume)
}

fn read_all(reader: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    reader.read_to_end(&mut all)?;
    Ok(all)
}

fn item() -> Vec<u8> {
    let frame = |bytes: &[u8]| [ints(&[WRITE]), string(bytes)].concat();
    [frame(b"abc"), ints(&[NEXT]), string(b"exporting"), frame(b""), frame(b"defghijk")].concat()
}

#[test]
fn an_export_is_one_stream() {
    let (mut client, writes) = client(&[item(), yes(), yes(), item(), yes(), yes()]);
    assert_eq!(export(&mut client, read_all).unwrap(), b"abcdefghijk");
    assert_eq!(*writes.lock().unwrap(), [[ints(&[16]), string(FOO.as_bytes()), ints(&[1])].concat()]);
    assert_in_step(&mut client);
    // A consumer that knows where the item ends need not look for the end.
    let exact = export(&mut client, |reader| {
        let mut bytes = [0; 11];
        reader.read_exact(&mut bytes).map(|()| bytes)
    });
    assert_eq!(&exact.unwrap(), b"abcdefghijk");
    assert_in_step(&mut client);
}

#[test]
fn an_export_can_fail_after_its_data() {
    let failed = || [item(), ints(&[ERROR]), string(b"no signing key"), ints(&[1])].concat();
    let (mut client, _) = client(&[failed(), failed(), yes()]);
    for look_for_the_end in [true, false] {
        let result = export(&mut client, |reader| match look_for_the_end {
            true => read_all(reader).map(|_| ()),
            false => reader.read_exact(&mut [0; 11]),
        });
        assert!(matches!(result, Err(ExportError::Daemon(Error::Daemon { .. }))), "{result:?}");
    }
    assert_in_step(&mut client);
}

#[test]
fn a_consumer_that_stops_breaks_the_connection() {
    let (mut client, _) = client(&[item(), yes()]);
    let result = export(&mut client, |_| Err::<(), _>(io::Error::other("no room")));
    assert!(matches!(&result, Err(ExportError::Consumer(error)) if error.to_string() == "no room"), "{result:?}");
    assert!(!client.is_usable());
}

#[test]
fn data_after_an_item_break_the_protocol() {
    let (mut client, _) = client(&[item(), yes()]);
    let result = export(&mut client, |reader| reader.read_exact(&mut [0; 10]));
    assert!(matches!(result, Err(ExportError::Daemon(Error::Protocol { .. }))), "{result:?}");
    assert!(!client.is_usable());
}

#[test]
fn a_bad_frame_reaches_the_caller_and_not_only_the_consumer() {
    let (mut client, _) = client(&[item(), ints(&[READ, 1])]);
    let result = export(&mut client, |reader| read_all(reader).map_err(|_| io::Error::other("the nar is cut short")));
    assert!(
        matches!(&result, Err(ExportError::Daemon(Error::Protocol { what, .. })) if what == "Read(1)"),
        "{result:?}"
    );
}

/// A stream of which the second write fails, and reads are counted.
struct FailingWrites {
    error: io::ErrorKind,
    writes: usize,
    answers: Cursor<Vec<u8>>,
    reads: usize,
}

impl Read for FailingWrites {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reads += 1;
        self.answers.read(buffer)
    }
}

impl Write for FailingWrites {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writes += 1;
        if self.writes == 1 { Ok(bytes.len()) } else { Err(self.error.into()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The daemon waits for the rest of the nar, so that both sides would wait for each other.
#[test]
fn no_reply_is_awaited_after_a_write_that_the_daemon_did_not_refuse() {
    let reply = || Cursor::new([ints(&[ERROR]), string(b"bad nar"), ints(&[1])].concat());
    for (error, reads) in [(io::ErrorKind::TimedOut, false), (io::ErrorKind::BrokenPipe, true)] {
        let stream = FailingWrites { error, writes: 0, answers: reply(), reads: 0 };
        let mut client = Client::resume(stream, StoreDir::default(), Version(0x163), Duration::ZERO);
        let result = client.add_to_store("name", true, "sha256", &mut &b"some nar"[..]);
        assert_eq!(client.stream_mut().reads > 0, reads, "{error:?}");
        match result {
            Err(Error::Daemon { message, .. }) if reads => assert_eq!(message, "bad nar"),
            Err(Error::Link { cause, .. }) if !reads => assert_eq!(cause.kind(), error),
            other => panic!("{other:?}"),
        }
    }
}

/// Each request may have so much log text.
#[test]
fn log_text_is_counted_for_each_request_anew() {
    let text = string(&[b'x'; 600 << 10]);
    let reply = [ints(&[NEXT]), text.clone(), yes()].concat();
    let (mut client, _) = client(&[reply.clone(), reply, ints(&[NEXT]), text.clone(), ints(&[NEXT]), text]);
    assert_in_step(&mut client);
    assert_in_step(&mut client);
    let error = client.is_valid_path(&path(FOO)).unwrap_err().to_string();
    assert!(error.contains("bytes of log text where nothing is built"), "{error}");
}
