//! Scheduling with real daemons: machines that are dead or die, more builds than slots, builds that stay here.

mod lab;

use std::fs;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use lab::{Drv, Entry, Host, LONG, Lab, RunningBuild, Signal, max_concurrency, wait_until};
use offload::internals::daemon::{self, Client, Options};
use offload::internals::scheduler::decision::PROBE_WAIT;
use offload::internals::state::health::BACK_OFF_MIN;
use offload::internals::state::{Health, Queue, StateDirectory, health};
use offload::internals::store::path::{StoreDir, StorePath};

/// A build of one client of the head's daemon, through our own implementation of the protocol.
struct Ended {
    /// 0, or the daemon's 1, 100 or 101; `None`: it went away.
    status: Option<u32>,
    log: String,
    time: Duration,
}

/// Puts derivations into the head's store, where nobody builds them yet: there is no machine file.
fn instantiate(head: &Host, drvs: &[Drv]) -> Vec<StorePath> {
    let _ = fs::remove_file(head.path("/etc/guix/machines.lua"));
    let result = head.client().max_jobs(0).build(&drvs.iter().collect::<Vec<_>>());
    assert!(result.error.contains("unable to start any build"), "{}", result.error);
    let path = |drv: &Drv| result.derivation(drv.name()).to_str().unwrap().to_owned();
    drvs.iter().map(|drv| StorePath::parse(&StoreDir::default(), path(drv).as_bytes()).unwrap()).collect()
}

fn build(head: &Host, derivation: &StorePath, options: &Options) -> Ended {
    let start = Instant::now();
    let mut client = Client::connect(head.connect_to_daemon(), StoreDir::default()).unwrap();
    let log = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&log);
    client.set_log(Some(Box::new(move |text| sink.lock().unwrap().extend_from_slice(text))));
    client.set_options(options).unwrap();
    let status = match client.build_paths(&[derivation.clone()].into()) {
        Ok(()) => Some(0),
        Err(daemon::Error::Daemon { status, .. }) => Some(status),
        Err(daemon::Error::Link { .. }) => None,
        Err(error) => panic!("{error}"),
    };
    let log = String::from_utf8_lossy(&log.lock().unwrap()).into_owned();
    Ended { status, log, time: start.elapsed() }
}

/// Nothing is built here, everything is offloaded.
fn offloaded() -> Options {
    Options { offload: true, use_substitutes: false, max_jobs: Some(0), ..Options::default() }
}

fn logins(machine: &Host) -> usize {
    machine.sshd_log().matches("Accepted publickey").count()
}

fn quick(name: &str) -> Drv {
    Drv::new(name).script("echo $name >$out")
}

/// Returns the entry with a speed that is preferred at any load.
fn fast(entry: Entry) -> Entry {
    entry.set("speed", 1000)
}

/// How often a machine that does not answer may be contacted in all since `start`: once, and once more when the first
/// back-off is over.
fn contacts_allowed(start: Instant) -> usize {
    1 + (start.elapsed().as_secs() / BACK_OFF_MIN.as_secs()) as usize
}

/// Returns a build that ends when [`finish`] is called for its host.
fn endless(name: &str) -> Drv {
    Drv::new(name).script("echo on; until test -e /var/lab/finish; do sleep 0.1; done; echo >$out")
}

fn finish(machine: &Host) {
    machine.write("/var/lab/finish", "");
}

