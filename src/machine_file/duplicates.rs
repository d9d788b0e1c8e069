//! Duplicate entries for one machine: the same name and port, in any spelling of the name.
//!
//! They share slots, health and transfer limits, so the fields that describe the host and not the build must be the
//! same in all of them. Systems, features, speed and functions may differ: that is the purpose of a second entry. The
//! fields of connections, such as `keep_connection`, may also differ. Different names may still be those of one machine:
//! `checks` warns of that.

use super::diagnostic::Severity;
use super::fields::{Finding, FindingLocation};
use super::functions::MachineFunctions;
use super::machine_fields::Entry;
use crate::machine::Machine;
use mlua::Table;
use std::collections::HashMap;

/// Compares each entry with the first one for the same machine. `numbers` are the calls that made the entries.
pub(super) fn check(
    entries: &[Entry],
    functions: &[(Table, MachineFunctions)],
    numbers: &[usize],
    findings: &mut Vec<Finding>,
) {
    let mut seen: HashMap<String, Vec<usize>> = HashMap::new();
    for (index, Entry { machine, .. }) in entries.iter().enumerate() {
        let same = seen.entry(machine.address()).or_default();
        if let Some(&first) = same.first() {
            let other = &entries[first];
            let place = FindingLocation::Constructed(numbers[index]);
            let described = |other: &Entry| match other.line {
                Some(line) => format!("the entry for the same machine on line {line}"),
                None => "another entry for the same machine".to_owned(),
            };
            let finding = |severity, field: Option<&str>, message: String| Finding {
                severity,
                place,
                field: field.map(str::to_owned),
                message: format!("build_machine<{}>: {message}", machine.name),
                hint: None,
                missing: false,
            };
            for (field, differs) in differences(machine, &other.machine) {
                if differs {
                    let message = format!("{field}: differs from that of {}", described(other));
                    findings.push(finding(Severity::Error, Some(field), message));
                }
            }
            let functions_of_machine =
                |index: usize| functions.get(index).map(|(_, functions_of_machine)| functions_of_machine);
            if let Some(&twin) = same.iter().find(|&&other| {
                entries[other].machine == *machine && functions_of_machine(other) == functions_of_machine(index)
            }) {
                let message = format!("identical to {}", described(&entries[twin]));
                findings.push(finding(Severity::Warning, None, message));
            }
        }
        same.push(index);
    }
}

fn differences(machine: &Machine, other: &Machine) -> [(&'static str, bool); 4] {
    let mut keys = [&machine.host_keys, &other.host_keys].map(|keys| {
        let mut blobs: Vec<&[u8]> = keys.iter().map(|key| key.blob.as_slice()).collect();
        blobs.sort();
        blobs
    });
    let [mine, others] = &mut keys;
    [
        ("user", machine.user != other.user),
        ("host_key", mine != others),
        ("daemon_socket", machine.daemon_socket != other.daemon_socket),
        ("parallel_builds", machine.parallel_builds != other.parallel_builds),
    ]
}
