//! The result of a challenge: the copies of the outputs, and where they differ.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;

use super::built::Roots;
use crate::cancel::Cancel;
use crate::local::{Directories, Dump};
use crate::store::base32;
use crate::store::nar::{self, NodeDifference, Which};
use crate::store::path::StorePath;
use crate::transfer::KeptApart;

/// The limit of differences between two copies that are listed.
const MAX_LISTED: usize = 1000;

/// The result of a [`Challenge`](super::Challenge).
///
/// The copies are files in a temporary directory until this value is dropped. Until then, the garbage collector keeps the
/// outputs in the store of this machine.
#[derive(Debug)]
#[non_exhaustive]
pub struct Challenged {
    /// The derivation.
    pub derivation: StorePath,
    /// The comparison of each output, by its id.
    pub outputs: BTreeMap<String, OutputComparison>,
    /// The copies of the outputs: first those of this machine, if it has them, then those of the machines in the order of
    /// their names and rounds.
    pub copies: Vec<OutputCopy>,
    pub(super) _roots: Roots,
}

impl Challenged {
    /// Returns whether all copies of all outputs are the same.
    pub fn is_reproducible(&self) -> bool {
        self.outputs.values().all(|output| output.differences.is_empty())
    }
}

/// Where a copy of the outputs comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CopySource {
    /// From the store of this machine.
    ThisMachine,
    /// It was built on the machine of this name, in this round, counted from 1.
    #[non_exhaustive]
    Machine {
        /// The name.
        name: String,
        /// The round.
        round: u32,
    },
}

impl fmt::Display for CopySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CopySource::ThisMachine => f.write_str("this machine"),
            CopySource::Machine { name, round: 1 } => f.write_str(name),
            CopySource::Machine { name, round } => write!(f, "{name}, round {round}"),
        }
    }
}

/// The outputs of one build.
#[non_exhaustive]
pub struct OutputCopy {
    /// Where it comes from.
    pub source: CopySource,
    hashes: BTreeMap<StorePath, [u8; 32]>,
    kept: Option<KeptApart>,
}

impl OutputCopy {
    pub(super) fn new(
        source: CopySource,
        hashes: BTreeMap<StorePath, [u8; 32]>,
        kept: Option<KeptApart>,
    ) -> OutputCopy {
        OutputCopy { source, hashes, kept }
    }

    /// Returns the SHA-256 of the nar of an output, in the form of `guix hash`.
    pub fn nar_hash(&self, output: &StorePath) -> Option<String> {
        self.hashes.get(output).map(|hash| base32::encode(hash))
    }

    /// Returns the file or directory that holds the copy of an output, until the [`Challenged`] is dropped.
    pub fn path(&self, output: &StorePath) -> PathBuf {
        self.kept.as_ref().map_or_else(|| PathBuf::from(output.as_str()), |kept| kept.path(output))
    }

    fn dump(&self, output: &StorePath, directories: &Directories) -> io::Result<Dump> {
        match &self.kept {
            Some(kept) => kept.dump(output),
            None => {
                let name = CString::new(output.base_name())?;
                let store = std::fs::File::open(directories.store.as_str())?;
                Dump::new(store, &name)
            }
        }
    }
}

impl fmt::Debug for OutputCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutputCopy").field("source", &self.source).finish_non_exhaustive()
    }
}

/// The comparison of all copies of one output.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OutputComparison {
    /// The output.
    pub path: StorePath,
    /// The differences between the first copy and each different one, of which several copies may be the same.
    pub differences: Vec<CopyDifference>,
}

/// The differences between two copies of an output.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CopyDifference {
    /// The index of the first one in [`Challenged::copies`].
    pub first: usize,
    /// The index of the other one.
    pub second: usize,
    /// The files that differ, in the order of a nar, at most a thousand.
    pub files: Vec<FileDifference>,
    /// How many more there are.
    pub omitted: usize,
}

/// A file, directory or symbolic link that differs between two copies of an output. `Display` gives one line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileDifference {
    /// The path below the output; `/` is the output itself. Bytes that are not printable ASCII are escaped.
    pub path: String,
    /// What differs.
    pub kind: DifferenceKind,
}

/// What differs between two files of the same path.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DifferenceKind {
    /// The contents, from the byte `at` on, counted from 0. `sizes` are the lengths.
    Contents {
        /// The first byte that differs, or the end of the shorter file.
        at: u64,
        /// The lengths in both copies, in bytes.
        sizes: [u64; 2],
    },
    /// Only one file is executable: that of the first copy, if true.
    Executable(bool),
    /// The targets of symbolic links, with bytes escaped as in the path.
    Target([String; 2]),
    /// The types, such as `file` and `directory`.
    Type([String; 2]),
    /// Only one copy has it: the first, if true.
    Missing(bool),
}

impl fmt::Display for FileDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let which = |is_first: &bool| if *is_first { "first" } else { "second" };
        write!(f, "{}: ", self.path)?;
        match &self.kind {
            DifferenceKind::Contents { at, sizes: [one, two] } if one == two => {
                write!(f, "the contents differ from byte {at} on ({one} bytes)")
            }
            DifferenceKind::Contents { at, sizes: [one, two] } => {
                write!(f, "the contents differ from byte {at} on ({one} and {two} bytes)")
            }
            DifferenceKind::Executable(is_first) => write!(f, "executable only in the {}", which(is_first)),
            DifferenceKind::Target([one, two]) => write!(f, "a symbolic link to '{one}' and to '{two}'"),
            DifferenceKind::Type([one, two]) => write!(f, "a {one} and a {two}"),
            DifferenceKind::Missing(is_first) => write!(f, "only in the {}", which(is_first)),
        }
    }
}

