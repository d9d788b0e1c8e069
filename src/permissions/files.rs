//! The files and directories of the state: all of them are created, opened and removed here.
//!
//! They are for one user only, the owner of the directory that contains the state: usually guix-daemon's user. **Root
//! does all of this as the owner** (`as_owner`). If the owner replaces a name by a link or another directory, root gets
//! no further than the owner would, and files that root creates belong to the owner. If any user could do that, so that
//! the owner is unknown, it is an error.
//!
//! Only regular files are opened: links are not followed, and named pipes do not block.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::geteuid;

use super::identity::with_files_of;
use super::ownership::{Control, ControlledByOthers, cached_control};
use super::{User, open_regular};

/// Runs `work` on the file `path`: if this process is root's, as the user who controls the directory.
fn as_owner<T>(path: &Path, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    as_owner_of(path.parent().unwrap_or(path), work)
}

/// Runs `work` on files in `directory`: if this process is root's, as the user who controls it. For libraries that open
/// files by their names.
pub fn as_owner_of<T>(directory: &Path, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    if !geteuid().is_root() {
        return work();
    }
    match cached_control(directory)? {
        Control::Root => work(),
        Control::User { uid, gid, .. } => with_files_of(uid, gid, work),
        Control::Others { path } => Err(io::Error::other(ControlledByOthers { path })),
    }
}

/// Returns the user as whom all of this is done in `directory`.
pub fn user_of(directory: &Path) -> User {
    match cached_control(directory) {
        Ok(Control::User { uid, gid, .. }) if geteuid().is_root() => User::numbered(Path::new("/"), uid, gid),
        _ => User::effective(),
    }
}

/// Returns whether only this process' user can write the files in `directory`.
pub fn is_ours(directory: &Path) -> bool {
    !geteuid().is_root() || cached_control(directory).is_ok_and(|control| control == Control::Root)
}

/// Opens a file for reading.
pub fn open(path: &Path) -> io::Result<File> {
    open_with(path, OFlags::RDONLY)
}

/// Opens a file for reading and writing, created if needed.
pub fn open_or_make(path: &Path) -> io::Result<File> {
    open_with(path, OFlags::RDWR | OFlags::CREATE)
}

/// Creates a file for writing, and replaces one that a killed process may have left.
pub fn make_new(path: &Path) -> io::Result<File> {
    remove(path)?;
    open_with(path, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)
}

fn open_with(path: &Path, flags: OFlags) -> io::Result<File> {
    as_owner(path, || open_regular(path, flags))
}

/// Returns whether a file of this name exists.
pub fn exists(path: &Path) -> bool {
    as_owner(path, || path.symlink_metadata()).is_ok()
}

/// Returns the time of its last modification.
pub fn modified(path: &Path) -> io::Result<SystemTime> {
    as_owner(path, || path.symlink_metadata()?.modified())
}

/// Returns its size in bytes.
pub fn size(path: &Path) -> io::Result<u64> {
    as_owner(path, || Ok(path.symlink_metadata()?.len()))
}

