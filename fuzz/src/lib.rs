//! What is done with bytes from outside, a function for each reader. A function panics if the reader breaks a promise: what
//! was accepted is written back as it was, positions lie inside, nothing is left over.
//!
//! The fuzzer calls these with what it makes up (`tests/fuzz`), `tests/corpora.rs` with all that is kept under `corpus/`:
//! seeds from real programs, what the fuzzer found to be new, and whatever once made one of them fail.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Cursor, Read, Write};
use std::path::Path;

use offload::internals::daemon::{Client, Error, ExportError, Garbage, Options};
use offload::internals::gcrypt;
use offload::internals::hook::HookArguments;
use offload::internals::hook::paths::read_paths;
use offload::internals::hook::request::read_request;
use offload::internals::local::{Staging, Store};
use offload::internals::machine::{self, HostKey, HostKeyError, Machine};
use offload::internals::remote;
use offload::internals::state::known_outputs::KnownOutputs;
use offload::internals::state::throughput::ThroughputRecord;
use offload::internals::state::transfers::{TransferSlot, Transfers};
use offload::internals::state::{
    Drain, HealthRecord, PowerRecord, Queue, QueueTicket, Slot, SlotHolder, Slots, StateDirectory, WaitingBuild,
};
use offload::internals::store::derivation::{Derivation, DerivationError};
use offload::internals::store::export::{HashingReader, Trailer, read_marker};
use offload::internals::store::nar::{self, NarError};
use offload::internals::store::path::{StoreDir, StorePath};
use offload::internals::store::sexp::Sexp;
use offload::internals::store::signature::{Acl, PublicKey, Signature};

/// A reader, by the name of its corpus.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("nar", nar),
    ("restore", restore),
    ("export", export),
    ("sexp", sexp),
    ("signature", signature),
    ("derivation", derivation),
    ("store_path", store_path),
    ("hook", hook),
    ("daemon", daemon),
    ("probe", probe),
    ("relay", relay),
    ("state", state),
    ("host_key", host_key),
];

const FOO: &str = "/gnu/store/xnryj9c4k27hjviqs29c3dydawc71ga6-foo";
const BAR: &str = "/gnu/store/hxbwv0n6dyadh2d3q6h1286kinrfp6gk-bar";

/// Some time in 2023, in milliseconds.
const NOW: u64 = 1_700_000_000_000;

fn path(text: &str) -> StorePath {
    StorePath::parse(&StoreDir::default(), text.as_bytes()).unwrap()
}

/// A nar is accepted only if writing it gives the same bytes, and a position in an error is one that was read.
pub fn nar(data: &[u8]) {
    let mut writer = nar::Writer::new(Vec::new());
    match nar::read(&mut &*data, &mut writer) {
        Ok(length) => assert_eq!(writer.finish().unwrap(), data[..length as usize]),
        Err(NarError::Io { position, .. } | NarError::Truncated { position } | NarError::Format { position, .. }) => {
            assert!(position <= data.len() as u64);
        }
        Err(error @ NarError::Visitor { .. }) => panic!("{error}"),
    }
}

/// A nar that is restored gives the same nar again. Nothing is made beside it, and nothing stays.
pub fn restore(data: &[u8]) {
    thread_local! {
        static PLACE: (tempfile::TempDir, Store) = {
            let directory = tempfile::tempdir_in(if Path::new("/dev/shm").exists() { "/dev/shm" } else { "/tmp" }).unwrap();
            let ticket = directory.path().join("store");
            fs::create_dir(&ticket).unwrap();
            let store = Store::open_at(&StoreDir::default(), &ticket).unwrap();
            (directory, store)
        };
    }
    let names =
        |directory: &Path| fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    PLACE.with(|(directory, store)| {
        let staging = Staging::new(store, &path(FOO)).unwrap();
        if let Ok(length) = nar::read(&mut &*data, &mut staging.restore()) {
            let mut dumped = Vec::new();
            staging.dump().unwrap().read_to_end(&mut dumped).unwrap();
            assert_eq!(dumped, data[..length as usize]);
        }
        assert_eq!(names(&directory.path().join("store")).len(), 1);
        drop(staging);
        assert_eq!(names(&directory.path().join("store")).len(), 0);
        assert_eq!(names(directory.path()), ["store"]);
    });
}

