//! The client against real daemons of both releases: every operation, and after it one more on the same connection.

mod lab;

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lab::{Drv, Host, Lab, Made, RELEASES, Release, peak_memory};
use offload::internals::daemon::{Client, Error, ExportError, Garbage, Options, Version};
use offload::internals::store::nar::{self, NarPath, Visitor};
use offload::internals::store::path::{self, StoreDir, StorePath};
use sha2::{Digest, Sha256};

type Result<T> = std::result::Result<T, Error>;

fn connect(daemon: &Host) -> Client<UnixStream> {
    let stream = daemon.connect_to_daemon();
    // A daemon that says nothing for a minute is a failed test, not a hanging one.
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    Client::connect(stream, StoreDir::default()).unwrap()
}

fn parse(text: &str) -> StorePath {
    StorePath::parse(&StoreDir::default(), text.as_bytes()).unwrap()
}

/// The mode of a file in a nar.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Plain,
    Executable,
}

/// The nar of one file.
fn file_nar(mode: Mode, contents: &[u8]) -> Vec<u8> {
    let mut writer = nar::Writer::new(Vec::new());
    let is_executable = mode == Mode::Executable;
    writer.file(&NarPath::root(), is_executable, contents.len() as u64, &mut &contents[..]).unwrap();
    writer.finish().unwrap()
}

/// One more operation on the same connection, with a known result.
fn assert_in_step(client: &mut Client<UnixStream>) {
    let path = client.add_text_to_store("foo", b"hello\n", &BTreeSet::new()).unwrap();
    assert_eq!(path.as_str(), "/gnu/store/xnryj9c4k27hjviqs29c3dydawc71ga6-foo");
}

fn assert_daemon_says<T: std::fmt::Debug>(result: Result<T>, what: &str) {
    match result {
        Err(Error::Daemon { message, .. }) => assert!(message.contains(what), "{message} should mention {what}"),
        other => panic!("{other:?} instead of {what}"),
    }
}

fn export_signed(client: &mut Client<UnixStream>, path: &StorePath) -> Vec<u8> {
    export(client, path, true)
}

fn export_unsigned(client: &mut Client<UnixStream>, path: &StorePath) -> Vec<u8> {
    export(client, path, false)
}

fn export(client: &mut Client<UnixStream>, path: &StorePath, sign: bool) -> Vec<u8> {
    let read = |reader: &mut dyn Read| -> io::Result<Vec<u8>> {
        let mut item = Vec::new();
        reader.read_to_end(&mut item).map(|_| item)
    };
    client.export_path(path, sign, read).unwrap()
}

/// Items with markers.
fn bundle(items: &[Vec<u8>]) -> Vec<u8> {
    let marked = items.iter().map(|item| [&1u64.to_le_bytes()[..], item].concat());
    [marked.collect::<Vec<_>>().concat(), 0u64.to_le_bytes().to_vec()].concat()
}

