//! A walk down into a tree of directories, with one descriptor at any depth.
//!
//! The walk goes up through the name `..`, which must be the directory that it came from. On a tree that another
//! process moves meanwhile, the walk ends with an error. So neither descriptors nor the stack limit the depth of a
//! tree; each level takes 16 bytes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::fstat;
use rustix::io::Errno;

use super::files::open_directory;

/// A directory of a tree, and the directories above it.
pub struct DirectoryWalk {
    current: OwnedFd,
    /// The directories above it, outermost first.
    above: Vec<Identity>,
}

type Identity = (u64, u64);

fn identity(directory: &OwnedFd) -> rustix::io::Result<Identity> {
    let status = fstat(directory)?;
    Ok((status.st_dev, status.st_ino))
}

impl DirectoryWalk {
    /// Begins at the top of a tree.
    pub fn new(top: OwnedFd) -> DirectoryWalk {
        DirectoryWalk { current: top, above: Vec::new() }
    }

    /// Returns the current directory.
    pub fn current(&self) -> BorrowedFd<'_> {
        self.current.as_fd()
    }

    /// Enters `directory`, which must be in the current one.
    pub fn enter(&mut self, directory: OwnedFd) -> rustix::io::Result<()> {
        self.above.push(identity(&self.current)?);
        self.current = directory;
        Ok(())
    }

    /// Goes up, and returns the directory that was left. `None` at the top, where it stays. [`Errno::STALE`] if the
    /// tree was moved meanwhile.
    pub fn leave(&mut self) -> rustix::io::Result<Option<OwnedFd>> {
        let Some(expected) = self.above.pop() else { return Ok(None) };
        let parent = open_directory(&self.current, c"..")?;
        if identity(&parent)? != expected {
            return Err(Errno::STALE);
        }
        Ok(Some(std::mem::replace(&mut self.current, parent)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn open(path: &std::path::Path) -> OwnedFd {
        fs::File::open(path).unwrap().into()
    }

    #[test]
    fn the_walk_goes_up_through_the_same_directories() {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir_all(top.path().join("a/b")).unwrap();
        let mut walk = DirectoryWalk::new(open(top.path()));
        let a = open_directory(walk.current(), c"a").unwrap();
        walk.enter(a).unwrap();
        let b = open_directory(walk.current(), c"b").unwrap();
        let b_identity = identity(&b).unwrap();
        walk.enter(b).unwrap();
        assert_eq!(identity(&walk.leave().unwrap().unwrap()).unwrap(), b_identity);
        assert!(walk.leave().unwrap().is_some());
        assert!(walk.leave().unwrap().is_none());
        assert_eq!(identity(&walk.current).unwrap(), identity(&open(top.path())).unwrap());
    }

    #[test]
    fn a_moved_directory_is_an_error() {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir_all(top.path().join("a/b")).unwrap();
        let mut walk = DirectoryWalk::new(open(&top.path().join("a")));
        let b = open_directory(walk.current(), c"b").unwrap();
        walk.enter(b).unwrap();
        fs::rename(top.path().join("a/b"), top.path().join("b")).unwrap();
        assert_eq!(walk.leave().unwrap_err(), Errno::STALE);
    }
}