/// The items of a bundle are accepted only if writing them gives the same bytes.
pub fn export(data: &[u8]) {
    let store = StoreDir::default();
    let mut reader = HashingReader::new(data);
    let mut written = Vec::new();
    while let Ok(true) = read_marker(&mut reader) {
        reader.reset();
        let mut writer = nar::Writer::new(Vec::new());
        if nar::read(&mut reader, &mut writer).is_err() {
            return;
        }
        let Ok((trailer, _)) = Trailer::read(&store, &mut reader) else { return };
        written.extend(1u64.to_le_bytes());
        written.extend(writer.finish().unwrap());
        trailer.write_signed_part(&mut written).unwrap();
        trailer.write_signature(&mut written).unwrap();
        assert_eq!(written, data[..written.len()]);
    }
}

/// What is accepted is the same after writing and reading.
pub fn sexp(data: &[u8]) {
    match Sexp::parse(data) {
        Ok(sexp) => assert_eq!(Sexp::parse(&sexp.to_advanced()), Ok(sexp)),
        Err(error) => assert!(error.position <= data.len()),
    }
}

/// The same for keys and signatures; and a signature by a trusted key is good for one digest at the most.
pub fn signature(data: &[u8]) {
    if let Ok(key) = PublicKey::parse(data) {
        assert!(PublicKey::parse(&key.as_sexp().to_advanced()).is_ok_and(|again| again == key));
        assert!(!key.to_string().contains(char::is_control));
        let _ = key.algorithm();
    }
    if let Ok(acl) = Acl::parse(data) {
        assert!(acl.keys().iter().all(|key| acl.authorizes(key)));
    }
    if let Ok(signature) = Signature::parse(data) {
        assert!(Signature::parse(&signature.to_advanced()).is_ok_and(|again| again == signature));
        let key = signature.public_key();
        let acl = [b"(acl (entry ", &key.as_sexp().to_advanced()[..], b" (tag (guix import))))"].concat();
        let acl = Acl::parse(&acl).unwrap();
        assert!(acl.authorizes(key));
        let other = signature.digest().map(|byte| !byte);
        let _ = gcrypt::verify(data, signature.digest(), &acl);
        assert!(gcrypt::verify(data, &other, &acl).is_err());
        assert!(gcrypt::verify(data, signature.digest(), &Acl::default()).is_err());
    }
}

/// What is accepted is the same after writing and reading, and all paths in it are valid.
pub fn derivation(data: &[u8]) {
    let store = StoreDir::default();
    match Derivation::parse(&store, data) {
        Ok(derivation) => {
            let text = derivation.write();
            assert_eq!(Derivation::parse(&store, &text).unwrap(), derivation);
            derivation.references().iter().chain(derivation.output_paths()).for_each(check_path);
            let _ = (derivation.required_features(), derivation.path(&store, "x"));
        }
        Err(DerivationError::Syntax { position, .. }) => assert!(position <= data.len()),
        Err(error) => panic!("{error}"),
    }
}

/// A path leads to a name directly in the store and nowhere else.
pub fn store_path(data: &[u8]) {
    if let Ok(path) = StorePath::parse(&StoreDir::default(), data) {
        assert_eq!(path.as_str().as_bytes(), data);
        check_path(&path);
    }
    if let Ok(text) = str::from_utf8(data)
        && let Ok(store) = StoreDir::new(text)
    {
        assert!(!text.contains("/.") || text.split('/').all(|part| part != "." && part != ".."));
        assert!(StorePath::parse(&store, [data, b"/..".as_slice()].concat().as_slice()).is_err());
    }
}

fn check_path(path: &StorePath) {
    let name = path.as_str().strip_prefix("/gnu/store/").unwrap();
    assert!(!name.contains(['/', '\0']) && !name.starts_with('.') && name.len() > 33);
    assert_eq!(format!("{}-{}", path.hash_part(), path.name()), name);
}

/// What the head's daemon says to the hook: its arguments, requests, and the two lines after `# accept`.
pub fn hook(data: &[u8]) {
    let store = StoreDir::default();
    let mut input = data;
    while let Ok(Some(request)) = read_request(&mut input, &store) {
        check_path(&request.derivation);
        assert!(request.features.iter().all(|feature| !feature.is_empty() && !feature.contains([' ', ',', '\n'])));
    }
    let mut input = data;
    for what in ["inputs", "outputs"] {
        if let Ok(paths) = read_paths(&mut input, &store, what) {
            paths.iter().for_each(check_path);
        }
    }
    if let Ok(text) = str::from_utf8(data) {
        let words: Vec<String> = text.split('\0').map(str::to_owned).collect();
        let _ = HookArguments::parse(&words);
    }
}

