use std::fs;

use super::*;
use crate::store::export::{HashingReader, read_marker};
use crate::store::nar;
use crate::store::path::StoreDir;

fn path(text: &str) -> StorePath {
    StorePath::parse(&StoreDir::default(), text.as_bytes()).unwrap()
}

/// The items "foo" and "bar" of the test vectors in a store of their own.
fn store() -> (tempfile::TempDir, Store, [Item; 2]) {
    let directory = tempfile::tempdir().unwrap();
    let foo = path("/gnu/store/xnryj9c4k27hjviqs29c3dydawc71ga6-foo");
    let bar = path("/gnu/store/hxbwv0n6dyadh2d3q6h1286kinrfp6gk-bar");
    fs::write(directory.path().join(foo.base_name()), "hello\n").unwrap();
    fs::write(directory.path().join(bar.base_name()), format!("see {foo}\n")).unwrap();
    let store = Store::open_at(&StoreDir::default(), directory.path()).unwrap();
    let item = |path: &StorePath, references: &[&StorePath], hash: &str, nar_size| Item {
        path: path.clone(),
        references: references.iter().map(|path| (*path).clone()).collect(),
        deriver: None,
        nar_hash: base16::decode_sha256(hash.as_bytes()).unwrap(),
        nar_size,
    };
    let items = [
        item(&foo, &[], "1c37d01af40be2e80691de3cc3df44377a699afbb17c68f080964b2fd071fc13", 120),
        item(&bar, &[&foo], "a7f5805e512123b7ec5ca004b2d47df0c88413846c26c4151d156263103728e3", 168),
    ];
    (directory, store, items)
}

fn sign(digest: &[u8; 32]) -> io::Result<Vec<u8>> {
    Ok(base16::encode(digest).into_bytes())
}

fn read(store: &Store, items: &[Item]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    Bundle::new(store, items.to_vec(), sign).read_to_end(&mut bytes).map(|_| bytes)
}

#[test]
fn a_bundle_reads_as_one() {
    let (_directory, store, items) = store();
    let bytes = read(&store, &items).unwrap();
    let mut reader = HashingReader::new(&bytes[..]);
    for item in &items {
        assert!(read_marker(&mut reader).unwrap());
        reader.reset();
        nar::read(&mut reader, &mut nar::Nothing).unwrap();
        assert_eq!((reader.digest(), reader.count()), (item.nar_hash, item.nar_size));
        let (trailer, digest) = Trailer::read(&StoreDir::default(), &mut reader).unwrap();
        assert_eq!((&trailer.path, &trailer.references, &trailer.deriver), (&item.path, &item.references, &None));
        assert_eq!(trailer.signature.unwrap(), sign(&digest).unwrap());
    }
    assert!(!read_marker(&mut reader).unwrap());
    assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn the_signature_is_that_of_the_daemon() {
    let (_directory, store, items) = store();
    let bytes = read(&store, &items[..1]).unwrap();
    let signature = b"ead37e39470464de7419370bcebfafd3421e9250eb8a3210b5f200943f320ee6";
    assert!(bytes.windows(signature.len()).any(|window| window == signature));
}

#[test]
fn an_empty_bundle_is_an_end_marker() {
    let (_directory, store, _) = store();
    assert_eq!(read(&store, &[]).unwrap(), [0; 8]);
}

#[test]
fn small_buffers_give_the_same() {
    let (_directory, store, items) = store();
    let whole = read(&store, &items).unwrap();
    let mut bundle = Bundle::new(&store, items.to_vec(), sign);
    let mut bytes = Vec::new();
    let mut byte = [0];
    while bundle.read(&mut byte).unwrap() == 1 {
        bytes.push(byte[0]);
    }
    assert_eq!(bytes, whole);
}

#[test]
fn a_damaged_item_is_not_signed() {
    let (directory, store, mut items) = store();
    let file = directory.path().join(items[0].path.base_name());
    for contents in ["hellO\n", "hello", ""] {
        fs::write(&file, contents).unwrap();
        let message = read(&store, &items).unwrap_err().to_string();
        assert!(message.contains("foo' is damaged") && message.contains("guix gc --verify"), "{message}");
    }
    fs::write(&file, "hello\n").unwrap();
    items[0].nar_size = 121;
    assert!(read(&store, &items).unwrap_err().to_string().contains("120 bytes"));
    // The size is not recorded, so there is no comparison.
    items[0].nar_size = 0;
    read(&store, &items).unwrap();
    fs::remove_file(&file).unwrap();
    let error = read(&store, &items).unwrap_err();
    assert!(error.to_string().starts_with("cannot read '/gnu/store/xnryj"), "{error}");
    assert!(error.get_ref().unwrap().downcast_ref::<ExportError>().is_some());
}

#[test]
fn an_item_without_a_signature_is_not_sent() {
    let (_directory, store, items) = store();
    let refuse = |_: &[u8; 32]| Err(io::Error::other("no key"));
    let mut bundle = Bundle::new(&store, items.to_vec(), refuse);
    let error = bundle.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot sign '{}': no key", items[0].path));
}
