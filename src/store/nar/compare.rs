//! The structural comparison of two nars, as they are read: which files differ, and in what.
//!
//! The nodes of a nar are in the order of their paths, if `/` counts as less than any other byte. So reading both once
//! finds the nodes that only one of them has. Memory holds a few pieces of files and a few paths.
//!
//! A thread reads each of the two. If only one of the two has a directory, only the directory is reported.

use std::cmp::Ordering;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::{NarError, NarPath, Visitor, read};

/// The size of a piece of a file, in bytes.
const PIECE: usize = 64 << 10;

/// The number of pieces and nodes that a reader may be ahead.
const AHEAD: usize = 16;

/// The way in which two nodes of the same path differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeDifference {
    /// Only the first nar has it, or only the second.
    OnlyIn(Which),
    /// They are of different types: the names of the types.
    Type([&'static str; 2]),
    /// Only the file in this nar is executable.
    Executable(Which),
    /// The files differ from the byte `at` on, counted from 0. `sizes` are their lengths.
    Contents { at: u64, sizes: [u64; 2] },
    /// The symbolic links have different targets.
    Target([Vec<u8>; 2]),
}

/// One of two nars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    First,
    Second,
}

/// Compares two nars. Calls `report` with the path of each difference; a file may have several.
pub fn compare(
    first: impl Read + Send,
    second: impl Read + Send,
    report: &mut dyn FnMut(&NarPath, NodeDifference),
) -> Result<(), NarError> {
    thread::scope(|scope| {
        let [(one, nodes), (two, others)] = [(); 2].map(|()| sync_channel(AHEAD));
        let readers = [scope.spawn(move || send(first, one)), scope.spawn(move || send(second, two))];
        let found = merge(Side::new(nodes), Side::new(others), report);
        // A panic is a bug, and counts as the end of the data.
        let results = readers.map(|reader| reader.join().unwrap_or(Err(NarError::Truncated { position: 0 })));
        match results.into() {
            (Err(first), Err(second)) if is_induced(&first) => return Err(second),
            (first, second) => first.and(second)?,
        }
        // If both readers came to their ends, so did the comparison.
        found.ok_or(NarError::Truncated { position: 0 })
    })
}

/// Returns whether a reader failed because the comparison has ended, for an error of the other reader.
fn is_induced(error: &NarError) -> bool {
    matches!(error, NarError::Visitor { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
}

/// A part of a nar.
enum Part {
    Node(NarPath, Node),
    /// A piece of the file before it.
    Piece(Vec<u8>),
    /// The nar is complete.
    End,
}

#[derive(Debug, PartialEq, Eq)]
enum Node {
    Directory,
    File { executable: bool, size: u64 },
    Link { target: Vec<u8> },
}

impl Node {
    fn kind(&self) -> &'static str {
        match self {
            Node::Directory => "directory",
            Node::File { .. } => "file",
            Node::Link { .. } => "symbolic link",
        }
    }
}

/// Reads a nar, and sends its parts.
fn send(mut nar: impl Read, parts: SyncSender<Part>) -> Result<(), NarError> {
    let mut reader = io::BufReader::with_capacity(PIECE, &mut nar);
    let mut sender = Sender { parts: &parts };
    read(&mut reader, &mut sender)?;
    let _ = parts.send(Part::End);
    Ok(())
}

struct Sender<'a> {
    parts: &'a SyncSender<Part>,
}

impl Sender<'_> {
    fn send(&self, part: Part) -> io::Result<()> {
        self.parts.send(part).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Visitor for Sender<'_> {
    fn directory(&mut self, path: &NarPath) -> io::Result<()> {
        self.send(Part::Node(path.clone(), Node::Directory))
    }

    fn leave_directory(&mut self, _: &NarPath) -> io::Result<()> {
        Ok(())
    }

    fn file(&mut self, path: &NarPath, executable: bool, size: u64, contents: &mut dyn Read) -> io::Result<()> {
        self.send(Part::Node(path.clone(), Node::File { executable, size }))?;
        let mut left = size;
        while left > 0 {
            let mut piece = vec![0; usize::try_from(left).map_or(PIECE, |left| left.min(PIECE))];
            contents.read_exact(&mut piece)?;
            left -= piece.len() as u64;
            self.send(Part::Piece(piece))?;
        }
        Ok(())
    }

    fn symlink(&mut self, path: &NarPath, target: &[u8]) -> io::Result<()> {
        self.send(Part::Node(path.clone(), Node::Link { target: target.to_vec() }))
    }
}

