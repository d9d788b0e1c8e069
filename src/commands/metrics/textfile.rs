//! Writing the file for node exporter.
//!
//! The file replaces the old one with rename, so that node exporter never reads a half-written one. Root writes as the user who
//! controls the directory, so that this user cannot redirect root with a link. If any user could replace the directory, root
//! writes nothing.
//!
//! All names are relative to the open directory. The new file has a random name until it is whole, so that no user of a
//! directory that all may write to can create that name first. A killed process may leave a file of such a name, which node
//! exporter does not read.

use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, fchmod, openat, renameat, unlinkat};
use rustix::process::geteuid;

use crate::permissions::identity::with_files_of;
use crate::permissions::ownership::{Control, control};

/// The name of the file.
const FILE: &str = "offload.prom";

/// The permissions of the file: node exporter usually runs as another user.
const MODE: Mode = Mode::RUSR.union(Mode::WUSR).union(Mode::RGRP).union(Mode::ROTH);

/// Writes the file in `directory`.
pub fn write(directory: &Path, text: &str) -> io::Result<()> {
    let directory = std::path::absolute(directory)?;
    let work = || replace(&open(&directory)?, text);
    if !geteuid().is_root() {
        return work();
    }
    match control(&directory)? {
        Control::User { uid, gid, .. } => with_files_of(uid, gid, work),
        // The users of the directory can only replace what is in it.
        Control::Others { path } if path != directory => {
            Err(io::Error::other(format!("other users can write to '{}', and replace the directory", path.display())))
        }
        Control::Root | Control::Others { .. } => work(),
    }
}

fn open(directory: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Writes the file in the open directory.
fn replace(directory: &OwnedFd, text: &str) -> io::Result<()> {
    // node exporter reads only names that end in .prom.
    let new = format!(".{FILE}.{:016x}", RandomState::new().build_hasher().finish());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(directory, &new, flags, MODE)?);
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| Ok(fchmod(&file, MODE)?))
        .and_then(|()| Ok(renameat(directory, &new, directory, FILE)?));
    if written.is_err() {
        let _ = unlinkat(directory, &new, AtFlags::empty());
    }
    written
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    use super::*;

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
        let opened = open(&inner).unwrap();
        fs::rename(&inner, top.path().join("moved")).unwrap();
        symlink(top.path(), &inner).unwrap();
        replace(&opened, "x").unwrap();
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
}
