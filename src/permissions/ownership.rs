//! The control of a path: the user who can change its target.
//!
//! Each directory and each link from `/` on is checked. As long as all of them belong to root, and only root can write
//! to the directories, no other user can change the target of the next name, and so the result stays true. The first
//! one that belongs to another user gives everything below it to that user. In a directory that all users may write to
//! and whose sticky bit is set, such as `/tmp`, no other user can replace files of root's. But any user can create a
//! missing name there, and a link may be a hard link to one of root's: both count as controlled by others.
//!
//! Not checked here: concurrent changes by root itself, access-control lists beyond the mode, and mounts.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The limit of links on one path; more are an error, as for the kernel.
const MAX_LINKS: usize = 40;

/// The user who can change the target of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// Only root.
    Root,
    /// The user `uid`, because `path` belongs to it.
    User { path: PathBuf, uid: u32, gid: u32 },
    /// Unknown users, because they can write to `path`.
    Others { path: PathBuf },
}

/// Root does not work on a path that unknown users could redirect.
#[derive(Debug, thiserror::Error)]
#[error("other users can write to '{}'; root keeps no state where anybody can change it", path.display())]
pub struct ControlledByOthers {
    pub path: PathBuf,
}

/// Returns who controls `path`. The user who can write to a directory controls the missing names in it.
pub fn control(path: &Path) -> io::Result<Control> {
    control_below(Path::new("/"), &std::path::absolute(path)?)
}

/// Works like [`control`], but the trusted directory `root` replaces `/`.
pub fn control_below(root: &Path, path: &Path) -> io::Result<Control> {
    let mut at = root.to_owned();
    let mut is_shared = false;
    let mut names = names(path);
    let mut links = 0;
    if root == Path::new("/")
        && let Some(control) = of_others(&at, &at.symlink_metadata()?)
    {
        return Ok(control);
    }
    while let Some(name) = names.pop() {
        if name == OsStr::new("..") {
            if at != root {
                at.pop();
            }
            continue;
        }
        let next = at.join(&name);
        let data = match next.symlink_metadata() {
            Ok(data) => data,
            Err(error) if error.kind() == io::ErrorKind::NotFound && is_shared => {
                return Ok(Control::Others { path: at });
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => break,
            Err(error) => return Err(error),
        };
        if let Some(control) = of_others(&next, &data) {
            return Ok(control);
        }
        if data.is_symlink() {
            links += 1;
            match () {
                () if is_shared => return Ok(Control::Others { path: at }),
                () if links > MAX_LINKS => return Err(rustix::io::Errno::LOOP.into()),
                () => {}
            }
            let target = fs::read_link(&next)?;
            if target.is_absolute() {
                at = root.to_owned();
            }
            names.extend(self::names(&target));
        } else {
            is_shared = data.is_dir() && can_others_write(&data);
            at = next;
        }
    }
    Ok(Control::Root)
}

/// How long a cached result for a path stays valid. Only root can change the result.
const CONTROL_TTL: Duration = Duration::from_secs(1);

/// The cached results for paths, with the time of the check.
static CONTROL_CACHE: Mutex<BTreeMap<PathBuf, (Instant, Control)>> = Mutex::new(BTreeMap::new());

/// Works like [`control`], with cached results: the same few paths are checked again and again.
pub fn cached_control(path: &Path) -> io::Result<Control> {
    // A forked process may find it locked permanently.
    if let Ok(known) = CONTROL_CACHE.try_lock()
        && let Some((found, control)) = known.get(path)
        && found.elapsed() < CONTROL_TTL
    {
        return Ok(control.clone());
    }
    let control = control(path)?;
    if let Ok(mut known) = CONTROL_CACHE.try_lock() {
        known.insert(path.to_owned(), (Instant::now(), control.clone()));
    }
    Ok(control)
}

/// Returns the names of a path, the last one first.
fn names(path: &Path) -> Vec<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    let mut names: Vec<OsString> = names.collect();
    names.reverse();
    names
}

/// Returns who controls this one file, if it is not root alone. The owner of a directory with the sticky bit controls
/// its contents.
fn of_others(path: &Path, data: &Metadata) -> Option<Control> {
    let is_sticky = data.is_dir() && data.mode() & 0o1000 != 0;
    match data {
        _ if data.uid() != 0 => Some(Control::User { path: path.to_owned(), uid: data.uid(), gid: data.gid() }),
        _ if data.is_symlink() => None,
        _ if can_others_write(data) && !is_sticky => Some(Control::Others { path: path.to_owned() }),
        _ => None,
    }
}

