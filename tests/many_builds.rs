//! More builds in one request than guix-daemon has descriptors for: it holds five for each hook that it has not waited
//! for, and dies with the 1,024th.
//!
//! Each test says on standard error how many builds a second there were. `OFFLOAD_CAMPAIGN=1` adds 5,000 builds, and
//! pools of 60 and 200 slots: some ten minutes.

mod lab;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::thread;

use lab::{Direct, Drv, Entry, Hook, Host, LONG, Lab, RELEASES, max_concurrency, wait_until};
use offload::internals::daemon::{Error, Options};
use offload::internals::store::path::StorePath;

fn instant(prefix: &str, count: usize) -> Vec<Drv> {
    scripts(prefix, count, "echo >$out")
}

fn scripts(prefix: &str, count: usize, script: &str) -> Vec<Drv> {
    (0..count).map(|number| Drv::new(&format!("{prefix}-{number}")).script(script)).collect()
}

/// Returns an entry that ignores the load: the machine is busy when the test begins.
fn entry_at_any_load(machine: &Host) -> Entry {
    machine.entry().set("overload_threshold", false)
}

/// A client whose request has been answered.
struct Answer {
    result: Result<(), Error>,
    log: String,
}

impl Answer {
    #[track_caller]
    fn succeeded(self) {
        self.result.unwrap_or_else(|error| panic!("{error}; its log:\n{}", self.log));
    }

    /// The message of a daemon that lives, and the log.
    #[track_caller]
    fn refused(self) -> (String, String) {
        match self.result {
            Err(Error::Daemon { message, .. }) => (message, self.log),
            other => panic!("{other:?}; its log:\n{}", self.log),
        }
    }
}

/// Puts derivations into the store, and builds them in one request to the daemon.
fn build(client: &mut Direct<'_>, drvs: &[Drv]) -> Answer {
    let paths: Vec<StorePath> = drvs.iter().map(|drv| client.make(drv).path).collect();
    build_paths(client, &paths, drvs.len())
}

/// Builds derivations because another one needs them all.
fn build_as_inputs(client: &mut Direct<'_>, name: &str, drvs: &[Drv]) -> Answer {
    let all = drvs.iter().fold(Drv::new(name), |all, drv| all.input(drv));
    let path = client.make(&all).path;
    build_paths(client, &[path], drvs.len() + 1)
}

fn build_paths(client: &mut Direct<'_>, paths: &[StorePath], count: usize) -> Answer {
    let log = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&log);
    client.daemon().set_log(Some(Box::new(move |text| sink.lock().unwrap().extend_from_slice(text))));
    let result = client.build_paths(paths);
    if let Ok(time) = result {
        eprintln!("{count} builds in {time:.1?}: {:.1} a second", count as f64 / time.as_secs_f64());
    }
    client.daemon().set_log(None);
    let log = String::from_utf8_lossy(&log.lock().unwrap()).into_owned();
    Answer { result: result.map(|_| ()), log }
}

fn with_local_builds(client: &mut Direct<'_>, jobs: u32) {
    client.set_options(&Options { max_jobs: Some(jobs), ..client.options() });
}

/// The hooks of a head, and the descriptors of the daemon that started them.
fn hooks_and_descriptors(head: &Host) -> [usize; 2] {
    let mut processes = head.processes();
    processes.retain(|process| process.command.contains(" offload ") && process.name != "guix-daemon");
    let daemon = processes.first().map_or(0, |hook| hook.parent);
    [processes.len(), fs::read_dir(format!("/proc/{daemon}/fd")).map_or(0, Iterator::count)]
}

#[test]
fn a_thousand_builds_that_one_needs_are_offloaded() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().start();
    head.write_machines(&[entry_at_any_load(&b1)]);
    let mut client = head.direct();
    build_as_inputs(&mut client, "needs-200", &instant("first", 200)).succeeded();
    build_as_inputs(&mut client, "needs-1000", &instant("then", 1000)).succeeded();
    assert_eq!(b1.built().len(), 1202);
    if std::env::var_os("OFFLOAD_CAMPAIGN").is_some() {
        build_as_inputs(&mut client, "needs-5000", &instant("last", 5000)).succeeded();
        assert_eq!(b1.built().len(), 1202 + 5001);
    }
    assert!(head.built().is_empty());
}

/// All in the request itself; the daemon keeps a descriptor for each until the request ends.
#[test]
fn three_hundred_builds_of_one_request_are_offloaded() {
    for release in RELEASES {
        let lab = Lab::new();
        let b1 = lab.build_machine("b1").start();
        let head = lab.head().release(release).start();
        head.write_machines(&[entry_at_any_load(&b1)]);
        let mut client = head.direct();
        build(&mut client, &instant("asked-for", 300)).succeeded();
        assert_eq!((b1.built().len(), head.built().len()), (300, 0), "{release:?}");
    }
}

/// The daemon may build too, but no reply must make it build.
#[test]
fn a_daemon_that_may_build_leaves_postponed_builds() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().max_jobs(1).start();
    head.write_machines(&[entry_at_any_load(&b1)]);
    let mut client = head.direct();
    with_local_builds(&mut client, 1);
    build(&mut client, &instant("asked-for", 300)).succeeded();
    assert_eq!((b1.built().len(), head.built().len()), (300, 0));
}

