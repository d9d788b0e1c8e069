//! Each fall-back, in its order, and what holds for any records.

use proptest::prelude::*;

use super::*;

fn record(machine: &str, builds: u32, building: f64, last: i64) -> NameRecord {
    NameRecord { machine: machine.to_owned(), builds, building, output_bytes: building * 100.0, last }
}

fn pool(machines: &[(&str, f64)]) -> Arc<Speeds> {
    let machines = machines.iter().map(|(machine, speed)| ((*machine).to_owned(), *speed)).collect();
    Arc::new(machines)
}

fn slow(machines: &[(&str, f64, u32)]) -> HashMap<String, MachineRecord> {
    let record = |slowness, comparisons| MachineRecord { slowness: Some(slowness), comparisons, ..Default::default() };
    machines.iter().map(|(machine, slowness, count)| ((*machine).to_owned(), record(*slowness, *count))).collect()
}

#[test]
fn each_fall_back_has_its_place() {
    let pool = pool(&[("a", 1.0), ("b", 1.0), ("c", 2.0)]);
    let exact = vec![record("a", 3, 10.0, 9)];
    let versions = vec![record("a", 3, 10.0, 9), record("b", 2, 60.0, 5), record("b", 1, 90.0, 4)];
    let learned = Learned::new(Records { exact, versions: versions.clone(), ..Records::default() }, &pool);
    assert_eq!(learned.seconds_on("a"), Some(10.0));
    // Other versions here come before the same version elsewhere.
    assert_eq!(learned.seconds_on("b"), Some(60.0));
    // The same version elsewhere comes before other versions elsewhere; the file says twice as fast.
    assert_eq!(learned.seconds_on("c"), Some(5.0));
    assert_eq!((learned.seconds(), learned.seconds_at(4.0)), (Some(10.0), Some(2.5)));
    assert_eq!(learned.output_bytes(), Some(1000.0));
    // Without the exact name: 10 and 60 elsewhere.
    let learned = Learned::new(Records { versions, ..Records::default() }, &pool);
    assert_eq!(
        ["a", "b", "c", "gone"].map(|machine| learned.seconds_on(machine)),
        [Some(10.0), Some(60.0), Some(17.5), Some(35.0)]
    );
    assert_eq!(learned.output_bytes(), Some(3500.0));
    let unknown = Learned::new(Records::default(), &pool);
    assert_eq!((unknown.seconds_on("a"), unknown.seconds(), unknown.output_bytes()), (None, None, None));
}

#[test]
fn learned_slowness_comes_before_the_speed_of_the_file() {
    // The file calls `b` four times as fast as `a`, and it is half as fast. Nothing is known of `c`.
    let machines = slow(&[("a", 1.0, 2), ("b", 2.0, 2), ("c", 100.0, 1)]);
    let exact = vec![record("a", 1, 10.0, 1)];
    let records = Records { exact, machines, ..Records::default() };
    let learned = Learned::new(records, &pool(&[("a", 1.0), ("b", 4.0), ("c", 1.0)]));
    assert_eq!(learned.seconds_on("b"), Some(20.0));
    // The speed 1 is the median of 1 and 8 in terms of slowness.
    assert_eq!(learned.seconds_on("c"), Some(45.0));
}

#[test]
fn the_last_ten_builds_of_all_versions_count() {
    let versions = vec![record("a", 4, 1.0, 30), record("a", 5, 2.0, 20), record("a", 10, 100.0, 10)];
    let learned = Learned::new(Records { versions, ..Records::default() }, &pool(&[("a", 1.0)]));
    assert_eq!(learned.seconds_on("a"), Some(2.0));
}

#[test]
fn medians_ignore_what_is_no_number() {
    assert_eq!(median(vec![]), None);
    assert_eq!(median(vec![f64::NAN, f64::INFINITY]), None);
    assert_eq!(median(vec![3.0, f64::NAN, 1.0]), Some(2.0));
    assert_eq!(median(vec![9.0, 1.0, 5.0]), Some(5.0));
}

#[test]
fn a_build_is_compared_with_the_median_of_the_others() {
    assert_eq!(comparison(20.0, vec![10.0, 10.0, 1000.0]), Some(2.0));
    assert_eq!(comparison(20.0, vec![]), None);
    assert_eq!([comparison(20.0, vec![0.0]), comparison(0.0, vec![1.0])], [None, None]);
}

fn any_records() -> impl Strategy<Value = Vec<NameRecord>> {
    let one = ("[a-d]", 0u32..12, 0.0f64..1e6, 0i64..100);
    let one = one.prop_map(|(machine, builds, building, last)| record(&machine, builds, building, last));
    proptest::collection::vec(one, 0..12)
}

proptest! {
    /// An expectation lies between the least and the greatest time, times the greatest difference of machines.
    #[test]
    fn expectations_are_of_the_order_of_the_builds(
        exact in any_records(),
        more in any_records(),
        slowness in proptest::collection::vec(0.1f64..10.0, 4),
    ) {
        let machines = ["a", "b", "c", "d"];
        let known: Vec<(&str, f64, u32)> = machines.into_iter().zip(slowness).map(|(name, slow)| (name, slow, 5)).collect();
        let pool = pool(&machines.map(|name| (name, 1.0)));
        let versions: Vec<NameRecord> = exact.iter().chain(&more).cloned().collect();
        let times: Vec<f64> = versions.iter().filter(|one| one.builds > 0).map(|one| one.building).collect();
        let records = Records { exact, versions, machines: slow(&known), typical: None };
        let learned = Learned::new(records, &pool);
        let (least, most) = times.iter().fold((f64::MAX, 0.0f64), |(least, most), time| (least.min(*time), most.max(*time)));
        for machine in machines {
            match learned.seconds_on(machine) {
                Some(seconds) => prop_assert!(seconds >= least / 101.0 && seconds <= most * 101.0, "{seconds}"),
                None => prop_assert!(times.is_empty()),
            }
        }
        prop_assert_eq!(learned.output_bytes().is_some(), !times.is_empty());
    }

    /// A pool in which all builds take k times as long expects k times as long.
    #[test]
    fn expectations_scale_with_the_builds(exact in any_records(), factor in 0.01f64..100.0) {
        let pool = pool(&[("a", 1.0), ("b", 2.0), ("x", 0.5)]);
        let scaled = exact.iter().map(|one| NameRecord { building: one.building * factor, ..one.clone() }).collect();
        let [one, other] = [exact, scaled].map(|exact| Learned::new(Records { exact, ..Records::default() }, &pool));
        for machine in ["a", "b", "x"] {
            let [one, other] = [&one, &other].map(|learned| learned.seconds_on(machine));
            prop_assert_eq!(one.is_some(), other.is_some());
            let (one, other) = (one.unwrap_or(0.0) * factor, other.unwrap_or(0.0));
            prop_assert!((one - other).abs() <= 1e-9 * one.max(1.0), "{one} {other}");
        }
    }
}
