//! fork(2) and what goes with it: the system calls that the C library has and Rust's, for good reasons, has not.
//!
//! Of a process with several threads only the one that forks lives on in the child. What another thread was changing
//! stays as it was, and a lock that it held is never released. So the child must not come by such locks: it
//! uses memory (the C library's allocator is made for this), its own SSH session, and system calls. It logs nothing,
//! starts no thread, and ends without running what others have registered for the end of the process.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

const SIGTERM: c_int = 15;

unsafe extern "C" {
    fn fork() -> c_int;
    fn _exit(status: c_int) -> !;
    fn signal(number: c_int, handler: extern "C" fn(c_int)) -> usize;
    fn unlink(path: *const c_char) -> c_int;
}

/// The file that [`end`] removes.
static REMOVED: AtomicPtr<c_char> = AtomicPtr::new(ptr::null_mut());

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

/// Closes all descriptors but the first three and these. Whatever holds them must not be used any more, nor dropped.
pub(super) fn close_others(kept: &[BorrowedFd<'_>]) {
    let mut kept: Vec<RawFd> = kept.iter().map(AsRawFd::as_raw_fd).collect();
    kept.sort_unstable();
    // SAFETY: only `kept` is used from now on in this process, which has no other thread; what held the others is
    // forgotten, since `keep` does not return to those who own it.
    unsafe { close_fds::close_open_fds(3, &kept) };
}

/// From now on SIGTERM ends the process with the status 0, and removes the file of [`remove_at_end`] before.
pub(super) fn end_at_sigterm() {
    // SAFETY: `end` is what a handler has to be, and does nothing but what one may do at any time.
    unsafe { signal(SIGTERM, end) };
}

extern "C" fn end(_: c_int) {
    let removed = REMOVED.load(Ordering::Acquire);
    // SAFETY: both are allowed in a handler. The path ends in NUL, and is freed when it is not here any more.
    unsafe {
        if !removed.is_null() {
            unlink(removed);
        }
        _exit(0)
    }
}

/// The file that SIGTERM removes from now on.
pub(super) fn remove_at_end(file: CString) {
    REMOVED.store(file.into_raw(), Ordering::Release);
}

pub(super) fn remove_nothing_at_end() {
    let removed = REMOVED.swap(ptr::null_mut(), Ordering::AcqRel);
    if !removed.is_null() {
        // SAFETY: it comes from `remove_at_end`, and nobody else has it: the handler runs in this thread, and ends it.
        drop(unsafe { CString::from_raw(removed) });
    }
}

/// Ends the process, and nothing else.
pub(super) fn exit() -> ! {
    // SAFETY: it can be called at any time.
    unsafe { _exit(0) }
}
