use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};

use super::message::{Handshake, PROTOCOL, Request};
use super::*;
use crate::daemon::{Options, Version};
use crate::file_stamp::FileStamp;
use crate::machine::{Compressed, Compression, HostKey, Machine};
use crate::remote::SilencePolicy;
use crate::store::path::StoreDir;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHnnLvDVsLVUYPJ0pVLvSPGvZbJVlwSbmAEjSBQUhYLE";
const OTHER_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHnnLvDVsLVUYPJ0pVLvSPGvZbJVlwSbmAEjSBQUhYLF";

const ANSWER: Handshake = Handshake {
    version: Version(0x163),
    compressed: Compressed { sending: false, receiving: true },
    round_trip: Duration::from_micros(1234),
};

fn machine() -> Machine {
    Machine::new("b1", "root", vec!["x86_64-linux".into()], vec![HostKey::parse(KEY).unwrap()])
}

const NO_FILES: Files = Files { private_key: None, acl: None, signing_key: [None, None] };

fn cache_key_text(directory: &Path) -> CacheKey {
    terms_of(&machine(), directory).unwrap()
}

fn terms_of(machine: &Machine, directory: &Path) -> Option<CacheKey> {
    let (directory, options, store) = (directory.to_owned(), Options::default(), StoreDir::default());
    CacheKey::new(directory, machine, Compressed::default(), &options, &store, &NO_FILES)
}

#[test]
fn what_a_connection_depends_on_is_in_its_name() {
    let nobody = Path::new("/nowhere");
    let name = |change: &dyn Fn(&mut Machine, &mut Compressed, &mut Options)| {
        let (mut machine, mut compressed, mut options) = (machine(), Compressed::default(), Options::default());
        change(&mut machine, &mut compressed, &mut options);
        CacheKey::new(nobody.to_owned(), &machine, compressed, &options, &StoreDir::default(), &NO_FILES)
            .unwrap()
            .prefix
    };
    let usual = name(&|_, _, _| {});
    assert_eq!(usual.len(), 39);
    let minute = Duration::from_secs(60);
    let others = [
        name(&|machine, _, _| machine.name = "b2".into()),
        name(&|machine, _, _| machine.port = 2222),
        name(&|machine, _, _| machine.user = "offload".into()),
        name(&|machine, _, _| machine.host_keys = vec![HostKey::parse(OTHER_KEY).unwrap()]),
        name(&|machine, _, _| machine.host_keys.push(HostKey::parse(OTHER_KEY).unwrap())),
        name(&|machine, _, _| machine.private_key = Some("/root/key".into())),
        name(&|machine, _, _| machine.daemon_socket = "/run/guix".into()),
        name(&|machine, _, _| machine.keep_connection = Some(minute)),
        name(&|_, compressed, _| compressed.sending = true),
        name(&|_, compressed, _| compressed.receiving = true),
        // Where a limit was given, that of another build takes its place; but it must be given.
        name(&|_, _, options| options.max_silent_time = Some(minute)),
        name(&|_, _, options| options.build_timeout = Some(minute)),
        name(&|_, _, options| options.use_substitutes = !options.use_substitutes),
    ];
    for (number, other) in others.iter().enumerate() {
        assert!(*other != usual && !others[..number].contains(other), "number {number}");
    }
    let limits = |time| name(&move |_, _, options| [options.max_silent_time, options.build_timeout] = [Some(time); 2]);
    assert_eq!(limits(minute), limits(2 * minute));
    let same = [
        name(&|machine, _, _| machine.speed = 7.0),
        name(&|machine, _, _| machine.systems.push("i686-linux".into())),
        name(&|machine, _, _| machine.features.push("kvm".into())),
        name(&|machine, _, _| machine.parallel_builds = 7),
        name(&|machine, _, _| machine.max_transfers = 7),
        name(&|machine, _, _| machine.overload_threshold = None),
        name(&|machine, _, _| machine.minimum_disk_space = 7),
        name(&|machine, _, _| {
            [machine.connect_timeout, machine.stall_timeout, machine.keepalive_interval] = [minute; 3]
        }),
        // What it comes to counts.
        name(&|machine, _, _| machine.compression = Compression::Zlib),
    ];
    assert!(same.iter().all(|name| *name == usual), "{usual}: {same:?}");
}

#[test]
fn files_of_keys_are_in_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let stamp = || FileStamp::of(&file);
    let name = |files: &Files| {
        let (options, store) = (Options::default(), StoreDir::default());
        CacheKey::new("/nowhere".into(), &machine(), Compressed::default(), &options, &store, files).unwrap().prefix
    };
    let names = [
        name(&NO_FILES),
        name(&Files { private_key: stamp(), ..NO_FILES }),
        name(&Files { acl: stamp(), ..NO_FILES }),
        name(&Files { signing_key: [stamp(), None], ..NO_FILES }),
        name(&Files { signing_key: [None, stamp()], ..NO_FILES }),
    ];
    for (number, one) in names.iter().enumerate() {
        assert!(!names[..number].contains(one), "number {number}");
    }
}