#[test]
fn every_operation_on_one_connection() {
    for release in RELEASES {
        let lab = Lab::new();
        let daemon = lab.daemon("b1", release).start();
        let mut client = connect(&daemon);
        assert_eq!(client.version(), Version(if release == Release::Sid { 0x164 } else { 0x163 }));

        let none = BTreeSet::new();
        let foo = client.add_text_to_store("foo", b"hello\n", &none).unwrap();
        let text = format!("see {foo}\n");
        let bar = client.add_text_to_store("bar", text.as_bytes(), &BTreeSet::from([foo.clone()])).unwrap();
        assert_eq!(bar.as_str(), "/gnu/store/hxbwv0n6dyadh2d3q6h1286kinrfp6gk-bar");
        let absent = parse("/gnu/store/00000000000000000000000000000000-absent");

        assert!(client.is_valid_path(&foo).unwrap());
        assert!(!client.is_valid_path(&absent).unwrap());
        let asked = BTreeSet::from([foo.clone(), absent.clone(), bar.clone()]);
        assert_eq!(client.query_valid_paths(&asked).unwrap(), BTreeSet::from([foo.clone(), bar.clone()]));
        assert_eq!(client.query_valid_paths(&none).unwrap(), none);

        let info = client.query_path_info(&bar).unwrap();
        assert_eq!((info.nar_size, info.deriver), (168, None));
        assert_eq!(info.references, BTreeSet::from([foo.clone()]));
        let hash = offload::internals::store::base16::encode(&info.nar_hash);
        assert_eq!(hash, "a7f5805e512123b7ec5ca004b2d47df0c88413846c26c4151d156263103728e3");
        assert_daemon_says(client.query_path_info(&absent), "is not valid");
        assert_in_step(&mut client);

        client.add_temp_root(&absent).unwrap();
        assert_in_step(&mut client);

        // A root counts as long as its link has the item as its target.
        std::os::unix::fs::symlink(bar.as_str(), daemon.path("/var/root")).unwrap();
        client.add_indirect_root(Path::new("/var/root")).unwrap();
        assert_in_step(&mut client);
        let gcroots = std::fs::read_dir(daemon.path("/var/guix/gcroots/auto")).unwrap();
        let links: Vec<_> = gcroots.map(|entry| std::fs::read_link(entry.unwrap().path()).unwrap()).collect();
        assert_eq!(links, [Path::new("/var/root")]);

        let nar = file_nar(Mode::Executable, b"#!/bin/sh\n");
        let script = client.add_to_store("script", true, "sha256", &mut nar.as_slice()).unwrap();
        let sha256 = Sha256::digest(&nar).into();
        assert_eq!(script, path::source_path(&StoreDir::default(), "script", &sha256).unwrap());
        assert_in_step(&mut client);
        let nar = file_nar(Mode::Plain, &[b'x'; 300_000]);
        let flat = client.add_to_store("flat", false, "sha256", &mut nar.as_slice()).unwrap();
        assert_eq!(client.query_path_info(&flat).unwrap().nar_hash, <[u8; 32]>::from(Sha256::digest(&nar)));

        client.set_options(&Options::default()).unwrap();
        let limits = Some(Duration::from_secs(3600));
        let options = Options { build_timeout: limits, max_silent_time: limits, verbosity: 1, ..Options::default() };
        client.set_options(&Options { max_jobs: Some(2), build_cores: Some(1), ..options }).unwrap();
        assert_in_step(&mut client);

        client.build_paths(&BTreeSet::from([foo.clone()])).unwrap();
        let drv = parse("/gnu/store/00000000000000000000000000000000-absent.drv");
        assert_daemon_says(client.build_paths(&BTreeSet::from([drv])), "absent.drv");
        // An item that can only be substituted, without substitutes: the daemon reports success all the same.
        client.build_paths(&BTreeSet::from([absent.clone()])).unwrap();
        assert!(!client.is_valid_path(&absent).unwrap());
        assert_in_step(&mut client);

        let item = export_unsigned(&mut client, &foo);
        assert_eq!(item.len(), 208);
        let hash = offload::internals::store::base16::encode(&Sha256::digest(&item));
        assert_eq!(hash, "18f4c9ab280b70a435b430301728abeb66e5c3113d03aec6e7a704b9280c934a");
        assert_in_step(&mut client);
        let absent_item = client.export_path(&absent, true, |reader| reader.read_to_end(&mut Vec::new()));
        assert!(matches!(absent_item, Err(ExportError::Daemon(Error::Daemon { .. }))), "{absent_item:?}");
        assert_in_step(&mut client);

        assert!(!client.verify_store(true, false).unwrap());
        assert_in_step(&mut client);

        // A collector takes no notice of its own temporary roots, only of those of other connections.
        let mut collector = connect(&daemon);
        let garbage = connect(&daemon).add_text_to_store("garbage", b"rubbish", &none).unwrap();
        let dead = collector.collect_garbage(Garbage::Dead, &none, None).unwrap();
        assert_eq!(dead, (names(&[&garbage]), 0));
        let (live, _) = collector.collect_garbage(Garbage::Live, &none, None).unwrap();
        assert!(live.contains(&foo.as_str().into()));
        assert_daemon_says(collector.collect_garbage(Garbage::DeleteThese, &[foo.clone()].into(), None), "alive");
        let (deleted, freed) =
            collector.collect_garbage(Garbage::DeleteThese, &[garbage.clone()].into(), None).unwrap();
        assert!(deleted.contains(&garbage.as_str().into()) && freed > 0, "{deleted:?}, {freed}");
        let (deleted, _) = collector.collect_garbage(Garbage::Delete, &none, Some(1 << 30)).unwrap();
        assert!(!deleted.contains(&foo.as_str().into()));
        assert_in_step(&mut collector);
        assert_in_step(&mut client);
        assert!(client.is_valid_path(&bar).unwrap());
    }
}

