//! Records for GNU recutils, in the manner of `guix processes`: a record for each machine, a line for each field, an
//! empty line after each record. What is not known is left out. `Build` may come more than once: slot, process, seconds
//! since 1970, derivation.
//!
//! A value is one line; what other machines say is made so.

use std::fmt::Display;
use std::io::{self, Write};

use super::snapshot::MachineSnapshot;
use crate::commands::terminal::plain;

/// Writes a record for each machine.
pub fn write(machines: &[MachineSnapshot], out: &mut impl Write) -> io::Result<()> {
    for snapshot in machines {
        for (name, value) in fields(snapshot) {
            writeln!(out, "{name}: {}", plain(&value))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// The names of the fields and their values.
fn fields(snapshot: &MachineSnapshot) -> Vec<(&'static str, String)> {
    fn text(value: &Option<impl Display>) -> Option<String> {
        value.as_ref().map(ToString::to_string)
    }
    let word = |is: bool| Some(if is { "yes" } else { "no" }.to_owned());
    let (failures, drained) = (snapshot.failures.as_ref(), snapshot.drained.as_ref());
    let fields = [
        ("Name", Some(snapshot.name.clone())),
        ("Port", Some(snapshot.port.to_string())),
        ("State", Some(snapshot.state.word().to_owned())),
        ("Reachable", word(snapshot.reachable)),
        ("Error", text(&snapshot.error)),
        ("Hint", text(&snapshot.hint)),
        ("HostName", text(&snapshot.host_name)),
        ("Kernel", text(&snapshot.kernel)),
        ("Architecture", text(&snapshot.architecture)),
        ("Uptime", text(&snapshot.uptime)),
        ("Protocol", text(&snapshot.protocol)),
        ("Guix", text(&snapshot.guix)),
        ("Load1", text(&snapshot.load1)),
        ("Load5", text(&snapshot.load5)),
        ("Load15", text(&snapshot.load15)),
        ("Cores", text(&snapshot.cores)),
        ("PressureCpu", text(&snapshot.pressure_cpu)),
        ("PressureMemory", text(&snapshot.pressure_memory)),
        ("PressureIo", text(&snapshot.pressure_io)),
        ("FreeMemory", text(&snapshot.free_memory)),
        ("FreeDisk", text(&snapshot.free_disk)),
        ("FreeInodes", text(&snapshot.free_inodes)),
        ("ClockSkew", text(&snapshot.clock_skew)),
        ("Slots", Some(snapshot.slots.to_string())),
        ("Taken", text(&snapshot.taken)),
        ("FailuresSince", failures.map(|failures| failures.since.to_string())),
        ("FailuresCount", failures.map(|failures| failures.count.to_string())),
        ("FailuresError", failures.map(|failures| failures.error.clone())),
        ("FailuresUntil", failures.map(|failures| failures.until.to_string())),
        ("DrainedSince", drained.map(|drained| drained.since.to_string())),
        ("DrainedUntil", drained.and_then(|drained| text(&drained.until))),
    ];
    let builds = snapshot.builds.iter().map(|build| {
        let parts = [Some(build.slot.to_string()), text(&build.pid), text(&build.since), build.derivation.clone()];
        ("Build", parts.map(|part| part.unwrap_or_else(|| "-".to_owned())).join(" "))
    });
    fields.into_iter().filter_map(|(name, value)| Some((name, value?))).chain(builds).collect()
}