/// Removes a file, if it exists.
pub fn remove(path: &Path) -> io::Result<()> {
    match as_owner(path, || fs::remove_file(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Renames a file in the same directory, and replaces a file of that name.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    as_owner(from, || fs::rename(from, to))
}

/// Lists a directory.
pub fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    as_owner_of(directory, || Ok(directory.read_dir()?.flatten().map(|entry| entry.path()).collect()))
}

/// Creates a socket and listens on it. The other side sees the user of this process.
pub fn listen(socket: &Path) -> io::Result<UnixListener> {
    as_owner(socket, || UnixListener::bind(socket))
}

/// Connects to a socket. The other side sees the user of this process.
pub fn connect(socket: &Path) -> io::Result<UnixStream> {
    as_owner(socket, || UnixStream::connect(socket))
}

/// Creates a directory and those above it, accessible only to their owner.
pub fn make_directory(path: &Path) -> io::Result<()> {
    as_owner(path, || {
        // It exists nearly always, and checking is cheaper than trying to create it.
        if path.is_dir() {
            return Ok(());
        }
        DirBuilder::new().recursive(true).mode(0o700).create(path)
    })
}

/// Opens a file like [`open_or_make`], and creates missing directories above it.
pub fn open_or_make_all(path: &Path) -> io::Result<File> {
    match (open_or_make(path), path.parent()) {
        (Err(error), Some(directory)) if error.kind() == io::ErrorKind::NotFound => {
            make_directory(directory)?;
            open_or_make(path)
        }
        (result, _) => result,
    }
}

/// Opens a file like [`open_or_make_all`]. Each write goes to its end at that time.
pub fn open_to_append(path: &Path) -> io::Result<File> {
    let file = open_or_make_all(path)?;
    fcntl_setfl(&file, OFlags::APPEND)?;
    Ok(file)
}

/// Checks that a path is a directory or missing, and that this user may see which.
pub fn check_directory(path: &Path) -> io::Result<()> {
    // A link to nothing exists, and no directory can be created in its place.
    let is_dangling = |path: &Path| path.symlink_metadata().is_ok() && !path.exists();
    as_owner(path, || match path.metadata() {
        Ok(data) if data.is_dir() => Ok(()),
        Ok(_) => Err(io::ErrorKind::NotADirectory.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match path.ancestors().take(2).any(is_dangling) {
            true => Err(io::ErrorKind::AlreadyExists.into()),
            false => Ok(()),
        },
        Err(error) => Err(error),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    use super::*;

    /// The directory belongs to root alone below `/tmp`, as the tests' user is root.
    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn created_files_are_closed_to_others() {
        let top = directory();
        let state = top.path().join("guix/offload/b1:22");
        make_directory(&state).unwrap();
        make_directory(&state).unwrap();
        let file = state.join("0");
        open_or_make(&file).unwrap();
        open_or_make(&file).unwrap();
        make_new(&file).unwrap();
        for (path, mode) in [(state.as_path(), 0o700), (state.parent().unwrap(), 0o700), (&file, 0o600)] {
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, mode, "{}", path.display());
        }
        rename(&file, &state.join("1")).unwrap();
        assert!(!exists(&file) && exists(&state.join("1")));
        remove(&state.join("1")).unwrap();
        remove(&state.join("1")).unwrap();
        // No file can be created there, and no directory is missing.
        assert_eq!(make_directory(Path::new("/proc/offload/b1:22")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn only_files_are_opened() {
        let top = directory();
        let [file, link, pipe, inner] = ["file", "link", "pipe", "directory"].map(|name| top.path().join(name));
        fs::write(&file, "here").unwrap();
        symlink(&file, &link).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
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
    fn root_works_as_the_owner() {
        let top = directory();
        fs::set_permissions(top.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let [of_user, of_root] = ["of-user", "of-root"].map(|name| top.path().join(name));
        for path in [&of_user, &of_root] {
            fs::create_dir(path).unwrap();
        }
        chown(&of_user, Some(995), Some(990)).unwrap();
        let state = of_user.join("offload/b1:22");
        make_directory(&state).unwrap();
        let [file, socket] = ["0", "socket"].map(|name| state.join(name));
        make_new(&file).unwrap();
        let listener = listen(&socket).unwrap();
        connect(&socket).unwrap();
        drop(listener);
        for path in [&state, &file, &socket] {
            let data = fs::symlink_metadata(path).unwrap();
            assert_eq!((data.uid(), data.gid()), (995, 990), "{}", path.display());
        }
        assert_eq!(list(&state).unwrap().len(), 2);
        assert_eq!((user_of(&state).uid, user_of(&of_root).uid), (995, 0));
        assert!(!is_ours(&state) && is_ours(&of_root));

        // A link replaces a name.
        symlink(&of_root, of_user.join("link")).unwrap();
        let inside = of_root.join("file");
        fs::write(&inside, "of root").unwrap();
        fs::set_permissions(&inside, fs::Permissions::from_mode(0o600)).unwrap();
        let name = of_user.join("link/file");
        for error in [
            make_directory(&of_user.join("link/made")).unwrap_err(),
            open(&name).unwrap_err(),
            open_or_make(&name).unwrap_err(),
            make_new(&name).unwrap_err(),
            remove(&name).unwrap_err(),
            rename(&name, &of_user.join("link/other")).unwrap_err(),
            listen(&of_user.join("link/socket")).unwrap_err(),
        ] {
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
        }
        assert_eq!((fs::read(&inside).unwrap(), of_root.read_dir().unwrap().count()), (b"of root".to_vec(), 1));
    }

    #[test]
    fn root_does_nothing_in_a_directory_that_anybody_can_change() {
        let top = directory();
        let open_to_all = top.path().join("open");
        fs::create_dir(&open_to_all).unwrap();
        fs::set_permissions(&open_to_all, fs::Permissions::from_mode(0o777)).unwrap();
        let error = make_directory(&open_to_all.join("offload")).unwrap_err();
        assert!(error.to_string().starts_with("other users can write to '"), "{error}");
        assert!(!exists(&open_to_all.join("offload")) && !is_ours(&open_to_all));
    }
}
