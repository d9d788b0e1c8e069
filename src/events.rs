//! Events of a build: for the log, for progress, for programs that embed the engine.

pub(crate) mod attempts;
pub mod pool;

use std::fmt;

use bytesize::{ByteSize, Display as Size};

use crate::store::path::StorePath;

/// An event of a build.
///
/// Events with `bytes` come again and again while data move, with the sum so far; the event that ends a phase has the
/// final sums. `Display` gives a sentence for people.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs)] // The documentation of each variant names its fields.
pub enum Event<'a> {
    /// A function of the machine file has failed or returned an invalid value, at this place.
    Warning { file: &'a str, line: Option<u32>, message: &'a str },
    /// This machine's daemon provides inputs that are not valid here: so many derivations and sources.
    Preparing { derivation: &'a StorePath, items: usize },
    /// Another program builds the derivation; this build has waited for that for this many seconds.
    WaitingForOther { derivation: &'a StorePath, seconds: u64 },
    /// The build has waited for a machine for this many seconds. `is_reachable`: some matching machine is busy, else none
    /// can be reached.
    Waiting { derivation: &'a StorePath, seconds: u64, is_reachable: bool },
    /// The build waits for this machine on demand to start, for this many seconds now.
    WaitingForStart { derivation: &'a StorePath, machine: &'a str, seconds: u64 },
    /// A machine was chosen and responds. The build has this slot of the machine; the first one is 0.
    Offloading { derivation: &'a StorePath, machine: &'a str, port: u16, slot: u32 },
    /// The machine's daemon takes requests, over a connection that was open before or a new one.
    Connected { machine: &'a str, is_reused: bool },
    /// The transfer has waited for this many seconds for a transfer slot, or for items that another process sends.
    Queueing { machine: &'a str, seconds: u64 },
    /// The upload of missing inputs begins: so many items, so many bytes.
    Uploading { machine: &'a str, items: usize, bytes: u64 },
    /// A part of them was sent: so many bytes so far.
    Uploaded { machine: &'a str, bytes: u64, of: u64 },
    /// All of them were sent.
    UploadEnded { machine: &'a str, items: usize, bytes: u64 },
    /// The machine's daemon begins to fetch inputs from substitute servers.
    Fetching { machine: &'a str, items: usize, bytes: u64 },
    /// A part of them was downloaded, maybe compressed: so many bytes so far.
    Fetched { machine: &'a str, bytes: u64 },
    /// It has fetched all of these.
    FetchEnded { machine: &'a str, items: usize, bytes: u64, seconds: u64 },
    /// The machine's daemon starts the build.
    Building { derivation: &'a StorePath, machine: &'a str },
    /// The build has succeeded there.
    Built { derivation: &'a StorePath, machine: &'a str },
    /// The download of an output begins.
    Downloading { machine: &'a str, output: &'a StorePath },
    /// A part of it has arrived: so many bytes so far.
    Downloaded { machine: &'a str, output: &'a StorePath, bytes: u64 },
    /// All outputs have arrived and are accepted.
    DownloadEnded { machine: &'a str, items: usize, bytes: u64 },
    /// The outputs are in the store; unless this is a hook, they are valid.
    Done { derivation: &'a StorePath, machine: &'a str },
    /// The attempt failed there, for reasons that do not come from the derivation.
    Abandoned { derivation: &'a StorePath, machine: &'a str, cause: &'a str },
}

/// Receives the events.
pub trait Observer {
    /// Receives an event.
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
            Event::Warning { file, line: Some(line), message } => write!(f, "{file}:{line}: {message}"),
            Event::Warning { file, line: None, message } => write!(f, "{file}: {message}"),
            Event::Preparing { derivation, items } => {
                let noun = if *items == 1 { "input" } else { "inputs" };
                write!(f, "guix-daemon provides {items} {noun} of '{derivation}'")
            }
            Event::WaitingForOther { derivation, seconds } => {
                write!(f, "another program builds '{derivation}'; waiting for {seconds} s now")
            }
            Event::Waiting { derivation, seconds: 0, is_reachable: true } => {
                write!(f, "all matching machines are busy; '{derivation}' waits for a build slot")
            }
            Event::Waiting { derivation, seconds: 0, is_reachable: false } => {
                write!(f, "no matching machine can be reached; '{derivation}' waits for one")
            }
            Event::Waiting { derivation, seconds, is_reachable: true } => {
                write!(f, "'{derivation}' has been waiting for a build slot for {seconds} s")
            }
            Event::Waiting { derivation, seconds, is_reachable: false } => {
                write!(f, "'{derivation}' has been waiting for {seconds} s; no matching machine can be reached")
            }
            Event::WaitingForStart { derivation, machine, seconds: 0 } => {
                write!(f, "'{derivation}' waits for '{machine}', which is being started")
            }
            Event::WaitingForStart { derivation, machine, seconds } => {
                write!(f, "'{derivation}' has been waiting for {seconds} s; '{machine}' is being started")
            }
            Event::Offloading { derivation, machine, .. } => write!(f, "offloading '{derivation}' to '{machine}'"),
            Event::Connected { machine, is_reused: true } => write!(f, "connected to '{machine}', as builds before"),
            Event::Connected { machine, is_reused: false } => write!(f, "connected to '{machine}'"),
            Event::Queueing { machine, seconds } => {
                write!(f, "waiting for other transfers with '{machine}', for {seconds} s now")
            }
            Event::Uploading { machine, items, bytes } => {
                let noun = if *items == 1 { "item" } else { "items" };
                write!(f, "sending {items} store {noun} ({}) to '{machine}'", iec(*bytes))
            }
            Event::Uploaded { machine, bytes, of } => {
                write!(f, "sent {} of {} to '{machine}'", iec(*bytes), iec(*of))
            }
            Event::UploadEnded { machine, items, bytes } => {
                let noun = if *items == 1 { "item" } else { "items" };
                write!(f, "sent {items} store {noun} ({}) to '{machine}'", iec(*bytes))
            }
            Event::Fetching { machine, items, bytes } => {
                let noun = if *items == 1 { "item" } else { "items" };
                write!(f, "'{machine}' fetches {items} store {noun} ({}) from its substitute servers", iec(*bytes))
            }
            Event::Fetched { machine, bytes } => write!(f, "'{machine}' has downloaded {}", iec(*bytes)),
            Event::FetchEnded { machine, items, bytes, seconds } => {
                let noun = if *items == 1 { "item" } else { "items" };
                write!(f, "'{machine}' has fetched {items} store {noun} ({}) in {seconds} s", iec(*bytes))
            }
            Event::Building { derivation, machine } => write!(f, "building '{derivation}' on '{machine}'"),
            Event::Built { derivation, machine } => write!(f, "'{machine}' has built '{derivation}'"),
            Event::Downloading { machine, output } => write!(f, "retrieving '{output}' from '{machine}'"),
            Event::Downloaded { machine, output, bytes } => {
                write!(f, "retrieved {} of '{output}' from '{machine}'", iec(*bytes))
            }
            Event::DownloadEnded { machine, items, bytes } => {
                let noun = if *items == 1 { "output" } else { "outputs" };
                write!(f, "retrieved {items} {noun} ({}) from '{machine}'", iec(*bytes))
            }
            Event::Done { derivation, machine } => write!(f, "done with '{derivation}', built on '{machine}'"),
            Event::Abandoned { derivation, machine, cause } => {
                write!(f, "'{derivation}' could not be built on '{machine}': {cause}")
            }
        }
    }
}

/// Returns a number of bytes for people, such as `1.5 MiB`.
pub(crate) fn iec(bytes: u64) -> Size {
    ByteSize(bytes).display().iec()
}
