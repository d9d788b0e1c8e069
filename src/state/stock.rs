//! What a host is known to have: the derivations that were built there lately, or whose outputs were sent there.
//!
//! The record (see `record`) is `stock.json` in the host's state directory: the hash parts of their names, the newest
//! first. It is a guess, for the choice of a machine: the host's garbage collector tells nobody. What is missing after all is sent.

use std::collections::BTreeSet;

use super::record::Record;
use super::{StateDirectory, StateError};
use crate::machine::Machine;
use crate::store::path::StorePath;

/// How many derivations are remembered.
const MOST: usize = 500;

/// The record of one host's stock.
#[derive(Clone, Debug)]
pub struct Stock(Record<Vec<String>>);

impl Stock {
    /// The record of the host that `machine` describes.
    pub fn of(state: &StateDirectory, machine: &Machine) -> Result<Stock, StateError> {
        Ok(Stock(Record::of(state, machine, "stock")?))
    }

    /// How many of `derivations` the host is not known to have.
    pub fn lacks(&self, derivations: &BTreeSet<StorePath>) -> usize {
        let known = self.read();
        derivations.iter().filter(|path| !known.iter().any(|hash| hash == path.hash_part())).count()
    }

    /// Remembers that the host has what these derivations make.
    pub fn add(&self, derivations: &BTreeSet<StorePath>) -> Result<(), StateError> {
        let is_new = |hash: &String| derivations.iter().any(|path| path.hash_part() == hash);
        self.0.change(|before| {
            let mut hashes: Vec<String> = derivations.iter().map(|path| path.hash_part().to_owned()).collect();
            hashes.extend(before.unwrap_or_default().into_iter().filter(|hash| !is_new(hash)));
            hashes.truncate(MOST);
            hashes
        })
    }

    fn read(&self) -> Vec<String> {
        self.0.read().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::path::StoreDir;

    fn paths(numbers: std::ops::Range<usize>) -> BTreeSet<StorePath> {
        let path = |number: usize| {
            let text = format!("/gnu/store/{}-x.drv", format!("{number:05}").repeat(7).split_at(32).0);
            StorePath::parse(&StoreDir::default(), text.as_bytes()).unwrap()
        };
        numbers.map(path).collect()
    }

    #[test]
    fn the_newest_are_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let machine = Machine::new("b1", "root", vec!["x86_64-linux".into()], Vec::new());
        let stock = Stock::of(&StateDirectory::new(directory.path()), &machine).unwrap();
        assert_eq!(stock.lacks(&paths(0..3)), 3);
        stock.add(&paths(0..2)).unwrap();
        stock.add(&paths(1..2)).unwrap();
        assert_eq!(stock.lacks(&paths(0..3)), 1);
        assert_eq!(stock.read().len(), 2);
        stock.add(&paths(1000..2000)).unwrap();
        assert_eq!(stock.read().len(), MOST);
        assert_eq!(stock.lacks(&paths(0..3)), 3);
        std::fs::write(stock.0.path(), "nonsense").unwrap();
        assert_eq!(stock.lacks(&paths(0..3)), 3);
    }
}