/// A daemon's answers. The first byte says how many operations there are, the next ones which; the rest is what the daemon
/// says, its greeting included.
pub fn daemon(data: &[u8]) {
    let Some((&count, rest)) = data.split_first() else { return };
    let Some((operations, answers)) = rest.split_at_checked(usize::from(count % 16)) else { return };
    let stream = Deaf(Cursor::new(answers.to_vec()));
    let Ok(mut client) = Client::connect(stream, StoreDir::default()) else { return };
    for operation in operations {
        let asked = if client.is_usable() { operate(&mut client, *operation) } else { break };
        match asked {
            Err(Error::Protocol { position, .. }) => {
                assert!(position <= answers.len() as u64 && !client.is_usable());
            }
            Err(Error::Link { .. }) => assert!(!client.is_usable()),
            Err(Error::Daemon { message, .. }) => assert!(message.len() < 17 << 10),
            Ok(()) => assert!(client.is_usable()),
            _ => {}
        }
    }
}

/// The operations of a client, by the numbers that begin the seeds of [`daemon`].
pub fn operate<S: Read + Write>(client: &mut Client<S>, number: u8) -> Result<(), Error> {
    let both = BTreeSet::from([path(FOO), path(BAR)]);
    match number % 12 {
        0 => client.set_options(&Options::default()),
        1 => client.is_valid_path(&path(FOO)).map(drop),
        2 => client.query_valid_paths(&both).map(|valid| assert!(valid.is_subset(&both))),
        3 => client.query_path_info(&path(BAR)).map(|info| info.references.iter().for_each(check_path)),
        4 => client.add_temp_root(&path(FOO)),
        5 => client.add_text_to_store("foo", b"hello\n", &BTreeSet::new()).map(|path| check_path(&path)),
        6 => client.add_to_store("x", true, "sha256", &mut &[0; 100][..]).map(|path| check_path(&path)),
        7 => client.build_paths(&both),
        8 => client.collect_garbage(Garbage::Dead, &BTreeSet::new(), None).map(drop),
        9 => client.import_paths(&mut &[0; 100_000][..]).map(|paths| paths.iter().for_each(check_path)),
        10 => consumed(client.export_path(&path(FOO), true, |item| io::copy(item, &mut io::sink()).map(drop))),
        _ => consumed(client.export_path(&path(FOO), true, |item| {
            let mut reader = HashingReader::new(item);
            nar::read(&mut reader, &mut nar::Writer::new(io::sink())).map_err(io::Error::other)?;
            Trailer::read(&StoreDir::default(), &mut reader).map(drop).map_err(io::Error::other)
        })),
    }
}

fn consumed(result: Result<(), ExportError<io::Error>>) -> Result<(), Error> {
    result.map_err(|error| match error {
        ExportError::Daemon(error) => error,
        ExportError::Consumer(cause) => Error::Source { operation: "ExportPath", cause },
    })
}

/// Says what it has to say, whatever it is told.
struct Deaf(Cursor<Vec<u8>>);

impl Read for Deaf {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Deaf {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is kept of a probe is short, fits a terminal, and can be read again.
pub fn probe(data: &[u8]) {
    let status = remote::probe::parse(data);
    let text = serde_json::to_vec(&status).unwrap();
    assert!(text.len() < 8 << 10, "{} bytes", text.len());
    let again: offload::internals::status::MachineStatus = serde_json::from_slice(&text).unwrap();
    assert_eq!((again.host_name, again.free_disk), (status.host_name.clone(), status.free_disk));
    let texts = [&status.host_name, &status.kernel, &status.architecture];
    assert!(texts.into_iter().flatten().all(|text| !text.contains(char::is_control)));
    assert!(status.load().is_none_or(f64::is_finite) || status.load1.is_some_and(|load| load > 1e300));
}

/// Reads the reply of the relay, and checks that no byte after it was read.
pub fn relay(data: &[u8]) {
    let mut input = data;
    if let Ok(reply) = remote::relay::read_reply(&mut input) {
        assert!(reply.len() < 1200 && !reply.contains('\n'));
        let before = &data[..data.len() - input.len()];
        assert_eq!(before.last(), Some(&b'\n'));
    }
}

/// The files of the state directory, all with the same contents.
pub fn state(data: &[u8]) {
    thread_local! {
        static STATE: RefCell<Option<Shared>> = const { RefCell::new(None) };
    }
    STATE.with_borrow_mut(|state| state.get_or_insert_with(Shared::new).read(data));
}

/// A state directory in which everything is taken, so that every record counts.
struct Shared {
    directory: tempfile::TempDir,
    machine: Machine,
    state: StateDirectory,
    _held: (Slot, QueueTicket, TransferSlot),
}

impl Shared {
    fn new() -> Shared {
        let directory = tempfile::tempdir_in(if Path::new("/dev/shm").exists() { "/dev/shm" } else { "/tmp" }).unwrap();
        let state = StateDirectory::new(directory.path());
        let machine = Machine::new("b1", "root", vec!["x86_64-linux".into()], Vec::new());
        let slot = Slots::of(&state, &machine).unwrap().try_take(&SlotHolder::this_process("x")).unwrap().unwrap();
        let ticket = Queue::of(&state)
            .unwrap()
            .try_join(&[machine.address()], &WaitingBuild::default(), 1, NOW)
            .unwrap()
            .unwrap();
        let transfer_slot = Transfers::uploads(&state, &machine)
            .unwrap()
            .in_flight_table()
            .unwrap()
            .try_take([].into_iter())
            .unwrap()
            .unwrap();
        Shared { machine, state, _held: (slot, ticket, transfer_slot), directory }
    }

