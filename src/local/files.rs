//! Files in the store. They are reached from an open directory by one name at a time, and never through a symbolic
//! link.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Dir, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};

/// The permissions of a regular file in the store.
pub const FILE_MODE: Mode = Mode::from_raw_mode(0o444);
/// The permissions of a directory or an executable in the store.
pub const EXECUTABLE_MODE: Mode = Mode::from_raw_mode(0o555);

/// Returns the times of all files in the store: modified one second after the epoch, last access unchanged.
pub fn canonical_times() -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: 1, tv_nsec: 0 },
    }
}

/// Opens the directory `name` in `parent` for reading.
pub fn open_directory(parent: impl AsFd, name: &CStr) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(
        parent,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// Creates the directory `name` in `parent` and opens it.
pub fn make_directory(parent: impl AsFd, name: &CStr, mode: Mode) -> rustix::io::Result<OwnedFd> {
    rustix::fs::mkdirat(&parent, name, mode)?;
    open_directory(parent, name)
}

/// Returns the names in a directory, sorted by their bytes.
pub fn names(directory: impl AsFd) -> rustix::io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Gives a complete directory the metadata of the store.
pub fn seal(directory: impl AsFd) -> rustix::io::Result<()> {
    rustix::fs::fchmod(&directory, EXECUTABLE_MODE)?;
    rustix::fs::futimens(directory, &canonical_times())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use rustix::io::Errno;

    use super::*;

    #[test]
    fn a_directory_is_opened_for_this_process_and_never_through_a_link() {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir(top.path().join("directory")).unwrap();
        fs::write(top.path().join("file"), "").unwrap();
        symlink("directory", top.path().join("link")).unwrap();
        let parent = fs::File::open(top.path()).unwrap();
        let directory = open_directory(&parent, c"directory").unwrap();
        assert!(rustix::io::fcntl_getfd(&directory).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        assert_eq!(open_directory(&parent, c"file").unwrap_err(), Errno::NOTDIR);
        assert!(open_directory(&parent, c"link").is_err());
    }

    #[test]
    fn names_are_sorted_by_bytes() {
        let top = tempfile::tempdir().unwrap();
        for name in ["b", "B", "a b", "é", "a", ".hidden"] {
            fs::write(top.path().join(name), "").unwrap();
        }
        let names = names(fs::File::open(top.path()).unwrap()).unwrap();
        assert_eq!(names, [c".hidden", c"B", c"a", c"a b", c"b", c"é"].map(CStr::to_owned));
    }
}
