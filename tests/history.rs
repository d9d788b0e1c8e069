//! The history of builds: what hooks record beside real builds, and what happens to it when processes are killed, disks are
//! full, and many hooks end at the same time.

mod lab;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use lab::{Drv, Host, LONG, Lab, wait_until};
use offload::internals::engine::Engine;
use offload::internals::hook::HookArguments;
use offload::internals::hook::request::read_request;
use offload::internals::local::Directories;
use offload::internals::state::history::{Filter, History, Outcome, Row};
use offload::internals::state::{Slots, StateDirectory};

const PROGRAM: &str = env!("CARGO_BIN_EXE_offload");

fn history(state: &Path) -> History {
    History::of(&StateDirectory::new(state))
}

fn rows(state: &Path) -> Vec<Row> {
    history(state).rows(&Filter::default()).unwrap()
}

fn rows_of(head: &Host) -> Vec<Row> {
    rows(&head.path("/var/guix/offload"))
}

fn derivation(name: &str) -> String {
    format!("/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-{name}.drv")
}

/// A head without machines, whose hook this test starts itself.
struct LoneHead(tempfile::TempDir);

impl LoneHead {
    fn new() -> LoneHead {
        LoneHead(tempfile::tempdir().unwrap())
    }

    fn state(&self) -> PathBuf {
        self.0.path().join("var/offload")
    }

