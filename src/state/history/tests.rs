//! The whole history, as hooks and commands use it.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::*;
use crate::events::pool::PoolEventKind;
use crate::state::health;

const HOUR: u64 = 3600 * 1000;
const DAY: u64 = 24 * HOUR;
const YEAR: u64 = 366 * DAY;

fn history() -> (tempfile::TempDir, History) {
    let top = tempfile::tempdir().unwrap();
    let history = History::of(&StateDirectory::new(top.path().join("offload")));
    (top, history)
}

fn row(name: &str, outcome: Outcome, started: u64) -> Row {
    Row::new(&format!("/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-{name}.drv"), "x86_64-linux", outcome, started)
}

fn built(name: &str, machine: &str, started: u64) -> Row {
    Row { machine: Some(machine.to_owned()), attempt: 1, ..row(name, Outcome::Built, started) }
}

fn names(history: &History, filter: &Filter) -> Vec<String> {
    history.rows(filter).unwrap().into_iter().map(|row| row.name).collect()
}

fn all(history: &History) -> Vec<String> {
    names(history, &Filter::default())
}

/// Moves the rows as if it were `now`.
fn collect_at(history: &History, now: u64) {
    collect::collect(history.state.path(), now).unwrap();
}

fn database(history: &History) -> PathBuf {
    history.file("history.db")
}

fn sql(history: &History, statements: &str) {
    Connection::open(database(history)).unwrap().execute_batch(statements).unwrap();
}

#[test]
fn rows_come_back_as_they_were() {
    let (_top, history) = history();
    assert!(all(&history).is_empty() && history.totals().unwrap().is_empty());
    assert!(!history.state.path().exists());
    let whole = Row {
        derivation: "/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-a.drv".to_owned(),
        name: "a".to_owned(),
        system: "i686-linux".to_owned(),
        user: Some("alice".to_owned()),
        head: "head".to_owned(),
        machine: Some("b1:2222".to_owned()),
        slot: Some(9),
        attempt: 2,
        outcome: Outcome::MachineFailed,
        reason: Some("the\nconnection \u{1b}was 'lost'".to_owned()),
        requests: 1,
        started: 1,
        ended: 2,
        waiting: 3,
        sending: 4,
        building: 5,
        retrieving: 6,
        placing: 7,
        reused_connection: Some(true),
        sent_items: 8,
        sent_bytes: 9,
        substituted_items: 10,
        substituted_bytes: 11,
        retrieved_items: 12,
        retrieved_bytes: u64::MAX,
    };
    let empty = row("b", Outcome::NoMachine, 3);
    history.append(&[whole.clone(), empty.clone()]);
    let stored = Row { retrieved_bytes: i64::MAX as u64, ..whole };
    for _ in 0..2 {
        assert_eq!(history.rows(&Filter::default()).unwrap(), [stored.clone(), empty.clone()]);
    }
    // Only the commands and the daemon's user can read them.
    use std::os::unix::fs::PermissionsExt;
    for entry in fs::read_dir(history.state.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.file_name());
    }
}

