//! The explanation of several builds: a line for each, and how many go where.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::report::BuildReport;
use crate::commands::terminal::plain;

/// Prints a line for each build, and the sums.
pub fn print(builds: &[BuildReport<'_>], out: &mut impl Write) -> io::Result<()> {
    let mut sums: BTreeMap<String, usize> = BTreeMap::new();
    for build in builds {
        let derivation = build.request.derivation.unwrap_or_default();
        writeln!(out, "{}  → {}", plain(derivation), build.outcome)?;
        let place = match (build.machine, build.reply) {
            (Some(machine), _) => format!("on {machine}"),
            (None, "decline") if build.outcome.starts_with("not built") => "not built".to_owned(),
            (None, "decline") => "on this machine".to_owned(),
            (None, _) => "waiting".to_owned(),
        };
        *sums.entry(place).or_default() += 1;
    }
    let sums: Vec<String> = sums.into_iter().map(|(place, count)| format!("{count} {place}")).collect();
    writeln!(out, "{} builds: {}", builds.len(), sums.join(", "))
}