fn names(paths: &[&StorePath]) -> Vec<Vec<u8>> {
    paths.iter().map(|path| path.as_str().into()).collect()
}

#[test]
fn bundles_pass_both_ways_and_stay_the_same() {
    let lab = Lab::new();
    let daemons = [lab.daemon("sid", Release::Sid).start(), lab.daemon("bullseye", Release::Bullseye).start()];
    for (from, to, word) in [(0, 1, "one"), (1, 0, "two")] {
        let (mut sender, mut receiver) = (connect(&daemons[from]), connect(&daemons[to]));
        let first = sender.add_text_to_store("first", word.as_bytes(), &BTreeSet::new()).unwrap();
        let second = sender.add_text_to_store("second", word.as_bytes(), &[first.clone()].into()).unwrap();
        let references = BTreeSet::from([first.clone(), second.clone()]);
        let third = sender.add_text_to_store("third", word.as_bytes(), &references).unwrap();
        let paths = [first, second, third];
        let items = paths.each_ref().map(|path| export_signed(&mut sender, path));

        let wrong_order = bundle(&[items[2].clone()]);
        assert_daemon_says(receiver.import_paths(&mut wrong_order.as_slice()), "is not valid");
        assert_in_step(&mut receiver);

        assert_eq!(receiver.import_paths(&mut bundle(&items).as_slice()).unwrap(), paths);
        assert_in_step(&mut receiver);
        // Once more: all is there already.
        assert_eq!(receiver.import_paths(&mut bundle(&items).as_slice()).unwrap(), paths);
        for path in &paths {
            let (sent, received) = (sender.query_path_info(path).unwrap(), receiver.query_path_info(path).unwrap());
            assert_eq!((sent.nar_hash, sent.references), (received.nar_hash, received.references));
            assert_eq!(export_unsigned(&mut sender, path), export_unsigned(&mut receiver, path));
        }
        assert_eq!(receiver.import_paths(&mut bundle(&[]).as_slice()).unwrap(), []);
        assert_in_step(&mut receiver);
    }
}

#[test]
fn imports_that_are_refused() {
    for release in RELEASES {
        let lab = Lab::new();
        let (sender, receiver) =
            (lab.daemon("sender", release).start(), lab.daemon("receiver", release).untrusting().start());
        let (mut sender, mut client) = (connect(&sender), connect(&receiver));
        let text = sender.add_text_to_store("stranger", b"?", &BTreeSet::new()).unwrap();
        let signed = export_signed(&mut sender, &text);
        let unsigned = [&export_unsigned(&mut sender, &text)[..], &[]].concat();

        let log = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&log);
        client.set_log(Some(Box::new(move |bytes| sink.lock().unwrap().extend_from_slice(bytes))));
        assert_daemon_says(
            client.import_paths(&mut bundle(std::slice::from_ref(&signed)).as_slice()),
            "unauthorized public key",
        );
        assert_in_step(&mut client);
        assert_daemon_says(client.import_paths(&mut bundle(&[unsigned]).as_slice()), "lacks a signature");
        assert_in_step(&mut client);
        assert_daemon_says(client.import_paths(&mut [7u8; 8].as_slice()), "doesn't look like");
        assert_in_step(&mut client);
        let mut broken = bundle(std::slice::from_ref(&signed));
        broken[8 + 8] = b'N';
        assert_daemon_says(client.import_paths(&mut broken.as_slice()), "input doesn't look like a normalized archive");
        assert_in_step(&mut client);

        // This side fails: after nothing, in the middle of an item, between items.
        let whole = bundle(&[signed.clone(), signed]);
        for end in [0, 4, 100] {
            let failure = io::Error::other("the disk is on fire");
            let mut source = io::Cursor::new(&whole[..end]).chain(Failing(Some(failure)));
            let error = client.import_paths(&mut source).unwrap_err();
            assert!(matches!(error, Error::Source { .. }), "{error:?}");
            assert_in_step(&mut client);
            let error = client.import_paths(&mut &whole[..end]).unwrap_err();
            assert!(error.to_string().contains("ends too early"), "{error:?}");
            assert_in_step(&mut client);
        }
        assert!(!client.is_valid_path(&text).unwrap());
    }
}

