//! The outputs that a host is known to have: the derivations that were built there recently, or whose outputs were sent
//! there.
//!
//! `known-outputs` in the host's state directory has a line for each, with the hash part of its name, the newest last.
//! A build appends to it, under the lock `known-outputs.lock`; when it is too long, its older half is removed. It is a
//! guess, for the choice of a machine: the host's garbage collector does not report what it deletes. An output that
//! turns out to be missing is sent.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::lock::{append, contents, lock_briefly, replace};
use super::{StateDirectory, StateError};
use crate::machine::Machine;
use crate::store::path::{HASH_PART_LENGTH, StorePath};

/// The number of derivations that are remembered.
const MAX_KNOWN_OUTPUTS: usize = 500;

/// The record of one host's known outputs.
#[derive(Clone, Debug)]
pub struct KnownOutputs {
    path: PathBuf,
}

impl KnownOutputs {
    /// Returns the record of the host that `machine` describes.
    pub fn of(state: &StateDirectory, machine: &Machine) -> Result<KnownOutputs, StateError> {
        Ok(KnownOutputs { path: state.of(machine)?.join("known-outputs") })
    }

    /// Counts those of `derivations` whose outputs the host is not known to have.
    pub fn missing_inputs(&self, derivations: &BTreeSet<StorePath>) -> usize {
        self.missing(derivations).len()
    }

    /// Returns those of `derivations` whose outputs the host is not known to have.
    pub fn missing<'a>(&self, derivations: &'a BTreeSet<StorePath>) -> Vec<&'a StorePath> {
        let lines = self.lines();
        let known: BTreeSet<&str> = lines.iter().rev().take(MAX_KNOWN_OUTPUTS).map(String::as_str).collect();
        derivations.iter().filter(|path| !known.contains(path.hash_part())).collect()
    }

    /// Records that the host has the outputs of these derivations.
    pub fn add(&self, derivations: &BTreeSet<StorePath>) -> Result<(), StateError> {
        let _lock = lock_briefly(&self.path.with_extension("lock"))?;
        let mut lines = self.lines();
        let before = lines.len();
        // An entry of the older half is added again, because that half is removed next.
        let recent: BTreeSet<&str> = lines.iter().rev().take(MAX_KNOWN_OUTPUTS / 2).map(String::as_str).collect();
        let new = derivations.iter().map(StorePath::hash_part).filter(|hash| !recent.contains(hash));
        let new: Vec<String> = new.take(MAX_KNOWN_OUTPUTS).map(str::to_owned).collect();
        lines.extend(new);
        // A file that cannot be read as a list is replaced: appending might let it grow without a limit.
        if before == 0 || lines.len() > 2 * MAX_KNOWN_OUTPUTS {
            replace(&self.path, &text(&lines[lines.len().saturating_sub(MAX_KNOWN_OUTPUTS)..]))
        } else if lines.len() > before {
            append(&self.path, &text(&lines[before..]))
        } else {
            Ok(())
        }
    }

    fn lines(&self) -> Vec<String> {
        let text = contents(&self.path).unwrap_or_default();
        let lines = text.split(|&byte| byte == b'\n').filter(|line| line.len() == HASH_PART_LENGTH);
        lines.map(|line| String::from_utf8_lossy(line).into_owned()).collect()
    }
}

fn text(lines: &[String]) -> Vec<u8> {
    lines.iter().flat_map(|line| [line.as_bytes(), b"\n"]).flatten().copied().collect()
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
    fn only_the_newest_outputs_are_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let machine = Machine::new("b1", "root", vec!["x86_64-linux".into()], Vec::new());
        let known_outputs = KnownOutputs::of(&StateDirectory::new(directory.path()), &machine).unwrap();
        assert_eq!(known_outputs.missing_inputs(&paths(0..3)), 3);
        known_outputs.add(&paths(0..2)).unwrap();
        known_outputs.add(&paths(1..2)).unwrap();
        assert_eq!(known_outputs.missing_inputs(&paths(0..3)), 1);
        assert_eq!(known_outputs.lines().len(), 2);
        // The file does not grow without a limit.
        for start in (1000..4000).step_by(100) {
            known_outputs.add(&paths(start..start + 100)).unwrap();
            assert!(known_outputs.lines().len() <= 2 * MAX_KNOWN_OUTPUTS);
        }
        assert_eq!(known_outputs.missing_inputs(&paths(4000 - MAX_KNOWN_OUTPUTS..4000)), 0);
        assert_eq!(known_outputs.missing_inputs(&paths(0..3)), 3);
        for nonsense in ["nonsense".to_owned(), "\n".repeat(100_000)] {
            std::fs::write(&known_outputs.path, nonsense).unwrap();
            assert_eq!(known_outputs.missing_inputs(&paths(0..3)), 3);
            known_outputs.add(&paths(0..3)).unwrap();
            assert_eq!(known_outputs.missing_inputs(&paths(0..3)), 0);
        }
    }
}
