//! Acting as another user, in a process of root's.
//!
//! Linux stores user and groups per thread. A thread does some work with files as another user ([`with_files_of`]); a
//! process with one thread becomes that user permanently ([`assume`]).

use std::io;
use std::path::Path;
use std::process;

use nix::unistd::{setfsgid, setfsuid};
use rustix::fs::{Gid, Uid};
use rustix::process::{getegid, geteuid, getgroups};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::ownership::{Control, control_below};

/// Makes this process one of the user `uid` with these groups, its own one first. It must have no other thread yet, and
/// cannot revert.
pub fn assume(uid: u32, groups: &[u32]) -> io::Result<()> {
    let (uid, groups) = (Uid::from_raw(uid), groups.iter().map(|&group| Gid::from_raw(group)).collect::<Vec<_>>());
    let Some(&group) = groups.first() else { return Err(io::ErrorKind::InvalidInput.into()) };
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("the process has more than one thread"));
    }
    set_thread_groups(&groups)?;
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(uid, uid, uid)?;
    match geteuid() == uid && getegid() == group {
        true => Ok(()),
        false => Err(io::Error::other("the process has not become the user")),
    }
}

/// Runs `work` with files as the user `uid` of the group `gid`: meanwhile this thread has only that user's rights to
/// files, and creates that user's files. Other processes, including those behind sockets, still see it as root's.
pub fn with_files_of<T>(uid: u32, gid: u32, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let _own = FilesOf::enter(uid, gid)?;
    work()
}

/// Runs `work` with files in `directory`, below `root`, as the user who controls it.
pub fn in_directory<T>(root: &Path, directory: &Path, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    match control_below(root, directory)? {
        Control::User { uid, gid, .. } if geteuid().is_root() => with_files_of(uid, gid, work),
        _ => work(),
    }
}

/// The thread has the file rights of another user until this is dropped.
struct FilesOf {
    /// The rights that it had before.
    uid: u32,
    gid: u32,
    groups: Vec<Gid>,
}

impl FilesOf {
    fn enter(uid: u32, gid: u32) -> io::Result<FilesOf> {
        let groups = getgroups()?;
        if !groups.is_empty() {
            set_thread_groups(&[])?;
        }
        let before = FilesOf { gid: setfsgid(gid.into()).as_raw(), uid: setfsuid(uid.into()).as_raw(), groups };
        match has_files_of(uid, gid) {
            true => Ok(before),
            false => Err(io::Error::other("the thread has not got the rights of the owner")),
        }
    }
}

impl Drop for FilesOf {
    fn drop(&mut self) {
        setfsuid(self.uid.into());
        setfsgid(self.gid.into());
        let has_groups = self.groups.is_empty() || set_thread_groups(&self.groups).is_ok();
        if !(has_groups && has_files_of(self.uid, self.gid)) {
            // From here on it would act as another user.
            process::abort();
        }
    }
}

/// Returns whether the kernel uses this user and group for file access. The calls only return the earlier value, and
/// change nothing for a number that no user can have.
fn has_files_of(uid: u32, gid: u32) -> bool {
    setfsgid(u32::MAX.into()).as_raw() == gid && setfsuid(u32::MAX.into()).as_raw() == uid
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, chown};
    use std::panic;

    use super::*;

    #[test]
    fn created_files_are_the_users_and_files_of_root_cannot_be_reached() {
        let top = tempfile::tempdir().unwrap();
        let (closed, own) = (top.path().join("closed"), top.path().join("own"));
        fs::create_dir(&own).unwrap();
        fs::set_permissions(top.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        fs::write(&closed, "of root").unwrap();
        fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o660)).unwrap();
        chown(&own, Some(995), Some(990)).unwrap();
        // Those of a login of root. A process of a service may have none, and nothing to lose.
        let groups = [0, 4242].map(Gid::from_raw);
        set_thread_groups(&groups).unwrap();
        with_files_of(995, 990, || {
            fs::write(own.join("file"), "")?;
            assert_eq!(fs::read(&closed).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            assert_eq!(fs::write(top.path().join("x"), "").unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            assert!(geteuid().is_root());
            Ok(())
        })
        .unwrap();
        let file = fs::metadata(own.join("file")).unwrap();
        assert_eq!((file.uid(), file.gid()), (995, 990));
        // Afterwards it has its own rights again, even after a panic.
        let panicked = panic::catch_unwind(|| with_files_of(995, 990, || -> io::Result<()> { panic!("on purpose") }));
        assert!(panicked.is_err());
        assert_eq!(fs::read(&closed).unwrap(), b"of root");
        fs::write(top.path().join("x"), "").unwrap();
        assert_eq!(fs::metadata(top.path().join("x")).unwrap().uid(), 0);
        assert_eq!(getgroups().unwrap(), groups);
    }

    #[test]
    fn a_process_with_threads_does_not_become_another() {
        // The tests run on threads.
        assert!(assume(995, &[990]).is_err() && geteuid().is_root());
        assert!(assume(995, &[]).is_err());
    }
}
