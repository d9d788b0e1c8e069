//! Removing trees from the store, however deep they are and whatever their permissions.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;

use super::directory_walk::DirectoryWalk;
use super::files::{names, open_directory};

/// Removes `name` from `parent`, with everything below it, whatever the permissions and at any depth. It need not
/// exist.
pub fn remove(parent: impl AsFd, name: &CStr) -> rustix::io::Result<()> {
    if is_unlinked(&parent, name)? {
        return Ok(());
    }
    let mut walk = DirectoryWalk::new(open_to_empty(&parent, name)?);
    // The directories below the topmost, and the remaining entries of each and of the topmost.
    let mut path: Vec<CString> = Vec::new();
    let mut left = vec![names(walk.current())?];
    while let Some(entries) = left.last_mut() {
        if let Some(entry) = entries.pop() {
            if !is_unlinked(walk.current(), &entry)? {
                walk.enter(open_to_empty(walk.current(), &entry)?)?;
                path.push(entry);
                left.push(names(walk.current())?);
            }
        } else {
            left.pop();
            if let Some(entry) = path.pop() {
                walk.leave()?;
                rustix::fs::unlinkat(walk.current(), &entry, AtFlags::REMOVEDIR)?;
            }
        }
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

/// Removes `name` from `parent` if it is not a directory. False if it is one.
fn is_unlinked(parent: impl AsFd, name: &CStr) -> rustix::io::Result<bool> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => Ok(false),
        Err(Errno::NOENT) => Ok(true),
        other => other.map(|()| true),
    }
}

/// Opens the directory `name` in `parent`, and makes sure that its entries may be removed.
fn open_to_empty(parent: impl AsFd, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let directory = match open_directory(&parent, name) {
        // It is a directory, and no other user can replace it by a symbolic link.
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(&parent, name, Mode::RWXU, AtFlags::empty())?;
            open_directory(&parent, name)?
        }
        other => other?,
    };
    rustix::fs::fchmod(&directory, Mode::RWXU)?;
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::super::files::make_directory;
    use super::*;

    #[test]
    fn a_tree_is_removed_and_nothing_else() {
        let top = tempfile::tempdir().unwrap();
        let (outside, tree) = (top.path().join("outside"), top.path().join("tree"));
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "").unwrap();
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::write(tree.join("a/b/file"), "").unwrap();
        symlink(&outside, tree.join("a/link")).unwrap();
        symlink("nowhere", tree.join("a/b/dangling")).unwrap();
        for directory in ["a/b", "a", ""] {
            fs::set_permissions(tree.join(directory), fs::Permissions::from_mode(0o000)).unwrap();
        }
        let parent = fs::File::open(top.path()).unwrap();
        remove(&parent, c"tree").unwrap();
        assert!(!tree.exists());
        assert!(outside.join("kept").exists());
        remove(&parent, c"tree").unwrap();

        symlink(&outside, &tree).unwrap();
        remove(&parent, c"tree").unwrap();
        assert!(!tree.is_symlink() && outside.join("kept").exists());
    }

    /// The tree is deeper than any path that the kernel accepts, and than descriptors or a stack would allow.
    #[test]
    fn a_tree_may_be_of_any_depth() {
        let top = tempfile::tempdir().unwrap();
        let parent = fs::File::open(top.path()).unwrap();
        let mut walk = DirectoryWalk::new(make_directory(&parent, c"tree", Mode::RWXU).unwrap());
        for _ in 0..3000 {
            let directory = make_directory(walk.current(), c"d", Mode::RWXU).unwrap();
            walk.enter(directory).unwrap();
        }
        drop(walk);
        remove(&parent, c"tree").unwrap();
        assert!(!top.path().join("tree").exists());
    }
}
