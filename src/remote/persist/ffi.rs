//! fork(2) and what goes with it: the system calls that the C library has and Rust's, for good reasons, has not.
//!
//! Of a process with several threads only the one that forks lives on in the child. What another thread was changing
//! stays as it was, and a lock that it held is never released. So the child must not come by such locks: it
//! uses memory (the C library's allocator is made for this), its own SSH session, and system calls. It logs nothing,
//! starts no thread, and ends without running what others have registered for the end of the process.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

unsafe extern "C" {
    fn fork() -> c_int;
    fn _exit(status: c_int) -> !;
}

/// Which of the two this process is.
pub(super) enum Side {
    Parent,
    Child,
}

/// Makes a second process like this one, with the calling thread alone.
pub(super) fn split() -> io::Result<Side> {
    // SAFETY: the child is what the documentation of this module asks for; `holder` sees to it.
    match unsafe { fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Side::Child),
        _ => Ok(Side::Parent),
    }
}

/// Closes all descriptors but the first three and this one. Whatever holds them must not be used any more, nor
/// dropped.
pub(super) fn close_others(kept: BorrowedFd<'_>) {
    // SAFETY: only `kept` is used from now on in this process, which has no other thread; what held the others is
    // forgotten, since `keep` does not return to those who own it.
    unsafe { close_fds::close_open_fds(3, &[kept.as_raw_fd()]) };
}

/// Ends the process, and nothing else.
pub(super) fn exit() -> ! {
    // SAFETY: it can be called at any time.
    unsafe { _exit(0) }
}
