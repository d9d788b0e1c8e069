//! A client of the daemon: the worker protocol of Guix 1.2.0 (0x163) to 1.5.0 (0x164), over any `Read + Write`.
//!
//! The client greets, and from then on sends a request, reads log text and data until the daemon says `LAST` or
//! `ERROR`, and reads the reply. Nothing is sent ahead. Everything received is bounded; store paths are checked in
//! full. After an error of the daemon's own ([`Error::Daemon`]) the connection serves on.
//!
//! Deadlines are the stream's: a `read` that fails with a time-out ends the operation with [`Error::Link`].
//!
//! Source: `nix-daemon/nix-daemon.cc`, `libstore/worker-protocol.hh` and `libutil/serialise.cc` of Guix, and the other
//! client, `guix/store.scm`. Not checked here: whether the other end is a daemon one should trust.

mod build_trace;
mod client;
mod error;
mod export;
mod frames;
mod import;
mod operation;
mod options;
mod version;

pub use build_trace::{BuildEvent, TraceSink};
pub use client::{Client, Garbage, PathInfo};
pub use error::{Error, ExportError};
pub use frames::Log;
pub use options::Options;
pub use version::Version;

#[cfg(test)]
mod tests;
