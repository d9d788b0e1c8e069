//! Records for GNU recutils, in the manner of `guix processes`: a record for each machine, a line for each field, an
//! empty line after each record. What is not known is left out. `Build` may come more than once: slot, process, seconds
//! since 1970, derivation.
//!
//! A value is one line; what other machines say is made so.

use std::fmt::Display;
use std::io::{self, Write};

use super::look::Seen;
use crate::commands::terminal::plain;

/// Writes a record for each machine.
pub fn write(machines: &[Seen], out: &mut impl Write) -> io::Result<()> {
    for seen in machines {
        for (name, value) in fields(seen) {
            writeln!(out, "{name}: {}", plain(&value))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// The names of the fields and their values.
fn fields(seen: &Seen) -> Vec<(&'static str, String)> {
    fn text(value: &Option<impl Display>) -> Option<String> {
        value.as_ref().map(ToString::to_string)
    }
    let word = |is: bool| Some(if is { "yes" } else { "no" }.to_owned());
    let (trouble, drained) = (seen.trouble.as_ref(), seen.drained.as_ref());
    let fields = [
        ("Name", Some(seen.name.clone())),
        ("Port", Some(seen.port.to_string())),
        ("State", Some(seen.state.word().to_owned())),
        ("Reachable", word(seen.reachable)),
        ("Error", text(&seen.error)),
        ("Hint", text(&seen.hint)),
        ("HostName", text(&seen.host_name)),
        ("Kernel", text(&seen.kernel)),
        ("Architecture", text(&seen.architecture)),
        ("Uptime", text(&seen.uptime)),
        ("Protocol", text(&seen.protocol)),
        ("Guix", text(&seen.guix)),
        ("Load1", text(&seen.load1)),
        ("Load5", text(&seen.load5)),
        ("Load15", text(&seen.load15)),
        ("Cores", text(&seen.cores)),
        ("PressureCpu", text(&seen.pressure_cpu)),
        ("PressureMemory", text(&seen.pressure_memory)),
        ("PressureIo", text(&seen.pressure_io)),
        ("FreeMemory", text(&seen.free_memory)),
        ("FreeDisk", text(&seen.free_disk)),
        ("FreeInodes", text(&seen.free_inodes)),
        ("ClockSkew", text(&seen.clock_skew)),
        ("Slots", Some(seen.slots.to_string())),
        ("Taken", text(&seen.taken)),
        ("TroubleSince", trouble.map(|trouble| trouble.since.to_string())),
        ("TroubleCount", trouble.map(|trouble| trouble.count.to_string())),
        ("TroubleError", trouble.map(|trouble| trouble.error.clone())),
        ("TroubleUntil", trouble.map(|trouble| trouble.until.to_string())),
        ("DrainedSince", drained.map(|drained| drained.since.to_string())),
        ("DrainedUntil", drained.and_then(|drained| text(&drained.until))),
    ];
    let builds = seen.builds.iter().map(|build| {
        let parts = [Some(build.slot.to_string()), text(&build.pid), text(&build.since), build.derivation.clone()];
        ("Build", parts.map(|part| part.unwrap_or_else(|| "-".to_owned())).join(" "))
    });
    fields.into_iter().filter_map(|(name, value)| Some((name, value?))).chain(builds).collect()
}
