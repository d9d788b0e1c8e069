//! Where the time of a build goes: the phases that are logged, and the round trips.

mod lab;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use lab::{Drv, LONG, Lab, wait_until};

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

#[test]
fn another_level_applies_for_its_time_without_a_restart() {
    let lab = Lab::new();
    let machine = lab.build_machine("b1").start();
    let head = lab.head().start();
    head.write_machines(&[machine.entry()]);
    let build = |name: &str| head.build(&[&Drv::new(name)]).succeeded().log;
    let is_debugged = |log: &str| log.contains("offload: debug: ");
    let level = || head.offload(&["log-level"]).out;
    let log = build("quiet");
    assert!(!is_debugged(&log), "{log}");
    assert!(level().starts_with("offload=info, or OFFLOAD_LOG"), "{}", level());

    // A hook that runs already, and one that comes later.
    let long = "echo here we are; until test -e /var/lab/go; do sleep 0.05; done; echo done >$out";
    let mut running = head.client().start(&[&Drv::new("running").script(long)]);
    running.wait_for_log("here we are");
    assert!(!is_debugged(&running.log()), "{}", running.log());
    assert_eq!(head.offload(&["log-level", "debug", "--for", "1h"]).status, Some(0));
    assert!(level().starts_with("debug, for "), "{}", level());
    // A hook looks for levels once a second at most, so that a short build looks once.
    let since = Instant::now();
    wait_until("the next step is a second after the last one", LONG, || since.elapsed() > Duration::from_secs(1));
    machine.write("/var/lab/go", "");
    let log = running.wait().succeeded().log;
    assert!(is_debugged(&log), "{log}");
    let log = build("loud");
    assert!(log.contains("debug: evaluate: "), "{log}");

    // It ends by itself.
    assert_eq!(head.offload(&["log-level", "debug", "--for", "1s"]).status, Some(0));
    wait_until("the level has ended", LONG, || level().starts_with("offload=info"));
    let log = build("quiet-again");
    assert!(!is_debugged(&log), "{log}");

    // An invalid level changes nothing; a command ends a valid one.
    assert_eq!(head.offload(&["log-level", "offload::ssh=trace,warn"]).status, Some(0));
    for arguments in [["log-level", "debgu", "--for", "1h"], ["log-level", "debug", "--for", "2d"]] {
        assert_eq!(head.offload(&arguments).status, Some(2), "{arguments:?}");
    }
    assert!(level().starts_with("offload::ssh=trace,warn, for "), "{}", level());
    assert_eq!(head.offload(&["log-level", "default"]).status, Some(0));
    assert!(level().starts_with("offload=info"), "{}", level());
}
