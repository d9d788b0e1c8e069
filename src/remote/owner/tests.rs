use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;

use super::message::{PROTOCOL, Request};
use super::*;
use crate::daemon::{Options, Version};
use crate::file_stamp::FileStamp;
use crate::machine::{Compressed, Compression, HostKey, Machine};
use crate::remote::SilencePolicy;
use crate::store::path::StoreDir;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHnnLvDVsLVUYPJ0pVLvSPGvZbJVlwSbmAEjSBQUhYLE";
const OTHER_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHnnLvDVsLVUYPJ0pVLvSPGvZbJVlwSbmAEjSBQUhYLF";

const GREETING: Greeting = Greeting { version: Version(0x163), round_trip: Duration::from_micros(1234) };

fn machine() -> Machine {
    Machine::new("b1", "root", vec!["x86_64-linux".into()], vec![HostKey::parse(KEY).unwrap()])
}

const NO_FILES: Files = Files { private_key: None, acl: None, signing_key: [None, None] };

fn cache_key_in(directory: &Path) -> CacheKey {
    cache_key_of(&machine(), directory).unwrap()
}

fn cache_key_of(machine: &Machine, directory: &Path) -> Option<CacheKey> {
    let (directory, options, store) = (directory.to_owned(), Options::default(), StoreDir::default());
    CacheKey::new(directory, machine, Compressed::default(), Some(&options), &store, &NO_FILES)
}

#[test]
fn socket_names_depend_on_all_settings_of_a_session() {
    let directory = Path::new("/nowhere");
    let names = |change: &dyn Fn(&mut Machine, &mut Compressed, &mut Options)| {
        let (mut machine, mut compressed, mut options) = (machine(), Compressed::default(), Options::default());
        change(&mut machine, &mut compressed, &mut options);
        CacheKey::new(directory.to_owned(), &machine, compressed, Some(&options), &StoreDir::default(), &NO_FILES)
            .unwrap()
    };
    let name = |change: &dyn Fn(&mut Machine, &mut Compressed, &mut Options)| names(change).prefix;
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
        name(&|machine, _, _| machine.proxy_command = Some(vec!["nc".into()])),
        name(&|_, compressed, _| compressed.sending = true),
        name(&|_, compressed, _| compressed.receiving = true),
    ];
    for (number, other) in others.iter().enumerate() {
        assert!(*other != usual && !others[..number].contains(other), "number {number}");
    }
    // The names of streams depend on the options of the daemon.
    let stream = |change: &dyn Fn(&mut Options)| {
        let key = names(&|_, _, options| change(options));
        assert_eq!(key.prefix, usual);
        key.stream
    };
    let streams = [
        stream(&|_| {}),
        // A limit that is set replaces any other limit, but not an unset one.
        stream(&|options| options.max_silent_time = Some(minute)),
        stream(&|options| options.build_timeout = Some(minute)),
        stream(&|options| options.use_substitutes = !options.use_substitutes),
    ];
    for (number, one) in streams.iter().enumerate() {
        assert!(!streams[..number].contains(one), "number {number}");
    }
    let limits = |time| stream(&move |options| [options.max_silent_time, options.build_timeout] = [Some(time); 2]);
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
        // Only the resulting compression matters.
        name(&|machine, _, _| machine.compression = Compression::Zlib),
    ];
    assert!(same.iter().all(|name| *name == usual), "{usual}: {same:?}");
}

