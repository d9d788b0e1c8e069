//! What happens to a build, as it happens: for the log, for progress, for programs that embed the engine.

use std::fmt;

use bytesize::{ByteSize, Display as Size};

use crate::store::path::StorePath;

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// All matching machines are busy; the build waits for a slot, for this many seconds already.
    Waiting { derivation: &'a StorePath, seconds: u64 },
    /// A machine was chosen and answers.
    Offloading { derivation: &'a StorePath, machine: &'a str },
    /// Other transfers with the machine go first, or others send what is missing there; for this many seconds already.
    Queueing { machine: &'a str, seconds: u64 },
    /// Missing inputs are about to be sent.
    Uploading { machine: &'a str, items: usize, bytes: u64 },
    /// A part of them has been sent.
    Uploaded { machine: &'a str, bytes: u64, of: u64 },
    /// The machine's daemon has been asked to build.
    Building { derivation: &'a StorePath, machine: &'a str },
    /// An output is about to be fetched.
    Downloading { machine: &'a str, output: &'a StorePath },
    /// A part of it has arrived.
    Downloaded { machine: &'a str, output: &'a StorePath, bytes: u64 },
    /// The outputs are in place.
    Done { derivation: &'a StorePath, machine: &'a str },
    /// It did not work there, for reasons that say nothing about the derivation.
    Abandoned { derivation: &'a StorePath, machine: &'a str, cause: &'a str },
}

/// Who is told.
pub trait Observer {
    fn observe(&mut self, event: &Event<'_>);
}

impl<F: FnMut(&Event<'_>)> Observer for F {
    fn observe(&mut self, event: &Event<'_>) {
        self(event);
    }
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Waiting { derivation, seconds: 0 } => {
                write!(f, "all matching machines are busy; '{derivation}' waits for a build slot")
            }
            Event::Waiting { derivation, seconds } => {
                write!(f, "'{derivation}' has been waiting for a build slot for {seconds} s")
            }
            Event::Offloading { derivation, machine } => write!(f, "offloading '{derivation}' to '{machine}'"),
            Event::Queueing { machine, seconds } => {
                write!(f, "other transfers with '{machine}' go first, for {seconds} s now")
            }
            Event::Uploading { machine, items, bytes } => {
                let noun = if *items == 1 { "item" } else { "items" };
                write!(f, "sending {items} store {noun} ({}) to '{machine}'", iec(*bytes))
            }
            Event::Uploaded { machine, bytes, of } => {
                write!(f, "sent {} of {} to '{machine}'", iec(*bytes), iec(*of))
            }
            Event::Building { derivation, machine } => write!(f, "building '{derivation}' on '{machine}'"),
            Event::Downloading { machine, output } => write!(f, "retrieving '{output}' from '{machine}'"),
            Event::Downloaded { machine, output, bytes } => {
                write!(f, "retrieved {} of '{output}' from '{machine}'", iec(*bytes))
            }
            Event::Done { derivation, machine } => write!(f, "done with '{derivation}', built on '{machine}'"),
            Event::Abandoned { derivation, machine, cause } => {
                write!(f, "'{derivation}' could not be built on '{machine}': {cause}")
            }
        }
    }
}

/// A number of bytes for people, such as `1.5 MiB`.
pub(crate) fn iec(bytes: u64) -> Size {
    ByteSize(bytes).display().iec()
}
