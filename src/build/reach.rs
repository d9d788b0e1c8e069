//! Reaching a machine: a connection whose daemon has answered.
//!
//! A machine whose SSH server answers and whose daemon does not is no use to anybody, so both are part of reaching it.

use log::warn;

use super::connect::{connect, unreachable};
use crate::daemon::{self, Client};
use crate::error::with_hint;
use crate::failpoints::{Failpoint, failpoint};
use crate::machine::Machine;
use crate::remote::{self, Connection, DaemonStream};
use crate::state::{StateDirectory, warning_throttle};
use crate::store::path::StoreDir;
use crate::timing::Stopwatch;

/// A machine that was reached.
pub struct MachineLink {
    // Before the connection that carries it.
    pub client: Client<DaemonStream>,
    pub connection: Connection,
}

/// Connects to the machine and greets its daemon. The error is a message, with a remedy where there is one.
pub fn reach(state: &StateDirectory, machine: &Machine, store: &StoreDir) -> Result<MachineLink, String> {
    let connection = connect(state, machine)?;
    failpoint(Failpoint::Connected);
    let mut stopwatch = Stopwatch::start();
    let stream = connection.daemon().map_err(|error| unreachable(&error))?;
    let client =
        Client::connect(stream, store.clone()).map_err(|error| daemon_failed("greeting its daemon", &error))?;
    stopwatch.lap("greet");
    if let Some(warning) = connection.warning()
        && warning_throttle::should_warn(state, machine, "relay").unwrap_or(true)
    {
        warn!("{warning}");
    }
    failpoint(Failpoint::Greeted);
    Ok(MachineLink { client, connection })
}

/// What to say of a daemon that failed in a phase. Errors of the link come wrapped in those of the client.
pub fn daemon_failed(phase: &str, error: &daemon::Error) -> String {
    let hint = match error {
        daemon::Error::Link { cause, .. } => remote::Error::hint_in_io(cause),
        _ => None,
    };
    with_hint(&format!("{phase}: {error}"), hint)
}
