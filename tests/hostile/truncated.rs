//! A small archive, cut at every byte, and with bits turned over.

use offload::internals::local::LocalStore;

use super::archive::{Item, directory, file, ints, link, nar};
use super::peer::{LAST, frames};
use super::test_store::TestStore;

/// An item with one of everything, and where its nar ends.
fn item(test_store: &TestStore) -> (Vec<u8>, usize) {
    let root = directory(&[(b"a", file(b"hello\n")), (b"b", directory(&[])), (b"c", link(b"a"))]);
    let (path, deriver) = (test_store.outputs[0].to_string(), test_store.derivation.to_string());
    let item = Item { nar: nar(&root), references: vec![path.clone()], path, deriver };
    (item.signed(&test_store.key), item.nar.len())
}

/// Retrieves the output from a daemon that says `answers`: its nar, if it was accepted.
fn retrieve(test_store: &TestStore, head: &LocalStore<'_>, answers: Vec<u8>) -> Result<Vec<u8>, String> {
    let output = &test_store.outputs[0];
    test_store.retrieve(head, std::slice::from_ref(output), answers).map(|()| test_store.take(output))
}

#[test]
fn an_archive_cut_anywhere_leaves_nothing() {
    let test_store = TestStore::new();
    let (head, before) = (test_store.head(), test_store.names());
    let (item, nar) = item(&test_store);
    let whole = |item: &[u8]| [frames(item), ints(&[LAST, 1])].concat();
    assert_eq!(retrieve(&test_store, &head, whole(&item)).unwrap(), item[..nar]);
    for end in 0..item.len() {
        let error = retrieve(&test_store, &head, whole(&item[..end])).unwrap_err();
        let expected = if end < nar { "the nar ends early, at byte" } else { "the export stream ends in the" };
        let at_signature = error.contains("the export stream ends in whether there is a signature");
        assert!(error.contains(expected) || at_signature, "cut at {end}: {error}");
        let error = retrieve(&test_store, &head, frames(&item[..end])).unwrap_err();
        assert!(error.contains("the connection to the daemon failed"), "cut at {end}: {error}");
        assert_eq!(test_store.names(), before, "cut at {end}");
    }
}

#[test]
fn no_changed_bit_of_an_archive_reaches_the_store() {
    let test_store = TestStore::new();
    let (head, before) = (test_store.head(), test_store.names());
    let (item, nar) = item(&test_store);
    // All bits take minutes; by default it is one of each byte.
    let all = std::env::var_os("OFFLOAD_CAMPAIGN").is_some();
    let bits: Vec<usize> = (0..item.len() * 8).filter(|bit| all || bit % 8 == bit / 8 * 5 % 8).collect();
    let mut accepted = 0;
    for &bit in &bits {
        let mut other = item.clone();
        other[bit / 8] ^= 1 << (bit % 8);
        match retrieve(&test_store, &head, [frames(&other), ints(&[LAST, 1])].concat()) {
            // The same signature in other letters.
            Ok(dump) => {
                accepted += 1;
                assert_eq!(dump, item[..nar], "bit {bit}");
                assert!(bit / 8 > nar, "bit {bit}");
            }
            Err(error) => assert!(!error.is_empty()),
        }
        assert_eq!(test_store.names(), before, "bit {bit}");
    }
    // Blanks and the case of digits in the text of the signature.
    assert!(accepted * 20 < bits.len(), "{accepted} were accepted");
    eprintln!("{accepted} of {} were accepted: another spelling of the signature", bits.len());
}
