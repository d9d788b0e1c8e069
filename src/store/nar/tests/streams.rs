//! Errors of the visitor and of the stream below a nar.

use super::*;

#[test]
fn a_visitor_may_leave_contents_unread() {
    let whole = Tree::Directory(BTreeMap::from([
        (b"a".to_vec(), Tree::File(false, vec![1; 300_001])),
        (b"b".to_vec(), Tree::File(false, vec![2; 3])),
    ]));
    let bytes = whole.nar();
    let mut reader = HashingReader::new(&bytes[..]);
    assert_eq!(read(&mut reader, &mut Nothing).unwrap(), bytes.len() as u64);
    assert_eq!(reader.digest(), <[u8; 32]>::from(Sha256::digest(&bytes)));
}

/// A visitor that fails at the first file, before or after it has read.
struct Failing {
    first: bool,
}

impl Visitor for Failing {
    fn directory(&mut self, _: &NarPath) -> io::Result<()> {
        Ok(())
    }
    fn leave_directory(&mut self, _: &NarPath) -> io::Result<()> {
        Ok(())
    }
    fn file(&mut self, _: &NarPath, _: bool, _: u64, contents: &mut dyn Read) -> io::Result<()> {
        if !self.first {
            io::copy(contents, &mut io::sink())?;
        }
        Err(io::Error::new(io::ErrorKind::StorageFull, "full"))
    }
    fn symlink(&mut self, _: &NarPath, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn errors_of_the_visitor_are_its_own() {
    let bytes = Tree::Directory(BTreeMap::from([(b"na me".to_vec(), Tree::File(false, vec![1; 9]))])).nar();
    for first in [true, false] {
        match read(&mut &bytes[..], &mut Failing { first }) {
            Err(NarError::Visitor { path, source }) => {
                assert_eq!((path.as_str(), source.kind()), ("na me", io::ErrorKind::StorageFull));
            }
            other => panic!("{other:?}"),
        }
    }
    // If the nar is cut short while the visitor reads, the nar is at fault.
    let error = read(&mut &bytes[..bytes.len() - 60], &mut Failing { first: false }).unwrap_err();
    assert!(matches!(error, NarError::Truncated { .. }), "{error}");
}

/// A reader that fails after some bytes.
struct Breaking<'a>(&'a [u8]);

impl Read for Breaking<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::ErrorKind::ConnectionReset.into()),
            count => Ok(count),
        }
    }
}

#[test]
fn errors_of_the_reader_are_its_own() {
    let bytes = Tree::File(false, vec![1; 1000]).nar();
    for end in 0..bytes.len() {
        match read(&mut Breaking(&bytes[..end]), &mut Builder::default()) {
            Err(NarError::Io { position, source }) => {
                assert_eq!((position, source.kind()), (end as u64, io::ErrorKind::ConnectionReset));
            }
            other => panic!("{end}: {other:?}"),
        }
    }
}

/// A reader that is interrupted before each byte.
struct Interrupted<'a>(&'a [u8], bool);

impl Read for Interrupted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        match self.1 {
            true => Err(io::ErrorKind::Interrupted.into()),
            false => self.0.read(&mut buffer[..1]),
        }
    }
}

#[test]
fn an_interruption_is_not_an_error() {
    let bytes = Tree::File(false, b"hello".to_vec()).nar();
    let mut reader = Interrupted(&bytes, false);
    let mut builder = Builder::default();
    read(&mut reader, &mut builder).unwrap();
    assert_eq!(builder.root, Some(Tree::File(false, b"hello".to_vec())));
    assert!(reader.0.is_empty());
}