#[test]
fn not_every_connection_is_kept() {
    let is_kept = |change: fn(&mut Machine)| {
        let mut machine = machine();
        change(&mut machine);
        terms_of(&machine, Path::new("/nowhere")).is_some()
    };
    assert!(is_kept(|_| {}));
    assert!(!is_kept(|machine| machine.keep_connection = None));
    assert!(!is_kept(|machine| machine.proxy_command = Some(vec!["nc".into()])));
    // Nor where no socket could have its name.
    let directory = |length: usize| PathBuf::from(format!("/{}", "d".repeat(length - 1)));
    let fits = |length| terms_of(&machine(), &directory(length)).is_some();
    assert!(fits(50) && !fits(90));
}

#[test]
fn an_answer_in_bytes() {
    let bytes = [PROTOCOL, 0x63, 1, 0, 0, 0, 1, 0xd2, 4, 0, 0, 0, 0, 0, 0];
    assert_eq!(ANSWER.to_bytes(), bytes);
    assert_eq!(Handshake::from_bytes(bytes), Some(ANSWER));
    let longest = Handshake { round_trip: Duration::MAX, ..ANSWER };
    assert_eq!(Handshake::from_bytes(longest.to_bytes()).unwrap().round_trip, Duration::from_micros(u64::MAX));
    let mut other = bytes;
    other[0] += 1;
    assert_eq!(Handshake::from_bytes(other), None);
}

/// A socket whose holder was killed.
fn stale(path: &Path) {
    drop(UnixListener::bind(path).unwrap());
}

#[test]
fn sockets_of_the_dead_are_removed() {
    let directory = tempfile::tempdir().unwrap();
    let cache_key = cache_key_text(directory.path());
    let path = |name: &str| directory.path().join(name);
    let (ours, others) = ([1, 2].map(|pid| path(&format!("{}{pid}-0", cache_key.prefix))), path("0123.3"));
    ours.iter().chain([&others]).for_each(|path| stale(path));
    fs::write(path("something else"), "").unwrap();
    assert_eq!(cache_key.sockets().len(), 2);
    assert!(acquire(&cache_key, &machine(), &StoreDir::default()).is_none());
    assert!(cache_key.sockets().is_empty());
    assert!(others.exists() && path("something else").exists());

    // There may be no directory.
    directory.close().unwrap();
    assert!(acquire(&cache_key, &machine(), &StoreDir::default()).is_none());
}

#[test]
fn the_dead_do_not_count_as_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let cache_key = cache_key_text(directory.path());
    let socket = |number: u32| directory.path().join(format!("{}{number}-0", cache_key.prefix));
    let _listening = UnixListener::bind(socket(1)).unwrap();
    [2, 3].map(socket).iter().for_each(|path| stale(path));
    assert!(!cache_key.are_waiting(4));
    // Nobody was asked.
    assert!(socket(2).exists() && socket(3).exists());
    assert!(cache_key.are_waiting(1) && !cache_key.are_waiting(2));
    assert!(socket(1).exists() && !socket(2).exists() && !socket(3).exists());
    assert!(cache_key.are_waiting(0));
}

#[test]
fn what_is_outdated_is_asked_to_end() {
    let directory = tempfile::tempdir().unwrap();
    let mut changed = machine();
    changed.keep_connection = Some(Duration::from_secs(7));
    let mut other = machine();
    other.name = "b2".into();
    let socket = |machine: &Machine, pid: u32| {
        directory.path().join(format!("{}{pid}-0", terms_of(machine, directory.path()).unwrap().prefix))
    };
    let sockets = [socket(&machine(), 1), socket(&changed, 2), socket(&other, 3), directory.path().join("other.name")];
    let listeners = sockets.each_ref().map(|socket| UnixListener::bind(socket).unwrap());
    stale(&socket(&other, 4));
    let asked = || {
        listeners.each_ref().map(|listener| {
            listener.set_nonblocking(true).unwrap();
            let Ok((control, _)) = listener.accept() else { return false };
            matches!(Request::receive(&control), Ok(Request::End))
        })
    };
    let end = |machines: &[&Machine]| end_outdated(directory.path(), machines, &StoreDir::default(), |_| NO_FILES);
    end(&[&machine(), &other]);
    assert_eq!(asked(), [false, true, false, false]);
    // Two entries for the same machine.
    end(&[&machine(), &changed]);
    assert_eq!(asked(), [false, false, true, false]);
    assert!(!socket(&other, 4).exists());
    // Its files have changed, or it is not to be kept.
    let none = Machine { keep_connection: None, ..machine() };
    end(&[&none]);
    assert_eq!(asked(), [true, true, true, false]);
    let stamp = FileStamp::of(directory.path());
    end_outdated(directory.path(), &[&machine(), &changed, &other], &StoreDir::default(), |machine| Files {
        private_key: stamp.clone().filter(|_| machine.name == "b2"),
        ..NO_FILES
    });
    assert_eq!(asked(), [false, false, true, false]);
    end(&[]);
    assert_eq!(asked(), [true, true, true, false]);
}

