//! Failpoints: named points of a build at which tests stop the process, to kill it or to cause something meanwhile.
//!
//! They exist only with the feature `failpoints`, which only its own test turns on (`tests/crash/`). Without it a
//! failpoint is an empty function, and the program does not contain the variable's name; the same test checks that.
//!
//! With the feature, the file that `OFFLOAD_FAILPOINT_FILE` names may contain the name of a [`Failpoint`]. A process
//! that reaches that point writes its process identifier to `FILE.reached`, removes the file, and stops with all its
//! threads (`SIGSTOP`) until it is killed or continued. The file is removed so that the next process does not stop.

macro_rules! points {
    ($($(#[$about:meta])* $name:ident,)*) => {
        /// A point at which a process may be stopped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Failpoint {
            $($(#[$about])* $name,)*
        }

        /// All points, in the order of a successful build.
        pub const ALL: &[Failpoint] = &[$(Failpoint::$name,)*];
    };
}

points! {
    /// The request has been read.
    RequestRead,
    /// The health record says that a machine is being probed.
    Asking,
    /// The connection to it is open, and the head has logged in.
    Connected,
    /// Its daemon has sent its greeting.
    Greeted,
    /// Its status was recorded.
    Answered,
    /// The lock of a slot is held, without a record of its holder.
    SlotLocked,
    /// A record of the state directory is written, but not renamed yet.
    RecordWritten,
    /// A slot is taken.
    SlotTaken,
    /// The reply was sent; the lists of inputs and outputs come next.
    Replied,
    /// The lists of inputs and outputs were read.
    ListsRead,
    /// The store and its database are open.
    LocalStoreOpened,
    /// The build machine's daemon has its options.
    OptionsSet,
    /// No other process may send the missing inputs now.
    UploadSlot,
    /// Half of the missing inputs was sent.
    UploadHalf,
    /// All of them were sent.
    Uploaded,
    /// They are protected from the garbage collector.
    InputsProtected,
    /// The daemon has the request to build.
    BuildStarted,
    /// The rows of earlier builds are a batch that goes into the history.
    HistoryBatchTaken,
    /// They are inserted, but not committed.
    HistoryInserted,
    /// They are committed; the batch is still there.
    HistoryCommitted,
    /// The build has ended.
    BuildEnded,
    /// A transfer slot for the outputs is held.
    DownloadSlot,
    /// The place of an output is created, and empty.
    Staged,
    /// The first bytes of its archive have arrived.
    FirstBytes,
    /// Half of a file was written.
    FileHalf,
    /// An output was written completely.
    Restored,
    /// The output was verified: its contents, and its signature by an authorized key.
    Verified,
    /// All outputs have arrived; the slot is still held.
    Downloaded,
    /// The connection persists, or was closed.
    ConnectionPersisted,
    /// The slot is free.
    SlotReleased,
    /// The old file at an output's path is gone, and the output is not there yet.
    PlaceCleared,
    /// An output is at its path, without the permissions of the store.
    Moved,
    /// It has these permissions; other outputs are not at their paths.
    Placed,
    /// All outputs are at their paths, and the daemon does not know yet.
    AllPlaced,
    /// The daemon has read all of the build log.
    LogRead,
    /// The rows of this build are appended.
    HistoryAppended,
    /// All output was written; the process is about to end.
    Ending,
}

#[cfg(not(feature = "failpoints"))]
mod hook {
    use super::Failpoint;

    /// Marks that the process reaches a point.
    #[inline(always)]
    pub fn failpoint(_: Failpoint) {}

    /// Marks that the process reaches a point when `done` reaches half of `all`.
    #[inline(always)]
    pub fn half(_: Failpoint, _done: u64, _all: u64) {}
}

#[cfg(feature = "failpoints")]
mod hook {
    use std::fs;
    use std::process;

    use rustix::process::{Signal, getpid, kill_process};

    use super::Failpoint;

    /// Marks that the process reaches a point.
    pub fn failpoint(point: Failpoint) {
        let Ok(file) = std::env::var("OFFLOAD_FAILPOINT_FILE") else { return };
        if !fs::read_to_string(&file).is_ok_and(|name| name == format!("{point:?}")) {
            return;
        }
        // If two threads or processes get here at the same time, one stops.
        if fs::remove_file(&file).is_ok() {
            let (new, reached) = (format!("{file}.new"), format!("{file}.reached"));
            let written = fs::write(&new, process::id().to_string()).and_then(|()| fs::rename(new, reached));
            if written.is_ok() {
                let _ = kill_process(getpid(), Signal::STOP);
            }
        }
    }

    /// Marks that the process reaches a point when `done` reaches half of `all`.
    pub fn half(point: Failpoint, done: u64, all: u64) {
        if done >= all.div_ceil(2) {
            self::failpoint(point);
        }
    }
}

pub use hook::{failpoint, half};