#[test]
fn each_filter_excludes_rows() {
    let (_top, history) = history();
    let mut rows = [
        built("hello-2.12", "b1", 100),
        built("hello-2.13", "b2", 200),
        built("hello-world-1", "b1", 300),
        row("gcc", Outcome::Declined, 400),
        Row { outcome: Outcome::BuildFailed, ..built("gcc-14", "b1:2222", 500) },
    ];
    (rows[1].user, rows[4].user) = (Some("alice".to_owned()), Some("bob".to_owned()));
    (rows[0].ended, rows[0].started) = (250, 100);
    history.append(&rows);
    let names = |filter: Filter| names(&history, &filter);
    let by_name = |name: &str| names(Filter { name: Some(name.to_owned()), ..Filter::default() });
    assert_eq!(by_name("hello"), ["hello-2.12", "hello-2.13"]);
    assert_eq!(by_name("hello-2.13"), ["hello-2.13"]);
    assert_eq!(by_name("hello-2.13.drv"), ["hello-2.13"]);
    assert_eq!(by_name("*wor*"), ["hello-world-1"]);
    assert_eq!(by_name("gc?-14"), ["gcc-14"]);
    assert_eq!(by_name("gcc"), ["gcc", "gcc-14"]);
    assert_eq!(by_name(&rows[3].derivation), ["gcc"]);
    assert_eq!(by_name("' OR 1 --"), [""; 0]);
    let by_machine = |name: &str| names(Filter { machine: Some(name.to_owned()), ..Filter::default() });
    assert_eq!(by_machine("b1"), ["hello-2.12", "hello-world-1"]);
    assert_eq!(by_machine("b1*"), ["hello-2.12", "hello-world-1", "gcc-14"]);
    assert_eq!(names(Filter { user: Some("bob".to_owned()), ..Filter::default() }), ["gcc-14"]);
    let outcomes = vec![Outcome::Declined, Outcome::BuildFailed];
    assert_eq!(names(Filter { outcomes, ..Filter::default() }), ["gcc", "gcc-14"]);
    // By the end of the build.
    assert_eq!(
        names(Filter { since: Some(250), until: Some(400), ..Filter::default() }),
        ["hello-2.12", "hello-world-1"]
    );
    assert_eq!(names(Filter { limit: Some(2), ..Filter::default() }), ["gcc", "gcc-14"]);
    let both = Filter { name: Some("hello".to_owned()), machine: Some("b2".to_owned()), ..Filter::default() };
    assert_eq!(names(both), ["hello-2.13"]);
}

#[test]
fn the_same_reply_again_is_counted_in_one_row() {
    let (_top, history) = history();
    let again = |outcome, time: u64| {
        history.append(&[row("a", outcome, time)]);
        let rows = history.rows(&Filter::default()).unwrap();
        let last = rows.last().unwrap();
        (rows.len(), last.requests, last.started, last.ended)
    };
    assert_eq!(again(Outcome::Postponed, HOUR), (1, 1, HOUR, HOUR));
    assert_eq!(again(Outcome::Postponed, HOUR + 5), (1, 2, HOUR, HOUR + 5));
    history.append(&[row("b", Outcome::Postponed, HOUR + 6)]);
    assert_eq!(again(Outcome::Postponed, HOUR + 7), (2, 1, HOUR + 6, HOUR + 6));
    assert_eq!(history.rows(&Filter::default()).unwrap()[0].requests, 3);
    // Another reply, a long time, or an attempt in between.
    assert_eq!(again(Outcome::Declined, HOUR + 8), (3, 1, HOUR + 8, HOUR + 8));
    assert_eq!(again(Outcome::Declined, 3 * HOUR), (4, 1, 3 * HOUR, 3 * HOUR));
    assert_eq!(again(Outcome::Built, 3 * HOUR), (5, 1, 3 * HOUR, 3 * HOUR));
    assert_eq!(again(Outcome::Built, 3 * HOUR), (6, 1, 3 * HOUR, 3 * HOUR));
    assert_eq!(again(Outcome::Declined, 3 * HOUR), (7, 1, 3 * HOUR, 3 * HOUR));
}

#[test]
fn rows_of_more_than_a_year_ago_are_removed_and_stay_in_the_totals() {
    let (_top, history) = history();
    let now = 10 * YEAR;
    history.append(&[built("old", "b1", now - YEAR - 1), built("young", "b1", now - YEAR)]);
    collect_at(&history, now);
    // Few rows: the clock may be wrong.
    assert_eq!(all(&history), ["old", "young"]);
    let recent: Vec<Row> = (0..100).map(|number| built(&format!("new-{number}"), "b1", now + number)).collect();
    history.append(&recent[..99]);
    collect_at(&history, now);
    assert_eq!(all(&history).len(), 101);
    history.append(&recent[99..]);
    collect_at(&history, now);
    assert_eq!(all(&history)[..2], ["young", "new-0"]);
    let totals = history.totals().unwrap();
    assert_eq!((totals.len(), totals[0].rows, totals[0].last), (1, 102, now + 99));
}

