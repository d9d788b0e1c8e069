use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::store::nar;
use crate::store::path::StoreDir;

/// A store with an empty database.
struct Lab {
    top: TempDir,
    store: Store,
    database: Database,
    output: StorePath,
}

impl Lab {
    fn new() -> Lab {
        let top = tempfile::tempdir().unwrap();
        let location = top.path().join("store");
        fs::create_dir(&location).unwrap();
        let schema = "CREATE TABLE ValidPaths (id integer primary key, path text)";
        Connection::open(top.path().join("db.sqlite")).unwrap().execute_batch(schema).unwrap();
        let directory = StoreDir::default();
        Lab {
            store: Store::open_at(&directory, &location).unwrap(),
            database: Database::open(top.path(), &directory).unwrap(),
            output: StorePath::parse(&directory, b"/gnu/store/xnryj9c4k27hjviqs29c3dydawc71ga6-foo").unwrap(),
            top,
        }
    }

    fn location(&self, suffix: &str) -> PathBuf {
        self.top.path().join("store").join(format!("{}{suffix}", self.output.base_name()))
    }

    fn staging(&self) -> Staging<'_> {
        Staging::new(&self.store, &self.output).unwrap()
    }

    fn names(&self) -> Vec<CString> {
        files::names(self.store.fd()).unwrap()
    }
}

/// Returns a nar of the tree that `fill` visits.
fn nar(fill: impl FnOnce(&mut nar::Writer<Vec<u8>>, &mut NarPath)) -> Vec<u8> {
    let mut writer = nar::Writer::new(Vec::new());
    fill(&mut writer, &mut NarPath::root());
    writer.finish().unwrap()
}

fn file(writer: &mut nar::Writer<Vec<u8>>, path: &mut NarPath, name: &[u8], executable: bool, contents: &[u8]) {
    path.push(name).unwrap();
    writer.file(path, executable, contents.len() as u64, &mut &contents[..]).unwrap();
    path.pop();
}

/// Returns a tree with files of every kind.
fn tree() -> Vec<u8> {
    nar(|writer, path| {
        writer.directory(path).unwrap();
        file(writer, path, b"a b", true, &[7; 300_000]);
        path.push(b"d").unwrap();
        writer.directory(path).unwrap();
        path.push(b"link").unwrap();
        writer.symlink(path, b"../../../etc").unwrap();
        path.pop();
        file(writer, path, b"\xff\xfe", false, b"");
        writer.leave_directory(path).unwrap();
        path.pop();
        file(writer, path, b"z", false, b"z");
        writer.leave_directory(path).unwrap();
    })
}

fn assert_canonical(path: &std::path::Path) {
    let metadata = fs::symlink_metadata(path).unwrap();
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1, 0), "{path:?}");
    if !metadata.is_symlink() {
        let executable = metadata.is_dir() || path.ends_with("a b");
        assert_eq!(metadata.permissions().mode() & 0o7777, if executable { 0o555 } else { 0o444 }, "{path:?}");
    }
    if metadata.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| assert_canonical(&entry.unwrap().path()));
    }
}

#[test]
fn a_tree_is_moved_into_the_store_in_its_form() {
    let lab = Lab::new();
    let staging = lab.staging();
    nar::read(&mut &tree()[..], &mut staging.restore()).unwrap();
    let mut again = Vec::new();
    staging.dump().unwrap().read_to_end(&mut again).unwrap();
    assert_eq!(again, tree());
    assert_eq!(lab.names(), [file_name(&lab.output, ".chroot").unwrap()]);
    assert!(staging.install(&lab.database).unwrap());
    assert_eq!(lab.names(), [file_name(&lab.output, "").unwrap()]);
    assert_canonical(&lab.location(""));
    let mut installed = Vec::new();
    Dump::new(lab.store.fd(), &lab.names()[0]).unwrap().read_to_end(&mut installed).unwrap();
    assert_eq!(installed, tree());
}

#[test]
fn a_file_or_a_link_can_be_an_output() {
    let file = nar(|writer, path| writer.file(path, false, 2, &mut &b"hi"[..]).unwrap());
    let outside = tempfile::tempdir().unwrap();
    let before = fs::metadata(outside.path()).unwrap();
    let link = nar(|writer, path| writer.symlink(path, outside.path().as_os_str().as_bytes()).unwrap());
    for nar in [file, link] {
        let lab = Lab::new();
        let staging = lab.staging();
        nar::read(&mut &nar[..], &mut staging.restore()).unwrap();
        staging.install(&lab.database).unwrap();
        assert_canonical(&lab.location(""));
        let mut installed = Vec::new();
        Dump::new(lab.store.fd(), &lab.names()[0]).unwrap().read_to_end(&mut installed).unwrap();
        assert_eq!(installed, nar);
    }
    // The target of the link did not get the metadata of the store.
    let after = fs::metadata(outside.path()).unwrap();
    assert_eq!((after.mode(), after.mtime()), (before.mode(), before.mtime()));
}

#[test]
fn a_dropped_output_leaves_no_files() {
    let lab = Lab::new();
    let staging = lab.staging();
    let whole = tree();
    nar::read(&mut &whole[..whole.len() - 16], &mut staging.restore()).unwrap_err();
    drop(staging);
    assert!(lab.names().is_empty());
}

