use proptest::prelude::*;

use super::*;
use crate::store::nar::{self, NarPath, Visitor};
use crate::store::{base16, golden, path};
use sha2::{Digest, Sha256};

/// An item of a bundle: the bytes of its nar, its trailer, the digest that is signed.
struct Item {
    nar: Vec<u8>,
    trailer: Trailer,
    digest: [u8; 32],
}

fn read_bundle(bytes: &[u8]) -> Vec<Item> {
    let mut reader = HashingReader::new(bytes);
    let mut items = Vec::new();
    while read_marker(&mut reader).unwrap() {
        reader.reset();
        let mut writer = nar::Writer::new(Vec::new());
        nar::read(&mut reader, &mut writer).unwrap();
        let (trailer, digest) = Trailer::read(&StoreDir::default(), &mut reader).unwrap();
        items.push(Item { nar: writer.finish().unwrap(), trailer, digest });
    }
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"");
    items
}

fn write_bundle(items: &[Item]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for item in items {
        wire::write_u64(&mut bytes, ITEM_MARKER).unwrap();
        let mut writer = HashingWriter::new(&mut bytes);
        writer.write_all(&item.nar).unwrap();
        item.trailer.write_signed_part(&mut writer).unwrap();
        assert_eq!(writer.digest(), item.digest);
        item.trailer.write_signature(&mut writer).unwrap();
    }
    wire::write_u64(&mut bytes, END_MARKER).unwrap();
    bytes
}

fn text(name: &str, text: &[u8], references: &[StorePath]) -> StorePath {
    path::text_path(&StoreDir::default(), name, &Sha256::digest(text).into(), references).unwrap()
}

#[test]
fn golden_bundles_are_written_back() {
    for (name, bytes) in golden::files("export/*.export") {
        assert_eq!(write_bundle(&read_bundle(&bytes)), bytes, "{name}");
    }
}

#[test]
fn the_golden_bundles_have_their_parts() {
    let foo = text("foo", b"hello\n", &[]);
    let bar = text("bar", format!("see {foo}\n").as_bytes(), std::slice::from_ref(&foo));

    let [item] = &read_bundle(&golden::file("export/text.export"))[..] else { panic!() };
    assert_eq!((&item.trailer.path, &item.trailer.references[..], &item.trailer.deriver), (&foo, &[][..], &None));
    assert!(item.trailer.signature.as_ref().unwrap().starts_with(b"(signature"));

    let items = read_bundle(&golden::file("export/reference.export"));
    let paths: Vec<_> = items.iter().map(|item| &item.trailer.path).collect();
    assert_eq!(paths, [&foo, &bar]);
    assert_eq!(items[1].trailer.references, [foo]);

    let items = read_bundle(&golden::file("export/outputs.export"));
    let out = &items.last().unwrap().trailer;
    assert_eq!(out.path.name(), "tree");
    assert_eq!(out.deriver.as_ref().unwrap().name(), "tree.drv");
    // Itself, and the other output.
    let names: Vec<_> = out.references.iter().map(StorePath::name).collect();
    assert_eq!(names, ["tree-dev", "tree"]);
}

#[test]
fn golden_text_items_have_the_path_of_their_contents() {
    let mut checked = 0;
    for (_, bytes) in golden::files("export/*.export") {
        for Item { nar, trailer, .. } in read_bundle(&bytes) {
            if trailer.deriver.is_none() {
                let mut contents = Contents(Vec::new());
                nar::read(&mut &nar[..], &mut contents).unwrap();
                assert_eq!(text(trailer.path.name(), &contents.0, &trailer.references), trailer.path);
                checked += 1;
            }
        }
    }
    assert!(checked >= 4);
}

/// Stores the contents of the only file.
struct Contents(Vec<u8>);

impl Visitor for Contents {
    fn directory(&mut self, _: &NarPath) -> io::Result<()> {
        panic!()
    }
    fn leave_directory(&mut self, _: &NarPath) -> io::Result<()> {
        panic!()
    }
    fn file(&mut self, _: &NarPath, _: bool, _: u64, contents: &mut dyn Read) -> io::Result<()> {
        contents.read_to_end(&mut self.0).map(drop)
    }
    fn symlink(&mut self, _: &NarPath, _: &[u8]) -> io::Result<()> {
        panic!()
    }
}

#[test]
fn an_unsigned_item_is_read_and_written_back() {
    let mut writer = nar::Writer::new(HashingWriter::new(Vec::new()));
    writer.file(&NarPath::root(), false, 6, &mut &b"hello\n"[..]).unwrap();
    let mut writer = writer.finish().unwrap();
    let path = text("foo", b"hello\n", &[]);
    let trailer = Trailer { path, references: vec![], deriver: None, signature: None };
    trailer.write_signed_part(&mut writer).unwrap();
    assert_eq!(writer.count(), 200);
    assert_eq!(base16::encode(&writer.digest()), "ead37e39470464de7419370bcebfafd3421e9250eb8a3210b5f200943f320ee6");
    trailer.write_signature(&mut writer).unwrap();
    assert_eq!(writer.count(), 208);
    assert_eq!(base16::encode(&writer.digest()), "18f4c9ab280b70a435b430301728abeb66e5c3113d03aec6e7a704b9280c934a");
}

