//! Each part of an estimate, and the order that estimates give.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::state::StateDirectory;
use crate::state::history::{History, Outcome, Row};

/// What is learned of `x` from builds of so many seconds: name, machine, seconds, bytes of outputs.
fn learned(rows: &[(&str, &str, f64, u64)], pool: &[(&str, f64)]) -> Learned {
    let directory = tempfile::tempdir().unwrap();
    let history = History::of(&StateDirectory::new(directory.path()));
    let row = |(name, machine, seconds, bytes): &(&str, &str, f64, u64)| {
        let row = Row::new(&format!("/gnu/store/x-{name}.drv"), "x86_64-linux", Outcome::Built, 1);
        let (building, retrieving) = ((seconds * 1000.0) as u64, bytes / 10_000);
        let machine = Some((*machine).to_owned());
        Row { machine, attempt: 1, sending: 100, building, retrieving, retrieved_bytes: *bytes, ..row }
    };
    history.append(&rows.iter().map(row).collect::<Vec<_>>());
    history.collect();
    let pool = pool.iter().map(|(name, speed)| ((*name).to_owned(), *speed)).collect();
    history.learned("x", &Arc::new(pool))
}

fn on(machine: &str) -> Situation<'_> {
    Situation { machine, slots: 2, ..Situation::default() }
}

#[test]
fn the_parts_add_up() {
    let learned = learned(&[("x", "a", 20.0, 50 << 20), ("y", "a", 1.0, 0), ("z", "a", 1.0, 0)], &[("a", 1.0)]);
    let seconds = Duration::from_secs;
    let running = [
        Occupied { age: seconds(10), expected: Some(seconds(16)) },
        Occupied { age: seconds(4), expected: Some(seconds(12)) },
    ];
    let situation = Situation { running: &running, load: Some(0.5), missing_bytes: Some(100_000_000), ..on("a") };
    let estimate = machine_estimate(&learned, &situation);
    assert_eq!((estimate.waiting, estimate.building, estimate.is_learned), (6.0, 30.0, true));
    // Sending was not measured: 25 MB/s. Connecting takes 0.1 s.
    assert!((estimate.sending - 4.1).abs() < 1e-9, "{estimate:?}");
    // 10 MB/s were measured.
    assert!((5.2..5.3).contains(&estimate.retrieving), "{estimate:?}");
    assert_eq!(
        estimate.to_string(),
        "about 45 s: 6.0 s until a slot is free, 4.1 s to send, 30 s to build, 5.2 s to fetch"
    );
    let head = head_estimate(&learned, 2.0, Some(1.0));
    assert_eq!((head.total(), head.building), (20.0, 20.0));
}

#[test]
fn a_machine_that_is_off_costs_its_boot() {
    let learned = learned(&[("x", "a", 20.0, 0), ("x", "b", 60.0, 0)], &[("a", 1.0), ("b", 1.0)]);
    let with = |boot| machine_estimate(&learned, &Situation { boot, ..on("a") });
    let [runs, off, almost] = [None, Some(50), Some(0)].map(|boot: Option<u64>| with(boot.map(Duration::from_secs)));
    assert_eq!([runs.starting, off.starting, almost.starting], [0.0, 50.0, 1.0]);
    assert!((off.total() - runs.total() - 50.0).abs() < 1e-9, "{off:?} {runs:?}");
    assert!(off.to_string().contains(": 50 s to start, "), "{off}");
    // The slower machine that runs has the outputs first, unless the other one boots fast.
    let other = machine_estimate(&learned, &on("b")).total();
    assert!(off.total() > other && with(Some(Duration::from_secs(30))).total() < other);
}

#[test]
fn a_slot_is_free_when_enough_builds_have_ended() {
    let occupied = |age, expected: Option<u64>| Occupied {
        age: Duration::from_secs(age),
        expected: expected.map(Duration::from_secs),
    };
    let wait = |slots, running: &[Occupied]| wait_for_slot(slots, running);
    let running = [occupied(10, Some(70)), occupied(10, Some(30)), occupied(40, None)];
    assert_eq!([4, 3, 2, 1].map(|slots| wait(slots, &running)), [0.0, 20.0, 40.0, 60.0]);
    // Late by 5 s; late by nothing; just begun.
    assert_eq!(wait(1, &[occupied(15, Some(10))]), 5.0);
    assert_eq!(wait(1, &[occupied(10, Some(10))]), 1.0);
    assert_eq!(wait(1, &[occupied(1, None)]), 5.0);
    assert_eq!(wait(0, &[]), 0.0);
}