#[test]
fn the_totals_of_a_machine_without_attempts_for_a_year_are_removed() {
    let (_top, history) = history();
    let now = 10 * YEAR;
    let failed = |machine: &str, time| Row { outcome: Outcome::MachineFailed, ..built("x", machine, time) };
    // One outcome of `b1` is old, and all of the machine `gone`.
    history.append(&[failed("gone", now - YEAR - 2), built("x", "gone", now - YEAR - 1), failed("b1", 1)]);
    history.append(&[built("x", "b2", now - YEAR), row("x", Outcome::Declined, 1)]);
    collect_at(&history, now);
    let machines = || {
        let totals = history.totals().unwrap().into_iter();
        totals.map(|total| total.machine.unwrap_or_default() + " " + total.outcome.word()).collect::<Vec<_>>()
    };
    assert_eq!(machines().len(), 5);
    history.append(&(0..100).map(|number| built("x", "b1", now + number)).collect::<Vec<_>>());
    collect_at(&history, now);
    assert_eq!(machines(), [" declined", "b1 built", "b1 machine-failed", "b2 built"]);
}

#[test]
fn a_clock_that_jumps_removes_nothing() {
    let (_top, history) = history();
    let now = 10 * YEAR;
    history.append(&(0..150).map(|number| built(&format!("{number}"), "b1", now + number)).collect::<Vec<_>>());
    collect_at(&history, now);
    // Some builds twenty years ahead, and others in 1970.
    history.append(&(0..50).map(|_| built("ahead", "b1", 30 * YEAR)).collect::<Vec<_>>());
    collect_at(&history, 30 * YEAR);
    history.append(&(0..150).map(|_| built("behind", "b1", 0)).collect::<Vec<_>>());
    collect_at(&history, 0);
    history.append(&[built("now", "b1", now)]);
    collect_at(&history, now);
    assert_eq!(all(&history).len(), 351);
}

#[test]
fn only_the_last_rows_are_kept() {
    let (_top, history) = history();
    history.append(&[built("first", "b1", 1), built("second", "b1", 1)]);
    history.collect();
    sql(
        &history,
        "UPDATE builds SET id = 7 WHERE id = 1; UPDATE builds SET id = 8 WHERE id = 2; UPDATE sqlite_sequence SET seq = 100006",
    );
    history.append(&[built("last", "b1", 1)]);
    assert_eq!(all(&history), ["second", "last"]);
}

/// A hook would end later by the time that the disk takes.
#[test]
fn hooks_leave_the_write_ahead_log_to_others_and_do_not_fill_it() {
    let (_top, history) = history();
    let hook = History::of_hook(&history.state);
    let log_size = || fs::metadata(history.file("history.db-wal")).unwrap().len();
    let some = |name: &str| vec![Row { reason: Some("x".repeat(1000)), ..built(name, "b1", 1) }; 60];
    hook.append(&some("first"));
    hook.collect();
    assert!(!hook.needs_checkpoint());
    let file = fs::read(database(&history)).unwrap();
    let batches = (1..1000).find(|number| {
        hook.append(&some(&number.to_string()));
        hook.collect();
        hook.has_new_rows()
    });
    let batches = batches.expect("the log is full");
    assert!(log_size() > 8 << 20 && hook.needs_checkpoint(), "{} bytes", log_size());
    assert!(fs::read(database(&history)).unwrap() == file, "a hook has changed the file");
    // A command moves the log, takes the rows that wait, and begins the log for the next hook.
    assert_eq!(all(&history).len(), 60 * (batches + 1));
    assert!((1..20_000).contains(&log_size()) && !hook.needs_checkpoint(), "{} bytes", log_size());
    hook.append(&some("last"));
    hook.collect();
    assert!(!hook.has_new_rows());
}