/// Serves clients at the socket `path` in a thread, until `serve` says that it is done.
fn holder(path: &Path, serve: impl Fn(UnixStream) -> bool + Send + 'static) -> thread::JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || while !serve(listener.accept().unwrap().0) {})
}

/// What a client sends, however long it takes.
fn descriptor(control: &UnixStream) -> UnixStream {
    poll(&mut [PollFd::new(control, PollFlags::IN)], None).unwrap();
    let Ok(Request::Lend(data)) = Request::receive(control) else { panic!("not a request to lend") };
    data
}

#[test]
fn keepers_that_lend_nothing_are_passed_over() {
    let closes = |_| true;
    let says_half = |mut control: UnixStream| {
        let _data = descriptor(&control);
        control.write_all(&ANSWER.to_bytes()[..Handshake::LENGTH - 1]).unwrap();
        true
    };
    let says_nothing = |control: UnixStream| {
        let _data = descriptor(&control);
        // Until the client has had enough.
        assert_eq!((&control).read(&mut [0]).unwrap(), 0);
        true
    };
    let speaks_otherwise = |mut control: UnixStream| {
        let _data = descriptor(&control);
        let mut answer = ANSWER.to_bytes();
        answer[0] += 1;
        control.write_all(&answer).unwrap();
        true
    };
    let keepers: [fn(UnixStream) -> bool; 4] = [closes, says_half, speaks_otherwise, says_nothing];
    for (number, serve) in keepers.into_iter().enumerate() {
        let directory = tempfile::tempdir().unwrap();
        let cache_key = cache_key_text(directory.path());
        let socket = directory.path().join(format!("{}1-0", cache_key.prefix));
        let holder = holder(&socket, serve);
        assert!(acquire(&cache_key, &machine(), &StoreDir::default()).is_none());
        holder.join().unwrap();
        // Nobody else waits for one that says nothing.
        assert_eq!(socket.exists(), number != 3);
    }
}

#[test]
fn a_keeper_is_found_among_others() {
    let directory = tempfile::tempdir().unwrap();
    let cache_key = cache_key_text(directory.path());
    let socket = |pid: u32| directory.path().join(format!("{}{pid}-0", cache_key.prefix));
    stale(&socket(1));
    let _busy = holder(&socket(2), |_| false);
    let lending = holder(&socket(3), |mut control| {
        let mut data = descriptor(&control);
        // One that has waited too long is gone, and comes again.
        let mut said = [0; 5];
        if control.write_all(&ANSWER.to_bytes()).and_then(|()| data.read_exact(&mut said)).is_err() {
            return false;
        }
        data.write_all(&said.map(|byte| byte.to_ascii_uppercase())).unwrap();
        let mut rest = Vec::new();
        data.read_to_end(&mut rest).unwrap();
        control.read_to_end(&mut rest).unwrap();
        // Nothing says that it is given back.
        assert_eq!(rest, b"");
        true
    });
    let mut client = (0..60).find_map(|_| acquire(&cache_key, &machine(), &StoreDir::default())).unwrap();
    assert_eq!((client.version(), client.round_trip()), (ANSWER.version, ANSWER.round_trip));
    let stream = client.stream_mut();
    assert!(stream.is_reused());
    stream.set_silence_policy(SilencePolicy::greeting(Duration::from_secs(60)));
    stream.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HELLO");
    drop(client);
    lending.join().unwrap();
}

#[test]
fn what_is_no_request_is_refused() {
    let error = |said: &[u8]| {
        let (control, mut borrower) = UnixStream::pair().unwrap();
        borrower.write_all(said).unwrap();
        drop(borrower);
        Request::receive(&control).err().unwrap().to_string()
    };
    assert_eq!(error(b""), "no request");
    assert_eq!(error(&[PROTOCOL]), "no request");
    assert_eq!(error(&[PROTOCOL, b'L']), "no descriptor");
    assert_eq!(error(&[PROTOCOL + 1, b'E']), "an unknown request");
    assert_eq!(error(b"GET / HTTP/1.1"), "an unknown request");
    let (control, borrower) = UnixStream::pair().unwrap();
    Request::<UnixStream>::End.send(&borrower).unwrap();
    assert!(matches!(Request::receive(&control), Ok(Request::End)));
    // Nor is it waited for one for ever.
    control.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    assert_eq!(Request::receive(&control).err().unwrap().kind(), std::io::ErrorKind::WouldBlock);
}
