//! A client of the daemon: the worker protocol of Guix 1.2.0 (0x163) to 1.5.0 (0x164), over any `Read + Write`.
//!
//! The client greets the daemon. From then on it sends a request, reads log text and data until `LAST` or `ERROR`, and
//! reads the reply. Nothing is sent ahead. All received data are bounded; store paths are validated in full. After an
//! error of the daemon's own ([`Error::Daemon`]) the connection stays in use.
//!
//! The stream has the deadlines: a `read` that fails with a time-out ends the operation with [`Error::Link`].
//!
//! Source: `nix-daemon/nix-daemon.cc`, `libstore/worker-protocol.hh` and `libutil/serialise.cc` of Guix, and the other
//! client, `guix/store.scm`. Not checked here: whether the other end is a trusted daemon.

mod build_trace;
mod client;
mod error;
mod export;
mod frames;
mod import;
mod operation;
mod options;
mod substitutes;
mod version;

pub use build_trace::{BuildEvent, TraceSink};
pub use client::{Client, Garbage, PathInfo};
pub use error::{Error, ExportError};
pub use frames::Log;
pub use options::Options;
pub use substitutes::SubstitutablePathInfo;
pub use version::Version;

#[cfg(test)]
mod tests;