    fn read(&self, data: &[u8]) {
        let host = self.directory.path().join("b1:22");
        for name in [
            "health.json",
            "drained.json",
            "0.json",
            "throughput.json",
            "known-outputs",
            "uploads/0",
            "power.json",
            "turns.json",
        ] {
            fs::write(host.join(name), data).unwrap();
        }
        fs::write(self.directory.path().join("queue/0.json"), data).unwrap();
        let record = HealthRecord::of(&self.state, &self.machine).unwrap();
        for now in [0, 1, NOW] {
            let _ = (record.read().availability(now), record.read().age(now), record.read().probe_started(now));
        }
        record.change(|health| health.after_failure("x", NOW)).unwrap();
        assert!(record.read().failures.is_some_and(|failures| failures.last <= NOW));
        let line = ThroughputRecord::of(&self.state, &self.machine).unwrap().read();
        let _ = [line.sending, line.receiving]
            .map(|link_speed| link_speed.is_some_and(|link_speed| link_speed.counts(NOW)));
        let known_outputs = KnownOutputs::of(&self.state, &self.machine).unwrap();
        known_outputs.add(&BTreeSet::from([path(FOO)])).unwrap();
        assert_eq!(known_outputs.missing_inputs(&BTreeSet::from([path(FOO)])), 0);
        let _ = Drain::of(&self.state, &self.machine).unwrap().read(NOW);
        let power = PowerRecord::of(&self.state, &self.machine).unwrap();
        for now in [0, 1, NOW] {
            let _ = (power.read().backs_off_until(now), power.read().ran_within_span(now), power.read().boot_time());
        }
        power.change(|power| power.off(NOW)).unwrap();
        assert_eq!(Slots::of(&self.state, &self.machine).unwrap().taken().unwrap().len(), 1);
        let queue = Queue::of(&self.state).unwrap();
        let hosts = ["b1:22".to_owned()];
        assert!(queue.records(NOW).unwrap().len() <= 1 && queue.ahead(&hosts, None, None, NOW).unwrap()[0] <= 1);
        let uploads = Transfers::uploads(&self.state, &self.machine).unwrap();
        let _ = uploads.in_flight_table().unwrap().in_flight();
    }
}

/// Whether each key that a hint says to write is a host key.
fn keys_are_accepted(error: &HostKeyError) -> bool {
    let hint = error.hint().unwrap_or_default();
    hint.split('"').filter(|part| part.contains(" AAAA")).all(|key| HostKey::parse(key).is_ok())
}

/// Host keys, and files of known hosts: the first line is the host that is looked for.
pub fn host_key(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let check = |key: &HostKey| {
        let written = key.to_openssh();
        assert!(HostKey::parse(&written).is_ok_and(|again| again == *key), "{written}");
        assert!(key.fingerprint().starts_with("SHA256:"));
    };
    match HostKey::parse(&text) {
        Ok(key) => check(&key),
        Err(error) => assert!(
            error.to_string().len() < 400
                && keys_are_accepted(&error)
                && error.hint().is_none_or(|hint| !hint.is_empty())
        ),
    }
    if let Some((host, lines)) = text.split_once('\n') {
        machine::known_hosts(lines, host).keys.iter().for_each(check);
    }
}
