//! A head without a daemon: a store and database of the test's own, into which the program's part that retrieves is called
//! directly. For cases that are too many for a pool.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Cursor, Read, Write};
use std::path::Path;
use std::time::Duration;

use offload::internals::daemon::Client;
use offload::internals::events::Event;
use offload::internals::gcrypt::SigningKey;
use offload::internals::local::{Database, Directories, LocalStore, Store};
use offload::internals::machine::{Compressed, Machine};
use offload::internals::state::StateDirectory;
use offload::internals::store::derivation::{ModuloHashes, Recipe};
use offload::internals::store::path::{StoreDir, StorePath};
use offload::internals::transfer::download::Expected;
use offload::internals::transfer::{TransferLimiter, download};
use tempfile::TempDir;

use super::archive::ints;
use super::peer::{LAST, MAGIC};

pub struct TestStore {
    top: TempDir,
    pub directories: Directories,
    /// A derivation with two outputs, in the order in which they are retrieved.
    pub derivation: StorePath,
    pub outputs: [StorePath; 2],
    /// In the closure of its inputs.
    pub inputs: BTreeSet<StorePath>,
    /// Valid here, and not in that closure.
    pub stray: StorePath,
    /// A key that the head trusts, and one that it does not.
    pub key: SigningKey,
    pub stranger: SigningKey,
}

impl TestStore {
    pub fn new() -> TestStore {
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
        let recipe = Recipe {
            outputs: ["out", "lib"].map(|id| (id.to_owned(), None)).into(),
            input_derivations: Default::default(),
            input_sources: BTreeSet::new(),
            system: "x86_64-linux".to_owned(),
            builder: b"/bin/sh".to_vec(),
            args: Vec::new(),
            env: Default::default(),
        };
        let mut hashes = ModuloHashes::new(|_: &StorePath| Err(io::ErrorKind::NotFound.into()));
        let made = recipe.derivation(&store, "small", &mut hashes).unwrap();
        let derivation = made.path(&store, "small").unwrap();
        let mut outputs = ["out", "lib"].map(|id| made.outputs[id].path.clone());
        outputs.sort();
        fs::write(derivation.as_str(), made.write()).unwrap();
        let valid = |letter: &str| {
            let path = at("store").join(format!("{}-{letter}", letter.repeat(32)));
            fs::write(&path, letter).unwrap();
            StorePath::parse(&store, path.to_str().unwrap().as_bytes()).unwrap()
        };
        // On either side of each other in the order of paths.
        let (inputs, stray) = ([valid("a"), valid("z")].into(), valid("m"));
        let database = rusqlite::Connection::open(at("db/db.sqlite")).unwrap();
        database
            .execute_batch(
                "create table ValidPaths (id integer primary key, path text unique not null, hash text not null, \
                 registrationTime integer not null, deriver text, narSize integer); \
                 create table Refs (referrer integer not null, reference integer not null);",
            )
            .unwrap();
        for path in [&derivation, &stray].into_iter().chain(&inputs) {
            let row = "insert into ValidPaths (path, hash, registrationTime, narSize) values (?, 'sha256:00', 1, 120)";
            database.execute(row, [path.as_str()]).unwrap();
        }
        let keys = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/keys");
        for name in ["ecc.sec", "ecc.pub", "rsa.sec", "rsa.pub"] {
            fs::copy(keys.join(name), at(name)).unwrap();
            fs::set_permissions(at(name), std::os::unix::fs::PermissionsExt::from_mode(0o400)).unwrap();
        }
        // The list without the RSA key.
        let list = fs::read_to_string(keys.join("acl")).unwrap();
        let entries = list.split_inclusive("(entry").filter(|entry| !entry.contains("(rsa"));
        fs::write(at("etc/acl"), entries.collect::<String>()).unwrap();
        let [key, stranger] = ["ecc.sec", "rsa.sec"].map(|name| SigningKey::load(&at(name)).unwrap());
        TestStore { top, directories, derivation, outputs, inputs, stray, key, stranger }
    }

    /// Retrieves outputs from a daemon that says `answers` after its greeting, and places them.
    pub fn retrieve(&self, head: &LocalStore<'_>, outputs: &[StorePath], answers: Vec<u8>) -> Result<(), String> {
        let script = Script(Cursor::new([ints(&[MAGIC, 0x164, LAST]), answers].concat()));
        let mut client = Client::connect(script, self.directories.store.clone()).unwrap();
        let machine = Machine::new("b1", "root", vec!["x86_64-linux".into()], Vec::new());
        let state = StateDirectory::new(self.top.path().join("state"));
        let (limit, report_interval) = (Duration::from_secs(60), Duration::from_secs(60));
        let limiter = TransferLimiter { state: &state, machine: &machine, limit, report_interval };
        let outputs = outputs.iter().cloned().collect();
        let wanted = Expected { derivation: &self.derivation, inputs: &self.inputs, outputs: &outputs };
        let retrieved =
            download(&mut client, head, &head.store, &wanted, Compressed::default(), &limiter, &mut |_: &Event<'_>| {});
        retrieved.map_err(|error| error.to_string())?.place().map_err(|error| error.to_string())
    }

    /// The nar of an output that was placed, which it removes.
    pub fn take(&self, output: &StorePath) -> Vec<u8> {
        let mut dump = Vec::new();
        let name = std::ffi::CString::new(output.base_name()).unwrap();
        let parent = fs::File::open(self.directories.store.as_str()).unwrap();
        offload::internals::local::Dump::new(&parent, &name).unwrap().read_to_end(&mut dump).unwrap();
        fs::remove_dir_all(output.as_str()).unwrap();
        dump
    }

    /// What there is in the store.
    pub fn names(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(self.directories.store.as_str()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    pub fn head(&self) -> LocalStore<'_> {
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
