//! Derivations in this machine's store.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};

use thiserror::Error;

use super::database::{Database, DatabaseError};
use super::directories::Directories;
use crate::store::derivation::{Derivation, DerivationError, MAX_DERIVATION_SIZE};
use crate::store::path::{StoreDir, StorePath};

/// The size of most derivations or more, in bytes: they are read in one piece.
const FIRST_READ: usize = 8 << 10;

/// Reads the derivation in the file `path`.
pub fn read_derivation(store: &StoreDir, path: &StorePath) -> Result<Derivation, ReadDerivationError> {
    let mut text = Vec::with_capacity(FIRST_READ);
    File::open(path.as_str())
        .and_then(|file| file.take(MAX_DERIVATION_SIZE as u64 + 1).read_to_end(&mut text))
        .map_err(|cause| ReadDerivationError::Read { path: path.clone(), cause })?;
    Derivation::parse(store, &text).map_err(|cause| ReadDerivationError::Invalid { path: path.clone(), cause })
}

/// The reason why a derivation cannot be read.
#[derive(Debug, Error)]
pub enum ReadDerivationError {
    #[error("cannot read the derivation '{path}': {cause}")]
    Read { path: StorePath, cause: io::Error },
    #[error("'{path}' is not a valid derivation: {cause}")]
    Invalid { path: StorePath, cause: DerivationError },
}

/// Returns the closure of the inputs of a derivation's build: its inputs, the derivation itself, and all their
/// references. guix-daemon sends this to its build hook; a caller without a daemon computes it here.
pub fn closure(
    directories: &Directories,
    path: &StorePath,
    derivation: &Derivation,
) -> Result<BTreeSet<StorePath>, ClosureError> {
    let mut open: Vec<StorePath> = vec![path.clone()];
    for (input, ids) in &derivation.input_derivations {
        let input = read_derivation(&directories.store, input)?;
        open.extend(input.outputs.iter().filter(|(id, _)| ids.contains(*id)).map(|(_, output)| output.path.clone()));
    }
    let database = Database::open(&directories.database, &directories.store)?;
    let mut closure = BTreeSet::new();
    while let Some(path) = open.pop() {
        if closure.contains(&path) {
            continue;
        }
        let item = database.item(&path)?.ok_or_else(|| DatabaseError::NotValid { path: path.clone() })?;
        open.extend(item.references);
        closure.insert(path);
    }
    Ok(closure)
}

/// The reason why a closure cannot be computed.
#[derive(Debug, Error)]
pub enum ClosureError {
    #[error(transparent)]
    Derivation(#[from] ReadDerivationError),
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;
    use crate::store::derivation::{ModuloHashes, Recipe};
    use crate::store::path::StoreDir;

    fn recipe(outputs: &[&str], inputs: &[(&StorePath, &str)], sources: &[&StorePath]) -> Recipe {
        let mut input_derivations: BTreeMap<StorePath, BTreeSet<String>> = BTreeMap::new();
        for (path, id) in inputs {
            input_derivations.entry((*path).clone()).or_default().insert((*id).to_owned());
        }
        Recipe {
            outputs: outputs.iter().map(|id| ((*id).to_owned(), None)).collect(),
            input_derivations,
            input_sources: sources.iter().map(|&path| path.clone()).collect(),
            system: "x86_64-linux".to_owned(),
            builder: b"/bin/sh".to_vec(),
            args: Vec::new(),
            env: Default::default(),
        }
    }

    #[test]
    fn the_closure_has_the_outputs_that_are_named_and_all_that_they_refer_to() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        ["store", "db"].iter().for_each(|name| fs::create_dir(at(name)).unwrap());
        let store = StoreDir::new(at("store").to_str().unwrap()).unwrap();
        let plain = |letter: &str| {
            let path = format!("{}/{}-{letter}", store.as_str(), letter.repeat(32));
            StorePath::parse(&store, path.as_bytes()).unwrap()
        };
        let [source, behind, library] = ["a", "b", "c"].map(plain);
        let mut known: BTreeMap<StorePath, Derivation> = BTreeMap::new();
        let mut make = |name: &str, recipe: Recipe| {
            let mut hashes = ModuloHashes::new(|path: &StorePath| Ok(known[path].clone()));
            let made = recipe.derivation(&store, name, &mut hashes).unwrap();
            let path = made.path(&store, name).unwrap();
            fs::write(path.as_str(), made.write()).unwrap();
            known.insert(path.clone(), made.clone());
            (path, made)
        };
        let (two, two_made) = make("two", recipe(&["out", "lib"], &[], &[]));
        let (one, one_made) = make("one", recipe(&["out"], &[], &[]));
        let (goal, goal_made) = make("goal", recipe(&["out"], &[(&two, "lib"), (&one, "out")], &[&source]));
        let output = |made: &Derivation, id: &str| made.outputs[id].path.clone();
        let [lib, unused, other] = [output(&two_made, "lib"), output(&two_made, "out"), output(&one_made, "out")];

        let connection = rusqlite::Connection::open(at("db/db.sqlite")).unwrap();
        let schema = "create table ValidPaths (id integer primary key, path text unique not null, hash text not null, \
                      registrationTime integer not null, deriver text, narSize integer); \
                      create table Refs (referrer integer not null, reference integer not null);";
        connection.execute_batch(schema).unwrap();
        let references: [(&StorePath, &[&StorePath]); 9] = [
            (&goal, &[&one, &two, &source]),
            (&one, &[]),
            (&two, &[]),
            (&lib, &[&library, &lib]),
            (&unused, &[]),
            (&other, &[&other]),
            (&source, &[&behind]),
            (&behind, &[]),
            (&library, &[]),
        ];
        for (path, _) in references {
            let hash = format!("sha256:{}", "0".repeat(64));
            let row = "insert into ValidPaths (path, hash, registrationTime, narSize) values (?, ?, 1, 120)";
            connection.execute(row, [path.as_str(), &hash]).unwrap();
        }
        for (from, to) in references.iter().flat_map(|(from, all)| all.iter().map(move |to| (from, to))) {
            let row =
                "insert into Refs select a.id, b.id from ValidPaths a, ValidPaths b where a.path = ? and b.path = ?";
            connection.execute(row, [from.as_str(), to.as_str()]).unwrap();
        }
        let [database, state] = ["db", "state"].map(at);
        let directories =
            Directories { store: store.clone(), configuration: state.clone(), log: state.clone(), state, database };
        let expected = [&goal, &one, &two, &lib, &other, &source, &behind, &library].map(Clone::clone);
        assert_eq!(closure(&directories, &goal, &goal_made).unwrap(), expected.into());

        // The last one to be found is not valid.
        connection.execute("delete from ValidPaths where path = ?", [other.as_str()]).unwrap();
        let error = closure(&directories, &goal, &goal_made).unwrap_err();
        assert!(error.to_string().contains(other.as_str()), "{error}");
    }
}