struct Failing(Option<io::Error>);

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.0.take().map_or(Ok(0), Err)
    }
}

#[test]
fn a_bad_nar_is_told_before_the_connection_closes() {
    for release in RELEASES {
        let lab = Lab::new();
        let daemon = lab.daemon("b1", release).start();
        let mut client = connect(&daemon);
        let mut nar = file_nar(Mode::Plain, &vec![0; 4 << 20]);
        nar[8] = b'N';
        assert_daemon_says(client.add_to_store("bad", true, "sha256", &mut nar.as_slice()), "archive");
        assert!(matches!(
            client.is_valid_path(&parse("/gnu/store/00000000000000000000000000000000-x")),
            Err(Error::Link { .. })
        ));
    }
}

#[test]
fn builds() {
    for release in RELEASES {
        let lab = Lab::new();
        let daemon = lab.daemon("b1", release).start();
        let mut direct = daemon.direct();
        let log = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&log);
        direct.daemon().set_log(Some(Box::new(move |bytes| sink.lock().unwrap().extend_from_slice(bytes))));
        let take_log = || String::from_utf8(std::mem::take(&mut *log.lock().unwrap())).unwrap();
        direct.set_options(&Options::default());

        let Made { path: drv, derivation } = direct.make(&Drv::new("good").script("echo said; echo made > $out"));
        let client = direct.daemon();
        let out = &derivation.outputs["out"].path;
        client.build_paths(&[drv.clone()].into()).unwrap();
        assert!(take_log().lines().any(|line| line == "said"));
        assert_eq!(daemon.read(out.as_str()), b"made\n");
        assert_eq!(client.query_path_info(out).unwrap().deriver, Some(drv.clone()));
        client.build_paths(&[drv].into()).unwrap();
        assert_in_step(client);

        let Made { path: drv, derivation } = direct.make(&Drv::new("bad").script("echo alas; exit 3"));
        let client = direct.daemon();
        match client.build_paths(&[drv].into()).unwrap_err() {
            Error::Daemon { message, status: 100, .. } => assert!(message.contains("failed"), "{message}"),
            other => panic!("{other:?}"),
        }
        assert!(take_log().lines().any(|line| line == "alas"));
        assert!(!client.is_valid_path(&derivation.outputs["out"].path).unwrap());

        let second = Some(Duration::from_secs(1));
        for (name, script, options) in [
            ("slow", "while true; do echo a; sleep 0.2; done", Options { build_timeout: second, ..Options::default() }),
            ("silent", "sleep 60", Options { max_silent_time: second, ..Options::default() }),
        ] {
            direct.set_options(&options);
            let drv = direct.make(&Drv::new(name).script(script)).path;
            let start = Instant::now();
            match direct.daemon().build_paths(&[drv].into()).unwrap_err() {
                Error::Daemon { status: 101, .. } => (),
                other => panic!("{other:?}"),
            }
            assert!(start.elapsed() < Duration::from_secs(50));
            assert_in_step(direct.daemon());
        }
    }
}

