//! Detection of changed files.
//!
//! A stamp changes with the content, the owner and the mode of a file, and when another file replaces it. The kernel
//! sets the time of the last change (`st_ctime`) at each of these, and no program can choose it.
//!
//! Not detected: two changes within a few milliseconds that leave the size as it was, and changes to directories above
//! the file.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The data that identify a file and its version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    mode: u32,
    owner: (u32, u32),
    changed: (i64, i64),
}

impl FileStamp {
    /// Returns the stamp of the file `path`, links followed. `None`: it does not exist, or cannot be read.
    pub fn of(path: &Path) -> Option<FileStamp> {
        fs::metadata(path).ok().map(|metadata| FileStamp::from(&metadata))
    }
}

impl From<&Metadata> for FileStamp {
    fn from(metadata: &Metadata) -> FileStamp {
        FileStamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn content_mode_and_replacement_change_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let mut last = FileStamp::of(&path);
        assert_eq!(last, None);
        let changes: [&dyn Fn(); 5] = [
            &|| fs::write(&path, "one").unwrap(),
            &|| fs::write(&path, "two").unwrap(),
            &|| fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap(),
            &|| {
                fs::write(directory.path().join("other"), "two").unwrap();
                fs::rename(directory.path().join("other"), &path).unwrap();
            },
            &|| fs::remove_file(&path).unwrap(),
        ];
        for change in changes {
            assert_eq!(FileStamp::of(&path), last);
            // The kernel's clock for files advances only every ten milliseconds.
            thread::sleep(Duration::from_millis(20));
            change();
            let stamp = FileStamp::of(&path);
            assert_ne!(stamp, last);
            last = stamp;
        }
    }
}
