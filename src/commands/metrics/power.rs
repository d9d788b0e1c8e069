//! The metrics of machines on demand.

use super::super::machine_records::MachineRecord;
use super::exposition::{Samples, Writer, counter, gauge};
use crate::state::Phase;
use crate::state::history::PowerSummary;

/// The states, with their words.
const STATES: [(Phase, &str); 4] =
    [(Phase::Off, "off"), (Phase::Starting, "starting"), (Phase::Running, "running"), (Phase::Stopping, "stopping")];

/// Adds the metrics, if the pool has machines on demand.
pub(super) fn write(machines: &[MachineRecord], totals: &[PowerSummary], writer: &mut Writer) {
    let [mut states, mut starts, mut stops, mut on, mut booting] =
        std::array::from_fn::<Samples<'_>, 5, _>(|_| Samples::new());
    for total in totals {
        let machine = ("machine", total.machine.as_str());
        for (counters, done, failed) in
            [(&mut starts, total.starts, total.failed_starts), (&mut stops, total.stops, total.failed_stops)]
        {
            counters.insert(vec![machine, ("outcome", "ok")], done as f64);
            counters.insert(vec![machine, ("outcome", "failed")], failed as f64);
        }
        on.insert(vec![machine], total.on as f64 / 1000.0);
        booting.insert(vec![machine], total.booting as f64 / 1000.0);
    }
    for machine in machines {
        let Some(phase) = machine.power else { continue };
        let label = ("machine", machine.name.as_str());
        for (state, word) in STATES {
            states.insert(vec![label, ("state", word)], f64::from(u8::from(state == phase)));
        }
        // The time of the stop that is still to come.
        *on.entry(vec![label]).or_default() += machine.on.unwrap_or(0) as f64 / 1000.0;
    }
    let help = "State of the machine on demand: 1 for the one that applies.";
    writer.add(&gauge("offload_machine_power", "", help), states);
    writer.add(&counter("offload_machine_power_starts", "", "Starts of the machine on demand, by outcome."), starts);
    writer.add(&counter("offload_machine_power_stops", "", "Stops of the machine on demand, by outcome."), stops);
    let help = "Time for which the machine on demand was on.";
    writer.add(&counter("offload_machine_power_on_seconds", "seconds", help), on);
    let help = "Time that successful starts of the machine on demand took.";
    writer.add(&counter("offload_machine_power_booting_seconds", "seconds", help), booting);
}