#[test]
fn clients_of_a_daemon_with_few_descriptors_do_not_disturb_each_other() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().descriptor_limit(512).start();
    head.write_machines(&[entry_at_any_load(&b1)]);
    thread::scope(|scope| {
        for name in ["one", "two", "three"] {
            let head = &head;
            scope.spawn(move || build(&mut head.direct(), &instant(name, 120)).succeeded());
        }
    });
    assert_eq!((b1.built().len(), head.built().len()), (360, 0));
}

/// As many builds as four for each slot would wait inside their hooks.
#[test]
fn waiting_hooks_leave_the_daemon_descriptors() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").max_jobs(60).start();
    let head = lab.head().start();
    head.write_machines(&[entry_at_any_load(&b1)]);
    let drvs = scripts("long", 320, "until test -e /var/lab/finish; do sleep 1; done; echo >$out");
    let mut building = head.client().start(&drvs.iter().collect::<Vec<_>>());
    // The daemon says so when it has asked about all of them.
    building.wait_for_log("waiting for locks or build slots");
    wait_until("all slots are taken", 3 * LONG, || b1.built().len() >= 60);
    let [hooks, descriptors] = hooks_and_descriptors(&head);
    assert!((150..200).contains(&hooks) && descriptors <= 1024 - 100, "{hooks} hooks, {descriptors} descriptors");
    building.wait_for_log("offload: as many builds are under way for this client");
    b1.write("/var/lab/finish", "");
    building.wait().succeeded();
    assert_eq!((b1.built().len(), head.built().len()), (320, 0));
    assert_eq!(max_concurrency(&b1.builds()), 60);
}

/// It keeps one for each build that is done, until the request ends.
#[test]
fn builds_beyond_the_descriptors_of_the_daemon_are_refused_with_the_reason() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().descriptor_limit(128).start();
    head.write_machines(&[entry_at_any_load(&b1)]);
    let drvs = instant("asked-for", 110);
    let (message, log) = build(&mut head.direct(), &drvs).refused();
    assert!(message.contains("unable to start any build"), "{message}");
    assert!(
        log.contains("it keeps one for each finished build") && log.contains("run the same command again"),
        "{log}"
    );
    let before = b1.built().len();
    assert!((50..110).contains(&before), "{before}");
    build(&mut head.direct(), &drvs).succeeded();
    assert_eq!((b1.built().len(), head.built().len()), (110, 0));

    // What may be built here is.
    let mut client = head.direct();
    with_local_builds(&mut client, 2);
    build(&mut client, &instant("also", 100)).succeeded();
    let (here, there) = (head.built().len(), b1.built().len() - 110);
    assert!(here > 0 && there >= 40 && here + there == 100, "{here} here, {there} there");
}

/// Such as one that measures the hook: the parent of the hook is not the daemon then.
#[test]
fn the_daemon_is_found_behind_another_program() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().descriptor_limit(128).hook(Hook::Program("/opt/between".to_owned())).start();
    install_hook(&head, "/opt/between", "/opt/offload/offload \"$@\"; exit $?");
    head.write_machines(&[entry_at_any_load(&b1)]);
    build_as_inputs(&mut head.direct(), "needs-them", &instant("between", 60)).succeeded();
    assert_eq!((b1.built().len(), head.built().len()), (61, 0));
}

/// Makes the program `name` of a head, a shell script that has the hook for `offload`, and the real one for all else.
fn install_hook(head: &Host, name: &str, script: &str) {
    fs::create_dir_all(head.path("/opt/offload")).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_offload"), head.path("/opt/offload/offload")).unwrap();
    head.write(name, format!("#!/bin/sh\ntest \"$1\" = offload || exec /usr/bin/guix \"$@\"\n{script}\n"));
    fs::set_permissions(head.path(name), Permissions::from_mode(0o755)).unwrap();
}

/// The hook cannot see the daemon's descriptors.
#[test]
fn uncounted_descriptors_limit_the_builds() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().descriptor_limit(256).hook(Hook::Program("/opt/blind".to_owned())).start();
    install_hook(
        &head,
        "/opt/blind",
        "exec unshare --mount sh -c 'mount -t tmpfs none /proc && exec /opt/offload/offload \"$@\"' sh \"$@\"",
    );
    head.write_machines(&[entry_at_any_load(&b1)]);
    let drvs = instant("unseen", 40);
    let (_, log) = build(&mut head.direct(), &drvs).refused();
    assert!(log.contains("cannot be counted"), "{log}");
    assert_eq!(b1.built().len(), 25);
    build(&mut head.direct(), &drvs).succeeded();
    assert_eq!((b1.built().len(), head.built().len()), (40, 0));
}

#[test]
fn many_slots_are_used() {
    let is_campaign = std::env::var_os("OFFLOAD_CAMPAIGN").is_some();
    let (pools, count): (&[u32], usize) = if is_campaign { (&[60, 200], 1000) } else { (&[60], 250) };
    for &slots in pools {
        let lab = Lab::new();
        let b1 = lab.build_machine("b1").max_jobs(slots).start();
        let head = lab.head().start();
        head.write_machines(&[entry_at_any_load(&b1)]);
        let drvs = scripts("short", count, "sleep 2; echo >$out");
        build_as_inputs(&mut head.direct(), "needs-short", &drvs).succeeded();
        assert_eq!((b1.built().len(), head.built().len()), (count + 1, 0));
        assert!(max_concurrency(&b1.builds()) <= slots as usize);
    }
}
