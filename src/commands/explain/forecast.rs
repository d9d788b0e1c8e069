//! The probes of `offload explain --probe`, and the transfer that a build would need.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use log::debug;

use crate::build::MachineLink;
use crate::commands::contact;
use crate::engine::Engine;
use crate::error::with_causes;
use crate::events::iec;
use crate::hook::Request;
use crate::local::{LocalStore, closure, read_derivation};
use crate::machine::Machine;
use crate::scheduler::matching::mismatch;
use crate::store::path::StorePath;
use crate::transfer::{self, Forecast, TransferLimiter};

/// Probes all machines that match, concurrently, and records the results. Returns what would be transferred, by the
/// addresses of the machines, as far as it can be determined.
pub fn probe(machines: &[&Machine], request: &Request, engine: &Engine) -> BTreeMap<String, Forecast> {
    let inputs = inputs(request, engine).inspect_err(|error| debug!("no forecast: {error}")).ok();
    let forecasts = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for machine in machines.iter().filter(|machine| mismatch(machine, request).is_none()) {
            let (inputs, forecasts) = (&inputs, &forecasts);
            scope.spawn(move || {
                let probed = contact::contact(engine, machine)
                    .and_then(|link| contact::probe(engine, &link).map(|status| (link, status)));
                let link = match probed {
                    Ok((link, status)) => {
                        contact::record_works(engine, machine, status);
                        link
                    }
                    Err(error) => return contact::record_fails(engine, machine, &error),
                };
                if let Some(inputs) = inputs
                    && let Some(forecast) = forecast(engine, machine, link, inputs)
                {
                    forecasts.lock().unwrap_or_else(PoisonError::into_inner).insert(machine.address(), forecast);
                }
            });
        }
    });
    forecasts.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the inputs of the build. The error is a message, such as that some are not built yet.
fn inputs(request: &Request, engine: &Engine) -> Result<BTreeSet<StorePath>, String> {
    let path = &request.derivation;
    let derivation = read_derivation(&engine.directories.store, path).map_err(|error| with_causes(&error))?;
    closure(&engine.directories, path, &derivation).map_err(|error| with_causes(&error))
}

/// Returns what would be transferred to the machine; `None` if that cannot be determined.
fn forecast(
    engine: &Engine,
    machine: &Machine,
    mut link: MachineLink,
    inputs: &BTreeSet<StorePath>,
) -> Option<Forecast> {
    let local_store = LocalStore::open(&engine.directories).inspect_err(|error| debug!("no forecast: {error}")).ok()?;
    let (state, limit, report_interval) = (&engine.state, Duration::ZERO, Duration::MAX);
    let limiter = TransferLimiter { state, machine, limit, report_interval };
    let forecast = transfer::forecast(&mut link.client, &link.connection, &local_store, inputs, &limiter);
    forecast.inspect_err(|error| debug!("no forecast: {error}")).ok()
}

/// Returns what would be transferred, in words.
pub fn transfer_note(Forecast { fetched, sent }: Forecast) -> String {
    let missing = fetched.items + sent.items;
    match (fetched.items, sent.items) {
        (0, 0) => "it has all inputs".to_owned(),
        (0, _) => format!("{missing} missing items ({}) would be sent", iec(sent.bytes)),
        (_, 0) => format!("all {missing} missing items ({}) would be fetched there", iec(fetched.bytes)),
        (_, _) => format!(
            "{} of {missing} missing items ({}) would be fetched there; {} ({}) would be sent",
            fetched.items,
            iec(fetched.bytes),
            sent.items,
            iec(sent.bytes)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::Amount;

    #[test]
    fn a_note_counts_items_and_bytes() {
        let note = |fetched, sent| {
            let amount = |items: usize| Amount { items, bytes: items as u64 * (1 << 20) };
            transfer_note(Forecast { fetched: amount(fetched), sent: amount(sent) })
        };
        assert_eq!(note(12, 2), "12 of 14 missing items (12.0 MiB) would be fetched there; 2 (2.0 MiB) would be sent");
        assert_eq!(note(3, 0), "all 3 missing items (3.0 MiB) would be fetched there");
        assert_eq!(note(0, 4), "4 missing items (4.0 MiB) would be sent");
        assert_eq!(note(0, 0), "it has all inputs");
    }
}