    fn start_hook(&self) -> Child {
        Command::new(PROGRAM)
            .args(["x86_64-linux", "3600", "0", "0"])
            .env_clear()
            .env("GUIX_CONFIGURATION_DIRECTORY", self.0.path())
            .env("GUIX_STATE_DIRECTORY", self.0.path().join("var"))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Runs `offload history`. Returns standard output, the messages and the status.
    fn history(&self) -> (String, String, Option<i32>) {
        let mut command = Command::new(PROGRAM);
        command.arg("history").env("GUIX_STATE_DIRECTORY", self.0.path().join("var"));
        let output = command.output().unwrap();
        let [out, messages] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        (out, messages, output.status.code())
    }

    /// Has a hook decline a request, and returns what it prints on standard error.
    fn decline(&self, name: &str) -> String {
        let mut hook = self.start_hook();
        ask(&mut hook, name);
        let output = hook.wait_with_output().unwrap();
        let status = (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code());
        assert_eq!(status, ("# decline\n".to_owned(), Some(0)));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

fn ask(hook: &mut Child, name: &str) {
    let request = format!("1 x86_64-linux {} \n", derivation(name));
    hook.stdin.as_mut().unwrap().write_all(request.as_bytes()).unwrap();
}

/// How many requests each of a hundred hooks declines.
const REQUESTS: usize = 4;

#[test]
fn a_hundred_hooks_at_the_same_time_lose_no_row() {
    let head = LoneHead::new();
    let mut hooks: Vec<Child> = (0..100).map(|_| head.start_hook()).collect();
    // All requests are there before the first hook has answered its own.
    for (number, hook) in hooks.iter_mut().enumerate() {
        (0..REQUESTS).for_each(|request| ask(hook, &format!("n{number}-{request}")));
    }
    for hook in hooks {
        let output = hook.wait_with_output().unwrap();
        let printed = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
        assert_eq!((printed, output.status.code()), (["# decline\n".repeat(REQUESTS), String::new()], Some(0)));
    }
    let names: BTreeSet<String> = rows(&head.state()).into_iter().map(|row| row.name).collect();
    let expected = (0..100).flat_map(|number| (0..REQUESTS).map(move |request| format!("n{number}-{request}")));
    let lost: Vec<String> = expected.filter(|name| !names.contains(name)).collect();
    assert!(lost.is_empty(), "{} rows are lost, such as {}", lost.len(), lost[0]);
}

/// While another process holds all locks of the history, a hook replies, records and ends.
#[test]
fn a_process_that_is_stopped_in_the_history_keeps_no_hook() {
    let head = LoneHead::new();
    head.decline("first");
    let state = head.state();
    // One process was stopped while it appended, and one while it moved rows.
    let appending = fs::File::open(state.join("history.pending")).unwrap();
    appending.lock_shared().unwrap();
    let moving = fs::File::create(state.join("history.batch.lock")).unwrap();
    moving.lock().unwrap();
    assert_eq!(head.decline("second"), "");
    // A command shows what is in the database.
    assert_eq!(rows(&state), []);
    drop((appending, moving));
    let names: Vec<String> = rows(&state).into_iter().map(|row| row.name).collect();
    assert_eq!(names, ["first", "second"]);
}

/// Finding it takes some files of /proc and the accounts.
#[test]
fn the_client_of_a_hook_is_looked_up_once() {
    static LOOKED_UP: AtomicUsize = AtomicUsize::new(0);
    let directory = tempfile::tempdir().unwrap();
    let variable = |name: &str| (name == "GUIX_STATE_DIRECTORY").then(|| directory.path().into());
    let directories = Directories::from_variables(variable).unwrap();
    let mut engine = Engine::new(directories, HookArguments::without_limits("x86_64-linux"));
    engine.client = || Some(format!("alice-{}", LOOKED_UP.fetch_add(1, Ordering::Relaxed)));
    let request = format!("1 x86_64-linux {} \n", derivation("x"));
    for name in ["a", "b"] {
        let line = request.replace("-x.drv", &format!("-{name}.drv"));
        let request = read_request(&mut line.as_bytes(), &engine.directories.store).unwrap().unwrap();
        engine.record_request(&request, Outcome::Declined, "no machine".to_owned());
    }
    let users: Vec<_> = engine.history().rows(&Filter::default()).unwrap().into_iter().map(|row| row.user).collect();
    assert_eq!(users, [Some("alice-0".to_owned()), Some("alice-0".to_owned())]);
}

/// No command has to run for that, and no build waits for the disk.
#[test]
fn a_hook_that_ends_has_another_process_move_the_write_ahead_log() {
    let head = LoneHead::new();
    head.decline("first");
    let hook = History::of_hook(&StateDirectory::new(head.state()));
    let row =
        || Row { reason: Some("x".repeat(1000)), ..Row::new(&derivation("second"), "x86_64-linux", Outcome::Built, 1) };
    hook.append(&(0..1000).map(|_| row()).collect::<Vec<_>>());
    hook.collect();
    let log_size = || fs::metadata(head.state().join("history.db-wal")).unwrap().len();
    assert!(log_size() > 1 << 20, "{} bytes", log_size());
    assert_eq!(head.decline("third"), "");
    wait_until("the log is moved", LONG, || log_size() < 20_000);
    assert_eq!(rows(&head.state()).len(), 1002);
}

/// A small file system at the state directory, until this is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(place: &Path, options: &str) -> SmallDisk {
        fs::create_dir_all(place).unwrap();
        mount(&["-t", "tmpfs", "-o", options, "tmpfs"], place);
        SmallDisk(place.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn mount(arguments: &[&str], place: &Path) {
    assert!(Command::new("mount").args(arguments).arg(place).status().unwrap().success());
}

/// Fills a disk, until no new file has room for a byte. Returns the files.
fn fill(place: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    loop {
        let file = place.join(format!("filler-{}", files.len()));
        let mut opened = fs::File::create(&file).unwrap();
        files.push(file);
        if opened.write_all(&[0]).is_err() {
            return files;
        }
        while opened.write_all(&[0; 4096]).is_ok() {}
    }
}

#[test]
fn a_full_disk_is_reported_once_a_day_and_fails_no_hook() {
    let head = LoneHead::new();
    let state = head.state();
    let disk = SmallDisk::mount(&state, "size=256k,mode=700");
    head.decline("before");
    assert_eq!(rows(&state).len(), 1);
    let filler = fill(&state);

    // A page or two may become free again: some rows fit.
    let report = || {
        let printed =
            (0..100).map(|number| head.decline(&format!("lost-{number}"))).find(|printed| !printed.is_empty());
        printed.expect("a report")
    };
    let printed = report();
    assert!(printed.starts_with("offload: warning: builds are not recorded in the history: "), "{printed}");
    assert!(printed.contains("history.pending") && printed.contains("No space left on device"), "{printed}");
    assert_eq!(head.decline("lost-too"), "");
    let day_ago = std::time::SystemTime::now() - Duration::from_secs(25 * 3600);
    fs::File::open(state.join("warned-history")).unwrap().set_modified(day_ago).unwrap();
    assert!(report().contains("are not recorded in the history"));

    // Rows that were appended before the disk was full wait for room in the database.
    filler.into_iter().for_each(|file| fs::remove_file(file).unwrap());
    head.decline("waiting");
    let filler = fill(&state);
    let shown = head.history();
    assert!(shown.0.contains("before") && shown.2 == Some(0), "{shown:?}");
    filler.into_iter().for_each(|file| fs::remove_file(file).unwrap());
    let names = rows(&state).into_iter().map(|row| row.name).filter(|name| !name.starts_with("lost"));
    let names: Vec<String> = names.collect();
    assert_eq!(names, ["before", "waiting"]);
    drop(disk);
}

#[test]
fn a_read_only_state_directory_changes_no_reply() {
    let head = LoneHead::new();
    let state = head.state();
    let disk = SmallDisk::mount(&state, "size=256k,mode=700");
    head.decline("before");
    assert_eq!(rows(&state).len(), 1);
    head.decline("waiting");
    mount(&["-o", "remount,ro"], &state);
    for _ in 0..2 {
        head.decline("lost");
    }
    let (out, messages, status) = head.history();
    assert!(out.contains("before") && status == Some(0), "{out}{messages}");
    let warning = "offload: warning: the last builds may be missing from the history: ";
    assert!(messages.starts_with(warning) && messages.contains("Read-only file system"), "{messages}");
    mount(&["-o", "remount,rw"], &state);
    head.decline("after");
    let names: Vec<String> = rows(&state).into_iter().map(|row| row.name).collect();
    assert_eq!(names, ["before", "waiting", "after"]);
    drop(disk);
}

/// Tells a process of this program where the state is.
const STATE: &str = "OFFLOAD_TEST_STATE";

/// How often the writers are killed.
const KILLS: usize = 40;

/// Each writer prints a row's name after it was appended. Whatever process is killed when, such a row is in the history,
/// once.
#[test]
fn a_kill_at_any_instant_loses_no_row_and_doubles_none() {
    let directory = tempfile::tempdir().unwrap();
    let mut recorded: BTreeSet<String> = BTreeSet::new();
    for round in 0..KILLS {
        let start = |number: usize| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--ignored", "--exact", "--nocapture", "a_writer"])
                .env(STATE, directory.path())
                .env("OFFLOAD_TEST_WRITER", format!("{round}.{number}"))
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        };
        let mut writers: Vec<Child> = (0..2).map(start).collect();
        let mut outputs: Vec<BufReader<_>> =
            writers.iter_mut().map(|writer| BufReader::new(writer.stdout.take().unwrap())).collect();
        let mut lines = vec![String::new(); writers.len()];
        // All of them write before the first is killed.
        for (output, text) in outputs.iter_mut().zip(&mut lines) {
            while !text.contains("row ") {
                assert!(output.read_line(text).unwrap() > 0, "the writer has ended: {text}");
            }
        }
        thread::sleep(Duration::from_micros((round as u64 * 7919) % 20_000));
        for ((mut writer, mut output), mut text) in writers.into_iter().zip(outputs).zip(lines) {
            writer.kill().unwrap();
            writer.wait().unwrap();
            output.read_to_string(&mut text).unwrap();
            // The last line may be cut off.
            let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            recorded
                .extend(whole.filter_map(|line| line.trim_end().rsplit_once("row ")).map(|(_, name)| name.to_owned()));
        }
    }
    assert!(recorded.len() > 3 * KILLS, "{} rows", recorded.len());
    let rows = rows(directory.path());
    let names: BTreeSet<String> = rows.iter().map(|row| row.name.clone()).collect();
    assert_eq!(names.len(), rows.len(), "a row is there twice");
    let lost: Vec<&String> = recorded.difference(&names).collect();
    assert!(lost.is_empty(), "{} rows are lost, such as {}", lost.len(), lost[0]);
    // At most the row that a killed writer had not printed yet.
    assert!(rows.len() <= recorded.len() + 2 * KILLS, "{} rows, {} printed", rows.len(), recorded.len());
    let database = rusqlite::Connection::open(directory.path().join("history.db")).unwrap();
    let check: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    assert!(!directory.path().join("history.db.damaged").exists());
}

#[test]
#[ignore = "not a test: a process that writes until it is killed"]
fn a_writer() {
    let state = PathBuf::from(std::env::var_os(STATE).expect("started by another test only"));
    let writer = std::env::var("OFFLOAD_TEST_WRITER").unwrap();
    let history = history(&state);
    for number in 0.. {
        let name = format!("{writer}.{number}");
        history.append(&[Row::new(&derivation(&name), "x86_64-linux", Outcome::Built, number)]);
        println!("row {name}");
        if number % 3 == 0 {
            history.collect();
        }
    }
}

/// Returns the rows of a derivation.
fn of<'a>(rows: &'a [Row], name: &str) -> Vec<&'a Row> {
    rows.iter().filter(|row| row.name == name).collect()
}

#[test]
fn each_attempt_and_each_request_that_was_not_accepted_has_a_row() {
    let lab = Lab::new();
    let machines = ["b1", "b2"].map(|name| lab.build_machine(name).start());
    let head = lab.head().start();
    let proxy = lab.proxy("unreliable", machines[1].ssh_address());
    head.write_machines(&[machines[0].entry()]);

    head.run("sh", &["-c", "head -c 300000 /dev/urandom >/tmp/data"]);
    let good = Drv::new("good-1.0").file("data", "/tmp/data").script("sleep 0.3; cat $data >$out");
    head.build(&[&good]).succeeded();
    let again = Drv::new("again").script("echo >$out");
    head.build(&[&again]).succeeded();
    let bad = Drv::new("bad").script("echo oops; exit 3");
    assert_eq!(head.build(&[&bad]).status, Some(100));

    // No machine has the feature.
    let local = Drv::new("local").features(&["odd"]).script("echo >$out");
    head.client().max_jobs(1).build(&[&local]).succeeded();

    // The preferred machine is lost during the build, and the other one builds.
    head.write_machines(&[machines[1].entry().via(&proxy).set("speed", 5000), machines[0].entry()]);
    head.mark_healthy(proxy.name());
    let slow = Drv::new("slow").script("echo the builder runs; sleep 2; echo >$out");
    let mut client = head.client().start(&[&slow]);
    client.wait_for_log("the builder runs");
    proxy.cut();
    proxy.refuse();
    client.wait().succeeded();

    let rows = rows_of(&head);
    let b1 = format!("b1:{}", machines[0].ssh_address().port());
    let [row] = of(&rows, "good-1.0")[..] else { panic!("{rows:#?}") };
    assert_eq!((row.outcome, row.machine.as_ref(), row.attempt), (Outcome::Built, Some(&b1), 1));
    assert_eq!(row.slot, Some(0));
    assert_eq!((row.user.as_deref(), row.system.as_str(), row.requests), (Some("root"), "x86_64-linux", 1));
    assert_eq!(row.head, fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim());
    assert!(row.building >= 300 && row.sending > 0 && row.reason.is_none(), "{row:?}");
    let all = row.waiting + row.sending + row.building + row.retrieving + row.placing;
    assert!((row.ended - row.started).abs_diff(all) <= 5, "{row:?}");
    assert!((300_000..310_000).contains(&row.retrieved_bytes) && row.retrieved_items == 1, "{row:?}");
    // The data, the tools and the derivation.
    assert!(row.sent_bytes > 300_000 && row.sent_items >= 2 && row.substituted_items == 0, "{row:?}");
    assert_eq!(row.reused_connection, Some(false));
    let [row] = of(&rows, "again")[..] else { panic!("{rows:#?}") };
    assert_eq!((row.outcome, row.reused_connection), (Outcome::Built, Some(true)));
    let [row] = of(&rows, "bad")[..] else { panic!("{rows:#?}") };
    assert_eq!((row.outcome, row.machine.as_ref()), (Outcome::BuildFailed, Some(&b1)));
    assert!(row.reason.as_ref().unwrap().contains("failed"), "{row:?}");
    let [row] = of(&rows, "local")[..] else { panic!("{rows:#?}") };
    assert_eq!((row.outcome, row.machine.as_ref(), row.attempt), (Outcome::Declined, None, 0));
    assert!(row.reason.as_ref().unwrap().contains("it lacks the feature odd"), "{row:?}");
    // The lost machine may have been tried once more.
    let slow = of(&rows, "slow");
    let ([first, ..], [.., last]) = (&slow[..], &slow[..]) else { panic!("{rows:#?}") };
    assert_eq!((first.outcome, first.attempt, first.reason.is_some()), (Outcome::MachineFailed, 1, true), "{slow:#?}");
    assert_eq!((last.outcome, last.machine.as_ref()), (Outcome::Built, Some(&b1)), "{slow:#?}");
    assert!(last.attempt as usize == slow.len() && slow.len() > 1, "{slow:#?}");
    assert!(first.building > 0 && last.started >= first.ended && last.building >= 2000, "{slow:#?}");
}

/// A build moves the rows of the builds before it, so that nothing has to run for that.
#[test]
fn the_next_build_moves_the_rows_into_the_database() {
    let lab = Lab::new();
    let machine = lab.build_machine("b1").start();
    let head = lab.head().start();
    head.write_machines(&[machine.entry()]);
    let state = head.path("/var/guix/offload");
    head.build(&[&Drv::new("first").script("echo >$out")]).succeeded();
    assert!(state.join("history.pending").exists() && !state.join("history.db").exists());
    let mut client = head
        .client()
        .start(&[&Drv::new("second").script("echo started; while ! test -e /tmp/go; do sleep 0.1; done; echo >$out")]);
    client.wait_for_log("started");
    // A reader of the database could make it wait.
    let is_moved = || !["history.pending", "history.batch"].iter().any(|name| state.join(name).exists());
    wait_until("the row is moved", LONG, is_moved);
    let names: Vec<String> = rows(&state).into_iter().map(|row| row.name).collect();
    assert_eq!(names, ["first"]);
    machine.write("/tmp/go", "");
    client.wait().succeeded();
    assert_eq!(rows_of(&head).len(), 2);
}

#[test]
fn a_hook_that_a_signal_ends_leaves_a_cancelled_row() {
    let lab = Lab::new();
    let machine = lab.build_machine("b1").start();
    let head = lab.head().start();
    head.write_machines(&[machine.entry()]);
    let mut client = head.client().start(&[&Drv::new("killed").script("echo started; sleep 600; echo >$out")]);
    client.wait_for_log("started");
    let holders = Slots::holders(&StateDirectory::new(head.path("/var/guix/offload")));
    let [hook] = &holders[..] else { panic!("{holders:?}") };
    let hook = rustix::process::Pid::from_raw(hook.pid as i32).unwrap();
    rustix::process::kill_process(hook, rustix::process::Signal::TERM).unwrap();
    assert_ne!(client.wait().status, None);
    let rows = rows_of(&head);
    assert!(matches!(&rows[..], [row] if row.name == "killed" && row.outcome == Outcome::Cancelled), "{rows:#?}");
}

/// How many builds the measurement makes with the record, and how many without.
const MEASURED: usize = 150;

/// `cargo test --release --test history cost -- --ignored --nocapture` prints what the record costs: trivial builds over a
/// persistent connection, with and without it alternately. Without it, another kind of file has the name of the pending rows,
/// so that a hook fails to open it, and the lock of the rows is held.
#[test]
#[ignore = "a measurement, for an idle machine"]
fn the_cost_of_the_record() {
    let lab = Lab::new();
    let machine = lab.build_machine("b1").start();
    let head = lab.head().start();
    head.write_machines(&[machine.entry()]);
    let state = head.path("/var/guix/offload");
    let mut direct = head.direct();
    let mut build = |name: String| direct.build(&[&Drv::new(&name).script("echo >$out")]).unwrap().as_secs_f64() * 1e3;
    let _unmeasured: Vec<f64> = (0..5).map(|number| build(format!("warm-{number}"))).collect();
    let (mut on, mut off) = (Vec::new(), Vec::new());
    for number in 0..MEASURED {
        on.push(build(format!("on-{number}")));
        let lock = fs::File::open(state.join("history.batch.lock")).unwrap();
        lock.lock().unwrap();
        let [pending, aside] = ["history.pending", "pending.aside"].map(|name| state.join(name));
        // The hook may have moved its own row already.
        let is_moved = fs::rename(&pending, &aside).is_err();
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &pending, fifo, 0o600.into(), 0).unwrap();
        off.push(build(format!("off-{number}")));
        fs::remove_file(&pending).unwrap();
        assert!(is_moved || fs::rename(&aside, &pending).is_ok());
    }
    assert_eq!(rows_of(&head).iter().filter(|row| row.name.starts_with("on-")).count(), MEASURED);
    let mut differences: Vec<f64> = on.iter().zip(&off).map(|(on, off)| on - off).collect();
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let [on, off, difference] = [&mut on, &mut off, &mut differences].map(median);
    println!("medians: on {on:.2} ms, off {off:.2} ms, difference of neighbours {difference:.2} ms");
}

