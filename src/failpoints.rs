//! Named points in the life of a build, at which tests stop the process, to kill it or for something to happen
//! meanwhile.
//!
//! Only with the feature `failpoints`, which nothing turns on but the test that needs it (`tests/crash/`). Without it
//! a point is an empty function, and the program does not have the variable's name in it; the same test sees to that.
//!
//! With the feature, the file that `OFFLOAD_FAILPOINT_FILE` names may hold the name of a [`Failpoint`]. A process that comes to
//! that point writes its process identifier to `FILE.reached`, removes the file, and stops (`SIGSTOP`, so all its
//! threads do) until it is killed, or told to go on. The file is removed so that the next process does not stop.

macro_rules! points {
    ($($(#[$about:meta])* $name:ident,)*) => {
        /// Where a process may be stopped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Failpoint {
            $($(#[$about])* $name,)*
        }

        /// All points, as a build that goes well comes by them.
        pub const ALL: &[Failpoint] = &[$(Failpoint::$name,)*];
    };
}

points! {
    /// The request has been read.
    RequestRead,
    /// The health record says that a machine is being asked.
    Asking,
    /// The connection to it stands, and the head has logged in.
    Connected,
    /// Its daemon has answered.
    Greeted,
    /// It has told how it is doing, which is remembered.
    Answered,
    /// The lock of a slot is held, without a record of who holds it.
    SlotLocked,
    /// A record of the state directory is written, and not in its place yet.
    RecordWritten,
    /// A slot is taken.
    SlotTaken,
    /// The reply has been sent; the daemon is about to say what is to be built.
    Replied,
    /// The lists of inputs and outputs have been read.
    ListsRead,
    /// The store and its database are open.
    LocalStoreOpened,
    /// The build machine's daemon has its options.
    OptionsSet,
    /// Nobody else may send the missing inputs now.
    UploadSlot,
    /// Half of the missing inputs has been sent.
    UploadHalf,
    /// All of them have.
    Uploaded,
    /// And they are protected from the garbage collector.
    InputsProtected,
    /// The daemon has been asked to build.
    BuildStarted,
    /// It has built.
    BuildEnded,
    /// There is a turn to retrieve the outputs.
    DownloadSlot,
    /// There is room for an output, with nothing in it.
    Staged,
    /// The first bytes of its archive have come.
    FirstBytes,
    /// Half of a file has been written.
    FileHalf,
    /// All of an output has been written.
    Restored,
    /// And it is what it should be, by an authorized key.
    Verified,
    /// All outputs have come; the slot is still held.
    Downloaded,
    /// The connection has been kept, or has ended.
    ConnectionPersisted,
    /// The slot has been given back.
    SlotReleased,
    /// What stood in an output's place is gone, and the output is not there yet.
    PlaceCleared,
    /// An output is in its place, without the permissions of the store.
    Moved,
    /// It has them; other outputs are not in their places.
    Placed,
    /// All outputs are in their places, and the daemon does not know yet.
    AllPlaced,
    /// It has read all of the build log.
    LogRead,
    /// All has been said; the process is about to end.
    Ending,
}

#[cfg(not(feature = "failpoints"))]
mod hook {
    use super::Failpoint;

    /// The process comes to a point.
    #[inline(always)]
    pub fn failpoint(_: Failpoint) {}

    /// The process comes to a point when `done` reaches half of `all`.
    #[inline(always)]
    pub fn half(_: Failpoint, _done: u64, _all: u64) {}
}

#[cfg(feature = "failpoints")]
mod hook {
    use std::fs;
    use std::process;

    use rustix::process::{Signal, getpid, kill_process};

    use super::Failpoint;

    /// The process comes to a point.
    pub fn failpoint(point: Failpoint) {
        let Ok(file) = std::env::var("OFFLOAD_FAILPOINT_FILE") else { return };
        if !fs::read_to_string(&file).is_ok_and(|name| name == format!("{point:?}")) {
            return;
        }
        // Of two threads or processes that come here at once, one stops.
        if fs::remove_file(&file).is_ok() {
            let (new, reached) = (format!("{file}.new"), format!("{file}.reached"));
            let said = fs::write(&new, process::id().to_string()).and_then(|()| fs::rename(new, reached));
            if said.is_ok() {
                let _ = kill_process(getpid(), Signal::STOP);
            }
        }
    }

    /// The process comes to a point when `done` reaches half of `all`.
    pub fn half(point: Failpoint, done: u64, all: u64) {
        if done >= all.div_ceil(2) {
            self::failpoint(point);
        }
    }
}

pub use hook::{failpoint, half};
