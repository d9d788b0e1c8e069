use tempfile::TempDir;

use super::*;
use crate::local::Store;
use crate::store::nar::{self, NarPath, Visitor};
use crate::store::path::StoreDir;

/// The two ways to hash a fixed output, and the two modes of a file, for the calls below.
const FLAT: bool = false;
const RECURSIVE: bool = true;
const PLAIN: bool = false;
const EXECUTABLE: bool = true;

fn nar(executable: bool, contents: &[u8]) -> Vec<u8> {
    let mut writer = nar::Writer::new(Vec::new());
    writer.file(&NarPath::root(), executable, contents.len() as u64, &mut &contents[..]).unwrap();
    writer.finish().unwrap()
}

fn digest(algorithm: HashAlgorithm, bytes: &[u8]) -> Vec<u8> {
    let mut digest = Digest::new(algorithm).unwrap();
    digest.update(bytes);
    digest.finish()
}

/// Restores `nar` and checks it.
fn check(nar: &[u8], recursive: bool, algorithm: HashAlgorithm, hash: Vec<u8>) -> Result<(), FixedError> {
    let top = TempDir::new().unwrap();
    let directory = StoreDir::default();
    let store = Store::open_at(&directory, top.path()).unwrap();
    let output = StorePath::parse(&directory, b"/gnu/store/4fspafxnqr76lhdb1d16lrd9i88s6j8z-fx").unwrap();
    let staging = Staging::new(&store, &output).unwrap();
    nar::read(&mut &nar[..], &mut staging.restore()).unwrap();
    let nar_hash = digest(HashAlgorithm::Sha256, nar).try_into().unwrap();
    check_fixed_output(&staging, &nar_hash, &FixedOutput { recursive, algorithm, hash })
}

#[test]
fn each_algorithm_and_method_is_checked() {
    let contents = vec![b'x'; 300_000];
    for algorithm in HashAlgorithm::ALL {
        let (plain, executable) = (nar(PLAIN, &contents), nar(EXECUTABLE, &contents));
        check(&plain, FLAT, algorithm, digest(algorithm, &contents)).unwrap();
        check(&plain, RECURSIVE, algorithm, digest(algorithm, &plain)).unwrap();
        check(&executable, RECURSIVE, algorithm, digest(algorithm, &executable)).unwrap();
        for (recursive, wrong) in [(FLAT, &plain[..]), (RECURSIVE, &contents)] {
            let error = check(&plain, recursive, algorithm, digest(algorithm, wrong)).unwrap_err();
            assert!(matches!(error, FixedError::Mismatch { .. }), "{error:?}");
        }
    }
}

#[test]
fn a_flat_hash_is_of_a_plain_file() {
    let sha256 = HashAlgorithm::Sha256;
    let executable = check(&nar(EXECUTABLE, b"hi"), FLAT, sha256, digest(sha256, b"hi"));
    assert!(matches!(executable, Err(FixedError::NotPlain { .. })), "{executable:?}");
    let mut link = nar::Writer::new(Vec::new());
    link.symlink(&NarPath::root(), b"/etc/passwd").unwrap();
    let link = check(&link.finish().unwrap(), FLAT, sha256, digest(sha256, b"hi"));
    assert!(matches!(link, Err(FixedError::NotPlain { .. })), "{link:?}");
}

#[test]
fn a_mismatch_names_both_hashes() {
    let sha1 = HashAlgorithm::Sha1;
    let message = check(&nar(PLAIN, b"abc"), FLAT, sha1, vec![0; 20]).unwrap_err().to_string();
    assert!(message.starts_with("sha1 hash mismatch for '/gnu/store/4fspa"), "{message}");
    assert!(message.ends_with("got a9993e364706816aba3e25717850c26c9cd0d89d"), "{message}");
}

/// A reader that returns these results one after the other, then the end.
struct Reads(Vec<io::Result<&'static [u8]>>);

impl Read for Reads {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.pop() {
            None => Ok(0),
            Some(Ok(bytes)) => {
                buffer[..bytes.len()].copy_from_slice(bytes);
                Ok(bytes.len())
            }
            Some(Err(error)) => Err(error),
        }
    }
}

#[test]
fn an_interruption_is_not_the_end_and_an_error_gives_no_hash() {
    let path = StorePath::parse(&StoreDir::default(), b"/gnu/store/4fspafxnqr76lhdb1d16lrd9i88s6j8z-fx").unwrap();
    let of = |reads| {
        let failed = |cause| FixedError::Read { path: path.clone(), cause };
        hash(HashAlgorithm::Sha256, &mut Reads(reads), failed)
    };
    let interrupted = || Err(io::ErrorKind::Interrupted.into());
    let whole = of(vec![Ok(&b"lo"[..]), interrupted(), Ok(b"hel"), interrupted()]);
    assert_eq!(whole.unwrap(), digest(HashAlgorithm::Sha256, b"hello"));
    let error = of(vec![Ok(&b"lo"[..]), Err(io::ErrorKind::TimedOut.into()), Ok(b"hel")]).unwrap_err();
    assert!(matches!(error, FixedError::Read { .. }), "{error:?}");
}
