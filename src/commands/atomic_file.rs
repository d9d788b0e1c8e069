//! Writing a file as a whole: a reader sees the old or the new one, and a failure leaves the old one.
//!
//! The new file replaces the old one with rename. Root writes as the user who controls the directory, so that this user cannot
//! redirect root with a link. If any user could replace the directory, root writes nothing.
//!
//! All names are relative to the open directory. The new file has a random name until it is whole, so that no user of a
//! directory that all may write to can create that name first. A killed process may leave a file of such a name.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, fchmod, openat, renameat, unlinkat};
use rustix::process::geteuid;

use crate::permissions::identity::with_files_of;
use crate::permissions::ownership::{Control, control};

/// The permissions of a new file, apart from those that the umask removes.
const MODE: Mode = Mode::from_bits_truncate(0o666);

/// The permissions of a file that programs of other users read.
const FOR_ALL: Mode = Mode::from_bits_truncate(0o644);

/// A new file. Until it is finished, the old one stays.
#[derive(Debug)]
pub struct AtomicFile {
    directory: OwnedFd,
    name: OsString,
    /// The name until it is finished.
    new: OsString,
    file: File,
    /// The user and the group with whose rights the directory is used.
    owner: Option<(u32, u32)>,
    is_finished: bool,
}

impl AtomicFile {
    /// Begins a file that will be `path`.
    pub fn create(path: &Path) -> io::Result<AtomicFile> {
        let path = std::path::absolute(path)?;
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::IsADirectory.into());
        };
        let owner = owner(directory)?;
        let new = temporary(name);
        let create = || {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = openat(CWD, directory, flags, Mode::empty())?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = File::from(openat(&directory, &new, flags, MODE)?);
            Ok((directory, file))
        };
        let (directory, file) = as_owner(owner, create)?;
        Ok(AtomicFile { directory, name: name.to_owned(), new, file, owner, is_finished: false })
    }

    /// Replaces the old file.
    pub fn finish(mut self) -> io::Result<()> {
        let rename = || Ok(renameat(&self.directory, &self.new, &self.directory, &self.name)?);
        as_owner(self.owner, rename)?;
        self.is_finished = true;
        Ok(())
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.is_finished {
            let _ = as_owner(self.owner, || Ok(unlinkat(&self.directory, &self.new, AtFlags::empty())?));
        }
    }
}

/// Writes a file that all users can read, whatever the umask is.
pub fn write_for_all(path: &Path, text: &str) -> io::Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(text.as_bytes())?;
    fchmod(&file.file, FOR_ALL)?;
    file.finish()
}

/// Returns a name that nobody can expect. Programs that read all files of a directory omit hidden ones.
fn temporary(name: &OsStr) -> OsString {
    let mut new = OsString::from(".");
    new.push(name);
    new.push(format!(".{:016x}", RandomState::new().build_hasher().finish()));
    new
}

/// Returns the user and the group with whose rights root has to write in `directory`.
fn owner(directory: &Path) -> io::Result<Option<(u32, u32)>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    match control(directory)? {
        Control::User { uid, gid, .. } => Ok(Some((uid, gid))),
        // The users of the directory can only replace what is in it.
        Control::Others { path } if path != directory => {
            Err(io::Error::other(format!("other users can write to '{}', and replace the directory", path.display())))
        }
        Control::Root | Control::Others { .. } => Ok(None),
    }
}

