//! A small archive, cut at every byte, and with bits turned over: too many cases for a pool, so the part of the program
//! that retrieves is called directly, on a store and database of the test's own.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Cursor, Read, Write};
use std::path::Path;
use std::time::Duration;

use offload::daemon::Client;
use offload::events::Event;
use offload::gcrypt::SigningKey;
use offload::local::LocalStore;
use offload::local::{Database, Directories, Store};
use offload::machine::{Compressed, Machine};
use offload::state::StateDirectory;
use offload::store::derivation::{Hashes, Recipe};
use offload::store::path::{StoreDir, StorePath};
use offload::transfer::download::Expected;
use offload::transfer::{TransferLimiter, download};
use tempfile::TempDir;

use super::archive::{Item, directory, file, ints, link, nar};
use super::peer::{LAST, MAGIC, frames};

/// A head without a daemon.
struct Place {
    top: TempDir,
    directories: Directories,
    derivation: StorePath,
    output: StorePath,
    key: SigningKey,
}

impl Place {
    fn new() -> Place {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        ["store", "state", "db", "etc"].iter().for_each(|name| fs::create_dir(at(name)).unwrap());
        let store = StoreDir::new(at("store").to_str().unwrap()).unwrap();
        let directories = Directories {
            store: store.clone(),
            state: at("state"),
            database: at("db"),
            configuration: at("etc"),
            log: at("state"),
        };
        let database = rusqlite::Connection::open(at("db/db.sqlite")).unwrap();
        database
            .execute_batch(
                "create table ValidPaths (id integer primary key, path text unique not null, hash text not null, \
                 registrationTime integer not null, deriver text, narSize integer); \
                 create table Refs (referrer integer not null, reference integer not null);",
            )
            .unwrap();
        let recipe = Recipe {
            outputs: [("out".to_owned(), None)].into(),
            input_derivations: Default::default(),
            input_sources: BTreeSet::new(),
            system: "x86_64-linux".to_owned(),
            builder: b"/bin/sh".to_vec(),
            args: Vec::new(),
            env: Default::default(),
        };
        let mut hashes = Hashes::new(|_: &StorePath| Err(io::ErrorKind::NotFound.into()));
        let made = recipe.derivation(&store, "small", &mut hashes).unwrap();
        let (derivation, output) = (made.path(&store, "small").unwrap(), made.outputs["out"].path.clone());
        fs::write(derivation.as_str(), made.write()).unwrap();
        let keys = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/keys");
        for name in ["ecc.sec", "ecc.pub"] {
            fs::copy(keys.join(name), at(name)).unwrap();
            fs::set_permissions(at(name), std::os::unix::fs::PermissionsExt::from_mode(0o400)).unwrap();
        }
        fs::copy(keys.join("acl"), at("etc/acl")).unwrap();
        Place { key: SigningKey::load(&at("ecc.sec")).unwrap(), directories, derivation, output, top }
    }

    /// An item with one of everything, and where its nar ends.
    fn item(&self) -> (Vec<u8>, usize) {
        let root = directory(&[(b"a", file(b"hello\n")), (b"b", directory(&[])), (b"c", link(b"a"))]);
        let (path, deriver) = (self.output.to_string(), self.derivation.to_string());
        let item = Item { nar: nar(&root), path, references: vec![self.output.to_string()], deriver };
        (item.signed(&self.key), item.nar.len())
    }

    /// Retrieves the output from a daemon that says `answers` after its greeting: its nar, if it was accepted.
    fn retrieve(&self, head: &LocalStore<'_>, answers: Vec<u8>) -> Result<Vec<u8>, String> {
        let script = Script(Cursor::new([ints(&[MAGIC, 0x164, LAST]), answers].concat()));
        let mut client = Client::connect(script, self.directories.store.clone()).unwrap();
        let machine = Machine::new("b1", "root", vec!["x86_64-linux".into()], Vec::new());
        let state = StateDirectory::new(self.top.path().join("state"));
        let (limit, report_interval) = (Duration::from_secs(60), Duration::from_secs(60));
        let limiter = TransferLimiter { state: &state, machine: &machine, limit, report_interval };
        let (inputs, outputs) = (BTreeSet::new(), BTreeSet::from([self.output.clone()]));
        let wanted = Expected { derivation: &self.derivation, inputs: &inputs, outputs: &outputs };
        let retrieved = download(&mut client, head, &wanted, Compressed::default(), &limiter, &mut |_: &Event<'_>| {});
        retrieved.map_err(|error| error.to_string())?.place().map_err(|error| error.to_string())?;
        let mut dump = Vec::new();
        let name = std::ffi::CString::new(self.output.base_name()).unwrap();
        let parent = fs::File::open(self.directories.store.as_str()).unwrap();
        offload::local::Dump::new(&parent, &name).unwrap().read_to_end(&mut dump).unwrap();
        fs::remove_dir_all(self.output.as_str()).unwrap();
        Ok(dump)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directories.store.as_str()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn head(&self) -> LocalStore<'_> {
        let store = Store::open(&self.directories.store).unwrap();
        let database = Database::open(&self.directories.database, &self.directories.store).unwrap();
        LocalStore { directories: &self.directories, store, database }
    }
}

struct Script(Cursor<Vec<u8>>);

impl Read for Script {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Script {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_archive_that_is_cut_anywhere() {
    let place = Place::new();
    let (head, before) = (place.head(), place.names());
    let (item, nar) = place.item();
    let whole = |item: &[u8]| [frames(item), ints(&[LAST, 1])].concat();
    assert_eq!(place.retrieve(&head, whole(&item)).unwrap(), item[..nar]);
    for end in 0..item.len() {
        let error = place.retrieve(&head, whole(&item[..end])).unwrap_err();
        let expected = if end < nar { "the nar ends early, at byte" } else { "the export stream ends in the" };
        let at_signature = error.contains("the export stream ends in whether there is a signature");
        assert!(error.contains(expected) || at_signature, "cut at {end}: {error}");
        let error = place.retrieve(&head, frames(&item[..end])).unwrap_err();
        assert!(error.contains("the connection to the daemon failed"), "cut at {end}: {error}");
        assert_eq!(place.names(), before, "cut at {end}");
    }
}

#[test]
fn an_archive_with_a_bit_turned_over() {
    let place = Place::new();
    let (head, before) = (place.head(), place.names());
    let (item, nar) = place.item();
    // All bits take minutes; by default it is one of each byte.
    let all = std::env::var_os("OFFLOAD_CAMPAIGN").is_some();
    let bits: Vec<usize> = (0..item.len() * 8).filter(|bit| all || bit % 8 == bit / 8 * 5 % 8).collect();
    let mut accepted = 0;
    for &bit in &bits {
        let mut other = item.clone();
        other[bit / 8] ^= 1 << (bit % 8);
        match place.retrieve(&head, [frames(&other), ints(&[LAST, 1])].concat()) {
            // The same signature in other letters.
            Ok(dump) => {
                accepted += 1;
                assert_eq!(dump, item[..nar], "bit {bit}");
                assert!(bit / 8 > nar, "bit {bit}");
            }
            Err(error) => assert!(!error.is_empty()),
        }
        assert_eq!(place.names(), before, "bit {bit}");
    }
    // Blanks and the case of digits in the text of the signature.
    assert!(accepted * 20 < bits.len(), "{accepted} were accepted");
    eprintln!("{accepted} of {} were accepted: another spelling of the signature", bits.len());
}