/// Compares the copies of one output. A copy without the output is an error: it would pass as the same.
pub(super) fn compare(
    path: StorePath,
    copies: &[OutputCopy],
    directories: &Directories,
    cancel: &Cancel,
) -> io::Result<OutputComparison> {
    let mut seen: Vec<&[u8; 32]> = Vec::new();
    let mut differences = Vec::new();
    for (index, copy) in copies.iter().enumerate() {
        let hash = copy.hashes.get(&path);
        let hash = hash.ok_or_else(|| io::Error::other(format!("no copy of '{path}' from {}", copy.source)))?;
        if seen.contains(&hash) {
            continue;
        }
        seen.push(hash);
        if let (Some(first), true) = (copies.first(), index > 0) {
            let [one, two] = [first, copy].map(|copy| copy.dump(&path, directories));
            let (files, omitted) = files(Cancellable { nar: one?, cancel }, Cancellable { nar: two?, cancel })?;
            differences.push(CopyDifference { first: 0, second: index, files, omitted });
        }
    }
    Ok(OutputComparison { path, differences })
}

/// A nar that cannot be read any more when the challenge is cancelled.
struct Cancellable<'a, R> {
    nar: R,
    cancel: &'a Cancel,
}

impl<R: Read> Read for Cancellable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.cancel.is_cancelled() {
            true => Err(io::Error::other("the challenge was cancelled")),
            false => self.nar.read(buffer),
        }
    }
}

/// Returns the files that differ, and the number of those that are not listed.
fn files(first: impl Read + Send, second: impl Read + Send) -> io::Result<(Vec<FileDifference>, usize)> {
    let (mut files, mut omitted) = (Vec::new(), 0);
    let mut report = |path: &nar::NarPath, difference| {
        if files.len() < MAX_LISTED {
            files.push(FileDifference { path: path.to_string(), kind: kind(difference) });
        } else {
            omitted += 1;
        }
    };
    nar::compare(first, second, &mut report).map_err(io::Error::other)?;
    Ok((files, omitted))
}

fn kind(difference: NodeDifference) -> DifferenceKind {
    match difference {
        NodeDifference::OnlyIn(which) => DifferenceKind::Missing(which == Which::First),
        NodeDifference::Type(types) => DifferenceKind::Type(types.map(str::to_owned)),
        NodeDifference::Executable(which) => DifferenceKind::Executable(which == Which::First),
        NodeDifference::Contents { at, sizes } => DifferenceKind::Contents { at, sizes },
        NodeDifference::Target(targets) => {
            DifferenceKind::Target(targets.map(|target| target.escape_ascii().to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::path::StoreDir;

    #[test]
    fn a_copy_without_an_output_is_an_error() {
        let directories = Directories::default();
        let path = |name: &str| {
            let path = format!("/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-{name}");
            StorePath::parse(&StoreDir::default(), path.as_bytes()).unwrap()
        };
        let copy = |outputs: &[&str]| {
            let hashes = outputs.iter().map(|name| (path(name), [7; 32])).collect();
            OutputCopy::new(CopySource::ThisMachine, hashes, None)
        };
        let copies = [copy(&["out", "lib"]), copy(&["out"])];
        let compare = |name| compare(path(name), &copies, &directories, &Cancel::default());
        assert!(compare("out").unwrap().differences.is_empty());
        assert!(compare("lib").is_err());
    }

    /// Each group of equal copies is compared once with the first copy.
    #[test]
    fn a_copy_that_equals_an_earlier_one_is_not_compared() {
        let directory = tempfile::tempdir().unwrap();
        let store = StoreDir::new(directory.path().to_str().unwrap()).unwrap();
        let path = format!("{}/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-out", store.as_str());
        std::fs::write(&path, "contents").unwrap();
        let path = StorePath::parse(&store, path.as_bytes()).unwrap();
        let directories = Directories { store, ..Directories::default() };
        let copy = |hash: u8| OutputCopy::new(CopySource::ThisMachine, [(path.clone(), [hash; 32])].into(), None);
        for (hashes, expected) in [(&[1, 1, 1][..], &[][..]), (&[1, 2, 1, 2], &[1]), (&[1, 2, 3, 2, 1, 3], &[1, 2])] {
            let copies: Vec<OutputCopy> = hashes.iter().map(|hash| copy(*hash)).collect();
            let compared = compare(path.clone(), &copies, &directories, &Cancel::default()).unwrap();
            let second: Vec<usize> = compared.differences.iter().map(|difference| difference.second).collect();
            assert_eq!(second, expected, "{hashes:?}");
        }
    }

    #[test]
    fn a_cancelled_comparison_ends() {
        let cancel = Cancel::default();
        let endless = || Cancellable { nar: io::repeat(b'x'), cancel: &cancel };
        assert_eq!(endless().read(&mut [0; 4]).unwrap(), 4);
        cancel.cancel();
        assert!(endless().read(&mut [0; 4]).is_err());
        assert!(files(endless(), endless()).is_err());
    }
}
