//! The scheduling policy of a thread: a call of the C library that no small safe crate offers.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io;

use rustix::process::Pid;

/// `SCHED_IDLE` of Linux: the thread runs when no other thread needs the processor.
const SCHED_IDLE: c_int = 5;

/// `struct sched_param`. Linux uses the first field; other C libraries have more.
#[repr(C)]
struct SchedParam {
    priority: c_int,
    reserved: [c_int; 15],
}

unsafe extern "C" {
    fn sched_setscheduler(pid: c_int, policy: c_int, parameters: *const SchedParam) -> c_int;
}

/// Gives a thread of this process the policy `SCHED_IDLE`.
pub(super) fn make_idle(thread: Pid) -> io::Result<()> {
    let parameters = SchedParam { priority: 0, reserved: [0; 15] };
    // SAFETY: the parameters outlive the call, which reads them and keeps nothing. Any number is allowed as a thread: of
    // one that does not exist, or is not ours to change, the call is an error.
    match unsafe { sched_setscheduler(thread.as_raw_pid(), SCHED_IDLE, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
