//! Two outputs of one derivation, of which one or the other is not honest: each rule is kept for each of them, and
//! neither reaches the store.

use super::archive::{Item, directory, file, ints, nar};
use super::peer::{LAST, frames};
use super::place::Place;

/// An honest item for the output with this number. It refers to an input, and to both outputs.
fn item(place: &Place, number: usize) -> Item {
    let inputs = place.inputs.iter().chain(&place.outputs).map(ToString::to_string);
    let mut references: Vec<String> = inputs.collect();
    references.sort();
    Item {
        nar: nar(&directory(&[(b"file", file(format!("output {number}\n").as_bytes()))])),
        path: place.outputs[number].to_string(),
        references,
        deriver: place.derivation.to_string(),
    }
}

/// What a machine sends in place of the honest item, and what the message says of it.
type Fault = (&'static str, &'static str, fn(&Place, Item, Item) -> Vec<u8>);

/// Of each rule the case in which no other rule would let nothing pass. The second item is the other output's.
const FAULTS: &[Fault] = &[
    ("no signature", "it lacks a signature", |_, item, _| item.unsigned()),
    ("the signature of the other output", "its signature does not match its contents", |place, item, other| {
        item.with_signature(&other.signature(&place.key))
    }),
    ("a signature by a key that is not authorized", "a key that is not authorized here", |place, item, _| {
        item.signed(&place.stranger)
    }),
    ("the other output", "it is another item", |place, _, other| other.signed(&place.key)),
    (
        "a reference to an item that is valid here, and no input",
        "which is neither an input nor an output",
        |place, item, _| Item { references: vec![place.stray.to_string()], ..item }.signed(&place.key),
    ),
    ("such a reference among others", "which is neither an input nor an output", |place, item, _| {
        let mut references = item.references.clone();
        references.push(place.stray.to_string());
        references.sort();
        Item { references, ..item }.signed(&place.key)
    }),
    (
        "a reference to its derivation, which is valid here",
        "which is neither an input nor an output",
        |place, item, _| Item { references: vec![place.derivation.to_string()], ..item }.signed(&place.key),
    ),
    ("data behind the item", "there are data after the end of the item", |place, item, _| {
        [item.signed(&place.key), ints(&[0])].concat()
    }),
];

/// What a daemon says that exports these items.
fn exported(items: [Vec<u8>; 2]) -> Vec<u8> {
    items.iter().flat_map(|item| [frames(item), ints(&[LAST, 1])].concat()).collect()
}

#[test]
fn each_of_several_outputs_is_checked() {
    let place = Place::new();
    let (head, before) = (place.head(), place.names());
    let honest = || [0, 1].map(|number| item(&place, number).signed(&place.key));
    place.retrieve(&head, &place.outputs, exported(honest())).unwrap();
    for number in [0, 1] {
        assert_eq!(place.take(&place.outputs[number]), item(&place, number).nar);
    }
    for (what, says, send) in FAULTS {
        for number in [0, 1] {
            let mut items = honest();
            items[number] = send(&place, item(&place, number), item(&place, 1 - number));
            let error = place.retrieve(&head, &place.outputs, exported(items));
            let error = error.expect_err(&format!("{what}, in output {number}: it was accepted"));
            let named = error.contains(place.outputs[number].as_str());
            assert!(error.contains(says) && named, "{what}, in output {number}: {error}");
            assert_eq!(place.names(), before, "{what}, in output {number}: the store has changed");
        }
    }
}
