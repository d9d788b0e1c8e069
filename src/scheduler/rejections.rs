//! The rejections of a request as text. Machines with the same reason are named together, because pools may have
//! thousands of machines: `m1: REASON`, `m1, m2: REASON`, `m1, m2, m3 and 5 more: REASON`.

use std::collections::HashMap;

use super::choice::{Reason, Rejection};
use crate::machine::Machine;

/// How many machines are named for one reason.
const MAX_NAMES: usize = 3;

/// Returns a text for each reason, in the order in which the reasons first occur.
pub fn by_reason(machines: &[&Machine], rejections: &[Rejection]) -> Vec<String> {
    let mut numbers: HashMap<String, usize> = HashMap::new();
    let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
    let mut last: Option<(&Reason, usize)> = None;
    for Rejection { machine, reason } in rejections {
        let machine = machines[*machine];
        // Most often it is that of the machine before.
        let number = match last {
            Some((same, number)) if same == reason => number,
            _ => *numbers.entry(reason.to_string()).or_insert_with_key(|reason| {
                groups.push((reason.clone(), Vec::new()));
                groups.len() - 1
            }),
        };
        last = Some((reason, number));
        let (text, names) = &mut groups[number];
        // Errors of the connection name the machine themselves.
        if !text.starts_with(&machine.name) || !text.starts_with(&machine.address()) {
            names.push(&machine.name);
        }
    }
    groups.into_iter().map(|(reason, names)| named(&names, &reason)).collect()
}

fn named(names: &[&str], reason: &str) -> String {
    match names.len().saturating_sub(MAX_NAMES) {
        _ if names.is_empty() => reason.to_owned(),
        0 => format!("{}: {reason}", names.join(", ")),
        // "and 1 more" would be no shorter than the name.
        1 => format!("{}: {reason}", names.join(", ")),
        more => format!("{} and {more} more: {reason}", names[..MAX_NAMES].join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(reasons: &[(&str, &str)]) -> Vec<String> {
        let machines: Vec<Machine> =
            reasons.iter().map(|(name, _)| Machine::new(name, "u", Vec::new(), Vec::new())).collect();
        let rejections: Vec<Rejection> = (reasons.iter().enumerate())
            .map(|(machine, (_, reason))| Rejection { machine, reason: Reason::Refused((*reason).to_owned()) })
            .collect();
        by_reason(&machines.iter().collect::<Vec<_>>(), &rejections)
    }

    #[test]
    fn machines_with_the_same_reason_are_named_together() {
        assert_eq!(texts(&[]), [""; 0]);
        assert_eq!(texts(&[("a", "x"), ("b", "y"), ("c", "x")]), ["a, c: x", "b: y"]);
        let same = |count: usize| {
            let names: Vec<String> = (1..=count).map(|number| format!("m{number}")).collect();
            texts(&names.iter().map(|name| (name.as_str(), "x")).collect::<Vec<_>>())
        };
        assert_eq!(same(4), ["m1, m2, m3, m4: x"]);
        assert_eq!(same(5), ["m1, m2, m3 and 2 more: x"]);
        assert_eq!(same(10_000), ["m1, m2, m3 and 9997 more: x"]);
    }

    #[test]
    fn a_reason_that_names_its_machine_is_not_named_again() {
        assert_eq!(texts(&[("a", "a:22: no route"), ("b", "b:22: no route")]), ["a:22: no route", "b:22: no route"]);
    }
}
