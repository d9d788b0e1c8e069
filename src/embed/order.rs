//! The order of several builds: a derivation comes after those that it needs.

use std::collections::{BTreeMap, BTreeSet};

use super::build_error::BuildError;
use super::pool::Pool;
use crate::local::Database;
use crate::store::path::StorePath;

/// The indices of derivations that something needs.
type Needs = BTreeSet<usize>;

impl Pool {
    /// Returns, for each of these derivations, the indices of the others that it needs, directly or through any number of
    /// other derivations. So a program can build those first, and all others at the same time.
    pub fn needs(&self, derivations: &[impl AsRef<str>]) -> Result<Vec<BTreeSet<usize>>, BuildError> {
        let directories = &self.engine().0.engine.directories;
        let parse = |derivation: &str| {
            let parsed = StorePath::parse(&directories.store, derivation.as_bytes());
            parsed.map_err(|error| BuildError::derivation(derivation, error))
        };
        let paths: Vec<StorePath> =
            derivations.iter().map(|derivation| parse(derivation.as_ref())).collect::<Result<_, _>>()?;
        // Nothing has to be read for a single one.
        if let [] | [_] = &paths[..] {
            return Ok(vec![Needs::new(); paths.len()]);
        }
        let failed = |path: &StorePath| {
            let path = path.to_string();
            move |error| BuildError::this_machine(&path, error)
        };
        let database = Database::open(&directories.database, &directories.store).map_err(failed(&paths[0]))?;
        let inputs = |path: &StorePath| -> Result<Vec<StorePath>, BuildError> {
            let item = database.item(path).map_err(failed(path))?;
            let references = item.map(|item| item.references).unwrap_or_default();
            Ok(references.into_iter().filter(StorePath::is_derivation).collect())
        };
        needs(&paths, inputs)
    }
}

/// Returns what each of `paths` needs of the others, given the direct inputs of each derivation.
fn needs<E>(paths: &[StorePath], inputs: impl Fn(&StorePath) -> Result<Vec<StorePath>, E>) -> Result<Vec<Needs>, E> {
    let index: BTreeMap<&StorePath, usize> = paths.iter().enumerate().map(|(index, path)| (path, index)).collect();
    // What is needed for each derivation, without itself.
    let mut known: BTreeMap<StorePath, Needs> = BTreeMap::new();
    for path in paths {
        // The derivations that were begun, each with its inputs. A graph may be deeper than the stack.
        let mut open = vec![(path.clone(), inputs(path)?)];
        while let Some((path, direct)) = open.last() {
            let next = direct.iter().find(|input| !known.contains_key(*input) && **input != *path);
            if let Some(next) = next.cloned() {
                let direct = inputs(&next)?;
                open.push((next, direct));
                continue;
            }
            let mut all = Needs::new();
            for input in direct {
                all.extend(known.get(input).into_iter().flatten());
                all.extend(index.get(input));
            }
            known.insert(path.clone(), all);
            open.pop();
        }
    }
    let need = |(own, path): (usize, &StorePath)| {
        let all = known.get(path).cloned().unwrap_or_default();
        // The same derivation may be given twice.
        all.into_iter().filter(|&other| other != own && paths[other] != *path).collect()
    };
    Ok(paths.iter().enumerate().map(need).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::path::StoreDir;

    #[test]
    fn a_derivation_needs_others_through_any_number_of_steps() {
        let path = |number: usize| {
            let path = format!("/gnu/store/{number:032}-x.drv");
            StorePath::parse(&StoreDir::default(), path.as_bytes()).unwrap()
        };
        // Each needs the one before, except number 500, which needs none.
        let number = |of: &StorePath| -> usize { of.hash_part().parse().unwrap() };
        let inputs = |of: &StorePath| match number(of) {
            0 | 500 => Ok::<_, ()>(Vec::new()),
            number => Ok(vec![path(number - 1)]),
        };
        let given = [900, 700, 400, 600, 100, 900].map(path);
        let expected = [vec![1, 3], vec![3], vec![4], vec![], vec![], vec![1, 3]];
        let sets = expected.map(|needs| needs.into_iter().collect::<Needs>());
        assert_eq!(needs(&given, inputs).unwrap(), sets);
        // As deep as a graph of many thousands.
        assert_eq!(
            needs(&[path(50_000), path(499), path(501)], |of| match number(of) {
                0 => Ok::<_, ()>(Vec::new()),
                number => Ok(vec![path(number - 1)]),
            })
            .unwrap()[0],
            [1, 2].into()
        );
    }
}
