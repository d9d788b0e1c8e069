//! Writing a file that may be in use: it is replaced as a whole, and the old one is kept as a backup.
//!
//! Root replaces only a file that no other user could have put there, or redirected with a link.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use crate::permissions::User;
use crate::permissions::ownership::{Control, control};

/// The reason why root does not write to a file.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("root writes no file that another user can redirect, and '{}' belongs to {user}; run this command as {user}", path.display())]
    User { path: PathBuf, user: String },
    #[error("root writes no file that another user can redirect, and other users can write to '{}'", .0.display())]
    Others(PathBuf),
}

/// The result of writing a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Replaced {
    /// There was no such file.
    Created,
    /// It had these contents already.
    Unchanged,
    /// The old file has this name now.
    Backup(PathBuf),
}

impl Replaced {
    /// Returns the line that reports it.
    pub fn report(&self, path: &Path) -> String {
        match self {
            Replaced::Created => format!("wrote '{}'", path.display()),
            Replaced::Unchanged => format!("'{}' is up to date", path.display()),
            Replaced::Backup(backup) => format!("wrote '{}'; the old file is '{}'", path.display(), backup.display()),
        }
    }
}

/// Returns an error if this process is root's, and another user decides which file `path` is.
pub fn check_control(path: &Path) -> io::Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    Err(io::Error::other(match control(path)? {
        Control::Root => return Ok(()),
        Control::User { path, uid, gid } => Refused::User { path, user: User::numbered(Path::new("/"), uid, gid).name },
        Control::Others { path } => Refused::Others(path),
    }))
}

/// Writes `contents` to `path`, through a new file beside it. A reader sees the old or the new file. The new one has the
/// owner and the permissions of the old one.
pub fn replace(path: &Path, contents: &[u8]) -> io::Result<Replaced> {
    check_control(path)?;
    // A link stays a link: the file that it names is replaced.
    let target = if path.is_symlink() { fs::canonicalize(path).ok() } else { None };
    let path = target.as_deref().unwrap_or(path);
    let old = match fs::read(path) {
        Ok(old) if old == contents => return Ok(Replaced::Unchanged),
        Ok(_) => Some(fs::metadata(path)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let new = with_suffix(path, ".new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = write(&new, contents, old.as_ref()).and_then(|()| {
        let backup = old.map(|_| backup(path)).transpose()?;
        fs::rename(&new, path)?;
        Ok(backup.map_or(Replaced::Created, Replaced::Backup))
    });
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

fn write(new: &Path, contents: &[u8], old: Option<&fs::Metadata>) -> io::Result<()> {
    let mut file = File::create_new(new)?;
    file.write_all(contents)?;
    if let Some(old) = old.filter(|_| geteuid().is_root()) {
        fchown(&file, Some(old.uid()), Some(old.gid()))?;
    }
    // The hook's user reads a new file, whatever the umask is here.
    file.set_permissions(Permissions::from_mode(old.map_or(0o644, |old| old.mode() & 0o777)))?;
    file.sync_all()
}

/// Gives the file a second name, `PATH.~N~` with the first free number, as the GNU tools do.
fn backup(path: &Path) -> io::Result<PathBuf> {
    for number in 1.. {
        let backup = with_suffix(path, &format!(".~{number}~"));
        match fs::hard_link(path, &backup) {
            Ok(()) => return Ok(backup),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, lchown, symlink};

    use super::*;

    #[test]
    fn each_old_file_is_kept_and_the_new_one_has_its_permissions() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("machines.lua");
        let backup = |number: u32| directory.path().join(format!("machines.lua.~{number}~"));
        assert_eq!(replace(&file, b"one").unwrap(), Replaced::Created);
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o644);
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        chown(&file, None, Some(990)).unwrap();
        assert_eq!(replace(&file, b"one").unwrap(), Replaced::Unchanged);
        assert_eq!(replace(&file, b"two").unwrap(), Replaced::Backup(backup(1)));
        assert_eq!(replace(&file, b"three").unwrap(), Replaced::Backup(backup(2)));
        for (path, contents) in [(&file, "three"), (&backup(1), "one"), (&backup(2), "two")] {
            let metadata = fs::metadata(path).unwrap();
            assert_eq!((metadata.mode() & 0o777, metadata.uid(), metadata.gid()), (0o640, 0, 990));
            assert_eq!(fs::read_to_string(path).unwrap(), contents);
        }
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 3);
    }

    #[test]
    fn a_link_stays_and_its_file_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let [file, link] = ["file", "link"].map(|name| directory.path().join(name));
        fs::write(&file, "one").unwrap();
        symlink("file", &link).unwrap();
        assert_eq!(replace(&link, b"two").unwrap(), Replaced::Backup(directory.path().join("file.~1~")));
        assert!(link.is_symlink() && fs::read_to_string(&file).unwrap() == "two");
        assert_eq!(fs::read_to_string(directory.path().join("file.~1~")).unwrap(), "one");
    }

    #[test]
    fn root_writes_nothing_where_another_user_decides_what_a_name_means() {
        let directory = tempfile::tempdir().unwrap();
        let [shared, theirs, precious] = ["shared", "theirs", "precious"].map(|name| directory.path().join(name));
        for (place, mode, uid) in [(&shared, 0o1777, 0), (&theirs, 0o755, 995)] {
            fs::create_dir(place).unwrap();
            fs::set_permissions(place, Permissions::from_mode(mode)).unwrap();
            chown(place, Some(uid), Some(uid)).unwrap();
        }
        fs::write(&precious, "of root").unwrap();
        for planted in [shared.join("planted"), theirs.join("planted")] {
            symlink(&precious, &planted).unwrap();
            lchown(&planted, Some(995), Some(995)).unwrap();
        }
        fs::write(shared.join("file"), "of a user").unwrap();
        chown(shared.join("file"), Some(995), Some(995)).unwrap();
        symlink(theirs.join("file"), directory.path().join("link")).unwrap();
        for (path, culprit) in [
            ("shared/planted", "'shared/planted' belongs to 995"),
            ("shared/file", "'shared/file' belongs to 995"),
            ("shared/missing", "other users can write to 'shared'"),
            ("theirs/planted", "'theirs' belongs to 995"),
            ("theirs/missing", "'theirs' belongs to 995"),
            ("link", "'theirs' belongs to 995"),
        ] {
            let problem = replace(&directory.path().join(path), b"new").unwrap_err().to_string();
            assert!(
                problem.replace(&format!("{}/", directory.path().display()), "").contains(culprit),
                "{path}: {problem}"
            );
        }
        assert_eq!(fs::read_to_string(&precious).unwrap(), "of root");
        assert_eq!(fs::read_to_string(shared.join("file")).unwrap(), "of a user");
        assert_eq!([&shared, &theirs].map(|place| fs::read_dir(place).unwrap().count()), [2, 1]);
        // A file of root's in a shared directory stays root's.
        fs::write(shared.join("own"), "old").unwrap();
        assert!(matches!(replace(&shared.join("own"), b"new").unwrap(), Replaced::Backup(_)));
    }

    #[test]
    fn a_file_that_cannot_be_written_stays() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("machines.lua");
        fs::write(&file, "one").unwrap();
        // No file can be made under this name.
        fs::create_dir(directory.path().join("machines.lua.new")).unwrap();
        assert!(replace(&file, b"two").is_err() && replace(&directory.path().join("no/where"), b"").is_err());
        assert_eq!(fs::read_to_string(&file).unwrap(), "one");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 2);
    }
}