#[test]
fn socket_names_depend_on_the_key_files() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let stamp = || FileStamp::of(&file);
    let name = |files: &Files| {
        let (options, store) = (Options::default(), StoreDir::default());
        CacheKey::new("/nowhere".into(), &machine(), Compressed::default(), Some(&options), &store, files)
            .unwrap()
            .prefix
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
fn sessions_stay_open_unless_disabled_or_the_socket_path_is_too_long() {
    let stays_open = |change: fn(&mut Machine)| {
        let mut machine = machine();
        change(&mut machine);
        cache_key_of(&machine, Path::new("/nowhere")).is_some()
    };
    assert!(stays_open(|_| {}));
    assert!(!stays_open(|machine| machine.keep_connection = None));
    assert!(stays_open(|machine| machine.proxy_command = Some(vec!["nc".into()])));
    let directory = |length: usize| PathBuf::from(format!("/{}", "d".repeat(length - 1)));
    let fits = |length| cache_key_of(&machine(), &directory(length)).is_some();
    assert!(fits(50) && !fits(90));
}

/// Creates a socket whose owner was killed.
fn stale(path: &Path) {
    drop(UnixListener::bind(path).unwrap());
}

#[test]
fn sockets_of_killed_owners_are_removed() {
    let directory = tempfile::tempdir().unwrap();
    let cache_key = cache_key_in(directory.path());
    let path = |name: &str| directory.path().join(name);
    let (ours, others) = ([1, 2].map(|pid| path(&format!("{}{pid}-0", cache_key.prefix))), path("0123.3"));
    ours.iter().chain([&others]).for_each(|path| stale(path));
    fs::write(path("something else"), "").unwrap();
    assert_eq!(cache_key.sockets().len(), 2);
    assert!(acquire(&cache_key, &machine(), &StoreDir::default(), true).is_none());
    assert!(cache_key.sockets().is_empty());
    assert!(others.exists() && path("something else").exists());

    // The directory may be missing.
    directory.close().unwrap();
    assert!(acquire(&cache_key, &machine(), &StoreDir::default(), true).is_none());
}

#[test]
fn killed_owners_do_not_count_as_sessions() {
    let directory = tempfile::tempdir().unwrap();
    let cache_key = cache_key_in(directory.path());
    let socket = |number: u32| directory.path().join(format!("{}{number}-0", cache_key.prefix));
    let _listening = UnixListener::bind(socket(1)).unwrap();
    [2, 3].map(socket).iter().for_each(|path| stale(path));
    assert!(cache_key.has_sessions(1) && !cache_key.has_sessions(2));
    assert!(socket(1).exists() && !socket(2).exists() && !socket(3).exists());
    assert!(cache_key.has_sessions(0));
}

#[test]
fn outdated_sessions_are_retired() {
    let directory = tempfile::tempdir().unwrap();
    let mut changed = machine();
    changed.keep_connection = Some(Duration::from_secs(7));
    let mut other = machine();
    other.name = "b2".into();
    let socket = |machine: &Machine, pid: u32| {
        directory.path().join(format!("{}{pid}-0", cache_key_of(machine, directory.path()).unwrap().prefix))
    };
    let sockets = [socket(&machine(), 1), socket(&changed, 2), socket(&other, 3), directory.path().join("other.name")];
    let listeners = sockets.each_ref().map(|socket| UnixListener::bind(socket).unwrap());
    stale(&socket(&other, 4));
    let retired = || {
        listeners.each_ref().map(|listener| {
            listener.set_nonblocking(true).unwrap();
            let Ok((control, _)) = listener.accept() else { return false };
            matches!(Frames::new(control).receive(), Ok(Some(Request::Retire)))
        })
    };
    let end = |machines: &[&Machine]| retire_outdated(directory.path(), machines, &StoreDir::default(), |_| NO_FILES);
    end(&[&machine(), &other]);
    assert_eq!(retired(), [false, true, false, false]);
    // Two entries for the same machine.
    end(&[&machine(), &changed]);
    assert_eq!(retired(), [false, false, true, false]);
    assert!(!socket(&other, 4).exists());
    // A session is outdated if its entry disables `keep_connection`, or its key files have changed.
    let none = Machine { keep_connection: None, ..machine() };
    end(&[&none]);
    assert_eq!(retired(), [true, true, true, false]);
    let stamp = FileStamp::of(directory.path());
    retire_outdated(directory.path(), &[&machine(), &changed, &other], &StoreDir::default(), |machine| Files {
        private_key: stamp.clone().filter(|_| machine.name == "b2"),
        ..NO_FILES
    });
    assert_eq!(retired(), [false, false, true, false]);
    end(&[]);
    assert_eq!(retired(), [true, true, true, false]);
}

/// Serves hooks at the socket `path` in a thread, until `serve` returns true.
fn owner(path: &Path, serve: impl Fn(Frames) -> bool + Send + 'static) -> thread::JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || while !serve(Frames::new(listener.accept().unwrap().0)) {})
}

/// Receives a request to resume a stream, and returns its data socket and its status socket.
fn resume_request(control: &mut Frames) -> (UnixStream, UnixStream) {
    let Ok(Some(Request::Resume { .. })) = control.receive() else { panic!("not a request for a stream") };
    let mut next = || UnixStream::from(control.next_descriptor().unwrap());
    (next(), next())
}

#[test]
fn unresponsive_and_invalid_owners_are_skipped() {
    let closes = |_| true;
    let sends_half_a_frame = |mut control: Frames| {
        let (_data, mut status) = resume_request(&mut control);
        status.write_all(&[PROTOCOL, 7, 0]).unwrap();
        true
    };
    let sends_nothing = |mut control: Frames| {
        let (_data, mut status) = resume_request(&mut control);
        // The hook closes the socket after its timeout.
        assert_eq!(status.read(&mut [0]).unwrap(), 0);
        true
    };
    let has_another_version = |mut control: Frames| {
        let (_data, mut status) = resume_request(&mut control);
        status.write_all(&[PROTOCOL + 1, 0, 0, 0, 0]).unwrap();
        true
    };
    let sends_a_wrong_reply = |mut control: Frames| {
        let (_data, status) = resume_request(&mut control);
        send(&status, &Reply::Opened, &[]).unwrap();
        true
    };
    let owners: [fn(Frames) -> bool; 5] =
        [closes, sends_half_a_frame, has_another_version, sends_a_wrong_reply, sends_nothing];
    for serve in owners {
        let directory = tempfile::tempdir().unwrap();
        let cache_key = cache_key_in(directory.path());
        let owner = owner(&directory.path().join(format!("{}1-0", cache_key.prefix)), serve);
        assert!(acquire(&cache_key, &machine(), &StoreDir::default(), true).is_none());
        owner.join().unwrap();
    }
}

#[test]
fn an_owner_with_an_idle_stream_is_preferred() {
    let directory = tempfile::tempdir().unwrap();
    let cache_key = cache_key_in(directory.path());
    let socket = |pid: u32| directory.path().join(format!("{}{pid}-0", cache_key.prefix));
    let compressed = Compressed { sending: false, receiving: true };
    stale(&socket(1));
    let _without = owner(&socket(2), move |mut control| {
        let (_data, status) = resume_request(&mut control);
        let _ = send(&status, &Reply::NoStream { compressed }, &[]);
        false
    });
    let acquired = (0..60).find_map(|_| acquire(&cache_key, &machine(), &StoreDir::default(), true)).unwrap();
    assert!(acquired.client.is_none() && acquired.connection.compressed() == compressed);
    let with_stream = owner(&socket(3), move |mut control| {
        let (mut data, status) = resume_request(&mut control);
        // A hook whose time has passed is gone. The test tries again.
        let mut request = [0; 5];
        let resumed = Reply::Resumed { greeting: GREETING, compressed };
        if send(&status, &resumed, &[]).is_err() || data.read_exact(&mut request).is_err() {
            return false;
        }
        data.write_all(&request.map(|byte| byte.to_ascii_uppercase())).unwrap();
        let mut rest = Vec::new();
        data.read_to_end(&mut rest).unwrap();
        (&status).read_to_end(&mut rest).unwrap();
        // The hook has not released the stream.
        assert_eq!(rest, b"");
        true
    });
    let resume = || acquire(&cache_key, &machine(), &StoreDir::default(), true).and_then(|acquired| acquired.client);
    let mut client = (0..60).find_map(|_| resume()).unwrap();
    assert_eq!((client.version(), client.round_trip()), (GREETING.version, GREETING.round_trip));
    let stream = client.stream_mut();
    assert!(stream.is_resumed() && stream.connection().is_reused());
    stream.set_silence_policy(SilencePolicy::greeting(Duration::from_secs(60)));
    stream.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HELLO");
    drop(client);
    with_stream.join().unwrap();
}

#[test]
fn a_busy_owner_is_used_only_on_request() {
    let directory = tempfile::tempdir().unwrap();
    let cache_key = cache_key_in(directory.path());
    let compressed = Compressed { sending: false, receiving: false };
    // As `Server` replies while it is busy.
    let _owner = owner(&directory.path().join(format!("{}1-0", cache_key.prefix)), move |mut control| {
        let Ok(Some(Request::Resume { unless_busy, .. })) = control.receive() else {
            panic!("not a request for a stream")
        };
        let [_data, status] = [(); 2].map(|()| UnixStream::from(control.next_descriptor().unwrap()));
        let reply = if unless_busy { Reply::Busy } else { Reply::NoStream { compressed } };
        let _ = send(&status, &reply, &[]);
        false
    });
    let find = |unless_busy| acquire(&cache_key, &machine(), &StoreDir::default(), unless_busy).is_some();
    // The owner may be slow on a machine with much to do.
    assert!((0..60).any(|_| find(false)));
    assert!((0..5).all(|_| !find(true)));
}

#[test]
fn invalid_requests_are_refused() {
    let error = |bytes: &[u8]| {
        let (control, mut hook) = UnixStream::pair().unwrap();
        hook.write_all(bytes).unwrap();
        drop(hook);
        Frames::new(control).receive::<Request>().err().unwrap().to_string()
    };
    assert_eq!(error(b"GET / HTTP/1.1"), "unknown version of the protocol");
    assert_eq!(error(&[PROTOCOL + 1]), "unknown version of the protocol");
    assert_eq!(error(&[PROTOCOL, 0xff, 0xff, 0xff, 0xff]), "message too long");
    assert!(error(&[PROTOCOL, 3, 0, 0, 0, b'a', b'b', b'c']).starts_with("expected value"));
    assert_eq!(error(&[PROTOCOL, 3, 0, 0, 0, b'a']), "unexpected end of file");
    // A socket that is closed without a byte is not an error.
    let (control, hook) = UnixStream::pair().unwrap();
    let mut frames = Frames::new(control);
    // The read timeout of the socket applies.
    frames.socket().set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    assert_eq!(frames.receive::<Request>().unwrap_err().kind(), ErrorKind::WouldBlock);
    drop(hook);
    assert!(frames.receive::<Request>().unwrap().is_none());
}

#[test]
fn frames_arrive_in_order_with_their_descriptors() {
    let (control, hook) = UnixStream::pair().unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    send(&hook, &Request::Retire, &[]).unwrap();
    send(&hook, &Request::Report, &[theirs.as_fd()]).unwrap();
    send(&hook, &Request::Retire, &[]).unwrap();
    drop((hook, theirs));
    let mut frames = Frames::new(control);
    assert!(matches!(frames.receive(), Ok(Some(Request::Retire))));
    assert!(matches!(frames.receive(), Ok(Some(Request::Report))));
    let given = UnixStream::from(frames.next_descriptor().unwrap());
    (&given).write_all(b"here").unwrap();
    let mut bytes = [0; 4];
    (&ours).read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"here");
    assert!(matches!(frames.receive(), Ok(Some(Request::Retire))) && frames.next_descriptor().is_none());
    assert!(frames.receive::<Request>().unwrap().is_none());
    // The number of stored descriptors is limited.
    let (control, hook) = UnixStream::pair().unwrap();
    for _ in 0..3 {
        send(&hook, &Request::Retire, &[ours.as_fd(), given.as_fd()]).unwrap();
    }
    let mut frames = Frames::new(control);
    let last = (0..3).map(|_| frames.receive::<Request>()).last().unwrap();
    assert_eq!(last.unwrap_err().to_string(), "too many descriptors");
}

/// A request that has no descriptor does not take those of the next one.
#[test]
fn each_request_has_its_own_descriptors() {
    let (control, hook) = UnixStream::pair().unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let keep = |has_daemon| {
        let (socket, idle_timeout) = ("/nowhere".into(), Duration::ZERO);
        Request::KeepOpen(message::KeepOpen { socket, idle_timeout, streams: 1, probe: String::new(), has_daemon })
    };
    let open = Request::Resume { stream: "one".to_owned(), unless_busy: true };
    send(&hook, &keep(false), &[]).unwrap();
    send(&hook, &open, &[ours.as_fd(), theirs.as_fd()]).unwrap();
    send(&hook, &keep(true), &[ours.as_fd()]).unwrap();
    drop(hook);
    let mut client = clients::Client::starter(Frames::new(control)).unwrap();
    let counts: Vec<usize> = client.requests().iter().map(|(_, descriptors)| descriptors.len()).collect();
    assert_eq!(counts, [0, 2, 1]);
}