#[test]
fn a_machine_that_does_not_respond_costs_one_short_wait() {
    let lab = Lab::with_substitutes();
    let (silent, b2) = (lab.build_machine("silent").start(), lab.build_machine("b2").start());
    let proxy = lab.proxy("proxy", silent.ssh_address());
    proxy.say_nothing();
    let head = lab.head().start();
    let names = ["first", "second", "third", "fourth"];
    let drvs = instantiate(&head, &names.map(quick));
    // A wait for its answer would take twice as long as the test has.
    let silent_entry = || silent.entry().via(&proxy).set("connect_timeout", 2 * LONG.as_secs() as i32);
    head.write_machines(&[fast(silent_entry()), b2.entry()]);

    let start = Instant::now();
    let ended: Vec<Ended> = drvs.iter().map(|drv| build(&head, drv, &offloaded())).collect();
    for Ended { status, log, .. } in &ended {
        assert_eq!(*status, Some(0), "{log}");
    }
    assert!(start.elapsed() < LONG, "{:?}", start.elapsed());
    assert_eq!(b2.built(), names);
    // One contact for all of them, although the first build ended before it was known to have failed.
    let contacts = proxy.connections() as usize;
    assert!((1..=contacts_allowed(start)).contains(&contacts), "{contacts} in {:?}", start.elapsed());

    // No other machine: the daemon may build here, and waits for the one answer once.
    let head = lab.head().name("other-head").max_jobs(2).start();
    let names = ["here-1", "here-2", "here-3", "here-4"];
    let drvs = instantiate(&head, &names.map(quick));
    head.write_machines(&[silent_entry()]);
    let local = Options { max_jobs: Some(2), ..offloaded() };
    let start = Instant::now();
    let ended: Vec<Ended> = drvs.iter().map(|drv| build(&head, drv, &local)).collect();
    assert!(ended.iter().all(|ended| ended.status == Some(0)));
    let times: Vec<Duration> = ended.iter().map(|ended| ended.time).collect();
    assert!(start.elapsed() < LONG && times[1..].iter().any(|time| *time < PROBE_WAIT), "{times:?}");
    assert_eq!(head.built(), names);
    let contacts = proxy.connections() as usize - contacts;
    assert!((1..=contacts_allowed(start)).contains(&contacts), "{contacts} in {:?}", start.elapsed());
}

#[test]
fn machines_that_are_down_are_skipped() {
    let lab = Lab::with_substitutes();
    let [b1, b2, b3] = ["b1", "b2", "b3"].map(|name| lab.build_machine(name).start());
    b1.stop_sshd();
    b2.stop_daemon();
    let head = lab.head().start();
    let names = ["first", "second", "third"];
    let drvs = instantiate(&head, &names.map(quick));
    head.write_machines(&[fast(b1.entry()), fast(b2.entry()), b3.entry()]);
    let start = Instant::now();
    for drv in &drvs {
        let ended = build(&head, drv, &offloaded());
        assert_eq!(ended.status, Some(0), "{}", ended.log);
        assert!(!ended.log.contains("could not be built"), "{}", ended.log);
    }
    assert_eq!(b3.built(), names);
    assert!((1..=contacts_allowed(start)).contains(&logins(&b2)), "{}", b2.sshd_log());
    head.await_no_lock("afterwards");
}

#[test]
fn a_machine_that_dies_under_a_build_is_replaced() {
    let lab = Lab::with_substitutes();
    let (b1, b2) = (lab.build_machine("b1").start(), lab.build_machine("b2").start());
    let head = lab.head().start();
    head.write_machines(&[fast(b1.entry()), b2.entry()]);
    finish(&b2);
    head.mark_healthy("b1");
    let mut build = head.client().start(&[&endless("long")]);
    build.wait_for_log("on\n");
    assert_eq!(b1.built(), ["long"]);
    b1.power_off();
    let result = build.wait().succeeded();
    assert_eq!(b2.built(), ["long"]);
    let switches = result.log.matches("could not be built on 'b1'").count();
    assert_eq!(switches, 1, "{}", result.log);
    head.await_no_lock("afterwards");
    head.verify_store();
    assert_eq!(lab.substitute_requests(), [""; 0]);
}

