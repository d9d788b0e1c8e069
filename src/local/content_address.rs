//! Items whose paths follow from their contents: a daemon computes the path itself, so that no signature is needed.
//!
//! | address | contents | function that makes the path |
//! |---|---|---|
//! | text | a file and its references: derivations, `text-file`s | [`text_path`] |
//! | tree | a tree without references: `local-file`s, recursive fixed outputs | [`source_path`] |
//!
//! The path of an output does not follow from its contents, and that of a file fetched by the hash of its bytes does
//! not either.

use std::fs::File;
use std::io::{self, Read};

use rustix::fs::{Mode, OFlags};
use sha2::{Digest, Sha256};

use super::database::Item;
use super::dump::Dump;
use super::store::{Store, file_name};
use crate::store::path::{StorePath, source_path, text_path};

/// The size limit of a text that is read, in bytes: it is held in memory.
pub const MAX_TEXT_ITEM: u64 = 4 << 20;

/// The size of the first read, in bytes. Most texts are shorter, so one read suffices.
const FIRST_READ: usize = 8 << 10;

/// The way in which the path of an item follows from its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentAddress {
    Text,
    Tree,
}

/// Returns how the path of `item` follows from its contents; `None` if it does not, or if that is expensive to find
/// out.
///
/// Only small texts are read. Damage to a tree is not detected here: the daemon computes another path from a damaged
/// tree.
pub fn content_address(store: &Store, item: &Item) -> Option<ContentAddress> {
    let Item { path, references, nar_hash, nar_size, .. } = item;
    if references.is_empty() && source_path(store.directory(), path.name(), nar_hash).is_ok_and(|found| found == *path)
    {
        return Some(ContentAddress::Tree);
    }
    if !(1..MAX_TEXT_ITEM).contains(nar_size) {
        return None;
    }
    let text = read_text(store, path).ok()?;
    let found = text_path(store.directory(), path.name(), &Sha256::digest(&text).into(), references);
    found.is_ok_and(|found| found == *path).then_some(ContentAddress::Text)
}

/// Returns the bytes of an item that is a file of at most [`MAX_TEXT_ITEM`] bytes.
pub fn read_text(store: &Store, path: &StorePath) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(store.fd(), file_name(path, "")?, flags, Mode::empty())?);
    let mut text = Vec::with_capacity(FIRST_READ);
    if file.take(MAX_TEXT_ITEM + 1).read_to_end(&mut text)? as u64 > MAX_TEXT_ITEM {
        return Err(io::Error::other("it is larger than a text may be"));
    }
    Ok(text)
}

/// Returns the nar of an item.
pub fn read_nar(store: &Store, path: &StorePath) -> io::Result<Dump> {
    Dump::new(store.fd(), &file_name(path, "")?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::store::base16;
    use crate::store::path::StoreDir;

    #[test]
    fn only_texts_and_trees_are_content_addressed() {
        let top = tempfile::tempdir().unwrap();
        let directory = StoreDir::default();
        let store = Store::open_at(&directory, top.path()).unwrap();
        let parse = |text: &str| StorePath::parse(&directory, text.as_bytes()).unwrap();
        let foo = parse("/gnu/store/xnryj9c4k27hjviqs29c3dydawc71ga6-foo");
        let bar = parse("/gnu/store/hxbwv0n6dyadh2d3q6h1286kinrfp6gk-bar");
        fs::write(top.path().join(foo.base_name()), "hello\n").unwrap();
        fs::write(top.path().join(bar.base_name()), format!("see {foo}\n")).unwrap();
        let hash = |hex: &str| base16::decode_sha256(hex.as_bytes()).unwrap();
        let foo_hash = hash("1c37d01af40be2e80691de3cc3df44377a699afbb17c68f080964b2fd071fc13");
        let item = |path: &StorePath, references: &[&StorePath], nar_hash, nar_size| Item {
            path: path.clone(),
            references: references.iter().map(|path| (*path).clone()).collect(),
            deriver: None,
            nar_hash,
            nar_size,
        };
        assert_eq!(content_address(&store, &item(&foo, &[], foo_hash, 120)), Some(ContentAddress::Text));
        assert_eq!(content_address(&store, &item(&bar, &[&foo], [1; 32], 168)), Some(ContentAddress::Text));
        // With another reference it is another item.
        assert_eq!(content_address(&store, &item(&bar, &[], [1; 32], 168)), None);
        let tree = source_path(&directory, "foo", &foo_hash).unwrap();
        assert_eq!(content_address(&store, &item(&tree, &[], foo_hash, 120)), Some(ContentAddress::Tree));
        assert_eq!(content_address(&store, &item(&tree, &[], [1; 32], 120)), None);
        assert_eq!(content_address(&store, &item(&tree, &[&foo], foo_hash, 120)), None);
        // A file that is too large, according to its recorded size, is not read.
        assert_eq!(content_address(&store, &item(&foo, &[], foo_hash, MAX_TEXT_ITEM)), None);
        fs::write(top.path().join(foo.base_name()), "damaged\n").unwrap();
        assert_eq!(content_address(&store, &item(&foo, &[], foo_hash, 120)), None);
    }

    #[test]
    fn a_text_is_a_file_and_not_too_large() {
        let top = tempfile::tempdir().unwrap();
        let directory = StoreDir::default();
        let store = Store::open_at(&directory, top.path()).unwrap();
        let path = StorePath::parse(&directory, b"/gnu/store/xnryj9c4k27hjviqs29c3dydawc71ga6-foo").unwrap();
        let file = top.path().join(path.base_name());
        for (size, is_read) in [(MAX_TEXT_ITEM, true), (MAX_TEXT_ITEM + 1, false)] {
            fs::File::create(&file).unwrap().set_len(size).unwrap();
            // The text is not truncated.
            assert_eq!(read_text(&store, &path).ok().map(|text| text.len() as u64), is_read.then_some(size));
        }
        fs::write(top.path().join("outside"), "hello\n").unwrap();
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("outside", &file).unwrap();
        assert!(read_text(&store, &path).is_err());
        // A named pipe without a writer does not block the reader.
        fs::remove_file(&file).unwrap();
        rustix::fs::mknodat(store.fd(), path.base_name(), rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        assert!(read_text(&store, &path).is_ok_and(|text| text.is_empty()));
    }
}