#[test]
fn a_batch_that_a_killed_process_left_is_inserted_once() {
    let (_top, history) = history();
    history.append(&[built("a", "b1", 1)]);
    // Before the commit.
    let batch = pending::take_batch(history.state.path()).unwrap().unwrap().text;
    history.append(&[built("b", "b1", 2)]);
    assert_eq!(all(&history), ["a", "b"]);
    // After it.
    let later = Row { reason: Some("later".to_owned()), ..built("c", "b1", 3) };
    history.append(&[later]);
    fs::hard_link(history.file("history.pending"), history.file("history.batch")).unwrap();
    assert_eq!(all(&history), ["a", "b", "c"]);
    // The same text, but other builds.
    fs::write(history.file("history.batch"), batch).unwrap();
    history.append(&[built("d", "b1", 4)]);
    assert_eq!(all(&history), ["a", "b", "c", "a", "d"]);
    assert!(!history.file("history.batch").exists() && !history.file("history.pending").exists());
}

/// A name, and what it does to the file.
type Damage = (&'static str, fn(&Path));

/// Damages of the database. Each is met by a hook that adds a row, and by a command that reads.
const DAMAGES: &[Damage] = &[
    ("garbage", |path| {
        fs::remove_file(path.with_extension("db-wal")).unwrap();
        fs::write(path, "no database".repeat(1000)).unwrap();
    }),
    ("empty tables", |path| damage_by(path, "DROP TABLE builds")),
    ("no totals", |path| damage_by(path, "DROP TABLE totals")),
    ("no batch", |path| damage_by(path, "DROP TABLE batch")),
    ("other columns", |path| damage_by(path, "ALTER TABLE builds DROP COLUMN head")),
    ("unknown outcomes", |path| {
        damage_by(path, "UPDATE builds SET outcome = 'odd'; UPDATE totals SET outcome = 'odd'; DROP TABLE batch")
    }),
    ("another program's", |path| {
        fs::remove_file(path).unwrap();
        damage_by(path, "CREATE TABLE builds (x)");
    }),
    ("overwritten pages", |path| {
        damage_by(path, "PRAGMA wal_checkpoint(TRUNCATE)");
        let mut bytes = fs::read(path).unwrap();
        bytes[4096..].fill(0x5a);
        fs::write(path, bytes).unwrap();
    }),
    ("cut off", |path| {
        damage_by(path, "PRAGMA wal_checkpoint(TRUNCATE)");
        fs::File::options().write(true).open(path).unwrap().set_len(5000).unwrap();
    }),
];

fn damage_by(path: &Path, statements: &str) {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch(statements).unwrap();
}

#[test]
fn a_damaged_database_is_set_aside_and_loses_no_new_row() {
    for (what, damage) in DAMAGES {
        let (_top, history) = history();
        history.append(&[built("before", "b1", 1)]);
        history.collect();
        damage(&database(&history));
        history.append(&[built("after", "b1", 2)]);
        history.collect();
        assert_eq!(all(&history), ["after"], "{what}");
        assert!(history.file("history.db.damaged").exists(), "{what}");
        assert!(!history.file("history.pending").exists(), "{what}");
    }
}

#[test]
fn a_command_that_finds_damage_reports_it_once() {
    for (what, damage) in DAMAGES {
        let (_top, history) = history();
        history.append(&[built("before", "b1", 1)]);
        history.collect();
        damage(&database(&history));
        let results = [history.rows(&Filter::default()).map(drop), history.totals().map(drop)];
        let errors: Vec<String> = results.into_iter().filter_map(Result::err).map(|error| error.to_string()).collect();
        if *what == "no batch" {
            // Only writing needs it.
            assert!(errors.is_empty(), "{errors:?}");
            continue;
        }
        let aside =
            format!("the history is damaged, and is set aside as '{}': ", history.file("history.db.damaged").display());
        assert_eq!(errors.len(), 1, "{what}: {errors:?}");
        assert!(errors[0].starts_with(&aside), "{what}: {errors:?}");
        assert!(all(&history).is_empty(), "{what}");
    }
}

/// The times at which a problem was reported.
fn is_reported(history: &History) -> bool {
    let reported = history.file("warned-history").exists();
    let _ = fs::remove_file(history.file("warned-history"));
    reported
}

#[test]
fn rows_of_the_first_schema_stay_and_have_no_slot() {
    let (_top, history) = history();
    fs::create_dir_all(history.state.path()).unwrap();
    let old =
        "INSERT INTO builds VALUES (7, '/gnu/store/x-a.drv', 'a', 'x86_64-linux', NULL, 'head', 'b1', 1, 'built', NULL,
        1, 2, 3, 4, 5, 6, 7, 8, 1, 9, 10, 11, 12, 13, 14)";
    sql(&history, &format!("{}; {old}; PRAGMA user_version = 1", schema::FIRST));
    // An older program has appended a row, too.
    let pending = serde_json::to_string(&built("b", "b1", 4)).unwrap().replace(r#""slot":null,"#, "");
    assert!(!pending.contains("slot"));
    fs::write(history.file("history.pending"), pending + "\n").unwrap();
    history.append(&[Row { slot: Some(2), ..built("c", "b1", 5) }]);
    let slots: Vec<_> = history
        .rows(&Filter::default())
        .unwrap()
        .into_iter()
        .map(|row| (row.name, row.slot, row.retrieved_bytes))
        .collect();
    let slot = |name: &str, slot, bytes| (name.to_owned(), slot, bytes);
    assert_eq!(slots, [slot("a", None, 14), slot("b", None, 0), slot("c", Some(2), 0)]);
}

#[test]
fn a_newer_database_is_left_alone() {
    let (_top, history) = history();
    history.append(&[built("a", "b1", 1)]);
    history.collect();
    assert!(!is_reported(&history));
    sql(&history, "PRAGMA user_version = 99");
    let before = fs::read(database(&history)).unwrap();
    history.append(&[built("b", "b1", 2)]);
    history.collect();
    assert!(is_reported(&history));
    let error = history.rows(&Filter::default()).unwrap_err().to_string();
    assert!(error.contains("history.db: a newer version of offload has made it (schema 99)"), "{error}");
    assert!(!history.file("history.db.damaged").exists() && fs::read(database(&history)).unwrap() == before);
    // The rows wait for it.
    sql(&history, &format!("PRAGMA user_version = {}", schema::VERSION));
    assert_eq!(all(&history), ["a", "b"]);
}

#[test]
fn a_directory_or_a_link_instead_of_a_file_is_reported_and_not_followed() {
    for name in ["history.db", "history.pending", "history.batch.lock", "history.batch"] {
        for is_link in [false, true] {
            let (top, history) = history();
            fs::create_dir(history.state.path()).unwrap();
            let (path, target) = (history.file(name), top.path().join("target"));
            fs::write(&target, "untouched").unwrap();
            match is_link {
                true => std::os::unix::fs::symlink(&target, &path).unwrap(),
                false => fs::create_dir(&path).unwrap(),
            }
            history.append(&[built("a", "b1", 1)]);
            history.collect();
            assert!(is_reported(&history), "{name}");
            assert_eq!(fs::read_to_string(&target).unwrap(), "untouched", "{name}");
        }
    }
}

#[test]
fn totals_add_up_over_batches() {
    let (_top, history) = history();
    let one = Row {
        waiting: 1,
        sending: 2,
        building: 3,
        retrieving: 4,
        placing: 5,
        sent_bytes: 6,
        substituted_items: 7,
        substituted_bytes: 8,
        retrieved_bytes: 9,
        ended: 50,
        ..built("a", "b1", 1)
    };
    history.append(&[one.clone(), Row { ended: 40, ..one.clone() }]);
    history.collect();
    let failed = Row { outcome: Outcome::MachineFailed, ..one.clone() };
    history.append(&[one.clone(), failed, Row { machine: Some("b2".to_owned()), ..one }]);
    let postponed = || row("a", Outcome::Postponed, 1);
    history.append(&[postponed(), postponed()]);
    let totals = history.totals().unwrap();
    let of = |machine: Option<&str>, outcome, rows: u64| Total {
        machine: machine.map(str::to_owned),
        outcome,
        rows,
        requests: rows,
        last: 50,
        waiting: rows,
        sending: 2 * rows,
        building: 3 * rows,
        retrieving: 4 * rows,
        placing: 5 * rows,
        sent_bytes: 6 * rows,
        substituted_items: 7 * rows,
        substituted_bytes: 8 * rows,
        retrieved_bytes: 9 * rows,
    };
    let nowhere = Total { last: 1, requests: 2, rows: 2, ..of(None, Outcome::Postponed, 0) };
    let expected = [
        nowhere,
        of(Some("b1"), Outcome::Built, 3),
        of(Some("b1"), Outcome::MachineFailed, 1),
        of(Some("b2"), Outcome::Built, 1),
    ];
    assert_eq!(totals, expected);
    history.append(&(0..5).map(|_| Row { building: u64::MAX, ..built("x", "b3", 1) }).collect::<Vec<_>>());
    assert_eq!(history.totals().unwrap().last().unwrap().building, 1 << 62);
}

#[test]
fn a_reader_sees_the_last_rows_while_others_append() {
    let (_top, history) = history();
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let history = &history;
            scope.spawn(move || {
                for number in 0..25 {
                    history.append(&[built(&format!("{writer}-{number}"), "b1", 1)]);
                    if number % 5 == writer % 5 {
                        history.collect();
                    }
                }
            });
        }
    });
    let mut rows = all(&history);
    rows.sort_unstable();
    rows.dedup();
    assert_eq!((rows.len(), all(&history).len()), (200, 200));
}