fn trailer() -> Trailer {
    let [a, b] = ["a", "b"].map(|name| text(name, b"", &[]));
    let mut references = vec![a.clone(), b.clone()];
    references.sort();
    Trailer { path: a, references, deriver: Some(b), signature: Some(b"(signature \xe9)".to_vec()) }
}

fn written(trailer: &Trailer) -> Vec<u8> {
    let mut bytes = Vec::new();
    trailer.write_signed_part(&mut bytes).unwrap();
    trailer.write_signature(&mut bytes).unwrap();
    bytes
}

fn read(bytes: &[u8]) -> Result<(Trailer, [u8; 32]), ExportError> {
    Trailer::read(&StoreDir::default(), &mut HashingReader::new(bytes))
}

#[test]
fn trailers_cut_anywhere_are_refused() {
    let bytes = written(&trailer());
    assert_eq!(read(&bytes).unwrap().0, trailer());
    for end in 0..bytes.len() {
        assert!(matches!(read(&bytes[..end]), Err(ExportError::Truncated { .. })), "{end}");
    }
}

#[test]
fn references_are_sorted_and_unique() {
    let mut reversed = trailer();
    reversed.references.reverse();
    assert!(matches!(read(&written(&reversed)), Err(ExportError::Order { .. })));
    let mut twice = trailer();
    twice.references[1] = twice.references[0].clone();
    assert!(matches!(read(&written(&twice)), Err(ExportError::Order { .. })));
}

/// Writes a trailer with any fields.
fn raw(magic: u64, path: &str, references: &[&str], deriver: &str, signed: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::write_u64(&mut bytes, magic).unwrap();
    wire::write_bytes(&mut bytes, path.as_bytes()).unwrap();
    wire::write_list(&mut bytes, references).unwrap();
    wire::write_bytes(&mut bytes, deriver.as_bytes()).unwrap();
    wire::write_u64(&mut bytes, signed).unwrap();
    bytes
}

#[test]
fn every_field_is_checked() {
    let magic = u64::from(EXPORT_MAGIC);
    let good = trailer().path.to_string();
    assert!(read(&raw(magic, &good, &[&good], &good, 0)).is_ok());
    assert!(matches!(read(&raw(magic + 1, &good, &[], "", 0)), Err(ExportError::Magic { .. })));
    assert!(matches!(read(&raw(magic | 1 << 32, &good, &[], "", 0)), Err(ExportError::Format { .. })));
    assert!(matches!(read(&raw(magic, &good, &[], "", 2)), Err(ExportError::Format { .. })));
    for bad in ["/gnu/store/..", "/gnu/store/evil name!", "/etc/passwd", "-"] {
        assert!(matches!(read(&raw(magic, bad, &[], "", 0)), Err(ExportError::Path { .. })), "{bad}");
        assert!(matches!(read(&raw(magic, &good, &[bad], "", 0)), Err(ExportError::Path { .. })), "{bad}");
        assert!(matches!(read(&raw(magic, &good, &[], bad, 0)), Err(ExportError::Path { .. })), "{bad}");
    }
    assert!(matches!(read(&raw(magic, "", &[], "", 0)), Err(ExportError::Path { .. })));
    let long = "x".repeat(1000);
    assert!(matches!(read(&raw(magic, &long, &[], "", 0)), Err(ExportError::Format { what: "the path", .. })));
    let mut huge = raw(magic, &good, &[], "", 1);
    huge.extend(u64::MAX.to_le_bytes());
    assert!(matches!(read(&huge), Err(ExportError::Format { what: "the signature", .. })));
}

#[test]
fn only_known_markers_are_read() {
    assert!(read_marker(&mut &1u64.to_le_bytes()[..]).unwrap());
    assert!(!read_marker(&mut &0u64.to_le_bytes()[..]).unwrap());
    assert!(matches!(read_marker(&mut &2u64.to_le_bytes()[..]), Err(ExportError::Marker { number: 2 })));
    assert!(matches!(read_marker(&mut &[0; 7][..]), Err(ExportError::Truncated { .. })));
}

proptest! {
    #[test]
    fn a_written_trailer_is_read_back(names in proptest::collection::btree_set("[a-z]{1,9}", 0..9), deriver in any::<bool>(),
                  signature in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..99))) {
        let mut references: Vec<_> = names.iter().map(|name| text(name, b"", &[])).collect();
        references.sort();
        let deriver = deriver.then(|| text("d.drv", b"", &[]));
        let trailer = Trailer { path: text("p", b"", &[]), references, deriver, signature };
        let bytes = written(&trailer);
        let mut reader = HashingReader::new(&bytes[..]);
        let (again, digest) = Trailer::read(&StoreDir::default(), &mut reader).unwrap();
        prop_assert_eq!(reader.count(), bytes.len() as u64);
        prop_assert_eq!(&again, &trailer);
        let mut part = Vec::new();
        trailer.write_signed_part(&mut part).unwrap();
        prop_assert_eq!(digest, <[u8; 32]>::from(Sha256::digest(&part)));
    }
}
