//! The table of machines on demand, below the sums of all machines.

use std::io::{self, Write};

use super::table::duration;
use crate::commands::table::{self, Column, Heading::Number, Heading::Text};
use crate::commands::terminal::{Colour, Terminal};
use crate::state::history::PowerSummary;

const COLUMNS: [Column<PowerSummary>; 6] = [
    Column { heading: Text("ON DEMAND"), rank: 0, cell: |sums| Some(sums.machine.clone()) },
    Column { heading: Number("STARTS"), rank: 0, cell: |sums| Some(sums.starts.to_string()) },
    Column { heading: Number("FAILED"), rank: 1, cell: |sums| Some(sums.failed_starts.to_string()) },
    Column { heading: Number("STOPS"), rank: 4, cell: |sums| Some(sums.stops.to_string()) },
    Column { heading: Number("HOURS"), rank: 2, cell: |sums| Some(format!("{:.1}", sums.on as f64 / 3_600_000.0)) },
    Column { heading: Number("BOOT"), rank: 3, cell: |sums| sums.median_boot.map(duration) },
];

/// Writes a table of machines on demand, if there are any.
pub fn write(machines: &[PowerSummary], terminal: Terminal, out: &mut impl Write) -> io::Result<()> {
    if machines.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let (lines, note) = table::fitted(&COLUMNS, machines, terminal);
    for (at, line) in lines.iter().enumerate() {
        let line = if at == 0 { terminal.paint(Colour::Heading, line) } else { line.clone() };
        writeln!(out, "{line}")?;
    }
    note.iter().try_for_each(|note| writeln!(out, "{note}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_machine_on_demand_has_its_starts_hours_and_median_boot() {
        let rented = PowerSummary {
            machine: "rented".to_owned(),
            starts: 3,
            failed_starts: 1,
            stops: 2,
            on: 5_400_000,
            median_boot: Some(2_345),
            ..PowerSummary::default()
        };
        let broken = PowerSummary { machine: "broken".to_owned(), failed_starts: 2, ..PowerSummary::default() };
        let mut out = Vec::new();
        write(&[rented, broken], Terminal::default(), &mut out).unwrap();
        let expected = "
ON DEMAND  STARTS  FAILED  STOPS  HOURS   BOOT
rented          3       1      2    1.5  2.3 s
broken          0       2      0    0.0      -
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let mut out = Vec::new();
        write(&[], Terminal::default(), &mut out).unwrap();
        assert!(out.is_empty());
    }
}