fn offload(head: &Host, arguments: &[&str]) -> (String, String, Option<i32>) {
    let output = head.command("/opt/offload/offload").args(arguments).output().unwrap();
    let [out, messages] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (out, messages, output.status.code())
}

/// Every field of the JSON object is in the manual, and so is the name that it has in a record.
fn assert_in_the_manual(object: &serde_json::Value) {
    let manual = fs::read_to_string("doc/manual/commands.md").unwrap();
    let object = object.as_object().unwrap();
    assert!(object.len() > 10, "{object:?}");
    for name in object.keys() {
        assert!(manual.contains(&format!("`{name}`")), "{name}");
        let words = name.split('_').map(|word| word[..1].to_uppercase() + &word[1..]);
        let record = words.collect::<String>();
        assert!(manual.contains(&format!("`{record}`")), "{record}");
    }
}

#[test]
fn the_commands_show_builds_and_their_logs() {
    let lab = Lab::new();
    let machine = lab.build_machine("b1").start();
    let head = lab.head().daemon_argument("--log-compression=none").start();
    head.write_machines(&[machine.entry()]);
    let (out, messages, status) = offload(&head, &["history"]);
    assert_eq!((out.as_str(), messages.as_str(), status), ("no builds\n", "", Some(0)));

    let good = Drv::new("good-1.0").script("echo the first line; echo >$out");
    let result = head.build(&[&good]).succeeded();
    let bad = Drv::new("bad-2.0").script("echo it fails; exit 3");
    head.build(&[&bad]);
    let lines = |arguments: &[&str]| offload(&head, &[&["history"], arguments].concat()).0;
    let table = lines(&[]);
    assert!(
        table.starts_with("AGO  OUTCOME       NAME      MACHINE") || table.contains(" OUTCOME       NAME "),
        "{table}"
    );
    assert!(
        table.contains("  built         good-1.0  b1:") && table.contains("  build-failed  bad-2.0   b1:"),
        "{table}"
    );
    assert!(table.contains("\nbad-2.0: build-failed on b1:"), "{table}");
    assert!(!lines(&["good"]).contains("bad-2.0") && lines(&["good"]).contains("good-1.0"));
    assert!(!lines(&["--failed"]).contains("good-1.0") && lines(&["--failed"]).contains("bad-2.0"));
    assert_eq!(lines(&["--machine", "b2"]), "no builds\n");
    assert_eq!(lines(&["--until", "1h"]), "no builds\n");
    assert!(lines(&["--since", "1h", "--user", "root", "--outcome", "built"]).contains("good-1.0"));
    let records = lines(&["--format=recutils", "--limit=1"]);
    assert!(records.contains("\nName: bad-2.0\n") && records.contains("\nOutcome: build-failed\n"), "{records}");
    assert!(!records.contains("good-1.0"), "{records}");
    let json: serde_json::Value = serde_json::from_str(&lines(&["--json"])).unwrap();
    assert_eq!((&json["version"], json["builds"].as_array().unwrap().len()), (&1.into(), 2));
    assert_eq!(json["builds"][0]["derivation"], result.derivation("good-1.0").to_str().unwrap());
    assert_in_the_manual(&json["builds"][0]);
    let json: serde_json::Value = serde_json::from_str(&lines(&["--summary", "--json"])).unwrap();
    assert_eq!((&json["machines"][0]["attempts"], &json["machines"][0]["built"]), (&2.into(), &1.into()));
    assert_in_the_manual(&json["machines"][0]);
    assert!(lines(&["--summary"]).contains("ATTEMPTS  BUILT  FAILED"), "{}", lines(&["--summary"]));
    let (_, messages, status) = offload(&head, &["history", "--outcome", "odd"]);
    assert!(messages.contains("expected one of: built, build-failed") && status == Some(2), "{messages}");

    // By name, by file name, and the one of the machine if there is none here.
    let log = |word: &str| offload(&head, &["log", word]);
    assert!(log("good").0.ends_with("the first line\n"), "{:?}", log("good"));
    let path = result.derivation("good-1.0").to_str().unwrap().to_owned();
    assert_eq!(log(&path), log("good"));
    head.run("rm", &["-r", "/var/log/guix/drvs"]);
    // The root directories of the lab have no client of OpenSSH, so this runs outside of them.
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("machines.lua");
    let key = head.path("/etc/guix/keys/ed25519").to_str().unwrap().to_owned();
    let address = machine.ssh_address();
    let entry = machine.entry().set("name", address.ip().to_string()).set("private_key", key);
    fs::write(&file, format!("return {{ {} }}", entry.lua())).unwrap();
    let row =
        Row { machine: Some(address.to_string()), attempt: 1, ..Row::new(&path, "x86_64-linux", Outcome::Built, 1) };
    history(&directory.path().join("offload")).append(&[row]);
    let remote = || {
        let mut command = Command::new(PROGRAM);
        command.args(["log", &path, "--machine-file"]).arg(&file).env("GUIX_STATE_DIRECTORY", directory.path());
        let output = command.env("GUIX_LOG_DIRECTORY", directory.path()).output().unwrap();
        let [out, messages] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        (out, messages, output.status.code())
    };
    assert_eq!(remote(), ("the first line\n".to_owned(), String::new(), Some(0)));
    machine.run("rm", &["-r", "/var/log/guix/drvs"]);
    let (_, messages, status) = remote();
    assert!(messages.contains("and none is in /var/log/guix on 127.") && status == Some(5), "{messages}");
    let (_, messages, status) = log("unknown");
    assert!(messages.contains("the history has no build of 'unknown'") && status == Some(5), "{messages}");
    let (_, messages, status) = log("/gnu/store/nonsense");
    assert!(messages.contains("'/gnu/store/nonsense' is not a derivation: ") && status == Some(1), "{messages}");
}

