//! The report for people: a line for each machine, and a line for each finding with its remedies. Checks that passed are
//! printed only on request.
//!
//! A text to paste is on a line of its own, which is never wrapped. Other text is wrapped.

use std::io::{self, Write};
use std::path::Path;

use super::database::CheckedDatabase;
use super::finding::{Checked, Finding, Outcome, Remedy, RemedyKind, RemedyPlace};
use crate::commands::terminal::{Colour, Terminal, plain};

/// The column of the findings' texts.
const TEXT_INDENT: usize = 20;

/// The columns of remedies and of texts to paste.
const REMEDY_INDENT: usize = 6;
const PASTE_INDENT: usize = 8;

/// Writes the report to `out`, which has the properties of `terminal`. With `is_verbose`, checks that passed are part of it.
pub fn write(
    path: &Path,
    machines: &[Checked<'_>],
    is_verbose: bool,
    terminal: Terminal,
    out: &mut impl Write,
) -> io::Result<()> {
    for checked in machines {
        let verdict = if checked.usable {
            terminal.paint(Colour::Ok, "can be used")
        } else {
            terminal.paint(Colour::Error, "cannot be used")
        };
        let name = terminal.paint(Colour::Heading, &plain(&format!("{}:{}", checked.name, checked.port)));
        writeln!(out, "{name} {verdict}")?;
        for finding in checked.findings.iter().filter(|finding| is_verbose || finding.outcome != Outcome::Ok) {
            write_finding(finding, checked.name, terminal, out)?;
        }
    }
    let usable = machines.iter().filter(|checked| checked.usable).count();
    let noun = if machines.len() == 1 { "machine" } else { "machines" };
    writeln!(out, "{usable} of {} {noun} in '{}' can be used", machines.len(), path.display())
}

/// Writes the findings about the database of the pool.
pub fn write_database(
    database: &CheckedDatabase<'_>,
    is_verbose: bool,
    terminal: Terminal,
    out: &mut impl Write,
) -> io::Result<()> {
    let verdict = match database.usable {
        true => terminal.paint(Colour::Ok, "can be used"),
        false => terminal.paint(Colour::Error, "cannot be used"),
    };
    writeln!(out, "the database of the pool '{}' {verdict}", plain(database.name))?;
    let mut findings = database.findings.iter().filter(|finding| is_verbose || finding.outcome != Outcome::Ok);
    findings.try_for_each(|finding| write_finding(finding, database.name, terminal, out))
}

fn write_finding(finding: &Finding, machine: &str, terminal: Terminal, out: &mut impl Write) -> io::Result<()> {
    let mark = match finding.outcome {
        Outcome::Ok => terminal.paint(Colour::Ok, "ok"),
        Outcome::Warning => terminal.paint(Colour::Warning, "??"),
        Outcome::Error => terminal.paint(Colour::Error, "!!"),
    };
    writeln!(out, "  {mark}  {:<14}{}", finding.step.word(), terminal.wrap(TEXT_INDENT, &finding.text))?;
    finding.remedies.iter().try_for_each(|remedy| write_remedy(remedy, machine, terminal, out))
}

fn write_remedy(remedy: &Remedy, machine: &str, terminal: Terminal, out: &mut impl Write) -> io::Result<()> {
    let place = match (remedy.kind, remedy.place) {
        (RemedyKind::Command, RemedyPlace::Machine) => format!("on {machine}, as root:"),
        (RemedyKind::Command, _) => "on this machine, as root:".to_owned(),
        (RemedyKind::Line, _) => format!("in the machine file, for {machine}:"),
        (RemedyKind::Advice, _) => {
            return writeln!(out, "{:REMEDY_INDENT$}{}", "", terminal.wrap(REMEDY_INDENT, &remedy.text));
        }
    };
    let intent = remedy.condition.as_ref().map_or(place.clone(), |condition| format!("{condition}, {place}"));
    writeln!(out, "{:REMEDY_INDENT$}{}", "", terminal.wrap(REMEDY_INDENT, &intent))?;
    writeln!(out, "{:PASTE_INDENT$}{}", "", plain(&remedy.text))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Step;
    use super::super::remedies;
    use super::*;
    use crate::machine::Machine;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";
    const FINGERPRINT: &str = "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU";

    fn finding(step: Step, outcome: Outcome, text: &str, remedies: Vec<Remedy>) -> Finding {
        Finding { step, outcome, text: text.to_owned(), remedies }
    }

    /// The manual shows this report.
    #[test]
    fn only_what_is_pasted_is_longer_than_a_line() {
        let machine = Machine::new("b1", "offload", Vec::new(), Vec::new());
        let b1 = vec![
            finding(Step::PrivateKey, Outcome::Ok, "/etc/guix/offload_ed25519", Vec::new()),
            finding(Step::Resolve, Outcome::Ok, "'b1' resolves", Vec::new()),
            finding(Step::Connect, Outcome::Ok, "an SSH server answers", Vec::new()),
            finding(
                Step::HostKey,
                Outcome::Error,
                &format!("the server shows another host key than expected: {FINGERPRINT}"),
                vec![remedies::pin(KEY, FINGERPRINT, &machine)],
            ),
            finding(Step::Slots, Outcome::Ok, "0 of 4 taken", Vec::new()),
        ];
        let b2 = vec![
            finding(Step::Import, Outcome::Ok, "it accepts what this machine signs", Vec::new()),
            finding(
                Step::Slots,
                Outcome::Warning,
                "0 of 2 taken; it is drained: it gets no builds",
                vec![Remedy::on_head("offload undrain b2:22").provided("when it may get builds again")],
            ),
        ];
        let b3 = vec![finding(Step::Slots, Outcome::Ok, "0 of 4 taken", Vec::new())];
        let machines = [
            Checked { name: "b1", port: 22, usable: false, findings: b1 },
            Checked { name: "b2", port: 22, usable: true, findings: b2 },
            Checked { name: "b3", port: 22, usable: true, findings: b3 },
        ];
        let written = |is_verbose| {
            let mut report = Vec::new();
            let terminal = Terminal { width: Some(80), ..Terminal::default() };
            write("/etc/guix/machines.lua".as_ref(), &machines, is_verbose, terminal, &mut report).unwrap();
            String::from_utf8(report).unwrap()
        };
        let report = written(false);
        let expected = format!(
            "\
b1:22 cannot be used
  !!  host key      the server shows another host key than expected:
                    {FINGERPRINT}
      if 'cat /etc/ssh/ssh_host_*_key.pub | ssh-keygen -lf -' on b1 lists
      {FINGERPRINT} (else somebody may be
      in between), in the machine file, for b1:
        host_key = \"{KEY}\"
b2:22 can be used
  ??  build slots   0 of 2 taken; it is drained: it gets no builds
      when it may get builds again, on this machine, as root:
        offload undrain b2:22
b3:22 can be used
2 of 3 machines in '/etc/guix/machines.lua' can be used
"
        );
        assert_eq!(report, expected);
        assert!(include_str!("../../../doc/manual/commands.md").contains(&expected), "{expected}");
        // In the order of the checks.
        let verbose = written(true);
        for passed in [
            "  ok  connection    an SSH server answers\n  !!  host key  ",
            "b3:22 can be used\n  ok  build slots   0 of 4 taken\n",
        ] {
            assert!(verbose.contains(passed), "{verbose}");
        }
    }

    #[test]
    fn advice_is_one_paragraph() {
        let advice =
            finding(Step::Resolve, Outcome::Error, "no", vec![Remedy::advice(RemedyPlace::Head, "wait\nand see")]);
        let checked = Checked { name: "b1", port: 22, usable: false, findings: vec![advice] };
        let mut report = Vec::new();
        write("/m.lua".as_ref(), &[checked], false, Terminal::default(), &mut report).unwrap();
        assert!(String::from_utf8(report).unwrap().contains("      wait; and see\n"));
    }
}