#[test]
fn rows_wait_without_a_report_while_another_program_uses_the_database() {
    let (_top, history) = history();
    history.append(&[built("a", "b1", 1)]);
    history.collect();
    let other = Connection::open(database(&history)).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    history.append(&[built("b", "b1", 2)]);
    history.collect();
    assert!(history.has_new_rows() && !is_reported(&history));
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(all(&history), ["a", "b"]);
}

/// Root's files are the owner's, and root follows no link.
#[test]
fn root_works_as_the_owner_of_the_state() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
    let top = tempfile::tempdir().unwrap();
    fs::set_permissions(top.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let [state, outside] = ["state", "outside"].map(|name| top.path().join(name));
    for directory in [&state, &outside] {
        fs::create_dir(directory).unwrap();
    }
    chown(&state, Some(995), Some(990)).unwrap();
    let history = History::of(&StateDirectory::new(state.join("offload")));
    for name in ["a", "b"] {
        history.append(&[built(name, "b1", 1)]);
        history.collect();
    }
    history.append(&[built("c", "b1", 1)]);
    assert_eq!(all(&history), ["a", "b", "c"]);
    let mut found = Vec::new();
    for entry in fs::read_dir(history.state.path()).unwrap() {
        let (name, data) = entry.map(|entry| (entry.file_name(), entry.metadata().unwrap())).unwrap();
        assert_eq!((data.uid(), data.gid(), data.mode() & 0o777), (995, 990, 0o600), "{name:?}");
        found.push(name.into_string().unwrap());
    }
    found.sort_unstable();
    // Without a map that the owner could shorten.
    assert_eq!(found, ["history.batch.lock", "history.db", "history.db-wal"]);

    for name in ["history.db", "history.db-wal", "history.db-shm", "history.pending", "history.batch"] {
        let (path, target) = (history.file(name), outside.join(name));
        let _ = fs::remove_file(&path);
        fs::write(&target, "of root").unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).unwrap();
        symlink(&target, &path).unwrap();
        history.append(&[built("d", "b1", 1)]);
        history.collect();
        let _ = history.rows(&Filter::default());
        assert_eq!(fs::read_to_string(&target).unwrap(), "of root", "{name}");
        assert_eq!((fs::metadata(&target).unwrap().uid(), outside.read_dir().unwrap().count()), (0, 1), "{name}");
        fs::remove_file(&target).unwrap();
        let _ = fs::remove_file(&path);
    }
}

