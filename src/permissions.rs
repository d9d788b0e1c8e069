//! File permissions by mode bits, so that a message can name the file, the user and the remedy.
//!
//! guix-daemon may run as root, or as a user such as `guix-daemon`; administrators run commands as root. [`ownership`]
//! finds paths that other users can redirect, [`files`] handles the files of the state, and [`identity`] changes root
//! to another user.
//!
//! Not checked here: access-control lists beyond the mode, read-only mounts, AppArmor and SELinux.

pub mod files;
pub mod identity;
pub mod ownership;
pub mod passwd;
pub mod remedy;

use std::fmt;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::process::{getegid, geteuid, getgroups};

use self::passwd::accounts;

/// The depth to which a directory is checked.
const MAX_CHECKED_DEPTH: usize = 4;

/// A user with its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    /// Its own group first.
    pub groups: Vec<u32>,
}

impl User {
    /// Returns the user that this process acts as.
    pub fn effective() -> User {
        let uid = geteuid().as_raw();
        let others = getgroups().unwrap_or_default();
        let groups = std::iter::once(getegid()).chain(others).map(|group| group.as_raw()).collect();
        User { name: name_of(Path::new("/"), uid), uid, groups }
    }

    /// Returns a user in `/etc/passwd` and `/etc/group` below `root`.
    pub fn named(root: &Path, name: &str) -> Option<User> {
        let account = accounts(root).into_iter().find(|account| account.name == name)?;
        let group = fs::read_to_string(root.join("etc/group")).unwrap_or_default();
        let others = group
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .filter(|fields| fields.get(3).is_some_and(|members| members.split(',').any(|member| member == name)))
            .filter_map(|fields| fields.get(2)?.parse().ok());
        Some(User {
            name: account.name,
            uid: account.uid,
            groups: std::iter::once(account.gid).chain(others).collect(),
        })
    }

    /// Returns the user with this number. A user that is not in `/etc/passwd` below `root` is only in the group `gid`.
    pub fn numbered(root: &Path, uid: u32, gid: u32) -> User {
        let name = name_of(root, uid);
        match User::named(root, &name) {
            Some(user) if user.uid == uid => user,
            _ => User { name, uid, groups: vec![gid] },
        }
    }

    /// Returns its home directory in `/etc/passwd` below `root`.
    pub fn home(&self, root: &Path) -> Option<PathBuf> {
        accounts(root).into_iter().find(|account| account.name == self.name).map(|account| account.home)
    }

    fn is_granted(&self, metadata: &Metadata, bits: u32) -> bool {
        let shift = match metadata {
            _ if self.uid == 0 => return true,
            _ if metadata.uid() == self.uid => 6,
            _ if self.groups.contains(&metadata.gid()) => 3,
            _ => 0,
        };
        metadata.mode() >> shift & bits == bits
    }
}

/// Returns the name of a user, or its number if `/etc/passwd` below `root` has none.
fn name_of(root: &Path, uid: u32) -> String {
    let account = accounts(root).into_iter().find(|account| account.uid == uid);
    account.map_or_else(|| uid.to_string(), |account| account.name)
}

/// The access to a file that is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    Read,
    /// Read access for this user only.
    ReadSecret,
    /// Read and execute access.
    Run,
    /// A directory in which files are created and removed, with all its contents.
    Own,
}

/// The permission problem of a user with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermissionProblem {
    user: String,
    need: Need,
    /// The requested file.
    wanted: PathBuf,
    /// The file whose mode denies access: the requested file, or a directory above it.
    path: PathBuf,
    owner: String,
    mode: u32,
}

impl PermissionProblem {
    /// Returns the problem of `user` with `path`, both below `root`. A file that does not exist is not a problem,
    /// unless it would have to be created.
    pub fn find(user: &User, root: &Path, path: &Path, need: Need) -> Option<PermissionProblem> {
        let path = &if root == Path::new("/") {
            fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
        } else {
            path.to_owned()
        };
        let problem = |at: &Path, metadata: &Metadata| PermissionProblem {
            user: user.name.clone(),
            need,
            wanted: path.clone(),
            path: at.to_owned(),
            owner: name_of(root, metadata.uid()),
            mode: metadata.mode() & 0o7777,
        };
        let mut above: Vec<&Path> = path.ancestors().collect();
        above.reverse();
        let mut last: Option<(&Path, Metadata)> = None;
        for at in above {
            let metadata = match fs::metadata(below(root, at)) {
                Ok(metadata) => metadata,
                // Its contents cannot be read, or there are none.
                Err(_) => break,
            };
            let bits = match need {
                _ if at != path => 0o1,
                Need::Read | Need::ReadSecret => 0o4,
                Need::Run => 0o5,
                Need::Own if metadata.is_dir() => 0o7,
                Need::Own => 0o6,
            };
            if !user.is_granted(&metadata, bits) {
                return Some(problem(at, &metadata));
            }
            last = Some((at, metadata));
        }
        let (at, metadata) = last?;
        if need != Need::Own {
            None
        } else if at != path {
            (!user.is_granted(&metadata, 0o3)).then(|| problem(at, &metadata))
        } else {
            PermissionProblem::in_tree(user, root, path, MAX_CHECKED_DEPTH)
                .map(|(at, metadata)| problem(&at, &metadata))
        }
    }

    /// Returns the first file in `directory` that its user cannot change.
    fn in_tree(user: &User, root: &Path, directory: &Path, depth: usize) -> Option<(PathBuf, Metadata)> {
        for entry in fs::read_dir(below(root, directory)).ok()?.flatten() {
            let (Ok(metadata), path) = (entry.metadata(), directory.join(entry.file_name())) else { continue };
            let bits = if metadata.is_dir() { 0o7 } else { 0o6 };
            if !metadata.is_symlink() && !user.is_granted(&metadata, bits) {
                return Some((path, metadata));
            }
            if metadata.is_dir() && depth > 0 {
                let found = PermissionProblem::in_tree(user, root, &path, depth - 1);
                if found.is_some() {
                    return found;
                }
            }
        }
        None
    }

    /// Returns whether it is a directory above the requested file.
    pub fn is_above(&self) -> bool {
        self.path != self.wanted && self.wanted.starts_with(&self.path)
    }
}

impl fmt::Display for PermissionProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PermissionProblem { user, path, owner, mode, .. } = self;
        let cannot = match self.need {
            Need::Own if self.is_above() && mode & 0o001 != 0 => "write to",
            _ if self.is_above() => "enter",
            Need::Read | Need::ReadSecret => "read",
            Need::Run => "run",
            Need::Own => "write to",
        };
        write!(f, "the user {user} cannot {cannot} '{}' (owner {owner}, mode {mode:04o})", path.display())
    }
}

/// Returns the place of `path` if `root` replaces `/`.
pub fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Opens a file for reading. A named pipe without a writer is empty, and does not block.
pub fn open_at_once(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path)?;
    rustix::fs::fcntl_setfl(&file, OFlags::empty())?;
    Ok(file)
}

/// Opens a regular file. Links are not followed, and named pipes do not block.
pub fn open_regular(path: &Path, flags: OFlags) -> io::Result<File> {
    let safe = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file: File = rustix::fs::open(path, safe | flags, Mode::RUSR | Mode::WUSR)?.into();
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    }
}

/// Reads all of `source`, which may have `limit` bytes at most.
pub fn read_bounded(source: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut contents = Vec::new();
    source.take(limit + 1).read_to_end(&mut contents)?;
    match contents.len() as u64 > limit {
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {limit} bytes"))),
        false => Ok(contents),
    }
}

#[cfg(test)]
mod tests;
