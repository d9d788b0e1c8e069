use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::store::path::StoreDir;

struct Lab {
    top: TempDir,
    store: Store,
    path: StorePath,
}

impl Lab {
    fn new() -> Lab {
        let top = tempfile::tempdir().unwrap();
        let directory = StoreDir::default();
        let store = Store::open_at(&directory, top.path()).unwrap();
        let path = StorePath::parse(&directory, b"/gnu/store/xnryj9c4k27hjviqs29c3dydawc71ga6-foo").unwrap();
        Lab { top, store, path }
    }

    fn item(&self) -> PathBuf {
        self.top.path().join(self.path.base_name())
    }

    fn write(&self, name: &str, contents: &[u8], mode: u32) {
        let file = self.item().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, contents).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn inode(&self, name: &str) -> u64 {
        fs::metadata(self.item().join(name)).unwrap().ino()
    }

    fn entries(&self) -> Vec<String> {
        let names = files::names(files::open_directory(self.store.fd(), LINKS).unwrap()).unwrap();
        names.into_iter().map(|name| name.into_string().unwrap()).collect()
    }
}

#[test]
fn large_equal_files_become_one() {
    let lab = Lab::new();
    lab.write("one", &[b'a'; 8192], 0o444);
    lab.write("d/two", &[b'a'; 8192], 0o444);
    lab.write("d/run", &[b'a'; 8192], 0o555);
    lab.write("d/small", &[b'a'; 8191], 0o444);
    lab.write("small", &[b'a'; 8191], 0o444);
    assert_eq!(deduplicate(&lab.store, &lab.path).unwrap(), 1);
    assert_eq!(lab.inode("one"), lab.inode("d/two"));
    assert_ne!(lab.inode("one"), lab.inode("d/run"));
    assert_ne!(lab.inode("small"), lab.inode("d/small"));
    // The name of the first is that of the test vectors.
    assert_eq!(lab.entries().len(), 2);
    assert!(lab.entries().contains(&"03blgakvf2fysv4z6i1b67yc0rxpxi4dxwsnqh2i6mkm0bhjwdi1".to_owned()));
    for directory in ["", "d"] {
        let metadata = fs::metadata(lab.item().join(directory)).unwrap();
        assert_eq!((metadata.mtime(), metadata.mode() & 0o7777), (1, 0o555));
    }
    // Once more: nothing is left to do.
    assert_eq!(deduplicate(&lab.store, &lab.path).unwrap(), 0);
    let names = files::names(lab.store.fd()).unwrap();
    assert!(names.iter().all(|name| !name.to_bytes().starts_with(b".tmp")), "{names:?}");
}

#[test]
fn an_entry_of_another_size_is_not_used() {
    let lab = Lab::new();
    lab.write("one", &[b'a'; 8192], 0o444);
    fs::create_dir(lab.top.path().join(".links")).unwrap();
    let entry = lab.top.path().join(".links/03blgakvf2fysv4z6i1b67yc0rxpxi4dxwsnqh2i6mkm0bhjwdi1");
    fs::write(&entry, "damaged").unwrap();
    assert_eq!(deduplicate(&lab.store, &lab.path).unwrap(), 0);
    assert_eq!(fs::metadata(lab.item().join("one")).unwrap().len(), 8192);
}

#[test]
fn a_file_can_be_the_whole() {
    let lab = Lab::new();
    fs::write(lab.item(), [b'a'; 8192]).unwrap();
    assert_eq!(deduplicate(&lab.store, &lab.path).unwrap(), 0);
    assert_eq!(lab.entries().len(), 1);
    fs::remove_file(lab.item()).unwrap();
    assert!(deduplicate(&lab.store, &lab.path).unwrap_err().to_string().starts_with("cannot deduplicate '/gnu"));
}
