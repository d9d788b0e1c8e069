//! The signals that cancel an accepted build.
//!
//! SIGTERM, SIGINT and SIGHUP cancel the build: its outputs here are removed, the build on the machine ends, and the
//! hook fails. systemd sends SIGTERM to all processes of a unit that it stops. The same signal, once more, ends the
//! process at once. guix-daemon itself ends a hook with SIGKILL, which nothing can handle.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use log::warn;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag::register_conditional_default;
use signal_hook::low_level::pipe;

use crate::cancel::Cancel;

/// Returns the switch that the signals turn.
pub fn cancel_on_signals() -> io::Result<Cancel> {
    let (mut reader, writer) = UnixStream::pair()?;
    let is_cancelled = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        register_conditional_default(signal, Arc::clone(&is_cancelled))?;
        pipe::register(signal, writer.try_clone()?)?;
    }
    let cancel = Cancel::default();
    let switch = cancel.clone();
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if reader.read_exact(&mut [0]).is_ok() {
            warn!("the build is cancelled, because of a signal");
            is_cancelled.store(true, Ordering::SeqCst);
            switch.cancel();
        }
    })?;
    Ok(cancel)
}
