//! Becoming another user, for a process of root's.
//!
//! Linux keeps user and groups for each thread. A process that has one thread becomes another user for good
//! ([`assume`]); in one that has more, a thread of its own does some work with files ([`with_files_of`]).

use std::io;
use std::path::Path;
use std::thread;

use rustix::fs::{Gid, Uid};
use rustix::process::{getegid, geteuid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::ownership::{Control, control_below};

/// Makes this process one of the user `uid` with these groups, its own one first. It must have no other thread yet, and
/// cannot go back.
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

/// Does something with files on a thread that has the rights of the user `uid` and its group, and none of root's. Only
/// the effective user changes, so that processes of that user can do nothing to the thread.
pub fn with_files_of<T: Send>(uid: u32, gid: u32, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let work = || {
        set_thread_groups(&[])?;
        set_thread_res_gid(None, Gid::from_raw(gid), None)?;
        set_thread_res_uid(None, Uid::from_raw(uid), None)?;
        work()
    };
    let done = thread::scope(|scope| thread::Builder::new().spawn_scoped(scope, work).map(|thread| thread.join()));
    done?.unwrap_or_else(|_| Err(io::Error::other("the thread has ended")))
}

/// Does something with files in `directory`, below `root`, with no more rights than those of the user who controls it.
pub fn in_directory<T: Send>(
    root: &Path,
    directory: &Path,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    match control_below(root, directory)? {
        Control::User { uid, gid, .. } if geteuid().is_root() => with_files_of(uid, gid, work),
        _ => work(),
    }
}