#[test]
fn memory_does_not_grow_with_the_size_of_an_item() {
    const SIZE: u64 = 200 << 20;
    let lab = Lab::new();
    let (sender, receiver) =
        (lab.daemon("sender", Release::Sid).start(), lab.daemon("receiver", Release::Bullseye).start());
    let shell = |script| sender.run("sh", &["-c", script]);
    shell("mkdir /large && dd if=/dev/urandom of=/large/file bs=1M count=200 2>/dev/null");
    let path = shell(
        r#"cat > /add.scm <<'END'
(use-modules (guix))
(with-store store (display (add-to-store store "large" #t "sha256" "/large")))
END
guix repl /add.scm"#,
    );
    let path = parse(&path);
    let (mut sender, mut receiver) = (connect(&sender), connect(&receiver));
    let before = peak_memory();
    let size = sender.export_path(&path, true, |reader| io::copy(reader, &mut io::sink())).unwrap();
    assert!(size > SIZE);
    let (mut input, mut output) = std::os::unix::net::UnixStream::pair().unwrap();
    let sent = &path;
    let paths = std::thread::scope(|scope| {
        scope.spawn(move || {
            let bytes = |number: u64| io::Cursor::new(number.to_le_bytes());
            io::copy(&mut bytes(1), &mut input).unwrap();
            sender.export_path(sent, true, |reader| io::copy(reader, &mut input)).unwrap();
            io::copy(&mut bytes(0), &mut input).unwrap();
        });
        receiver.import_paths(&mut output).unwrap()
    });
    assert_eq!(paths, [path]);
    let grown = peak_memory() - before;
    // Other tests of this program run beside it.
    assert!(grown < SIZE / 2, "{grown} bytes more than before");
}

/// The server's machine has two items, of which one refers to the other; a third is only on the client's.
#[test]
fn substitutes_are_queried_and_fetched() {
    for release in RELEASES {
        let lab = Lab::new();
        let server = lab.daemon("server", Release::Sid).start();
        let daemon = lab.daemon("b1", release).substitute_server(server.publish()).start();
        let [mut source, mut client] = [&server, &daemon].map(connect);
        let none = BTreeSet::new();
        let first = source.add_text_to_store("first", b"1", &none).unwrap();
        let second = source.add_text_to_store("second", b"2", &[first.clone()].into()).unwrap();
        let third = source.add_text_to_store("third", b"3", &none).unwrap();
        let absent = parse("/gnu/store/00000000000000000000000000000000-absent");
        let asked = BTreeSet::from([first.clone(), second.clone(), absent.clone()]);

        let infos = client.query_substitutable_path_infos(&asked).unwrap();
        assert_eq!(infos.keys().collect::<Vec<_>>(), asked.iter().filter(|path| **path != absent).collect::<Vec<_>>());
        let info = &infos[&second];
        assert_eq!((info.nar_size, &info.references, &info.deriver), (120, &[first.clone()].into(), &None));
        assert_in_step(&mut client);
        assert_eq!(client.query_substitutable_paths(&asked).unwrap(), [first.clone(), second.clone()].into());
        assert_in_step(&mut client);
        assert_eq!(client.query_substitutable_path_infos(&none).unwrap().len(), 0);
        assert_eq!(client.query_substitutable_paths(&none).unwrap(), none);
        assert_in_step(&mut client);

        // The references of an item are fetched with it.
        let options = Options { keep_going: true, print_downloads: true, ..Options::default() };
        client.set_options(&options).unwrap();
        client.build_paths(&[second.clone(), absent.clone()].into()).unwrap();
        assert_eq!(client.query_valid_paths(&asked).unwrap(), [first, second].into());
        assert_in_step(&mut client);
        client.ensure_path(&third).unwrap();
        assert!(client.is_valid_path(&third).unwrap());
        assert_in_step(&mut client);
        assert_daemon_says(client.ensure_path(&absent), "absent");
        assert_in_step(&mut client);

        let is_known = release == Release::Sid;
        let url = url_of(&server);
        assert_eq!(client.substitute_urls().unwrap(), is_known.then_some(vec![url.clone()]));
        assert_in_step(&mut client);
        let own = Some(vec!["http://127.0.0.1:9".to_owned(), url]);
        client.set_options(&Options { substitute_urls: own.clone(), ..options.clone() }).unwrap();
        assert_eq!(client.substitute_urls().unwrap(), own.filter(|_| is_known));
        client.set_options(&Options { use_substitutes: false, ..options.clone() }).unwrap();
        assert_eq!(client.substitute_urls().unwrap(), is_known.then_some(Vec::new()));
        // They cannot be switched on again.
        client.set_options(&options).unwrap();
        assert_eq!(client.query_substitutable_paths(&asked).unwrap(), none);
        assert_in_step(&mut client);

        // The helper of a connection asks the servers that were set before its first query.
        let mut client = connect(&daemon);
        let nobody = Some(vec!["http://127.0.0.1:9".to_owned()]);
        client.set_options(&Options { substitute_urls: nobody, ..options }).unwrap();
        assert_eq!(client.query_substitutable_paths(&asked).unwrap(), none);
        assert_in_step(&mut client);
    }
}

/// The URL of what a host publishes.
fn url_of(server: &Host) -> String {
    format!("http://{}:8181", server.ssh_address().ip())
}