/// Logs outside of the lab, and a program instead of `ssh`.
struct Logs(tempfile::TempDir);

const DERIVATION: &str = "/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-x-1.drv";
const LOG: &str = "drvs/0y/jkz5790xvq2z2fnq7s9wbmlrs56imh-x-1.drv";

impl Logs {
    fn new() -> Logs {
        let logs = Logs(tempfile::tempdir().unwrap());
        fs::create_dir_all(logs.path(LOG).parent().unwrap()).unwrap();
        logs
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A machine file with the build machine `b1` at two ports, the usual one last; the history says that the derivation was
    /// built on `machine`; and a script that runs instead of `ssh`.
    fn on_machine(&self, machine: &str, ssh: &str) {
        let row = Row {
            machine: Some(machine.to_owned()),
            attempt: 1,
            ..Row::new(DERIVATION, "x86_64-linux", Outcome::Built, 1)
        };
        history(&self.path("offload")).append(&[row]);
        let entry = |port: u16| {
            format!(
                "build_machine {{ name = 'b1', port = {port}, user = 'u', systems = {{ 'x86_64-linux' }}, \
                 host_key = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPT8ND6KrrZZekAhAq/sAPtog9kbTgoklanLOTp4rVZ6' }},"
            )
        };
        fs::write(self.path("machines.lua"), format!("return {{ {}{} }}", entry(2222), entry(22))).unwrap();
        fs::create_dir_all(self.path("bin")).unwrap();
        fs::write(self.path("bin/ssh"), format!("#!/bin/sh\n{ssh}\n")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(self.path("bin/ssh"), mode).unwrap();
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = format!("{}:/usr/bin:/bin", self.path("bin").display());
        command.env_clear().env("PATH", path).env("TERM", "xterm").stdin(Stdio::null());
        command.env("GUIX_LOG_DIRECTORY", self.0.path()).env("GUIX_STATE_DIRECTORY", self.0.path());
        command.env("OFFLOAD_MACHINE_FILE", self.path("machines.lua"));
        command
    }

    fn log(&self) -> (String, String, Option<i32>) {
        let output = self.command(PROGRAM).args(["log", DERIVATION]).output().unwrap();
        let [out, messages] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        (out, messages, output.status.code())
    }
}

#[test]
fn control_sequences_of_a_log_do_not_reach_a_terminal() {
    let logs = Logs::new();
    let text = "\x1b[1;31mred\x1b[0m\x1b]0;title\x07 \x1b[2J \u{9b}2J \u{202e}é\r\n50 %\r100 %\n";
    fs::write(logs.path(LOG), text).unwrap();
    assert_eq!(logs.log(), (text.to_owned(), String::new(), Some(0)));
    let mut script = logs.command("script");
    let output = script.args(["-qec", &format!("{PROGRAM} log {DERIVATION}"), "/dev/null"]).output().unwrap();
    let shown = "\x1b[1;31mred\x1b[0m\\u{1b}]0;title\\u{7} \\u{1b}[2J \\u{9b}2J \\u{202e}é\r\n50 %\r\n100 %\r\n\x1b[0m";
    assert_eq!(String::from_utf8_lossy(&output.stdout), shown);
}

#[test]
fn the_log_is_that_of_the_machine_in_the_history() {
    for (machine, port) in [("b1", "22"), ("b1:2222", "2222")] {
        let logs = Logs::new();
        // The first call is for the compressed log.
        logs.on_machine(machine, "case \"$*\" in *.gz*) exit 1;; esac; echo \"$*\"");
        let (out, messages, status) = logs.log();
        assert!(out.contains(&format!("Port={port} ")) && status == Some(0), "{machine}: {out}{messages}");
    }
    let logs = Logs::new();
    logs.on_machine("b1:23", "echo text");
    let (_, messages, status) = logs.log();
    assert!(messages.contains("no machine matches 'b1:23'") && status == Some(5), "{messages}");
}

#[test]
fn a_remote_log_that_is_cut_short_is_a_failure() {
    for end in ["exit 255", "kill -9 $$", "exit 1"] {
        let logs = Logs::new();
        logs.on_machine("b1", &format!("case \"$*\" in *.gz*) exit 1;; esac; echo begun; {end}"));
        let (out, messages, status) = logs.log();
        assert_eq!((out.as_str(), status), ("begun\n", Some(1)), "{end}: {messages}");
        assert!(messages.contains("the log on b1 is not complete: "), "{end}: {messages}");
    }
}

#[test]
fn a_running_log_is_followed_to_its_end() {
    let lab = Lab::new();
    let machine = lab.build_machine("b1").start();
    let head = lab.head().daemon_argument("--log-compression=none").start();
    head.write_machines(&[machine.entry()]);
    let script = "echo first; while ! test -e /tmp/go; do sleep 0.1; done; echo last; echo >$out";
    let mut client = head.client().start(&[&Drv::new("running-1").script(script)]);
    client.wait_for_log("first");
    // The history has no row of it yet.
    let pattern = head.path("/var/log/guix/drvs");
    let find = || {
        let output =
            Command::new("find").arg(&pattern).args(["-name", "*-running-1.drv", "-size", "+0"]).output().unwrap();
        let found = String::from_utf8(output.stdout).unwrap();
        let (directory, rest) = found.trim().strip_prefix(pattern.to_str().unwrap())?[1..].split_once('/')?;
        Some(format!("/gnu/store/{directory}{rest}"))
    };
    wait_until("the log is there", LONG, || find().is_some());
    let mut follow = head.command("/opt/offload/offload");
    let mut follow = follow.args(["log", "--follow", &find().unwrap()]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line == "first"));
    machine.write("/tmp/go", "");
    assert!(lines.any(|line| line == "last"));
    assert!(follow.wait().unwrap().success());
    client.wait().succeeded();
}

/// The build has neither begun nor been requested when the command starts, and then waits for a slot.
#[test]
fn a_log_is_followed_from_before_the_build() {
    let lab = Lab::new();
    let machine = lab.build_machine("b1").start();
    let head = lab.head().daemon_argument("--log-compression=none").start();
    head.write_machines(&[machine.entry().set("parallel_builds", 1)]);
    let drv = Drv::new("later").script("echo the text; echo >$out");
    let mut direct = head.direct();
    let path = direct.make(&drv).path;
    let mut follow = head.command("/opt/offload/offload");
    let follow = follow.args(["log", "--follow", path.as_str()]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut follow = follow.spawn().unwrap();
    let mut message = String::new();
    let mut messages = BufReader::new(follow.stderr.take().unwrap());
    messages.read_line(&mut message).unwrap();
    assert_eq!(message, format!("offload: waiting for the build of '{path}' to begin\n"));
    let script = "echo the slot is taken; while ! test -e /tmp/go; do sleep 0.1; done; echo >$out";
    let mut first = head.client().start(&[&Drv::new("first").script(script)]);
    first.wait_for_log("the slot is taken");
    thread::scope(|scope| {
        let build = scope.spawn(|| head.direct().build(&[&drv]).unwrap());
        let log = head.path("/var/log/guix/drvs").join(&path.base_name()[..2]).join(&path.base_name()[2..]);
        wait_until("the build is accepted", LONG, || log.exists());
        machine.write("/tmp/go", "");
        build.join().unwrap();
    });
    first.wait().succeeded();
    let output = follow.wait_with_output().unwrap();
    message.clear();
    messages.read_to_string(&mut message).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.ends_with("\nthe text\n") && message.is_empty(), "{text}{message}");
    assert!(output.status.success());
}

/// Another build of the derivation writes another file, or the same one from its beginning.
#[test]
fn a_log_that_is_replaced_is_followed() {
    let logs = Logs::new();
    let host = logs.path("offload/b1:22");
    fs::create_dir_all(&host).unwrap();
    let holder = serde_json::json!({ "pid": 1, "derivation": DERIVATION, "since": 1 });
    fs::write(host.join("0.json"), holder.to_string()).unwrap();
    let slot = fs::File::create(host.join("0")).unwrap();
    slot.lock().unwrap();
    let log = logs.path(LOG);
    fs::write(&log, "the first text\n").unwrap();
    let mut follow = logs.command("timeout");
    let limit = LONG.as_secs().to_string();
    let mut follow =
        follow.args([&limit, PROGRAM, "log", "--follow", DERIVATION]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().as_deref(), Some("the first text"));
    fs::rename(&log, logs.path("rotated")).unwrap();
    fs::write(logs.path("rotated"), "the first text\nits end\n").unwrap();
    assert_eq!(lines.next().as_deref(), Some("its end"));
    fs::write(logs.path("new"), "the second text\n").unwrap();
    fs::rename(logs.path("new"), &log).unwrap();
    assert_eq!(lines.next().as_deref(), Some("the second text"));
    fs::write(&log, "the third\n").unwrap();
    assert_eq!(lines.next().as_deref(), Some("the third"));
    drop(slot);
    assert_eq!(lines.next(), None);
    assert!(follow.wait().unwrap().success());
}

/// Returns the names of metrics in a text.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
    words.filter(|word| word.starts_with("offload_")).map(str::to_owned).collect()
}