/// One of the two nars, as its parts arrive.
struct Side {
    parts: Receiver<Part>,
    /// The current node; `None` after the last one.
    node: Option<(NarPath, Node)>,
    is_broken: bool,
}

impl Side {
    fn new(parts: Receiver<Part>) -> Side {
        let mut side = Side { parts, node: None, is_broken: false };
        side.next();
        side
    }

    /// Goes to the next node.
    fn next(&mut self) {
        loop {
            match self.parts.recv() {
                Ok(Part::Node(path, node)) => {
                    self.node = Some((path, node));
                    return;
                }
                Ok(Part::Piece(_)) => {}
                Ok(Part::End) => {
                    self.node = None;
                    return;
                }
                Err(_) => {
                    (self.node, self.is_broken) = (None, true);
                    return;
                }
            }
        }
    }

    /// Goes to the next node that is not below the current one.
    fn skip(&mut self) {
        let Some((above, _)) = self.node.take() else { return };
        self.next();
        while self.node.as_ref().is_some_and(|(path, _)| is_below(path, &above)) {
            self.next();
        }
    }

    /// Returns the next piece of the current file, which has `left` bytes left.
    fn piece(&mut self, left: &mut u64) -> Option<Vec<u8>> {
        if *left == 0 {
            return Some(Vec::new());
        }
        match self.parts.recv() {
            Ok(Part::Piece(piece)) => {
                *left = left.saturating_sub(piece.len() as u64);
                Some(piece)
            }
            _ => {
                (self.node, self.is_broken) = (None, true);
                None
            }
        }
    }
}

fn is_below(path: &NarPath, above: &NarPath) -> bool {
    let rest = path.as_bytes().strip_prefix(above.as_bytes());
    path.depth() > above.depth() && (above.depth() == 0 || rest.is_some_and(|rest| rest.first() == Some(&b'/')))
}

/// Compares paths in the order of a nar.
fn order(one: &NarPath, two: &NarPath) -> Ordering {
    let key =
        |path: &NarPath| path.as_bytes().iter().map(|&byte| if byte == b'/' { 0 } else { byte }).collect::<Vec<_>>();
    key(one).cmp(&key(two))
}

/// Compares the nodes of both. `None`: one of them cannot be read to its end.
fn merge(mut first: Side, mut second: Side, report: &mut dyn FnMut(&NarPath, NodeDifference)) -> Option<()> {
    loop {
        let order = match (&first.node, &second.node) {
            (None, None) => return (!first.is_broken && !second.is_broken).then_some(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((one, _)), Some((two, _))) => order(one, two),
        };
        if first.is_broken || second.is_broken {
            return None;
        }
        match order {
            Ordering::Less => only(&mut first, Which::First, report),
            Ordering::Greater => only(&mut second, Which::Second, report),
            Ordering::Equal => both(&mut first, &mut second, report)?,
        }
    }
}

fn only(side: &mut Side, which: Which, report: &mut dyn FnMut(&NarPath, NodeDifference)) {
    if let Some((path, _)) = &side.node {
        report(path, NodeDifference::OnlyIn(which));
    }
    side.skip();
}

