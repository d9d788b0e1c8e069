//! Lessons from real rows, and none from a database that cannot be used.

use std::fs;

use rusqlite::Connection;

use super::*;
use crate::state::StateDirectory;
use crate::state::history::Row;

fn history() -> (tempfile::TempDir, History) {
    let top = tempfile::tempdir().unwrap();
    let history = History::of(&StateDirectory::new(top.path().join("offload")));
    (top, history)
}

/// A build of so many seconds and bytes of outputs.
fn built(name: &str, machine: &str, seconds: f64, bytes: u64) -> Row {
    let derivation = format!("/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-{name}.drv");
    let row = Row::new(&derivation, "x86_64-linux", Outcome::Built, 1000);
    let building = (seconds * 1000.0) as u64;
    Row { machine: Some(machine.to_owned()), attempt: 1, building, retrieved_bytes: bytes, ..row }
}

fn pool() -> Arc<Speeds> {
    Arc::new(["a", "b", "c"].map(|machine| (machine.to_owned(), 1.0)).into())
}

fn seconds(history: &History, name: &str) -> [Option<f64>; 3] {
    let learned = history.learned(name, &pool());
    ["a", "b", "c"].map(|machine| learned.seconds_on(machine))
}

fn sql(history: &History, statements: &str) {
    Connection::open(history.file("history.db")).unwrap().execute_batch(statements).unwrap();
}

#[test]
fn the_last_ten_builds_are_expected_again_before_and_after_they_are_moved() {
    let (_top, history) = history();
    assert_eq!(seconds(&history, "x-1"), [None; 3]);
    let old = (0..10).map(|_| built("x-1", "a", 1000.0, 1));
    let new = (0..10).map(|number| built("x-1", "a", 10.0 + f64::from(number), 500));
    history.append(&old.chain(new).collect::<Vec<_>>());
    history.append(&[
        Row { outcome: Outcome::BuildFailed, ..built("x-1", "b", 1.0, 1) },
        Row { outcome: Outcome::MachineFailed, ..built("x-1", "a", 1.0, 1) },
        built("y", "b", 3.0, 7),
    ]);
    let check = |how: &str| {
        assert_eq!(seconds(&history, "x-1"), [Some(14.5); 3], "{how}");
        assert_eq!(history.learned("x-1", &pool()).output_bytes(), Some(500.0), "{how}");
        // Another version, and another name.
        assert_eq!(seconds(&history, "x-2"), [Some(14.5); 3], "{how}");
        assert_eq!(seconds(&history, "y"), [Some(3.0); 3], "{how}");
        assert_eq!(seconds(&history, "x-1-checkout"), [None; 3], "{how}");
        assert_eq!(history.learned("x-1", &pool()).machines["a"].builds, 20, "{how}");
    };
    check("before");
    history.collect();
    assert!(!history.has_new_rows());
    check("after");
    // Both together: eight of the ten in the middle of the two.
    history.append(&[built("y", "b", 5.0, 7), built("y", "b", 7.0, 7)]);
    assert_eq!(seconds(&history, "y"), [Some(5.0); 3]);
}

#[test]
fn machines_are_compared_by_what_both_have_built() {
    let (_top, history) = history();
    for (number, time) in [1.0, 20.0, 300.0].iter().enumerate() {
        history
            .append(&[built(&format!("n{number}"), "a", *time, 1), built(&format!("n{number}"), "b", time * 4.0, 1)]);
        // Too short to compare.
        history.append(&[built(&format!("t{number}"), "a", 0.09, 1), built(&format!("t{number}"), "c", 0.01, 1)]);
    }
    history.append(&[built("new", "a", 10.0, 1)]);
    history.collect();
    let learned = history.learned("new", &pool());
    assert_eq!((learned.seconds_on("b"), learned.seconds_on("a")), (Some(40.0), Some(10.0)));
    // Nothing is known of `c`: it has the speed of the file, in the middle of the others.
    assert_eq!(learned.seconds_on("c"), Some(25.0));
    let [a, b] = ["a", "b"].map(|machine| (learned.machines[machine].slowness, learned.machines[machine].comparisons));
    assert_eq!((a, b), ((Some(1.0), 2), (Some(4.0), 3)));
}

#[test]
fn links_are_measured_by_what_was_moved() {
    let (_top, history) = history();
    let small = Row { sending: 200, retrieving: 250, placing: 50, sent_bytes: 1000, ..built("x", "a", 1.0, 1000) };
    let large = Row { sending: 10_500, sent_bytes: 100 << 20, retrieving: 2500, ..built("x", "a", 1.0, 100 << 20) };
    let fetched = Row { sending: 5500, sent_bytes: 0, substituted_bytes: 100 << 20, ..built("x", "b", 1.0, 1000) };
    history.append(&[small.clone(), small, large, fetched]);
    history.collect();
    let machines = history.learned("x", &pool()).machines;
    assert_eq!(machines["a"].overhead, Some(0.5));
    assert_eq!((machines["a"].sending, machines["a"].receiving), (Some((10 << 20) as f64), Some((50 << 20) as f64)));
    assert_eq!((machines["b"].overhead, machines["b"].receiving), (None, None));
    assert_eq!(machines["b"].sending, Some((100 << 20) as f64 / 5.5));
}

