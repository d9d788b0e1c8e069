use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};

use super::holder::receive;
use super::*;
use crate::machine::{Compression, HostKey};
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

fn cache_key_text(directory: &Path) -> CacheKey {
    CacheKey::new(directory.to_owned(), &machine(), Compressed::default(), &Options::default(), &StoreDir::default())
        .unwrap()
}

#[test]
fn what_a_connection_depends_on_is_in_its_name() {
    let nobody = Path::new("/nowhere");
    let name = |change: &dyn Fn(&mut Machine, &mut Compressed, &mut Options)| {
        let (mut machine, mut compressed, mut options) = (machine(), Compressed::default(), Options::default());
        change(&mut machine, &mut compressed, &mut options);
        CacheKey::new(nobody.to_owned(), &machine, compressed, &options, &StoreDir::default()).unwrap().prefix
    };
    let usual = name(&|_, _, _| {});
    assert_eq!(usual.len(), 34);
    let minute = Duration::from_secs(60);
    let others = [
        name(&|machine, _, _| machine.name = "b2".into()),
        name(&|machine, _, _| machine.port = 2222),
        name(&|machine, _, _| machine.user = "offload".into()),
        name(&|machine, _, _| machine.host_keys = vec![HostKey::parse(OTHER_KEY).unwrap()]),
        name(&|machine, _, _| machine.host_keys.push(HostKey::parse(OTHER_KEY).unwrap())),
        name(&|machine, _, _| machine.private_key = Some("/root/key".into())),
        name(&|machine, _, _| machine.daemon_socket = "/run/guix".into()),
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
        name(&|machine, _, _| machine.keep_connection = Some(minute)),
        name(&|machine, _, _| {
            [machine.connect_timeout, machine.stall_timeout, machine.keepalive_interval] = [minute; 3]
        }),
        // What it comes to counts.
        name(&|machine, _, _| machine.compression = Compression::Zlib),
    ];
    assert!(same.iter().all(|name| *name == usual), "{usual}: {same:?}");
}

#[test]
fn not_every_connection_is_kept() {
    let is_kept = |change: fn(&mut Machine)| {
        let mut machine = machine();
        change(&mut machine);
        CacheKey::new("/nowhere".into(), &machine, Compressed::default(), &Options::default(), &StoreDir::default())
            .is_some()
    };
    assert!(is_kept(|_| {}));
    assert!(!is_kept(|machine| machine.keep_connection = None));
    assert!(!is_kept(|machine| machine.proxy_command = Some(vec!["nc".into()])));
    // Nor where no socket could have its name.
    let directory = |length: usize| PathBuf::from(format!("/{}", "d".repeat(length - 1)));
    let fits = |length| {
        CacheKey::new(directory(length), &machine(), Compressed::default(), &Options::default(), &StoreDir::default())
            .is_some()
    };
    assert!(fits(50) && !fits(90));
}

#[test]
fn an_answer_in_bytes() {
    let bytes = [0x63, 1, 0, 0, 0, 1, 0xd2, 4, 0, 0, 0, 0, 0, 0];
    assert_eq!(ANSWER.to_bytes(), bytes);
    assert_eq!(Handshake::from_bytes(bytes), ANSWER);
    let longest = Handshake { round_trip: Duration::MAX, ..ANSWER };
    assert_eq!(Handshake::from_bytes(longest.to_bytes()).round_trip, Duration::from_micros(u64::MAX));
}

/// A socket whose keeper was killed.
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
    assert_eq!(cache_key.sockets(&cache_key.prefix).len(), 2);
    assert!(acquire(&cache_key, &machine(), &StoreDir::default()).is_none());
    assert!(cache_key.sockets(&cache_key.prefix).is_empty());
    assert!(others.exists() && path("something else").exists());

    // There may be no directory.
    directory.close().unwrap();
    assert!(acquire(&cache_key, &machine(), &StoreDir::default()).is_none());
}

/// Serves borrowers at the socket `path` in a thread, until `serve` says that it is done.
fn holder(path: &Path, serve: impl Fn(UnixStream) -> bool + Send + 'static) -> thread::JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || while !serve(listener.accept().unwrap().0) {})
}

/// What a borrower sends, however long it takes.
fn descriptor(control: &UnixStream) -> UnixStream {
    poll(&mut [PollFd::new(control, PollFlags::IN)], None).unwrap();
    let data = receive(control).unwrap();
    control.set_read_timeout(None).unwrap();
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
        // Until the borrower has had enough.
        assert_eq!((&control).read(&mut [0]).unwrap(), 0);
        true
    };
    let keepers: [fn(UnixStream) -> bool; 3] = [closes, says_half, says_nothing];
    for serve in keepers {
        let directory = tempfile::tempdir().unwrap();
        let cache_key = cache_key_text(directory.path());
        let socket = directory.path().join(format!("{}1-0", cache_key.prefix));
        let holder = holder(&socket, serve);
        assert!(acquire(&cache_key, &machine(), &StoreDir::default()).is_none());
        holder.join().unwrap();
        // Only a socket with nobody behind it is removed.
        assert!(socket.exists());
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
fn what_comes_without_a_descriptor_is_refused() {
    let (control, mut borrower) = UnixStream::pair().unwrap();
    borrower.write_all(b"hello").unwrap();
    assert_eq!(receive(&control).unwrap_err().to_string(), "no descriptor");
    let (control, borrower) = UnixStream::pair().unwrap();
    drop(borrower);
    assert_eq!(receive(&control).unwrap_err().to_string(), "no descriptor");
    // Nor is it waited for one for ever.
    let (control, _borrower) = UnixStream::pair().unwrap();
    assert_eq!(receive(&control).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}