fn can_others_write(data: &Metadata) -> bool {
    data.mode() & 0o002 != 0 || (data.mode() & 0o020 != 0 && data.gid() != 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    fn user(path: &Path) -> Control {
        Control::User { path: path.to_owned(), uid: 995, gid: 990 }
    }

    fn make(path: &Path, mode: u32, uid: u32, gid: u32) {
        fs::create_dir_all(path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        chown(path, Some(uid), Some(gid)).unwrap();
    }

    #[test]
    fn the_first_that_is_not_roots_counts() {
        let top = tempfile::tempdir().unwrap();
        let top = top.path();
        make(&top.join("guix"), 0o755, 0, 0);
        assert_eq!(control(&top.join("guix/offload/b1:22")).unwrap(), Control::Root);
        make(&top.join("guix"), 0o755, 995, 990);
        assert_eq!(control(&top.join("guix")).unwrap(), user(&top.join("guix")));
        // The file is missing, root's, or another user's: the directory controls it.
        assert_eq!(control(&top.join("guix/offload")).unwrap(), user(&top.join("guix")));
        make(&top.join("guix/offload"), 0o700, 0, 0);
        assert_eq!(control(&top.join("guix/offload")).unwrap(), user(&top.join("guix")));
        make(&top.join("guix"), 0o755, 0, 0);
        assert_eq!(control(&top.join("guix/offload/x")).unwrap(), Control::Root);
        make(&top.join("guix/offload"), 0o700, 995, 990);
        assert_eq!(control(&top.join("guix/offload/x/../../y")).unwrap(), user(&top.join("guix/offload")));
        assert_eq!(control(&top.join("guix/../guix/./offload")).unwrap(), user(&top.join("guix/offload")));
        fs::write(top.join("file"), "").unwrap();
        assert_eq!(control(&top.join("file/below")).unwrap(), Control::Root);
    }

    #[test]
    fn links_are_followed_to_their_targets() {
        let top = tempfile::tempdir().unwrap();
        let top = top.path();
        make(&top.join("data/guix"), 0o755, 0, 0);
        symlink("data/guix", top.join("relative")).unwrap();
        symlink(top.join("relative"), top.join("absolute")).unwrap();
        assert_eq!(control(&top.join("absolute/offload")).unwrap(), Control::Root);
        make(&top.join("data"), 0o755, 995, 990);
        assert_eq!(control(&top.join("absolute/offload")).unwrap(), user(&top.join("data")));
        // A link of the user's gives control, whatever its target.
        make(&top.join("of-root"), 0o755, 0, 0);
        symlink(top.join("of-root"), top.join("link")).unwrap();
        std::os::unix::fs::lchown(top.join("link"), Some(995), Some(990)).unwrap();
        assert_eq!(control(&top.join("link/offload")).unwrap(), user(&top.join("link")));
        symlink("loop", top.join("loop")).unwrap();
        assert!(control(&top.join("loop/offload")).is_err());
    }

    #[test]
    fn in_a_shared_directory_only_existing_files_of_root_are_roots() {
        let top = tempfile::tempdir().unwrap();
        let shared = &top.path().join("shared");
        let others = Control::Others { path: shared.to_owned() };
        make(&shared.join("guix"), 0o755, 0, 0);
        for (mode, gid, is_roots) in
            [(0o755, 7, true), (0o775, 0, true), (0o775, 7, false), (0o757, 0, false), (0o1777, 7, true)]
        {
            make(shared, mode, 0, gid);
            let expected = if is_roots { Control::Root } else { others.clone() };
            assert_eq!(control(&shared.join("guix/offload")).unwrap(), expected, "{mode:o}");
        }
        assert_eq!(control(&shared.join("missing")).unwrap(), others);
        symlink("guix", shared.join("link")).unwrap();
        assert_eq!(control(&shared.join("link")).unwrap(), others);
        make(&shared.join("guix"), 0o755, 995, 990);
        assert_eq!(control(&shared.join("guix")).unwrap(), user(&shared.join("guix")));
    }

    #[test]
    fn another_directory_can_replace_the_root() {
        let top = tempfile::tempdir().unwrap();
        let root = &top.path().join("image");
        make(root, 0o755, 995, 990);
        make(&root.join("data"), 0o755, 0, 0);
        symlink("/data", root.join("link")).unwrap();
        symlink("../../data", root.join("up")).unwrap();
        for path in ["/data/guix", "/link/guix", "/up/guix"] {
            assert_eq!(control_below(root, Path::new(path)).unwrap(), Control::Root);
        }
        make(&root.join("data"), 0o755, 995, 990);
        assert_eq!(control_below(root, Path::new("/up/guix")).unwrap(), user(&root.join("data")));
    }
}