#[test]
fn a_build_that_a_daemon_refuses_does_not_count_against_the_machine() {
    let lab = Lab::with_substitutes();
    let (b1, b2) = (lab.build_machine("b1").start(), lab.build_machine("b2").start());
    let head = lab.head().start();
    head.write_machines(&[fast(b1.entry()), b2.entry()]);
    // A fixed output with another hash: the builder ran, and no other machine would build anything else.
    let wrong = Drv::new("wrong").fixed_file("sha256", &"0".repeat(64)).script("echo wrong >$out");
    head.mark_healthy("b1");
    let result = head.build(&[&wrong]);
    assert_eq!(result.status, Some(1), "{}", result.error);
    assert_eq!(result.log.matches("failed to build on 'b1'").count(), 1, "{}", result.log);
    assert!(!result.log.contains("'b2'"), "{}", result.log);
    let health: Health = serde_json::from_str(&head.health_of("b1:2022")).unwrap();
    assert!(health.failures.is_none(), "{health:?}");
    head.mark_healthy("b1");
    head.build(&[&quick("next")]).succeeded();
    assert_eq!((b1.built(), b2.built()), (vec!["wrong".to_owned(), "next".to_owned()], Vec::new()));
    head.await_no_lock("afterwards");
}

#[test]
fn forty_clients_share_the_slots() {
    const BUILDS: usize = 40;
    let lab = Lab::with_substitutes();
    // As sshd has them by default.
    let machine = |name| {
        let options = lab.build_machine(name).max_jobs(2).sshd_option("MaxStartups 10:30:100");
        options.sshd_option("PerSourcePenalties yes").start()
    };
    let machines = ["b1", "b2"].map(machine);
    let head = lab.head().start();
    let drvs: Vec<Drv> =
        (0..BUILDS).map(|number| Drv::new(&format!("build-{number}")).script("sleep 1; echo $name >$out")).collect();
    let drvs = instantiate(&head, &drvs);
    head.write_machines(&machines.each_ref().map(|machine| machine.entry()));

    let start = Instant::now();
    let ended: Vec<Ended> = thread::scope(|scope| {
        let clients: Vec<_> = drvs.iter().map(|drv| scope.spawn(|| build(&head, drv, &offloaded()))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let time = start.elapsed();

    for Ended { status, log, .. } in &ended {
        assert_eq!(*status, Some(0), "{log}");
    }
    let mut total = 0;
    for machine in &machines {
        let builds = machine.builds();
        assert_eq!(max_concurrency(&builds), 2, "{}", machine.name());
        total += builds.len();
    }
    assert_eq!(total, BUILDS);
    // Ideal: 40 builds of 1 s in 4 slots. Nobody starves.
    let longest = ended.iter().map(|ended| ended.time).max().unwrap();
    eprintln!("{BUILDS} builds of 1 s in 4 slots: {time:.1?}, the longest {longest:.1?}");
    assert!(longest < 3 * LONG, "{longest:?}");
    head.await_no_lock("afterwards");
}

#[test]
fn slots_are_given_out_in_order() {
    let lab = Lab::with_substitutes();
    let b1 = lab.build_machine("b1").max_jobs(1).start();
    let head = lab.head().start();
    let names = ["one", "two", "three", "four", "five"];
    let slow = "until test -e /var/lab/finish; do echo; sleep 0.5; done; echo >$out";
    let drvs = instantiate(&head, &names.map(|name| Drv::new(name).script(slow)));
    head.write_machines(&[b1.entry()]);
    // Waiting builds are silent for longer than this, except for the lines of the hook.
    const SILENT: Duration = Duration::from_secs(7);
    let options = Options { max_silent_time: Some(SILENT), ..offloaded() };
    // Each comes when the one before has its place.
    let waiting = || head.waiting_since().len();
    let ended: Vec<Ended> = thread::scope(|scope| {
        let start = |(number, drv): (usize, &StorePath)| {
            let turn = || b1.builds().len() + waiting() >= number;
            wait_until("the one before has come", LONG, turn);
            let (drv, head, options) = (drv.clone(), &head, &options);
            scope.spawn(move || build(head, &drv, options))
        };
        let clients: Vec<_> = drvs.iter().enumerate().map(start).collect();
        wait_until("all have come", LONG, || b1.builds().len() + waiting() == names.len());
        wait_until("the last has waited for longer than a build may be silent", LONG, || {
            let last = head.waiting_since().into_iter().max().unwrap();
            health::now().saturating_sub(last) > (SILENT + Duration::from_secs(1)).as_millis() as u64
        });
        finish(&b1);
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    for Ended { status, log, .. } in &ended {
        assert_eq!(*status, Some(0), "{log}");
        assert!(!log.contains("waiting for locks or build slots"), "{log}");
    }
    assert_eq!(b1.built(), names);
    assert!(ended[4].log.contains("has been waiting for a build slot"), "{}", ended[4].log);
    let builds = b1.builds();
    let gaps: Vec<f64> = builds.windows(2).map(|pair| pair[1].start - pair[0].end.unwrap()).collect();
    eprintln!("from the end of one build to the start of the next, transfers included: {gaps:.2?} s");
}

/// The daemon reads nobody's log while it waits for a reply.
#[test]
fn a_hook_never_blocks_on_a_daemon_that_waits_for_its_reply() {
    let lab = Lab::with_substitutes();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().start();
    head.write_machines(&[b1.entry()]);
    let wordy = "i=0; while [ $i -lt 16 ]; do head -c 49152 /dev/urandom | base64; i=$((i+1)); done; echo >$out";
    let drvs: Vec<Drv> = (0..5).map(|number| Drv::new(&format!("wordy-{number}")).script(wordy)).collect();
    let result = head.client().build(&drvs.iter().collect::<Vec<_>>()).succeeded();
    assert!(result.log.len() > 5 << 20, "{} bytes", result.log.len());
    assert_eq!(b1.built().len(), 5);
}

/// Starts a build that fills the one slot of `machine`.
fn fill(head: &Host, machine: &Host, name: &str) -> RunningBuild {
    let count = machine.built().len();
    let filler = head.client().max_jobs(0).start(&[&Drv::new(name).script("echo on; sleep 1000")]);
    wait_until("the slot is taken", LONG, || machine.built().len() > count);
    filler
}

#[test]
fn builds_stay_here_where_the_machine_file_says_so() {
    let lab = Lab::with_substitutes();
    let b1 = lab.build_machine("b1").max_jobs(1).start();
    let head = lab.head().max_jobs(4).start();
    let file = |more: &str| head.write_machine_file(&format!("return {{ {}, {more} }}", b1.entry().lua()));

    file("when_busy = 'local'");
    let filler = fill(&head, &b1, "filler-1");
    head.client().max_jobs(4).build(&[&quick("busy-here")]).succeeded();
    assert_eq!(head.built(), ["busy-here"]);
    // A daemon that may not build waits all the same; so does one whose file says so.
    let mut waiting = head.client().max_jobs(0).start(&[&quick("busy-there")]);
    waiting.wait_for_log("waits for a build slot");
    file("when_busy = function(request) return 'wait' end");
    let mut polite = head.client().max_jobs(4).start(&[&quick("busy-polite")]);
    polite.wait_for_log("waits for a build slot");
    filler.interrupt(Signal::INT);
    waiting.wait().succeeded();
    polite.wait().succeeded();
    assert_eq!(b1.built(), ["filler-1", "busy-there", "busy-polite"]);

    // The head takes part, and is better than a machine without a free slot, worse than one with one.
    file("local_machine { speed = 0.5, overload_threshold = false }");
    head.client().max_jobs(4).build(&[&quick("part-there")]).succeeded();
    assert_eq!(b1.built().last().unwrap(), "part-there");
    let filler = fill(&head, &b1, "filler-2");
    head.client().max_jobs(4).build(&[&quick("part-here")]).succeeded();
    filler.interrupt(Signal::INT);
    file("local_machine { speed = 1000, overload_threshold = false }");
    head.client().max_jobs(4).build(&[&quick("fast-here")]).succeeded();
    assert_eq!(head.built(), ["busy-here", "part-here", "fast-here"]);

    // No answer: here if allowed and possible, and else when the machine is back.
    b1.stop_sshd();
    let _ = fs::remove_dir_all(head.path("/var/guix/offload"));
    file("");
    head.client().max_jobs(4).build(&[&quick("down-here")]).succeeded();
    file("when_unreachable = 'wait'");
    let mut waiting = head.client().max_jobs(4).start(&[&quick("down-there")]);
    waiting.wait_for_log("waiting for locks or build slots");
    let mut forbidden = head.client().max_jobs(0).start(&[&quick("down-too")]);
    forbidden.wait_for_log("waiting for locks or build slots");
    b1.start_sshd();
    waiting.wait().succeeded();
    forbidden.wait().succeeded();
    assert_eq!(head.built().last().unwrap(), "down-here");
    let mut last = b1.built().split_off(4);
    last.sort();
    assert_eq!(last, ["down-there", "down-too", "filler-2"]);
}

/// A decline would be a failed build: the head cannot build that system, whatever the daemon offers.
#[test]
fn a_foreign_system_is_waited_for() {
    let lab = Lab::with_substitutes();
    // Takes itself for another machine, and can do what is asked of it.
    let b1 = lab.build_machine("b1").daemon_argument("--system=armhf-linux").start();
    let head = lab.head().max_jobs(4).start();
    head.write_machines(&[b1.entry().set("systems", ["armhf-linux"])]);
    b1.stop_sshd();
    let mut build = head.client().max_jobs(4).start(&[&quick("foreign").system("armhf-linux")]);
    build.wait_for_log("waiting for locks or build slots");
    b1.start_sshd();
    build.wait().succeeded();
    assert_eq!((b1.built(), head.built()), (vec!["foreign".to_owned()], Vec::new()));
}

/// The first machine of the file would be chosen by its place. But the second one has what the build needs.
#[test]
fn among_equals_a_machine_with_the_inputs_is_chosen() {
    let lab = Lab::with_substitutes();
    let (b1, b2) = (lab.build_machine("b1").start(), lab.build_machine("b2").start());
    let head = lab.head().start();
    let equals = |entries: &[Entry]| {
        let entries: Vec<String> = entries.iter().map(Entry::lua).collect();
        head.write_machine_file(&format!("return {{ {}, score = function() return 1 end }}", entries.join(", ")));
    };
    let input = Drv::new("input").script("head -c 3000000 /dev/zero >$out");
    equals(&[b2.entry()]);
    head.build(&[&input]).succeeded();

    equals(&[b1.entry(), b2.entry()]);
    head.build(&[&Drv::new("needs-it").input(&input).script("echo $input >$out")]).succeeded();
    // Nobody is asked, so that nobody's answer comes first.
    ["b1", "b2"].iter().for_each(|name| head.mark_healthy(name));
    head.build(&[&quick("needs-nothing")]).succeeded();
    assert_eq!(b2.built(), ["input", "needs-it"]);
    assert_eq!(b1.built(), ["needs-nothing"]);
}

#[test]
fn a_drained_machine_gets_no_new_builds() {
    let lab = Lab::with_substitutes();
    let (b1, b2) = (lab.build_machine("b1").start(), lab.build_machine("b2").start());
    let head = lab.head().start();
    head.write_machines(&[fast(b1.entry()), b2.entry()]);
    let offload = |arguments: &[&str]| {
        let output = head.command("/opt/offload/offload").args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    };

    head.mark_healthy("b1");
    let mut long = head.client().start(&[&endless("long")]);
    long.wait_for_log("on\n");
    let drained = offload(&["drain", "b1"]);
    assert!(drained.contains("1 running build continues"), "{drained}");
    head.build(&[&quick("elsewhere")]).succeeded();
    assert_eq!(b2.built(), ["elsewhere"]);
    finish(&b1);
    long.wait().succeeded();
    assert_eq!(b1.built(), ["long"]);

    // The only machine: the build waits until it is back.
    head.write_machines(&[b1.entry()]);
    let mut waiting = head.client().start(&[&quick("later")]);
    waiting.wait_for_log("drained");
    offload(&["undrain", "b1"]);
    waiting.wait().succeeded();
    assert_eq!(b1.built(), ["long", "later"]);
    assert!(!head.path("/var/guix/offload/b1:2022/drained.json").exists());
}

/// Users take turns, and the machine file knows them. A killed process that waits changes nothing for others.
#[test]
fn two_users_take_turns() {
    let lab = Lab::with_substitutes();
    let b1 = lab.build_machine("b1").max_jobs(1).start();
    let head = lab.head().start();
    // A user that is not known would get no machine.
    head.write_machine_file(&format!(
        "return {{ {}, accepts = function(request) return request.user ~= 'root', request.user end,
           score = function(request) return request.user == 'nobody' and 1 or #request.user end }}",
        b1.entry().set("parallel_builds", 1).set("overload_threshold", false).lua()
    ));
    let tickets = || {
        let queue = Queue::of(&StateDirectory::new(head.path("/var/guix/offload"))).unwrap();
        queue.records(health::now()).unwrap().into_iter().map(|(_, record)| record).collect::<Vec<_>>()
    };
    let names = ["crowd-0", "crowd-1", "crowd-2", "crowd-3", "crowd-4"];
    let crowd = names.map(endless);
    let crowd = head.client().user("nobody").keep_going().max_jobs(0).start(&crowd.each_ref());
    wait_until("four builds wait", LONG, || tickets().len() == 4);
    let single = head.client().user("offload").max_jobs(0).start(&[&endless("single")]);
    wait_until("five builds wait", LONG, || tickets().len() == 5);
    let mut waiting = tickets();
    waiting.sort_by_key(|ticket| ticket.since);
    let users: Vec<Option<&str>> = waiting.iter().map(|ticket| ticket.build.user.as_deref()).collect();
    assert_eq!(users, [Some("nobody"), Some("nobody"), Some("nobody"), Some("nobody"), Some("offload")]);
    // The hooks of one client report together.
    let reports = crowd.log().matches("waits for a build slot").count();
    assert!((1..=2).contains(&reports), "{}", crowd.log());
    let killed = waiting[1].build.clone();
    rustix::process::kill_process(rustix::process::Pid::from_raw(killed.pid as i32).unwrap(), Signal::KILL).unwrap();
    wait_until("the killed one has left", LONG, || tickets().len() == 4);

    let json: serde_json::Value = {
        let status = head.offload(&["status", "--json"]);
        assert_eq!(status.status, Some(0), "{status:?}");
        serde_json::from_str(&status.out).unwrap()
    };
    let queue = json["queue"].as_array().unwrap();
    assert_eq!(queue.len(), 4, "{json}");
    let last = &queue[3];
    assert_eq!((&last["user"], &last["hosts"][0]), (&"offload".into(), &"b1:2022".into()), "{last}");
    assert!(last["derivation"].as_str().unwrap().ends_with("-single.drv"), "{last}");
    let records = head.offload(&["status", "--format=recutils"]).out;
    let selected =
        lab::recsel(&records, &["-t", "Queued", "-e", "User = 'offload' && Host = 'b1:2022'", "-P", "Derivation"]);
    assert!(selected.trim_end().ends_with("-single.drv") && selected.lines().count() == 1, "{selected}{records}");
    assert_eq!(lab::recsel(&records, &["-t", "Queued", "-c"]), "4\n", "{records}");
    // By turns: one build of each of the two users is ahead of a third one, and two of its own of one of them.
    let ahead = |user: &str| {
        let said = head.offload(&["explain", "--system", lab::SYSTEM, "--user", user]);
        said.out.lines().last().unwrap().to_owned()
    };
    assert_eq!(ahead("alice"), "→ waits for a slot: 2 builds are ahead");
    assert_eq!(ahead("offload"), "→ waits for a slot: 3 builds are ahead");
    assert_eq!(ahead("nobody"), "→ waits for a slot: 4 builds are ahead");

    finish(&b1);
    single.wait().succeeded();
    let result = crowd.wait();
    assert_ne!(result.status, Some(0), "one of its hooks was killed");
    let built = b1.built();
    assert_eq!(built.len(), 5, "{built:?}");
    // One ran already; the oldest that waited is its user's turn, and then comes the other user.
    assert_eq!(built[2], "single", "{built:?}");
    let declined = head.client().max_jobs(0).build(&[&quick("of-root")]);
    assert!(declined.log.contains("b1: root"), "{}", declined.log);
    head.verify_store();
}
