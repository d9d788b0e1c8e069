//! Who may use a file, by the bits of its mode: so that a message can name the file, the user and the remedy.
//!
//! guix-daemon may run as root, or as a user such as `guix-daemon`; commands of administrators run as root. What root
//! leaves in a directory of that user belongs to the user ([`make_directory`], [`open_or_make`], [`make_anew`]).
//!
//! Not checked here: access-control lists beside the mode, read-only mounts, AppArmor and SELinux.

use std::fmt;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::process::{getegid, geteuid, getgroups};

use crate::shell::in_quotes;

/// How deep a directory is looked into.
const DEPTH: usize = 4;

/// A user, as far as rights go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    /// Its own group first.
    pub groups: Vec<u32>,
}

impl User {
    /// The user that this process acts as.
    pub fn effective() -> User {
        let uid = geteuid().as_raw();
        let others = getgroups().unwrap_or_default();
        let groups = std::iter::once(getegid()).chain(others).map(|group| group.as_raw()).collect();
        User { name: name_of(Path::new("/"), uid), uid, groups }
    }

    /// A user in `/etc/passwd` and `/etc/group` below `root`.
    pub fn named(root: &Path, name: &str) -> Option<User> {
        let passwd = fs::read_to_string(root.join("etc/passwd")).ok()?;
        let fields = entries(&passwd).find(|fields| fields.first() == Some(&name))?;
        let (uid, gid) = (fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?);
        let group = fs::read_to_string(root.join("etc/group")).unwrap_or_default();
        let others = entries(&group)
            .filter(|fields| fields.get(3).is_some_and(|members| members.split(',').any(|member| member == name)))
            .filter_map(|fields| fields.get(2)?.parse().ok());
        Some(User { name: name.to_owned(), uid, groups: std::iter::once(gid).chain(others).collect() })
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

fn entries(table: &str) -> impl Iterator<Item = Vec<&str>> {
    table.lines().map(|line| line.split(':').collect())
}

/// The name of a user; its number where `/etc/passwd` below `root` has none.
fn name_of(root: &Path, uid: u32) -> String {
    let passwd = fs::read_to_string(root.join("etc/passwd")).unwrap_or_default();
    let number = uid.to_string();
    let name =
        entries(&passwd).find(|fields| fields.get(2) == Some(&number.as_str())).map(|fields| fields[0].to_owned());
    name.unwrap_or(number)
}

/// What a file is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    Read,
    /// To be read by this user alone.
    ReadSecret,
    /// To be read and run.
    Run,
    /// A directory in which files come and go, with everything in it.
    Own,
}

/// Why a user cannot do with a file what it needs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermissionProblem {
    user: String,
    need: Need,
    /// The file that was wanted.
    wanted: PathBuf,
    /// The file whose mode is in the way: that, or a directory above it.
    path: PathBuf,
    owner: String,
    mode: u32,
}

impl PermissionProblem {
    /// What is in the way of `user` who needs `path`, all below `root`. A file that does not exist is nothing in the
    /// way, unless it would have to be made.
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
                // Nobody can say what is in there, or there is nothing.
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
            PermissionProblem::in_tree(user, root, path, DEPTH).map(|(at, metadata)| problem(&at, &metadata))
        }
    }

    /// The first thing in `directory` that its user cannot change.
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

    /// Whether it is a directory above the wanted file.
    fn is_above(&self) -> bool {
        self.path != self.wanted && self.wanted.starts_with(&self.path)
    }

    /// The command that mends it, for root.
    pub fn remedy(&self) -> String {
        let PermissionProblem { user, mode, .. } = self;
        let [wanted, path] = [&self.wanted, &self.path].map(|path| in_quotes(&path.to_string_lossy()));
        match self.need {
            Need::Own if self.is_above() && mode & 0o001 != 0 => format!("install -d -o {user} -m 700 {wanted}"),
            _ if self.is_above() => format!("chmod a+x {path}"),
            Need::Read => format!("chmod a+r {wanted}"),
            Need::Run => format!("chmod a+rx {wanted}"),
            Need::ReadSecret => format!("chown {user}: {wanted}"),
            Need::Own => format!("chown -R {user}: {wanted}"),
        }
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

/// A line to follow the message about an error, with the remedy, where it is this process that lacks a right; else
/// nothing.
pub fn hint(path: &Path, need: Need, error: &io::Error) -> String {
    advice(path, need, error).map_or(String::new(), |advice| format!("\n  hint: {advice}"))
}

/// Like [`hint`], for those who have a place for hints.
pub fn advice(path: &Path, need: Need, error: &io::Error) -> Option<String> {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return None;
    }
    let problem = PermissionProblem::find(&User::effective(), Path::new("/"), path, need)?;
    Some(format!("{problem}; as root: `{}`", problem.remedy()))
}

/// Where `path` is found when `root` takes the place of `/`.
pub fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Opens a file for reading. A named pipe that nobody writes to is empty, and not waited for.
pub fn open_at_once(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path)?;
    rustix::fs::fcntl_setfl(&file, OFlags::empty())?;
    Ok(file)
}

/// Opens a file of the state directory for reading and writing, made if needed. Symbolic links are not followed:
/// whoever owns the directory must not lead root elsewhere.
pub fn open_or_make(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600).custom_flags(OFlags::NOFOLLOW.bits() as i32);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    match options.create_new(true).open(path) {
        Ok(file) => pass_on(&file, path).map(|()| file),
        // Another process was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.create_new(false).open(path),
        Err(error) => Err(error),
    }
}

/// Makes a file of the state directory for writing, in the place of what a killed process may have left there.
pub fn make_anew(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    pass_on(&file, path).map(|()| file)
}

/// Gives a file that this process has just made to the owner of the directory it is in, if this process is root's.
fn pass_on(file: &File, path: &Path) -> io::Result<()> {
    match owner_of_parent(path)? {
        Some((uid, gid)) => Ok(rustix::fs::fchown(file, Some(uid), Some(gid))?),
        None => Ok(()),
    }
}

/// Makes a directory and those above it, closed to all but their owner: that of the directory they are made in, if this
/// process is root's.
pub fn make_directory(path: &Path) -> io::Result<()> {
    match make_one_directory(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match path.parent() {
            // Once more and not again: /proc says so of everything that somebody wants to make there.
            Some(parent) => make_directory(parent).and_then(|()| make_one_directory(path)),
            None => Err(error),
        },
        made => made,
    }
}

fn make_one_directory(path: &Path) -> io::Result<()> {
    // As nearly always; and looking is cheaper than trying to make it.
    if path.is_dir() {
        return Ok(());
    }
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => match owner_of_parent(path)? {
            Some((uid, gid)) => {
                let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let directory = rustix::fs::open(path, flags, Mode::empty())?;
                Ok(rustix::fs::fchown(&directory, Some(uid), Some(gid))?)
            }
            None => Ok(()),
        },
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

fn owner_of_parent(path: &Path) -> io::Result<Option<(Uid, Gid)>> {
    let Some(parent) = path.parent().filter(|_| geteuid().is_root()) else { return Ok(None) };
    let metadata = fs::metadata(parent)?;
    Ok((metadata.uid() != 0).then(|| (Uid::from_raw(metadata.uid()), Gid::from_raw(metadata.gid()))))
}

#[cfg(test)]
mod tests;
