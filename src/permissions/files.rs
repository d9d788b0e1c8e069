//! The files and directories of the state: all of them are made, opened and removed here.
//!
//! They are for one user alone, the owner of the directory that holds the state: guix-daemon's user, as a rule. **Root does
//! all of this as the owner** (`as_owner`). Whatever the owner puts in the place of a name, a link or another directory,
//! root gets no further by it than the owner would, and what root makes is the owner's. Where it cannot be told who could do
//! that, since anybody can, it is an error.
//!
//! A file is opened only if it is one: a link is not followed, and a named pipe not waited for.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags};
use rustix::process::geteuid;

use super::User;
use super::identity::with_files_of;
use super::ownership::{Control, ControlledByOthers, known_control};

/// What files of the state are opened with.
const ALWAYS: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// Does something with what is at `path`: if this process is root's, as the user who controls the directory.
fn as_owner<T>(path: &Path, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    as_owner_of(path.parent().unwrap_or(path), work)
}

/// Does something with what is in `directory`.
fn as_owner_of<T>(directory: &Path, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    if !geteuid().is_root() {
        return work();
    }
    match known_control(directory)? {
        Control::Root => work(),
        Control::User { uid, gid, .. } => with_files_of(uid, gid, work),
        Control::Others { path } => Err(io::Error::other(ControlledByOthers { path })),
    }
}

/// The user as whom all of this is done in `directory`.
pub fn user_of(directory: &Path) -> User {
    match known_control(directory) {
        Ok(Control::User { uid, gid, .. }) if geteuid().is_root() => User::numbered(Path::new("/"), uid, gid),
        _ => User::effective(),
    }
}

/// Whether what is in `directory` rests on what this process' user alone can write.
pub fn is_ours(directory: &Path) -> bool {
    !geteuid().is_root() || known_control(directory).is_ok_and(|control| control == Control::Root)
}

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
    let file: File = as_owner(path, || Ok(rustix::fs::open(path, ALWAYS | flags, Mode::RUSR | Mode::WUSR)?))?.into();
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    }
}

/// Whether there is anything of this name.
pub fn exists(path: &Path) -> bool {
    as_owner(path, || path.symlink_metadata()).is_ok()
}

/// When it was written last.
pub fn modified(path: &Path) -> io::Result<SystemTime> {
    as_owner(path, || path.symlink_metadata()?.modified())
}

/// Removes a file, if there is one.
pub fn remove(path: &Path) -> io::Result<()> {
    match as_owner(path, || fs::remove_file(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Gives a file another name in the same directory, in the place of what has that name.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    as_owner(from, || fs::rename(from, to))
}

/// Everything in a directory.
pub fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    as_owner_of(directory, || Ok(directory.read_dir()?.flatten().map(|entry| entry.path()).collect()))
}

/// Makes a socket and listens to it. Those who connect see the user of this process.
pub fn listen(socket: &Path) -> io::Result<UnixListener> {
    as_owner(socket, || UnixListener::bind(socket))
}

/// Connects to a socket. The other side sees the user of this process.
pub fn connect(socket: &Path) -> io::Result<UnixStream> {
    as_owner(socket, || UnixStream::connect(socket))
}

/// Makes a directory and those above it, closed to all but their owner.
pub fn make_directory(path: &Path) -> io::Result<()> {
    as_owner(path, || {
        // As nearly always; and looking is cheaper than trying to make it.
        if path.is_dir() {
            return Ok(());
        }
        DirBuilder::new().recursive(true).mode(0o700).create(path)
    })
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
        make_anew(&file).unwrap();
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

        // Whatever is in the place of a name.
        symlink(&of_root, of_user.join("link")).unwrap();
        let inside = of_root.join("file");
        fs::write(&inside, "of root").unwrap();
        fs::set_permissions(&inside, fs::Permissions::from_mode(0o600)).unwrap();
        let name = of_user.join("link/file");
        for error in [
            make_directory(&of_user.join("link/made")).unwrap_err(),
            open(&name).unwrap_err(),
            open_or_make(&name).unwrap_err(),
            make_anew(&name).unwrap_err(),
            remove(&name).unwrap_err(),
            rename(&name, &of_user.join("link/other")).unwrap_err(),
            listen(&of_user.join("link/socket")).unwrap_err(),
        ] {
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
        }
        assert_eq!((fs::read(&inside).unwrap(), of_root.read_dir().unwrap().count()), (b"of root".to_vec(), 1));
    }

    #[test]
    fn nothing_is_done_where_anybody_could_lead_root_elsewhere() {
        let top = directory();
        let open_to_all = top.path().join("open");
        fs::create_dir(&open_to_all).unwrap();
        fs::set_permissions(&open_to_all, fs::Permissions::from_mode(0o777)).unwrap();
        let error = make_directory(&open_to_all.join("offload")).unwrap_err();
        assert!(error.to_string().starts_with("other users can write to '"), "{error}");
        assert!(!exists(&open_to_all.join("offload")) && !is_ours(&open_to_all));
    }
}