#[test]
fn metrics_are_those_of_the_manual_and_of_the_examples() {
    let lab = Lab::new();
    let machine = lab.build_machine("b1").start();
    let head = lab.head().start();
    head.write_machines(&[machine.entry().set("parallel_builds", 3)]);
    head.build(&[&Drv::new("good").script("echo >$out")]).succeeded();
    // The local build takes longer than the hook takes to record the request. When nothing is left, the daemon kills it.
    head.client().max_jobs(1).build(&[&Drv::new("odd").features(&["odd"]).script("sleep 0.5; echo >$out")]).succeeded();
    let (text, messages, status) = offload(&head, &["metrics"]);
    assert_eq!((messages.as_str(), status), ("", Some(0)));
    assert!(text.ends_with("# EOF\n"), "{text}");
    let name = format!("b1:{}", machine.ssh_address().port());
    for sample in [
        format!("offload_machine_up{{machine=\"{name}\"}} 1"),
        format!("offload_machine_slots{{machine=\"{name}\"}} 3"),
        format!("offload_machine_slots_taken{{machine=\"{name}\"}} 0"),
        format!("offload_attempts_total{{machine=\"{name}\",outcome=\"built\"}} 1"),
    ] {
        assert!(text.lines().any(|line| line == sample), "{sample}: {text}");
    }
    // The daemon may ask more than once.
    assert!(text.contains("\noffload_requests_total{outcome=\"declined\"} "), "{text}");
    let samples: String = text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    let known = metrics_in(&samples);
    assert!(known.len() > 12, "{known:?}");
    let manual = fs::read_to_string("doc/manual/commands.md").unwrap();
    // Those of machines on demand are in `tests/on_demand`: this pool has none.
    let mut documented =
        metrics_in(manual.split("## `offload metrics`").nth(1).unwrap().split("\n## ").next().unwrap());
    documented.retain(|name| !name.starts_with("offload_machine_power"));
    assert_eq!(documented, known);
    for file in ["alerts.yml", "dashboard.json"] {
        let used = metrics_in(&fs::read_to_string(format!("examples/monitoring/{file}")).unwrap());
        let unknown: Vec<&String> = used.difference(&known).collect();
        assert!(used.len() > 3 && unknown.is_empty(), "{file}: {unknown:?}");
    }

    // The counters continue when the hook of another process has built, and the file is written by root.
    head.run("mkdir", &["/tmp/textfile"]);
    head.build(&[&Drv::new("good-again").script("echo >$out")]).succeeded();
    let written = offload(&head, &["metrics", "--textfile", "/tmp/textfile"]);
    assert_eq!(written, (String::new(), String::new(), Some(0)));
    let file = String::from_utf8(head.read("/tmp/textfile/offload.prom")).unwrap();
    let count = format!("offload_attempts_total{{machine=\"{name}\",outcome=\"built\"}} 2\n");
    assert!(file.contains(&count) && file.contains("# TYPE offload_attempts_total counter\n"), "{file}");
    assert!(!file.contains("# EOF") && !file.contains("good"), "{file}");
    let (_, messages, status) = offload(&head, &["metrics", "--textfile", "/tmp/missing"]);
    assert!(messages.contains("cannot write a file in '/tmp/missing': ") && status == Some(1), "{messages}");
}
