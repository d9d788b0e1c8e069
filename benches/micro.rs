//! The parts alone: nars, hashing, the wire, derivations, signatures, machine files. Run by `tests/bench micro`.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::Path;

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use offload::internals::gcrypt::{self, SigningKey};
use offload::internals::machine_file::{self, LoadContext};
use offload::internals::store::derivation::Derivation;
use offload::internals::store::export::HashingReader;
use offload::internals::store::nar::{self, NarPath, Visitor};
use offload::internals::store::path::{StoreDir, StorePath};
use offload::internals::store::signature::Acl;
use offload::internals::store::wire;

fn main() {
    divan::main();
}

/// The nar of a directory of `count` files of `size` bytes.
fn make_nar(count: usize, size: usize) -> Vec<u8> {
    let contents = vec![b'x'; size];
    let mut writer = nar::Writer::new(Vec::new());
    let mut path = NarPath::root();
    writer.directory(&path).unwrap();
    for number in 0..count {
        path.push(format!("file-{number:06}").as_bytes()).unwrap();
        writer.file(&path, false, size as u64, &mut contents.as_slice()).unwrap();
        path.pop();
    }
    writer.leave_directory(&path).unwrap();
    writer.finish().unwrap()
}

/// Reads all that it is shown.
struct Nothing(Vec<u8>);

impl Visitor for Nothing {
    fn directory(&mut self, _: &NarPath) -> io::Result<()> {
        Ok(())
    }

    fn leave_directory(&mut self, _: &NarPath) -> io::Result<()> {
        Ok(())
    }

    fn file(&mut self, _: &NarPath, _: bool, _: u64, contents: &mut dyn Read) -> io::Result<()> {
        while contents.read(&mut self.0)? > 0 {}
        Ok(())
    }

    fn symlink(&mut self, _: &NarPath, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// Files and their size: many small ones, one large one.
const TREES: [(usize, usize); 2] = [(10_000, 100), (1, 16 << 20)];

#[divan::bench(args = TREES)]
fn nar_write(bencher: Bencher<'_, '_>, (count, size): (usize, usize)) {
    bencher.counter(BytesCount::new(make_nar(count, size).len())).bench(|| make_nar(count, size));
}

#[divan::bench(args = TREES)]
fn nar_read(bencher: Bencher<'_, '_>, (count, size): (usize, usize)) {
    let nar = make_nar(count, size);
    let read = || nar::read(&mut black_box(nar.as_slice()), &mut Nothing(vec![0; 128 << 10])).unwrap();
    bencher.counter(BytesCount::new(nar.len())).bench(read);
}

#[divan::bench(args = TREES)]
fn nar_read_and_hash(bencher: Bencher<'_, '_>, (count, size): (usize, usize)) {
    let nar = make_nar(count, size);
    bencher.counter(BytesCount::new(nar.len())).bench(|| {
        let mut reader = HashingReader::new(black_box(nar.as_slice()));
        nar::read(&mut reader, &mut Nothing(vec![0; 128 << 10])).unwrap();
        reader.digest()
    });
}

fn paths(count: usize) -> BTreeSet<StorePath> {
    let store = StoreDir::default();
    let digit = |number: usize| char::from(b"0123456789abcdfghijklmnpqrsvwxyz"[number % 32]);
    let path = |number: usize| {
        let hash: String = (0..32).map(|place| digit(number >> (5 * (place % 4)))).collect();
        StorePath::parse(&store, format!("/gnu/store/{hash}-package-{number}-1.0").as_bytes()).unwrap()
    };
    (0..count).map(path).collect()
}

#[divan::bench]
fn wire_list_of_1000_paths(bencher: Bencher<'_, '_>) {
    let paths = paths(1000);
    let store = StoreDir::default();
    bencher.counter(ItemsCount::new(paths.len())).bench(|| {
        let mut bytes = Vec::new();
        wire::write_list(&mut bytes, paths.iter().map(|path| path.as_str().as_bytes())).unwrap();
        let list = wire::read_list(&mut bytes.as_slice(), 1000, 4096).unwrap();
        list.iter().map(|path| StorePath::parse(&store, path).unwrap()).collect::<Vec<_>>()
    });
}

#[divan::bench]
fn derivation_with_1000_sources(bencher: Bencher<'_, '_>) {
    let golden =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/drv/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-vec.drv");
    let store = StoreDir::default();
    let mut derivation = Derivation::parse(&store, &std::fs::read(golden).unwrap()).unwrap();
    derivation.input_sources.extend(paths(1000));
    let text = derivation.write();
    bencher.counter(BytesCount::new(text.len())).bench(|| Derivation::parse(&store, black_box(&text)).unwrap());
}

fn keys() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/keys")
}

/// The golden key, private as it must be.
fn signing_key() -> SigningKey {
    let directory = tempfile::tempdir().unwrap();
    for half in ["ecc.pub", "ecc.sec"] {
        let copy = directory.path().join(half);
        std::fs::copy(keys().join(half), &copy).unwrap();
        std::fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o400)).unwrap();
    }
    SigningKey::load(&directory.path().join("ecc.sec")).unwrap()
}

#[divan::bench]
fn sign(bencher: Bencher<'_, '_>) {
    let key = signing_key();
    bencher.bench(|| key.sign(black_box(&[7; 32])).unwrap());
}

#[divan::bench]
fn verify(bencher: Bencher<'_, '_>) {
    let acl = Acl::parse(&std::fs::read(keys().join("acl")).unwrap()).unwrap();
    let signature = signing_key().sign(&[7; 32]).unwrap();
    bencher.bench(|| gcrypt::verify(black_box(&signature), &[7; 32], &acl).unwrap());
}

#[divan::bench]
fn machine_file_with_100_machines(bencher: Bencher<'_, '_>) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("machines.lua");
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGiZC8RF5TdIuz3cZ2RZ6pH6/WJ7mzWKRX7KPrGwENOG";
    let text = format!(
        "local base = {{ user = 'offload', systems = {{ 'x86_64-linux' }}, host_key = '{key}' }}\n\
         local machines = {{}}\n\
         for i = 1, 100 do machines[i] = build_machine {{ inherit = base, name = 'm' .. i, parallel_builds = i }} end\n\
         return machines\n"
    );
    std::fs::write(&file, text).unwrap();
    let context = LoadContext { home: Some("/home/me".into()), ..LoadContext::default() };
    bencher.counter(ItemsCount::new(100usize)).bench(|| machine_file::load(&file, &context).unwrap());
}