/// Compares the current nodes, which have the same path.
fn both(first: &mut Side, second: &mut Side, report: &mut dyn FnMut(&NarPath, NodeDifference)) -> Option<()> {
    let (Some((path, one)), Some((_, two))) = (&first.node, &second.node) else { return None };
    let path = path.clone();
    match (one, two) {
        (Node::Directory, Node::Directory) => {}
        (&Node::File { executable, size }, &Node::File { executable: other, size: length }) => {
            if executable != other {
                report(&path, NodeDifference::Executable(if executable { Which::First } else { Which::Second }));
            }
            if let Some(at) = contents(first, second, [size, length])? {
                report(&path, NodeDifference::Contents { at, sizes: [size, length] });
            }
        }
        (Node::Link { target }, Node::Link { target: other }) => {
            if target != other {
                report(&path, NodeDifference::Target([target.clone(), other.clone()]));
            }
        }
        (one, two) => {
            report(&path, NodeDifference::Type([one.kind(), two.kind()]));
            first.skip();
            second.skip();
            return Some(());
        }
    }
    first.next();
    second.next();
    Some(())
}

/// Returns the number of equal bytes at the beginning of two files, unless they are equal. `None` outside: one of them
/// cannot be read to its end.
fn contents(first: &mut Side, second: &mut Side, [mut left, mut other]: [u64; 2]) -> Option<Option<u64>> {
    let is_longer = left != other;
    let mut equal = 0;
    while left > 0 && other > 0 {
        // The pieces have equal lengths, except the last ones.
        let (one, two) = (first.piece(&mut left)?, second.piece(&mut other)?);
        let length = one.len().min(two.len());
        match one.iter().zip(&two).position(|(one, two)| one != two) {
            Some(at) => return Some(Some(equal + at as u64)),
            None => equal += length as u64,
        }
        if one.len() != two.len() {
            break;
        }
    }
    Some(is_longer.then_some(equal))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::nar::Writer;

    /// A tree: paths that end in `/` are directories, contents that begin with `->` are targets, and those with `#!`
    /// executable.
    fn nar(tree: &[(&str, &str)]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        let path = |text: &str| {
            let mut path = NarPath::root();
            text.split('/').filter(|name| !name.is_empty()).for_each(|name| path.push(name.as_bytes()).unwrap());
            path
        };
        let mut open: Vec<String> = Vec::new();
        for (name, contents) in tree {
            while open.last().is_some_and(|above| !name.starts_with(above.as_str())) {
                writer.leave_directory(&path(&open.pop().unwrap())).unwrap();
            }
            if name.is_empty() || name.ends_with('/') {
                writer.directory(&path(name)).unwrap();
                open.push((*name).to_owned());
            } else if let Some(target) = contents.strip_prefix("->") {
                writer.symlink(&path(name), target.as_bytes()).unwrap();
            } else {
                let is_executable = contents.starts_with("#!");
                writer.file(&path(name), is_executable, contents.len() as u64, &mut contents.as_bytes()).unwrap();
            }
        }
        while let Some(above) = open.pop() {
            writer.leave_directory(&path(&above)).unwrap();
        }
        writer.finish().unwrap()
    }

    fn differences(one: &[u8], two: &[u8]) -> Result<Vec<(String, NodeDifference)>, NarError> {
        let mut found = Vec::new();
        compare(one, two, &mut |path, difference| found.push((path.to_string(), difference)))?;
        Ok(found)
    }

    fn found(one: &[(&str, &str)], two: &[(&str, &str)]) -> Vec<(String, NodeDifference)> {
        differences(&nar(one), &nar(two)).unwrap()
    }

    #[test]
    fn equal_trees_have_no_difference() {
        let tree = [("", ""), ("a/", ""), ("a/b", "#!x"), ("a/c/", ""), ("a/c/d", "->e"), ("a-", "text"), ("z", "")];
        assert_eq!(found(&tree, &tree), []);
        // The root may be a file.
        let large = "x".repeat(3 * PIECE + 5);
        assert_eq!(differences(&file(&large), &file(&large)).unwrap(), []);
    }

    fn file(contents: &str) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        writer.file(&NarPath::root(), false, contents.len() as u64, &mut contents.as_bytes()).unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn each_difference_is_reported_with_its_path() {
        let one =
            [("", ""), ("d/", ""), ("d/deep/", ""), ("d/deep/f", "same, x"), ("d/x", "y"), ("l", "->a"), ("z", "z")];
        let two =
            [("", ""), ("d/", ""), ("d/deep/", ""), ("d/deep/f", "same, y"), ("d/x", "y"), ("l", "->b"), ("z", "zz")];
        let expected = [
            ("d/deep/f", NodeDifference::Contents { at: 6, sizes: [7, 7] }),
            ("l", NodeDifference::Target([b"a".to_vec(), b"b".to_vec()])),
            ("z", NodeDifference::Contents { at: 1, sizes: [1, 2] }),
        ];
        assert_eq!(found(&one, &two), expected.map(|(path, difference)| (path.to_owned(), difference)));
        let executable = found(&[("", ""), ("x", "#!x"), ("y", "y")], &[("", ""), ("x", "??x"), ("y", "#!y")]);
        let contents = |sizes| NodeDifference::Contents { at: 0, sizes };
        let expected = [
            ("x", NodeDifference::Executable(Which::First)),
            ("x", contents([3, 3])),
            ("y", NodeDifference::Executable(Which::Second)),
            ("y", contents([1, 3])),
        ];
        assert_eq!(executable, expected.map(|(path, difference)| (path.to_owned(), difference)));
    }

    #[test]
    fn what_only_one_of_them_has_is_reported_once() {
        let one = [
            ("", ""),
            ("a/", ""),
            ("a/b", "1"),
            ("a/c/", ""),
            ("a/c/d", "2"),
            ("a-", "x"),
            ("m", "x"),
            ("n/", ""),
            ("n/o", ""),
        ];
        let two = [("", ""), ("a-", "x"), ("b", ""), ("m/", ""), ("m/p", ""), ("n", "->o"), ("q/", ""), ("q/r/", "")];
        let expected = [
            ("a", NodeDifference::OnlyIn(Which::First)),
            ("b", NodeDifference::OnlyIn(Which::Second)),
            ("m", NodeDifference::Type(["file", "directory"])),
            ("n", NodeDifference::Type(["directory", "symbolic link"])),
            ("q", NodeDifference::OnlyIn(Which::Second)),
        ];
        assert_eq!(found(&one, &two), expected.map(|(path, difference)| (path.to_owned(), difference)));
    }

    #[test]
    fn a_difference_in_a_large_file_has_its_place() {
        let one = "x".repeat(5 * PIECE);
        for at in [0, PIECE - 1, PIECE, 3 * PIECE + 7, 5 * PIECE - 1] {
            let mut two = one.clone().into_bytes();
            two[at] = b'y';
            let two = String::from_utf8(two).unwrap();
            let sizes = [one.len() as u64; 2];
            let expected = NodeDifference::Contents { at: at as u64, sizes };
            assert_eq!(differences(&file(&one), &file(&two)).unwrap(), [("/".to_owned(), expected)], "{at}");
        }
        for length in [0, 1, PIECE, PIECE + 1, 5 * PIECE - 1] {
            let expected = NodeDifference::Contents { at: length as u64, sizes: [length as u64, one.len() as u64] };
            assert_eq!(differences(&file(&one[..length]), &file(&one)).unwrap(), [("/".to_owned(), expected)]);
        }
    }

    #[test]
    fn a_nar_that_cannot_be_read_is_an_error() {
        let whole = nar(&[("", ""), ("a", "text"), ("b/", ""), ("b/c", "#!x")]);
        for length in 0..whole.len() {
            assert!(differences(&whole[..length], &whole).is_err(), "{length}");
            assert!(differences(&whole, &whole[..length]).is_err(), "{length}");
        }
        // The error is that of the damaged one, although the other one cannot be sent either.
        let large = file(&"x".repeat(100 * PIECE));
        for error in [differences(&large, &large[..PIECE]), differences(&large[..PIECE], &large)] {
            assert!(matches!(error, Err(NarError::Truncated { .. })), "{error:?}");
        }
    }
}
