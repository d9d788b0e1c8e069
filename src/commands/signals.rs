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

use log::{debug, warn};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag::register_conditional_default;
use signal_hook::low_level::pipe;

use crate::cancel::Cancel;

/// Returns the switch that the signals turn. If they cannot be handled, they end the process, and the build does not fail for
/// that.
pub fn cancel_on_signals() -> Cancel {
    let cancel = Cancel::default();
    if let Err(error) = handle_signals(&cancel) {
        debug!("signals end this process: {error}");
    }
    cancel
}

fn handle_signals(cancel: &Cancel) -> io::Result<()> {
    let (mut reader, writer) = UnixStream::pair()?;
    let writers = [writer.try_clone()?, writer.try_clone()?, writer];
    // The signals keep their default action until a thread waits for them.
    let ends_process = Arc::new(AtomicBool::new(true));
    let (after_first, switch) = (Arc::clone(&ends_process), cancel.clone());
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if reader.read_exact(&mut [0]).is_ok() {
            warn!("the build is cancelled, because of a signal");
            after_first.store(true, Ordering::SeqCst);
            switch.cancel();
        }
    })?;
    for (signal, writer) in [SIGTERM, SIGINT, SIGHUP].into_iter().zip(writers) {
        register_conditional_default(signal, Arc::clone(&ends_process))?;
        pipe::register(signal, writer)?;
    }
    ends_process.store(false, Ordering::SeqCst);
    Ok(())
}