fn power(event: PoolEventKind, machine: &str, time: u64, duration: Option<u64>) -> PowerRow {
    let reason = duration.is_none().then(|| "no".to_owned());
    PowerRow { event, machine: machine.to_owned(), head: "head".to_owned(), time, duration, reason }
}

#[test]
fn starts_and_stops_of_machines_are_rows_with_sums_beside_builds() {
    let (_top, history) = history();
    let rows = [
        power(PoolEventKind::MachineStarted, "b1", 1_000, Some(300)),
        power(PoolEventKind::MachineStopped, "b1", 9_000, Some(8_000)),
        power(PoolEventKind::StartFailed, "b2", 9_500, None),
        power(PoolEventKind::MachineStarted, "b1", 10_000, Some(100)),
        power(PoolEventKind::StopFailed, "b1", 11_000, None),
        power(PoolEventKind::MachineStarted, "b1", 12_000, Some(200)),
    ];
    history.append(&[built("a", "b1", 1)]);
    rows[..3].iter().for_each(|row| history.append_power(row.clone()));
    history.collect();
    history.append(&[built("b", "b1", 2)]);
    rows[3..].iter().for_each(|row| history.append_power(row.clone()));
    assert_eq!(all(&history), ["a", "b"]);
    assert_eq!(history.power_rows(&Filter::default()).unwrap(), rows);
    let some = |filter: Filter| history.power_rows(&filter).unwrap();
    assert_eq!(some(Filter { machine: Some("b2*".to_owned()), ..Filter::default() }), rows[2..3]);
    assert_eq!(some(Filter { since: Some(9_000), until: Some(10_000), ..Filter::default() }), rows[1..3]);
    let summary = PowerSummary {
        machine: "b1".to_owned(),
        starts: 3,
        stops: 1,
        failed_stops: 1,
        on: 8_000,
        booting: 600,
        median_boot: Some(200),
        ..PowerSummary::default()
    };
    let other = PowerSummary { machine: "b2".to_owned(), failed_starts: 1, ..PowerSummary::default() };
    assert_eq!(summarize_power(&rows), [summary.clone(), other.clone()]);
    assert_eq!(history.power_totals().unwrap(), [PowerSummary { median_boot: None, ..summary }, other]);
    // A clock that is wrong once removes nothing.
    let later = 400 * 24 * 3_600_000 + health::now();
    history.append_power(power(PoolEventKind::MachineStarted, "b2", later, Some(5)));
    collect::collect(history.state.path(), later).unwrap();
    assert_eq!(some(Filter::default()).len(), rows.len() + 1);
    // A year later the rows are gone, and the sums of a machine that is not used any more.
    (0..99).for_each(|number| {
        history.append_power(power(PoolEventKind::MachineStarted, "b2", later + number, Some(5)));
    });
    collect::collect(history.state.path(), later + 100).unwrap();
    assert_eq!(some(Filter::default()).len(), 100);
    assert_eq!(history.power_totals().unwrap().iter().map(|total| &*total.machine).collect::<Vec<_>>(), ["b2"]);
}

#[test]
fn a_database_without_the_tables_of_power_gets_them() {
    let (_top, history) = history();
    history.append(&[built("a", "b1", 1)]);
    history.collect();
    sql(&history, "DROP TABLE power; DROP TABLE power_totals; PRAGMA user_version = 3");
    history.append_power(power(PoolEventKind::MachineStarted, "b1", 5, Some(7)));
    assert_eq!((all(&history), history.power_totals().unwrap()[0].booting), (vec!["a".to_owned()], 7));
}
