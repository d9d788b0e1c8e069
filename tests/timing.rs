//! Where the time of a build goes: the phases that are logged, and the round trips.

mod lab;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use lab::{Drv, Lab};

/// The names in the table of `src/timing.rs`.
fn documented_phases() -> BTreeSet<String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/timing.rs")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("//! | ")).filter_map(|row| row.split(" | ").next());
    rows.filter(|names| *names != "phase").flat_map(|names| names.split(", ")).map(str::to_owned).collect()
}

/// The sum of the numbers in the table of round trips with this heading.
fn documented_round_trips(heading: &str) -> u32 {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("doc/benchmarks.md")).unwrap();
    let table = text.split(heading).nth(1).unwrap();
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.split('|').nth(2).unwrap().trim().parse::<u32>().unwrap_or_else(|_| panic!("{row}"))).sum()
}

#[test]
fn every_phase_is_logged_and_the_round_trips_are_as_documented() {
    let lab = Lab::new();
    let machine = lab.build_machine("b1").start();
    let link = lab.proxy("link", machine.ssh_address());
    let head = lab.head().env("OFFLOAD_LOG", "offload::timing=debug").start();
    head.write_machines(&[machine.entry().via(&link).set("keep_connection", false)]);

    let mut phases = BTreeSet::new();
    let note = |phases: &mut BTreeSet<String>, log: &str| {
        for line in log.lines().filter_map(|line| line.split("debug: ").nth(1)) {
            let (phase, rest) = line.split_once(':').unwrap();
            // The derivation and the machine, where the thread knows them.
            if ["build", "query", "place"].contains(&phase) {
                assert!(rest.contains(".drv on ") && rest.ends_with(')'), "{line}");
            }
            phases.insert(phase.to_owned());
        }
    };
    // On a busy machine a near line may look like a long one for once, and is then treated as such.
    for number in 0..20 {
        note(&mut phases, &head.build(&[&Drv::new(&format!("near-{number}"))]).succeeded().log);
        if phases.contains("ready") {
            break;
        }
    }
    // An input that must be signed, on a near line and on a long one.
    for number in 0..20 {
        let made = Drv::new(&format!("made-{number}")).script("head -c 3000000 /dev/urandom >$out");
        head.client().no_offload().max_jobs(1).build(&[&made]).succeeded();
        let user = Drv::new(&format!("user-{number}")).input(&made);
        note(&mut phases, &head.build(&[&user]).succeeded().log);
        if phases.contains("send") {
            break;
        }
    }
    link.delay(Duration::from_millis(15));
    let large = Drv::new("large").script("head -c 3000000 /dev/urandom >$out");
    head.client().no_offload().max_jobs(1).build(&[&large]).succeeded();
    note(&mut phases, &head.build(&[&Drv::new("far-user").input(&large)]).succeeded().log);

    // The server's messages may cross with ours, and its status may have to be requested again, which adds round trips. So
    // the least of some builds counts, of more builds on a busier machine.
    let mut assert_round_trips = |heading: &str, connecting: u32| {
        let documented = documented_round_trips(heading);
        let mut least = u32::MAX;
        for number in 0..20 {
            let (answers, connections) = (link.answers(), link.connections());
            let trivial = Drv::new(&format!("trivial-{connecting}-{number}"));
            note(&mut phases, &head.build(&[&trivial]).succeeded().log);
            assert_eq!(link.connections(), connections + connecting);
            // That of the TCP connection does not pass.
            least = least.min(link.answers() - answers + connecting);
            if number >= 3 && least <= documented {
                break;
            }
        }
        assert_eq!(least, documented, "{heading}");
    };
    assert_round_trips("| step | round trips |", 1);

    head.write_machines(&[machine.entry().via(&link).set("keep_connection", 600)]);
    head.build(&[&Drv::new("connecting")]).succeeded();
    assert_round_trips("| step, over a persistent connection | round trips |", 0);
    assert_eq!(phases, documented_phases());
}
