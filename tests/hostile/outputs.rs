//! Two outputs of one derivation, of which one or the other is not honest: each rule is kept for each of them, and
//! neither reaches the store.

use super::archive::{Item, directory, file, ints, nar};
use super::peer::{LAST, frames};
use super::test_store::TestStore;

/// An honest item for the output with this number. It refers to an input, and to both outputs.
fn item(test_store: &TestStore, number: usize) -> Item {
    let inputs = test_store.inputs.iter().chain(&test_store.outputs).map(ToString::to_string);
    let mut references: Vec<String> = inputs.collect();
    references.sort();
    Item {
        nar: nar(&directory(&[(b"file", file(format!("output {number}\n").as_bytes()))])),
        path: test_store.outputs[number].to_string(),
        references,
        deriver: test_store.derivation.to_string(),
    }
}

/// A name, a part of the message, and the bytes to send instead of the honest item.
type Fault = (&'static str, &'static str, fn(&TestStore, Item, Item) -> Vec<u8>);

/// Of each rule the case in which no other rule would let nothing pass. The second item is the other output's.
const FAULTS: &[Fault] = &[
    ("no signature", "it lacks a signature", |_, item, _| item.unsigned()),
    ("the signature of the other output", "its signature does not match its contents", |test_store, item, other| {
        item.with_signature(&other.signature(&test_store.key))
    }),
    ("a signature by a key that is not authorized", "a key that is not authorized here", |test_store, item, _| {
        item.signed(&test_store.stranger)
    }),
    ("the other output", "it is another item", |test_store, _, other| other.signed(&test_store.key)),
    (
        "a reference to an item that is valid here, and no input",
        "which is neither an input nor an output",
        |test_store, item, _| Item { references: vec![test_store.stray.to_string()], ..item }.signed(&test_store.key),
    ),
    ("such a reference among others", "which is neither an input nor an output", |test_store, item, _| {
        let mut references = item.references.clone();
        references.push(test_store.stray.to_string());
        references.sort();
        Item { references, ..item }.signed(&test_store.key)
    }),
    (
        "a reference to its derivation, which is valid here",
        "which is neither an input nor an output",
        |test_store, item, _| {
            Item { references: vec![test_store.derivation.to_string()], ..item }.signed(&test_store.key)
        },
    ),
    ("data behind the item", "there are data after the end of the item", |test_store, item, _| {
        [item.signed(&test_store.key), ints(&[0])].concat()
    }),
];

/// What a daemon says that exports these items.
fn exported(items: [Vec<u8>; 2]) -> Vec<u8> {
    items.iter().flat_map(|item| [frames(item), ints(&[LAST, 1])].concat()).collect()
}

#[test]
fn each_of_several_outputs_is_checked() {
    let test_store = TestStore::new();
    let (head, before) = (test_store.head(), test_store.names());
    let honest = || [0, 1].map(|number| item(&test_store, number).signed(&test_store.key));
    test_store.retrieve(&head, &test_store.outputs, exported(honest())).unwrap();
    for number in [0, 1] {
        assert_eq!(test_store.take(&test_store.outputs[number]), item(&test_store, number).nar);
    }
    for (what, says, send) in FAULTS {
        for number in [0, 1] {
            let mut items = honest();
            items[number] = send(&test_store, item(&test_store, number), item(&test_store, 1 - number));
            let error = test_store.retrieve(&head, &test_store.outputs, exported(items));
            let error = error.expect_err(&format!("{what}, in output {number}: it was accepted"));
            let named = error.contains(test_store.outputs[number].as_str());
            assert!(error.contains(says) && named, "{what}, in output {number}: {error}");
            assert_eq!(test_store.names(), before, "{what}, in output {number}: the store has changed");
        }
    }
}