#[test]
fn only_the_last_samples_count() {
    let (_top, history) = history();
    let sent = |seconds: u64| Row { sending: seconds * 1000, sent_bytes: 100 << 20, ..built("x", "a", 1.0, 0) };
    history.append(&(0..30).map(|_| sent(1)).collect::<Vec<_>>());
    history.append(&(0..15).map(|_| sent(4)).collect::<Vec<_>>());
    history.collect();
    assert_eq!(history.learned("x", &pool()).machines["a"].sending, Some((25 << 20) as f64));
    let count = "SELECT count(*) FROM samples";
    let count: i64 =
        Connection::open(history.file("history.db")).unwrap().query_row(count, [], |row| row.get(0)).unwrap();
    assert_eq!(count, 15);
}

/// Damages, and what they leave for the rows that wait.
#[test]
fn a_database_that_cannot_be_used_says_nothing_at_once_and_is_left_alone() {
    type Damage = fn(&History);
    let damages: [(&str, Damage); 6] = [
        ("garbage", |history| {
            let _ = fs::remove_file(history.file("history.db-wal"));
            fs::write(history.file("history.db"), "no database".repeat(1000)).unwrap();
        }),
        ("a newer one", |history| sql(history, "PRAGMA user_version = 99")),
        ("an older one", |history| sql(history, "PRAGMA user_version = 1")),
        ("no table", |history| sql(history, "DROP TABLE learned")),
        ("odd values", |history| sql(history, "DROP TABLE machines; CREATE TABLE machines (machine, builds)")),
        ("a directory", |history| {
            fs::remove_file(history.file("history.db")).unwrap();
            fs::create_dir(history.file("history.db")).unwrap();
        }),
    ];
    for (what, damage) in damages {
        let (_top, history) = history();
        history.append(&[built("x", "a", 10.0, 1)]);
        history.collect();
        assert_eq!(seconds(&history, "x"), [Some(10.0); 3]);
        damage(&history);
        let before = fs::read(history.file("history.db")).ok();
        assert_eq!(seconds(&history, "x"), [None; 3], "{what}");
        assert_eq!(fs::read(history.file("history.db")).ok(), before, "{what}");
        let files = ["warned-history", "history.db.damaged"].map(|name| history.file(name).exists());
        assert_eq!(files, [false; 2], "{what}");
    }
    let (_top, history) = history();
    history.append(&[built("x", "a", 10.0, 1)]);
    history.collect();
    let other = Connection::open(history.file("history.db")).unwrap();
    other.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; DELETE FROM batch").unwrap();
    assert!(seconds(&history, "x").iter().all(|seconds| seconds.is_none_or(|seconds| seconds == 10.0)));
}

#[test]
fn an_older_database_is_learned_from() {
    let (_top, history) = history();
    history.append(&[built("x", "a", 10.0, 1), built("x", "b", 20.0, 1), built("x", "b", 30.0, 1)]);
    history.collect();
    let learned = || (seconds(&history, "x"), history.learned("x", &pool()).machines);
    let expected = learned();
    sql(
        &history,
        "DROP TABLE learned; DROP TABLE machines; DROP TABLE samples; DROP INDEX builds_name;
         DROP TABLE power; DROP TABLE power_totals; PRAGMA user_version = 2",
    );
    assert_eq!(seconds(&history, "x"), [None; 3]);
    history.append(&[Row { machine: None, outcome: Outcome::Declined, ..built("y", "a", 0.0, 0) }]);
    history.collect();
    assert_eq!(learned(), expected);
    assert_eq!(history.rows(&super::super::Filter::default()).unwrap().len(), 4);
}

#[test]
fn what_was_removed_from_the_history_is_forgotten() {
    let (_top, history) = history();
    history.append(&[built("old", "gone", 1.0, 1), built("new", "a", 2.0, 1)]);
    history.collect();
    sql(&history, "DELETE FROM builds WHERE name = 'old'; UPDATE totals SET last = -1 WHERE machine = 'gone'");
    let later = 400 * 24 * 3600 * 1000;
    history.append(
        &(0..100).map(|_| Row { started: later, ended: later, ..built("new", "a", 2.0, 1) }).collect::<Vec<_>>(),
    );
    super::super::collect::collect(history.state.path(), later).unwrap();
    assert_eq!(seconds(&history, "old"), [None; 3]);
    let learned = history.learned("new", &pool());
    assert_eq!((learned.seconds(), learned.machines.len()), (Some(2.0), 1));
}

/// Measures a look-up: 100,000 rows of 1,000 machines and 2,000 names.
#[test]
#[ignore = "prints figures"]
fn the_time_of_a_look_up() {
    let (_top, history) = history();
    let machine = |number: u64| format!("m{}.example.org", number % 1000);
    let pool = Arc::new((0..1000).map(|number| (machine(number), 1.0)).collect());
    for batch in 0..20u64 {
        let row = |number: u64| {
            let number = (batch * 5000 + number).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
            built(&format!("name{}-1.{}", number % 2000, number % 3), &machine(number / 2000), 1.0, 100)
        };
        let start = std::time::Instant::now();
        history.append(&(0..5000).map(row).collect::<Vec<_>>());
        history.collect();
        println!("5,000 rows: {:?}", start.elapsed());
    }
    let mut times: Vec<std::time::Duration> = (0..100)
        .map(|number| {
            let start = std::time::Instant::now();
            assert!(history.learned(&format!("name{number}-1.{}", number % 3), &pool).seconds().is_some());
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!("a look-up: median {:?}, slowest {:?}", times[50], times[99]);
    println!("{} bytes", fs::metadata(history.file("history.db")).unwrap().len());
}