#[test]
fn an_output_that_does_not_fit_is_not_begun() {
    let lab = Lab::new();
    let staging = lab.staging();
    let error = staging.restore().file(&NarPath::root(), false, 1 << 62, &mut io::repeat(0)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(!lab.location(".chroot").join("item").exists());
}

#[test]
fn leftovers_are_removed() {
    let lab = Lab::new();
    for suffix in ["", ".chroot"] {
        fs::create_dir_all(lab.location(suffix).join("item/old")).unwrap();
        fs::write(lab.location(suffix).join("item/old/file"), "").unwrap();
        fs::set_permissions(lab.location(suffix).join("item/old"), fs::Permissions::from_mode(0o555)).unwrap();
    }
    let staging = lab.staging();
    nar::read(&mut &tree()[..], &mut staging.restore()).unwrap();
    staging.install(&lab.database).unwrap();
    assert_eq!(lab.names(), [file_name(&lab.output, "").unwrap()]);
    assert!(!lab.location("").join("item").exists());
}

#[test]
fn existing_links_are_replaced_and_not_followed() {
    let lab = Lab::new();
    let outside = lab.top.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "").unwrap();
    symlink(&outside, lab.location(".chroot")).unwrap();
    symlink(&outside, lab.location("")).unwrap();
    let staging = lab.staging();
    nar::read(&mut &tree()[..], &mut staging.restore()).unwrap();
    staging.install(&lab.database).unwrap();
    assert_canonical(&lab.location(""));
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn a_valid_output_stays_as_it_is() {
    let lab = Lab::new();
    fs::write(lab.location(""), "valid").unwrap();
    let connection = Connection::open(lab.top.path().join("db.sqlite")).unwrap();
    connection.execute("INSERT INTO ValidPaths (path) VALUES (?)", [lab.output.as_str()]).unwrap();
    let staging = lab.staging();
    nar::read(&mut &tree()[..], &mut staging.restore()).unwrap();
    assert!(!staging.install(&lab.database).unwrap());
    assert_eq!(fs::read_to_string(lab.location("")).unwrap(), "valid");
    assert_eq!(lab.names(), [file_name(&lab.output, "").unwrap()]);
}

#[test]
fn nothing_is_made_twice_or_through_a_link() {
    let lab = Lab::new();
    let staging = lab.staging();
    let mut restore = staging.restore();
    let [kept, missing] = ["kept", "missing"].map(|name| lab.top.path().join(name));
    fs::write(&kept, "kept").unwrap();
    let mut path = NarPath::root();
    restore.directory(&path).unwrap();
    // The reader of nars refuses a repeated name. This would not follow the link if it accepted one.
    for (name, target) in [(b"x", &kept), (b"y", &missing)] {
        path.push(name).unwrap();
        restore.symlink(&path, target.as_os_str().as_bytes()).unwrap();
        assert!(restore.file(&path, false, 3, &mut &b"new"[..]).is_err());
        assert!(restore.directory(&path).is_err());
        assert!(restore.symlink(&path, b"elsewhere").is_err());
        path.pop();
    }
    assert_eq!(fs::read_to_string(&kept).unwrap(), "kept");
    assert!(!missing.exists());
    path.push(b"z").unwrap();
    restore.file(&path, false, 3, &mut &b"old"[..]).unwrap();
    assert!(restore.file(&path, false, 3, &mut &b"new"[..]).is_err());
}

/// Contents that check the file they are written to.
struct Watching<'a>(&'a std::path::Path, bool);

impl Read for Watching<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
        let mut fds = open.filter(|entry| fs::read_link(entry.path()).is_ok_and(|file| file == self.0));
        let fd = fds.next().expect("the file is open").file_name();
        let flags = fs::read_to_string(std::path::Path::new("/proc/self/fdinfo").join(fd)).unwrap();
        let flags = flags.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        let flags = OFlags::from_bits_retain(u32::from_str_radix(flags, 8).unwrap());
        assert!(flags.contains(OFlags::CLOEXEC | OFlags::NOFOLLOW), "{flags:?}");
        self.1 = true;
        buffer[0] = b'x';
        Ok(1)
    }
}

#[test]
fn open_files_are_not_inherited_and_are_not_links() {
    let lab = Lab::new();
    let staging = lab.staging();
    let file = lab.location(".chroot").join("item");
    let mut watching = Watching(&file, false);
    staging.restore().file(&NarPath::root(), false, 1, &mut watching).unwrap();
    assert!(watching.1);
    let file = staging.plain_file().unwrap().unwrap();
    assert!(rustix::io::fcntl_getfd(&file).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    assert!(rustix::fs::fcntl_getfl(&file).unwrap().contains(OFlags::NOFOLLOW));
}

#[test]
fn a_store_that_cannot_be_written_to_is_reported() {
    let lab = Lab::new();
    let gone = lab.top.path().join("store");
    fs::remove_dir(&gone).unwrap();
    let error = Staging::new(&lab.store, &lab.output).err().unwrap();
    assert!(error.to_string().starts_with("cannot prepare a place for '/gnu/store/xnryj"), "{error}");
}

/// The depth exceeds the descriptors that a process may have.
#[test]
fn a_deep_tree_is_restored() {
    let lab = Lab::new();
    let nar = nar(|writer, path| {
        for _ in 0..1200 {
            writer.directory(path).unwrap();
            path.push(b"d").unwrap();
        }
        writer.file(path, true, 1, &mut &b"x"[..]).unwrap();
        for _ in 0..1200 {
            path.pop();
            writer.leave_directory(path).unwrap();
        }
    });
    let staging = lab.staging();
    nar::read(&mut &nar[..], &mut staging.restore()).unwrap();
    let mut again = Vec::new();
    staging.dump().unwrap().read_to_end(&mut again).unwrap();
    assert!(again == nar);
    assert!(staging.install(&lab.database).unwrap());
    let deepest: PathBuf = std::iter::repeat_n("d", 1199).collect();
    for directory in [lab.location(""), lab.location("/d"), lab.location("").join(deepest)] {
        assert_eq!(fs::metadata(directory).unwrap().permissions().mode() & 0o7777, 0o555);
    }
    remove(lab.store.fd(), &file_name(&lab.output, "").unwrap()).unwrap();
}
