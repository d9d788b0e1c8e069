//! Reaching a machine: a connection whose daemon has responded.
//!
//! A machine whose SSH server responds and whose daemon does not cannot build, so both belong to reaching it.

use log::{debug, warn};

use super::connect::{connect, unreachable};
use crate::daemon::{self, Client};
use crate::error::with_hint;
use crate::failpoints::{Failpoint, failpoint};
use crate::machine::Machine;
use crate::remote::{self, Connection, DaemonStream};
use crate::state::{OtherStore, StateDirectory, health, warning_throttle};
use crate::store::path::StoreDir;
use crate::timing::Stopwatch;
use crate::transfer::signature_test::{self, SignatureTestError};

/// The fault of an entry that refers to this very machine, and its remedy.
pub const OWN_STORE: &str = "its store is the store of this machine, so a build there would wait for itself";
pub const OWN_STORE_HINT: &str =
    "remove the entry; `local_machine { … }` in the machine file lets this machine take part in the choice";

/// A machine that was reached.
pub struct MachineLink {
    // Before the connection that carries it.
    pub client: Client<DaemonStream>,
    pub connection: Connection,
    /// Whether the daemon has the options of the build.
    pub has_options: bool,
}

/// Connects to the machine and greets its daemon. The error is a message, with a hint if there is one.
pub fn reach(state: &StateDirectory, machine: &Machine, store: &StoreDir) -> Result<MachineLink, String> {
    let connection = connect(state, machine)?;
    failpoint(Failpoint::Connected);
    reach_over(state, machine, store, connection)
}

/// Greets the daemon of a machine over a connection.
pub(super) fn reach_over(
    state: &StateDirectory,
    machine: &Machine,
    store: &StoreDir,
    connection: Connection,
) -> Result<MachineLink, String> {
    let mut stopwatch = Stopwatch::start();
    let stream = connection.daemon().map_err(|error| unreachable(&error))?;
    let mut client = stream.greet(store.clone()).map_err(|error| daemon_failed("greeting its daemon", &error))?;
    stopwatch.lap("greet");
    if let Some(warning) = connection.warning()
        && warning_throttle::should_warn(state, machine, "relay").unwrap_or(true)
    {
        warn!("{warning}");
    }
    check_store(state, machine, store, &mut client)?;
    failpoint(Failpoint::Greeted);
    Ok(MachineLink { client, connection, has_options: false })
}

/// Returns an error if the machine's store is this machine's. This is checked once a day; if it cannot be determined,
/// there is no error.
pub fn check_store(
    state: &StateDirectory,
    machine: &Machine,
    store: &StoreDir,
    client: &mut Client<DaemonStream>,
) -> Result<(), String> {
    let known = OtherStore::of(state, machine);
    if known.as_ref().is_ok_and(|known| known.is_known(health::now())) {
        return Ok(());
    }
    let mut stopwatch = Stopwatch::start();
    let is_here = signature_test::is_store_here(client, store);
    stopwatch.lap("store check");
    match is_here {
        Ok(true) => return Err(with_hint(&OWN_STORE, Some(OWN_STORE_HINT.to_owned()))),
        Ok(false) => {
            if let Err(error) = known.and_then(|known| known.remember(health::now())) {
                debug!("cannot record the store check of '{}': {error}", machine.name);
            }
        }
        Err(SignatureTestError::Daemon(error)) if !client.is_usable() => {
            return Err(daemon_failed("checking its store", &error));
        }
        Err(error) => debug!("{}: {error}", machine.name),
    }
    Ok(())
}

/// Returns the message about a daemon that failed in `phase`. Errors of the link come wrapped in those of the client.
pub fn daemon_failed(phase: &str, error: &daemon::Error) -> String {
    let hint = match error {
        daemon::Error::Link { cause, .. } => remote::Error::hint_in_io(cause),
        _ => None,
    };
    with_hint(&format!("{phase}: {error}"), hint)
}
