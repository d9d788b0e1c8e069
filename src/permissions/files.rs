//! The files and directories of the state: all of them are made, opened and removed here.
//!
//! They are for one user alone. For the processes of that user nothing has to be checked but that a file is one: a link
//! is not followed, and a named pipe not waited for. Root does not work on the state of another user: its commands run
//! as that user (`commands/as_user.rs`), and any other process of root's gets an error ([`make_directory`]), since each
//! name in there may lead elsewhere by the time that it is used.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::ownership;

/// What files of the state are opened with.
const ALWAYS: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// Opens a file for reading.
pub fn open(path: &Path) -> io::Result<File> {
    open_with(path, OFlags::RDONLY)
}

/// Opens a file for reading and writing, made if needed.
pub fn open_or_make(path: &Path) -> io::Result<File> {
    open_with(path, OFlags::RDWR | OFlags::CREATE)
}

/// Makes a file for writing, in the place of what a killed process may have left there.
pub fn make_anew(path: &Path) -> io::Result<File> {
    remove(path)?;
    open_with(path, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)
}

fn open_with(path: &Path, flags: OFlags) -> io::Result<File> {
    let file: File = rustix::fs::open(path, ALWAYS | flags, Mode::RUSR | Mode::WUSR)?.into();
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    }
}

/// Whether there is anything of this name.
pub fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Removes a file, if there is one.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Gives a file another name, in the place of what has that name.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)
}

/// Makes a directory and those above it, closed to all but their owner. An error where this process is root's and
/// another user can change what `path` leads to.
pub fn make_directory(path: &Path) -> io::Result<()> {
    ownership::require(path)?;
    // As nearly always; and looking is cheaper than trying to make it.
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    use super::*;

    /// Root's alone below `/tmp`, as the tests' user is root.
    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn what_is_made_is_closed_to_others() {
        let top = directory();
        let state = top.path().join("guix/offload/b1:22");
        make_directory(&state).unwrap();
        make_directory(&state).unwrap();
        let file = state.join("0");
        open_or_make(&file).unwrap();
        open_or_make(&file).unwrap();
        make_anew(&file).unwrap();
        for (path, mode) in [(state.as_path(), 0o700), (state.parent().unwrap(), 0o700), (&file, 0o600)] {
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, mode, "{}", path.display());
        }
        rename(&file, &state.join("1")).unwrap();
        assert!(!exists(&file) && exists(&state.join("1")));
        remove(&state.join("1")).unwrap();
        remove(&state.join("1")).unwrap();
        // Nothing can be made there, and no directory is missing.
        assert_eq!(make_directory(Path::new("/proc/offload/b1:22")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn only_files_are_opened() {
        let top = directory();
        let [file, link, pipe, inner] = ["file", "link", "pipe", "directory"].map(|name| top.path().join(name));
        fs::write(&file, "here").unwrap();
        symlink(&file, &link).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        fs::create_dir(&inner).unwrap();
        assert!(open(&file).is_ok() && open_or_make(&file).is_ok());
        for path in [&link, &pipe, &inner] {
            assert!(open(path).is_err() && open_or_make(path).is_err(), "{}", path.display());
        }
        symlink(top.path().join("nothing"), top.path().join("dangling")).unwrap();
        assert!(open_or_make(&top.path().join("dangling")).is_err() && !exists(&top.path().join("nothing")));
        assert!(exists(&top.path().join("dangling")));
    }

    #[test]
    fn root_makes_nothing_where_another_user_can_lead_it_elsewhere() {
        let top = directory();
        let [of_user, open_to_all] = ["of-user", "open"].map(|name| top.path().join(name));
        for path in [&of_user, &open_to_all] {
            fs::create_dir(path).unwrap();
        }
        chown(&of_user, Some(995), Some(990)).unwrap();
        fs::set_permissions(&open_to_all, fs::Permissions::from_mode(0o777)).unwrap();
        symlink(&of_user, top.path().join("link")).unwrap();
        for path in [&of_user, &open_to_all, &top.path().join("link")] {
            let error = make_directory(&path.join("offload")).unwrap_err();
            assert!(ownership::NotRootAlone::in_io(&error).is_some(), "{error}");
            assert!(!path.join("offload").exists());
        }
    }
}
