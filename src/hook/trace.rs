//! Trace lines: events that the daemon passes on to its client unread.
//!
//! `@ build-remote DRV HOST` tells clients where a derivation is built. A client sees it only when the whole line
//! stands at the start of one chunk, so it is written with a single call.

use std::io::{self, Write};

use crate::store::path::StorePath;

/// Announces that `derivation` is now built on the machine `host`.
pub fn build_remote(output: &mut impl Write, derivation: &StorePath, host: &str) -> io::Result<()> {
    output.write_all(format!("@ build-remote {derivation} {host}\n").as_bytes())
}
