//! The report for people: a line for each finding, and what is to be done about it.
//!
//! What is to be pasted stands on a line of its own that is never broken; everything else is.

use std::io::{self, Write};
use std::path::Path;

use super::Checked;
use super::finding::{Finding, Kind, Outcome, Place, Remedy};
use crate::commands::terminal::{Colour, Terminal, plain};

/// Where the texts of the findings begin.
const TEXT: usize = 20;

/// Where remedies begin, and what is to be pasted.
const REMEDY: usize = 6;
const PASTE: usize = 8;

/// Writes the report to `out`, which is `terminal`.
pub fn write(path: &Path, machines: &[Checked<'_>], terminal: Terminal, out: &mut impl Write) -> io::Result<()> {
    for checked in machines {
        let verdict = if checked.usable {
            terminal.paint(Colour::Good, "can be used")
        } else {
            terminal.paint(Colour::Bad, "cannot be used")
        };
        let name = terminal.paint(Colour::Heading, &plain(&format!("{}:{}", checked.name, checked.port)));
        writeln!(out, "{name} {verdict}")?;
        for finding in &checked.findings {
            write_finding(finding, checked.name, terminal, out)?;
        }
    }
    let usable = machines.iter().filter(|checked| checked.usable).count();
    let noun = if machines.len() == 1 { "machine" } else { "machines" };
    writeln!(out, "{usable} of {} {noun} in '{}' can be used", machines.len(), path.display())
}

fn write_finding(finding: &Finding, machine: &str, terminal: Terminal, out: &mut impl Write) -> io::Result<()> {
    let mark = match finding.outcome {
        Outcome::Good => terminal.paint(Colour::Good, "ok"),
        Outcome::Doubtful => terminal.paint(Colour::Doubtful, "??"),
        Outcome::Bad => terminal.paint(Colour::Bad, "!!"),
    };
    writeln!(out, "  {mark}  {:<14}{}", finding.step.word(), terminal.wrap(TEXT, &finding.text))?;
    finding.remedies.iter().try_for_each(|remedy| write_remedy(remedy, machine, terminal, out))
}

fn write_remedy(remedy: &Remedy, machine: &str, terminal: Terminal, out: &mut impl Write) -> io::Result<()> {
    let place = match (remedy.kind, remedy.place) {
        (Kind::Command, Place::Machine) => format!("on {machine}, as root:"),
        (Kind::Command, _) => "on this machine, as root:".to_owned(),
        (Kind::Line, _) => format!("in the machine file, for {machine}:"),
        (Kind::Advice, _) => return writeln!(out, "{:REMEDY$}{}", "", terminal.wrap(REMEDY, &remedy.text)),
    };
    let intent = remedy.condition.as_ref().map_or(place.clone(), |condition| format!("{condition}, {place}"));
    writeln!(out, "{:REMEDY$}{}", "", terminal.wrap(REMEDY, &intent))?;
    writeln!(out, "{:PASTE$}{}", "", plain(&remedy.text))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Step;
    use super::*;

    #[test]
    fn only_what_is_pasted_is_longer_than_a_line() {
        let key = format!("host_key = \"ssh-ed25519 {}\"", "A".repeat(68));
        let remedies = vec![
            Remedy::in_file(&key)
                .provided("if the fingerprint is the one that the machine itself tells on its own console"),
            Remedy::advice(Place::Head, "wait\nand see"),
        ];
        let text =
            "the server shows another host key than expected: SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU";
        let finding = Finding { step: Step::HostKey, outcome: Outcome::Bad, text: text.to_owned(), remedies };
        let checked = Checked { name: "b1", port: 22, usable: false, findings: vec![finding] };
        let mut report = Vec::new();
        let terminal = Terminal { width: Some(80), ..Terminal::default() };
        write("/m.lua".as_ref(), &[checked], terminal, &mut report).unwrap();
        let expected = format!(
            "b1:22 cannot be used
  !!  host key      the server shows another host key than expected:
                    SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU
      if the fingerprint is the one that the machine itself tells on its own
      console, in the machine file, for b1:
        {key}
      wait; and see
0 of 1 machine in '/m.lua' can be used
"
        );
        assert_eq!(String::from_utf8(report).unwrap(), expected);
    }
}
