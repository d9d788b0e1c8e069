use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::*;
use crate::store::nar::{self, NarPath, Visitor};

/// Records its calls.
#[derive(Default)]
struct Record(Vec<String>);

impl Visitor for Record {
    fn directory(&mut self, path: &NarPath) -> io::Result<()> {
        self.0.push(format!("{path}{{"));
        Ok(())
    }

    fn leave_directory(&mut self, path: &NarPath) -> io::Result<()> {
        self.0.push(format!("}}{path}"));
        Ok(())
    }

    fn file(&mut self, path: &NarPath, executable: bool, size: u64, contents: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        contents.read_to_end(&mut bytes)?;
        assert_eq!(bytes.len() as u64, size);
        let star = if executable { "*" } else { "" };
        self.0.push(format!("{path}{star}={}", bytes.escape_ascii()));
        Ok(())
    }

    fn symlink(&mut self, path: &NarPath, target: &[u8]) -> io::Result<()> {
        self.0.push(format!("{path}->{}", target.escape_ascii()));
        Ok(())
    }
}

fn dump(top: &Path) -> io::Result<Vec<u8>> {
    let parent = File::open(top).unwrap();
    let mut nar = Vec::new();
    Dump::new(&parent, c"item")?.read_to_end(&mut nar).map(|_| nar)
}

fn nodes(nar: &[u8]) -> Vec<String> {
    let mut record = Record::default();
    assert_eq!(nar::read(&mut &nar[..], &mut record).unwrap(), nar.len() as u64);
    record.0
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_tree_becomes_a_strict_nar() {
    let top = tempfile::tempdir().unwrap();
    let item = top.path().join("item");
    fs::create_dir_all(item.join("b/empty")).unwrap();
    fs::write(item.join("b/file"), "12345678").unwrap();
    fs::write(item.join("b/none"), "").unwrap();
    fs::write(item.join("B x\u{e9}"), "#!").unwrap();
    chmod(&item.join("B x\u{e9}"), 0o744);
    symlink("/no/where", item.join("link")).unwrap();
    symlink("b", item.join("to directory")).unwrap();
    let expected = [
        "/{",
        "B x\\xc3\\xa9*=#!",
        "b{",
        "b/empty{",
        "}b/empty",
        "b/file=12345678",
        "b/none=",
        "}b",
        "link->/no/where",
        "to directory->b",
        "}/",
    ];
    assert_eq!(nodes(&dump(top.path()).unwrap()), expected);
}

#[test]
fn a_file_or_a_link_can_be_the_whole() {
    let top = tempfile::tempdir().unwrap();
    let item = top.path().join("item");
    fs::write(&item, "hello\n").unwrap();
    let nar = dump(top.path()).unwrap();
    // The text "foo" of the test vectors.
    use sha2::Digest;
    let hash = crate::store::base16::encode(&sha2::Sha256::digest(&nar));
    assert_eq!(hash, "1c37d01af40be2e80691de3cc3df44377a699afbb17c68f080964b2fd071fc13");
    fs::remove_file(&item).unwrap();
    symlink("elsewhere", &item).unwrap();
    assert_eq!(nodes(&dump(top.path()).unwrap()), ["/->elsewhere"]);
}

#[test]
fn buffers_of_any_size_give_the_same() {
    let top = tempfile::tempdir().unwrap();
    let item = top.path().join("item");
    fs::create_dir(&item).unwrap();
    for size in [0, 1, 7, 8, 9, 4096, 100_000] {
        fs::write(item.join(format!("{size}")), vec![b'x'; size]).unwrap();
    }
    let whole = dump(top.path()).unwrap();
    for size in [1, 3, 32768, 1 << 20] {
        let mut dump = Dump::new(File::open(top.path()).unwrap(), c"item").unwrap();
        let (mut nar, mut buffer) = (Vec::new(), vec![0; size]);
        loop {
            match dump.read(&mut buffer).unwrap() {
                0 => break,
                count => nar.extend_from_slice(&buffer[..count]),
            }
        }
        assert_eq!(nar, whole);
        assert_eq!(dump.read(&mut buffer).unwrap(), 0);
        assert_eq!(dump.read(&mut []).unwrap(), 0);
    }
}

#[test]
fn a_file_that_a_nar_cannot_hold_is_an_error() {
    let top = tempfile::tempdir().unwrap();
    let item = top.path().join("item");
    assert_eq!(dump(top.path()).unwrap_err().kind(), io::ErrorKind::NotFound);
    fs::create_dir(&item).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(item.join("socket")).unwrap();
    let message = dump(top.path()).unwrap_err().to_string();
    assert!(message.contains("'socket' is neither file, directory nor symbolic link"), "{message}");
}

#[test]
fn paths_are_bounded_and_nothing_else_bounds_depth() {
    let top = tempfile::tempdir().unwrap();
    let parent = File::open(top.path()).unwrap();
    let mode = rustix::fs::Mode::RWXU;
    let mut walk = DirectoryWalk::new(files::make_directory(&parent, c"item", mode).unwrap());
    let mut deeper = || {
        let directory = files::make_directory(walk.current(), c"d", mode).unwrap();
        walk.enter(directory).unwrap();
    };
    (0..2048).for_each(|_| deeper());
    let size = nar::read(&mut dump(top.path()).unwrap().as_slice(), &mut nar::Nothing).unwrap();
    assert!(size > 2048 * 150, "{size}");
    deeper();
    let error = dump(top.path()).unwrap_err().to_string();
    assert!(error.contains("longer than 4095 bytes"), "{error}");
    // The standard library's own removal takes a descriptor for each level.
    crate::local::remove::remove(&parent, c"item").unwrap();
}

#[test]
fn a_file_that_becomes_shorter_is_noticed() {
    let top = tempfile::tempdir().unwrap();
    fs::write(top.path().join("item"), vec![0; 1000]).unwrap();
    let mut dump = Dump::new(File::open(top.path()).unwrap(), c"item").unwrap();
    dump.read_exact(&mut [0; 200]).unwrap();
    fs::write(top.path().join("item"), "").unwrap();
    assert_eq!(dump.read_to_end(&mut Vec::new()).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}