fn as_owner<T>(owner: Option<(u32, u32)>, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    match owner {
        Some((uid, gid)) => with_files_of(uid, gid, work),
        None => work(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    use super::*;

    const FILE: &str = "offload.prom";

    fn write(directory: &Path, text: &str) -> io::Result<()> {
        write_for_all(&directory.join(FILE), text)
    }

    #[test]
    fn the_file_is_replaced_as_a_whole_and_readable_for_all() {
        let top = tempfile::tempdir().unwrap();
        write(top.path(), "one\n").unwrap();
        let before = fs::File::open(top.path().join(FILE)).unwrap();
        write(top.path(), "two\n").unwrap();
        assert_eq!(fs::read_to_string(top.path().join(FILE)).unwrap(), "two\n");
        assert_eq!(io::read_to_string(before).unwrap(), "one\n");
        assert_eq!(fs::metadata(top.path().join(FILE)).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(top.path().read_dir().unwrap().count(), 1);
        assert!(write(&top.path().join("missing"), "x").is_err());
    }

    #[test]
    fn root_writes_as_the_user_who_controls_the_directory() {
        let top = tempfile::tempdir().unwrap();
        fs::set_permissions(top.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let [theirs, of_root] = ["theirs", "of-root"].map(|name| top.path().join(name));
        for directory in [&theirs, &of_root] {
            fs::create_dir(directory).unwrap();
        }
        chown(&theirs, Some(995), Some(990)).unwrap();
        write(&theirs, "x").unwrap();
        assert_eq!(fs::metadata(theirs.join(FILE)).unwrap().uid(), 995);
        symlink(&of_root, theirs.join("link")).unwrap();
        assert!(write(&theirs.join("link"), "x").is_err());
        assert_eq!(of_root.read_dir().unwrap().count(), 0);
    }

    fn open_to_all(directory: &Path) {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
    }

    #[test]
    fn root_writes_nothing_in_a_directory_that_anybody_can_replace() {
        let top = tempfile::tempdir().unwrap();
        let [shared, inner] = ["shared", "shared/inner"].map(|name| top.path().join(name));
        fs::create_dir_all(&inner).unwrap();
        open_to_all(&shared);
        let error = write(&inner, "x").unwrap_err().to_string();
        assert_eq!(error, format!("other users can write to '{}', and replace the directory", shared.display()));
        assert_eq!(inner.read_dir().unwrap().count(), 0);
        // The directory that was checked is the one that is written.
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o755)).unwrap();
        let mut file = AtomicFile::create(&inner.join(FILE)).unwrap();
        fs::rename(&inner, top.path().join("moved")).unwrap();
        symlink(top.path(), &inner).unwrap();
        file.write_all(b"x").unwrap();
        file.finish().unwrap();
        assert!(top.path().join("moved").join(FILE).exists() && !top.path().join(FILE).exists());
    }

    #[test]
    fn files_of_others_in_a_shared_directory_are_replaced_and_not_opened() {
        let top = tempfile::tempdir().unwrap();
        let [shared, of_root] = ["shared", "of-root"].map(|name| top.path().join(name));
        fs::create_dir(&shared).unwrap();
        open_to_all(&shared);
        fs::write(&of_root, "of root").unwrap();
        // A directory of the fixed name that the new file could have had.
        fs::create_dir(shared.join(".offload.prom.new")).unwrap();
        symlink(&of_root, shared.join(FILE)).unwrap();
        write(&shared, "x").unwrap();
        assert_eq!(fs::read_to_string(&of_root).unwrap(), "of root");
        assert_eq!(fs::symlink_metadata(shared.join(FILE)).unwrap().len(), 1);
        assert_eq!(shared.read_dir().unwrap().count(), 2);
    }

    #[test]
    fn a_file_that_is_not_finished_leaves_the_old_one() {
        let top = tempfile::tempdir().unwrap();
        write(top.path(), "old").unwrap();
        let mut file = AtomicFile::create(&top.path().join(FILE)).unwrap();
        file.write_all(b"new").unwrap();
        assert_eq!(top.path().read_dir().unwrap().count(), 2);
        drop(file);
        assert_eq!(fs::read_to_string(top.path().join(FILE)).unwrap(), "old");
        assert_eq!(top.path().read_dir().unwrap().count(), 1);
        // A directory has the name.
        fs::create_dir_all(top.path().join("page.html/x")).unwrap();
        let file = AtomicFile::create(&top.path().join("page.html")).unwrap();
        assert!(file.finish().is_err() && top.path().read_dir().unwrap().count() == 2);
        assert!(AtomicFile::create(Path::new("/")).is_err());
    }
}