#[test]
fn without_history_speed_and_load_decide() {
    let pool = [("slow", 0.5), ("middle", 1.0), ("fast", 4.0)];
    let learned = learned(&[], &pool);
    let score = |machine, load| -machine_estimate(&learned, &Situation { load, ..on(machine) }).building;
    assert_eq!(score("middle", None), -ASSUMED_BUILD);
    assert!(score("fast", Some(0.0)) > score("middle", Some(0.0)) && score("middle", None) > score("slow", None));
    assert!(score("fast", Some(3.5)) < score("middle", Some(0.0)));
    let estimate = machine_estimate(&learned, &on("fast"));
    assert!(
        !estimate.is_learned && estimate.to_string().ends_with("(an assumption: it was never built)"),
        "{estimate}"
    );
    assert_eq!(head_estimate(&learned, 2.0, None).building, ASSUMED_BUILD / 2.0);
}

#[test]
fn a_machine_that_has_built_nothing_is_tried_with_builds_that_are_not_long() {
    // The file calls `new` four times slower than the others.
    let pool = [("a", 1.0), ("b", 1.0), ("new", 0.25)];
    let short = learned(&[("x", "a", 10.0, 0), ("x", "b", 10.0, 0), ("y", "a", 10.0, 0)], &pool);
    let building = |learned: &Learned, machine| machine_estimate(learned, &on(machine)).building;
    assert_eq!((building(&short, "a"), building(&short, "new")), (10.0, 8.0));
    let long = learned(
        &[("x", "a", 100.0, 0), ("x", "b", 100.0, 0), ("y", "a", 1.0, 0), ("z", "a", 1.0, 0), ("w", "a", 1.0, 0)],
        &pool,
    );
    assert_eq!((building(&long, "a"), building(&long, "new")), (100.0, 400.0));
    let tried = learned(&[("x", "a", 10.0, 0), ("y", "new", 1.0, 0)], &pool);
    assert_eq!(building(&tried, "new"), 40.0);
    // One build at a time tries it.
    let running = [Occupied { age: Duration::ZERO, expected: None }];
    assert_eq!(machine_estimate(&short, &Situation { running: &running, ..on("new") }).building, 40.0);
}

#[test]
fn a_tiny_build_stays_at_the_head() {
    let tiny = learned(&[("x", "a", 0.02, 1000)], &[("a", 4.0)]);
    let long = learned(&[("x", "a", 60.0, 1000)], &[("a", 4.0)]);
    let [here, there] = [head_estimate(&tiny, 1.0, Some(0.1)), machine_estimate(&tiny, &on("a"))].map(|it| it.total());
    assert!(here < there, "{here} {there}");
    assert!(head_estimate(&long, 1.0, None).total() > machine_estimate(&long, &on("a")).total());
}

proptest! {
    /// More of anything that costs time never makes a machine better.
    #[test]
    fn what_costs_time_lowers_the_score(
        seconds in 0.2f64..1000.0,
        load in 0.0f64..4.0,
        bytes in 0u64..1 << 34,
        ages in proptest::collection::vec((0u64..1000, proptest::option::of(0u64..1000)), 0..4),
        more in 1u64..1 << 30,
    ) {
        let learned = learned(&[("x", "a", seconds, bytes >> 8)], &[("a", 1.0)]);
        let occupied = |(age, expected): &(u64, Option<u64>)| {
            Occupied { age: Duration::from_secs(*age), expected: expected.map(Duration::from_secs) }
        };
        let running: Vec<Occupied> = ages.iter().map(occupied).collect();
        let situation = Situation { running: &running, load: Some(load), missing_bytes: Some(bytes), ..on("a") };
        let total = |situation: Situation<'_>| machine_estimate(&learned, &situation).total();
        let before = total(situation);
        prop_assert!(before.is_finite() && before > 0.0);
        let busier = total(Situation { load: Some(load + 0.1), ..situation });
        prop_assert!(busier >= before);
        let farther = total(Situation { missing_bytes: Some(bytes + more), ..situation });
        prop_assert!(farther >= before);
        let mut longer = running.clone();
        longer.push(Occupied { age: Duration::ZERO, expected: None });
        let fuller = total(Situation { running: &longer, ..situation });
        prop_assert!(fuller >= before);
    }
}
