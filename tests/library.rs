//! The library in other programs: the examples, on a real pool.

mod lab;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Instant;

use lab::{Drv, Host, LONG, Lab, derivations, drv, wait_until};
use offload::internals::state::health::Availability;

/// Returns the program of an example. Cargo builds it before it runs all tests, but not before it runs just these.
fn example(name: &str) -> PathBuf {
    let built = Command::new(env!("CARGO")).args(["build", "--quiet", "--locked", "--example", name]).status().unwrap();
    assert!(built.success(), "the example does not build");
    Path::new(env!("CARGO_BIN_EXE_offload")).with_file_name("examples").join(name)
}

/// A program that runs on the head, and the lines that it prints.
struct Program {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    log: Option<thread::JoinHandle<String>>,
}

impl Drop for Program {
    /// Ends the program. If the test fails, prints what it said.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(log) = self.log.take().filter(|_| thread::panicking()) {
            self.seen.extend(self.lines.try_iter());
            eprintln!("{:#?}\n{}", self.seen, log.join().unwrap_or_default());
        }
    }
}

impl Program {
    fn start(head: &Host, name: &str, arguments: &[&str]) -> Program {
        let inside = format!("/opt/offload/{name}");
        std::fs::copy(example(name), head.path(&inside)).unwrap();
        let mut command = head.command(&inside);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut messages = child.stderr.take().unwrap();
        let log = thread::spawn(move || {
            let mut log = Vec::new();
            messages.read_to_end(&mut log).unwrap();
            String::from_utf8_lossy(&log).into_owned()
        });
        Program { child, lines, seen: Vec::new(), log: Some(log) }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Waits for a line that contains this text.
    #[track_caller]
    fn wait_for(&mut self, text: &str) {
        if self.seen.iter().any(|line| line.contains(text)) {
            return;
        }
        let until = Instant::now() + LONG;
        while let Ok(line) = self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            self.seen.push(line);
            if self.seen.last().unwrap().contains(text) {
                return;
            }
        }
        panic!("no line with '{text}': {:#?}", self.seen);
    }

    /// Ends the input, and returns all lines and the log when the program has ended.
    #[track_caller]
    fn finish(mut self) -> (Vec<String>, String) {
        drop(self.child.stdin.take());
        while let Ok(line) = self.lines.recv_timeout(LONG) {
            self.seen.push(line);
        }
        let status = self.child.wait().unwrap();
        let log = self.log.take().unwrap().join().unwrap();
        assert!(status.success(), "{:#?}\n{log}", self.seen);
        (std::mem::take(&mut self.seen), log)
    }
}

/// Asserts that nothing is left of builds, and that the store is whole.
#[track_caller]
fn assert_nothing_left(head: &Host) {
    head.await_no_lock("afterwards");
    let strays: Vec<String> = head.strays();
    assert!(strays.iter().all(|name| !name.ends_with(".chroot") && !name.ends_with(".lock")), "{strays:?}");
    head.verify_store();
}

#[test]
fn the_example_explains() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("machines.lua");
    let explain = |words: &[&str]| {
        let mut command = Command::new(example("explain"));
        let output = command
            .arg(&file)
            .args(words)
            .env("GUIX_STATE_DIRECTORY", directory.path().join("state"))
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (status, _, messages) = explain(&[]);
    assert!(status == Some(1) && messages.contains("there is no file"), "{messages}");

    let minimal = std::fs::read_to_string("examples/minimal.lua").unwrap();
    let with = |more: &str| std::fs::write(&file, minimal.replacen("name =", &format!("{more}, name ="), 1)).unwrap();
    with("parallel_builds = fleet 'big-one'");
    let ready =
        "build.example.org:22  score 1.000  not checked recently; checked before use\n→ built on build.example.org\n";
    assert_eq!(explain(&[]), (Some(0), ready.to_owned(), String::new()));
    let (status, said, _) = explain(&["kvm"]);
    let lacks = "build.example.org:22  score -  it lacks the feature kvm\n→ not built: no machine matches\n";
    assert_eq!((status, &*said), (Some(1), lacks));
    // A failing function gives a warning with its place. The file cannot print to a stream of the program.
    with("score = function() print 'hidden'; io.stderr:write 'hidden'; os.execute 'echo hidden'; return {} end");
    let (_, said, messages) = explain(&[]);
    assert!(said.contains("machines.lua:") && said.contains("score: expected a number"), "{said}");
    assert!(!format!("{said}{messages}").contains("hidden"), "{said}{messages}");
    with("parallel_builds = fleet()");
    let (status, _, messages) = explain(&[]);
    assert!(status == Some(3) && messages.contains("machines.lua:") && messages.contains("fleet: "), "{messages}");
}

#[test]
fn the_thirty_lines_build_and_register() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().start();
    let good = Drv::new("good").script("echo built >$out; echo the log");
    let failing = Drv::new("failing").script("echo out of luck; exit 3");
    let twin = Drv::new("twin")
        .script("sleep 1; echo $out >$out; mkdir -p $lib/d; ln -s $out $lib/d/l")
        .outputs(&["out", "lib"]);
    let result = derivations(&head, &[&good, &failing, &twin]);
    let entry = b1
        .entry()
        .set("overload_threshold", false)
        .lua()
        .replace("parallel_builds = 4", "parallel_builds = slots 'big'");
    head.write_machine_file(&format!("return {{ {entry} }}"));

    let mut program = Program::start(&head, "thirty_lines", &[]);
    for name in ["good", "failing", "twin", "twin"] {
        program.say(drv(&result, name));
    }
    let (lines, log) = program.finish();
    let said = lines.join("\n");
    assert!(log.contains("the log") && log.contains("out of luck"), "{said}\n{log}");
    assert!(said.contains(&format!("{} on b1: ", drv(&result, "good"))), "{said}");
    assert!(
        said.contains(&format!("{}: '", drv(&result, "failing"))) && said.contains("failed to build on 'b1'"),
        "{said}"
    );
    let twins =
        |end: &str| lines.iter().filter(|line| line.starts_with(&format!("{} on {end}", drv(&result, "twin")))).count();
    assert_eq!((twins("b1: "), twins("no machine (already valid): ")), (1, 1), "{said}");
    for output in [result.output("good"), result.output("twin"), result.output_of("twin", "lib")] {
        assert!(head.path_info(output).is_some(), "{output:?} is not valid: {said}");
    }
    assert!(head.path_info(result.output("failing")).is_none());
    assert_eq!(head.read(result.output("good")), b"built\n");
    let mut built = b1.built();
    built.sort();
    assert_eq!(built, ["failing", "good", "twin"]);
    assert_nothing_left(&head);

    // Valid outputs are neither built nor fetched again.
    let mut program = Program::start(&head, "thirty_lines", &[]);
    program.say(drv(&result, "good"));
    let said = program.finish().0.join("\n");
    assert!(said.contains("good.drv on no machine (already valid): 0ns, 0 B sent, 0 B fetched"), "{said}");
    assert_eq!(b1.built().iter().filter(|name| *name == "good").count(), 1);
}

#[test]
fn a_service_survives_a_cancellation_a_dead_machine_and_other_programs() {
    let lab = Lab::new();
    let (b1, b2) = (lab.build_machine("b1").start(), lab.build_machine("b2").start());
    let head = lab.head().start();
    let endless = Drv::new("endless").script("sleep 1000");
    let doomed = Drv::new("doomed").script("sleep 4; echo built >$out").features(&["doomed"]);
    // The daemon here has this built, by its own hook.
    let needed = Drv::new("needed").script("echo needed >$out");
    let shared = Drv::new("shared").script("sleep 2; cat $needed >$out").input(&needed);
    let result = derivations(&head, &[&endless, &doomed, &shared]);
    let entry = |host: &Host| host.entry().set("overload_threshold", false);
    let entry = |host: &Host| entry(host).set("features", ["doomed"]);
    // The build that must fail over prefers b2, and only that build may use it.
    head.write_machine_file(&format!(
        "return {{ {}, {}, accepts = function(r, m) return m.name == 'b1' or r.name == 'doomed', 'not for it' end }}",
        entry(&b1).lua(),
        entry(&b2).set("speed", 9).lua()
    ));
    // It is chosen at once, whichever machine would answer a probe first.
    head.mark_healthy("b2");
    let mut service = Program::start(&head, "service", &["/etc/guix/machines.lua"]);
    for name in ["endless", "doomed", "shared"] {
        service.say(&format!("build {}", drv(&result, name)));
    }
    // Another program builds the same at the same time.
    let mut other = Program::start(&head, "thirty_lines", &[]);
    other.say(drv(&result, "shared"));
    service.wait_for("endless.drv: building on b1");
    // A daemon cannot end a builder that has not begun: it kills a process group that is not there yet.
    wait_until("both machines build", LONG, || b1.is_building() && b2.is_building());
    b2.power_off();
    let begin = Instant::now();
    service.say(&format!("cancel {}", drv(&result, "endless")));
    service.wait_for("endless.drv: cancelled");
    println!("cancelled after {:?}", begin.elapsed());
    service.wait_for("doomed.drv: b2 failed");
    let said = service.finish().0.join("\n");
    let others = other.finish().0.join("\n");
    assert!(said.contains("doomed.drv: built on b1"), "{said}");
    let shared = [&said, &others].map(|said| said.contains("already valid"));
    assert!(shared[0] != shared[1], "{said}\n{others}");
    assert_eq!(b1.built().iter().filter(|name| *name == "shared").count(), 1);
    wait_until("the cancelled build has ended on the machine", LONG, || !b1.is_building());
    for name in ["doomed", "needed", "shared"] {
        assert!(head.path_info(result.output(name)).is_some(), "{name}: {said}");
    }
    assert!(head.path_info(result.output("endless")).is_none());
    assert_nothing_left(&head);
}

/// Each point at which a build can wait: it is cancelled there, and nothing is left.
#[test]
fn a_build_is_cancelled_wherever_it_waits() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().start();
    let proxy = lab.proxy("b2", b1.ssh_address());
    let input = Drv::new("input").script("head -c 30000000 /dev/urandom >$out");
    let quick = Drv::new("quick").script("echo $input >$out").input(&input);
    let large = Drv::new("large").script("head -c 30000000 /dev/urandom >$out");
    let endless = Drv::new("endless").script("sleep 1000");
    let queued = Drv::new("queued").script("sleep 1000; : queued");
    let result = derivations(&head, &[&quick, &large, &endless, &queued]);
    // The input is made here.
    head.client().no_offload().max_jobs(1).build(&[&input]).succeeded();
    let host_key = b1.entry();
    head.write_machines(&[host_key
        .set("overload_threshold", false)
        .set("parallel_builds", 1)
        .set("connect_timeout", 30)
        .via(&proxy)]);

    let mut service = Program::start(&head, "service", &["/etc/guix/machines.lua"]);
    let mut times = Vec::new();
    let mut cancel = |service: &mut Program, name: &str| {
        let begin = Instant::now();
        service.seen.clear();
        service.say(&format!("cancel {}", drv(&result, name)));
        service.wait_for(&format!("{name}.drv: cancelled"));
        times.push((name.to_owned(), begin.elapsed()));
    };
    let build = |service: &mut Program, name: &str| service.say(&format!("build {}", drv(&result, name)));

    // While it connects: nobody answers the probe, or the contact of a machine that was well a moment ago.
    proxy.say_nothing();
    let unknown = Availability::Unknown { after_failure: false };
    for record in [unknown, Availability::Fresh] {
        if record == Availability::Fresh {
            head.mark_healthy(proxy.name());
        }
        let before = proxy.connections();
        build(&mut service, "quick");
        wait_until("it connects", LONG, || proxy.connections() > before);
        // A contact is recorded once it is slow.
        let is_recorded = || matches!(head.availability_of(proxy.name()), Availability::Probing { .. });
        wait_until("the contact is recorded", LONG, is_recorded);
        cancel(&mut service, "quick");
        wait_until("the machine has not failed", LONG, || head.availability_of(proxy.name()) == record);
    }
    proxy.pass();

    // While it sends: the link stands still.
    proxy.freeze_after(lab::Direction::ToTarget, 5_000_000);
    build(&mut service, "quick");
    wait_until("it sends", LONG, || proxy.passed(lab::Direction::ToTarget) > 4_000_000);
    cancel(&mut service, "quick");
    head.await_no_lock("after a cancelled upload");
    proxy.forget_faults();

    // While it builds, and while another one waits for the slot.
    build(&mut service, "endless");
    service.wait_for("endless.drv: building on b2");
    build(&mut service, "queued");
    wait_until("it waits in the queue", LONG, || !head.waiting_since().is_empty());
    cancel(&mut service, "queued");
    cancel(&mut service, "endless");
    wait_until("the build has ended on the machine", LONG, || !b1.is_building());
    head.await_no_lock("after a cancelled build");

    // While it fetches.
    proxy.freeze_after(lab::Direction::FromTarget, 5_000_000);
    build(&mut service, "large");
    wait_until("it fetches", LONG, || head.strays().iter().any(|name| name.ends_with(".chroot")));
    cancel(&mut service, "large");
    head.await_no_lock("after a cancelled download");
    assert_nothing_left(&head);
    proxy.forget_faults();

    // A cancellation does not count as a failure of the machine or of the derivation.
    build(&mut service, "quick");
    let said = service.finish().0.join("\n");
    assert!(said.contains("quick.drv: built on b2"), "{said}");
    println!("cancelled after {times:?}");
    assert_nothing_left(&head);
}

/// The daemon's `guix authenticate` for one connection serves several builds.
#[test]
fn a_service_keeps_its_connection_for_imports() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().start();
    let drvs = ["one", "two", "three"].map(|name| Drv::new(name).script("echo $name >$out"));
    let result = derivations(&head, &drvs.each_ref());
    head.write_machines(&[b1.entry().set("overload_threshold", false)]);
    let mut service = Program::start(&head, "service", &["/etc/guix/machines.lua"]);
    let mut build = |name: &str| {
        service.say(&format!("build {}", drv(&result, name)));
        service.wait_for(&format!("{name}.drv: built on b1"));
        assert!(head.path_info(result.output(name)).is_some(), "{name} is not valid");
    };
    let authenticating = || -> Vec<u32> {
        let processes = head.processes();
        processes.iter().filter(|process| process.command.contains("authenticate")).map(|process| process.pid).collect()
    };
    build("one");
    let first = authenticating();
    assert_eq!(first.len(), 1, "{:?}", head.processes());
    build("two");
    assert_eq!(authenticating(), first);
    // A connection that the daemon has closed is replaced.
    head.stop_daemon();
    wait_until("no process of the daemon is left", LONG, || authenticating().is_empty());
    head.start_daemon();
    build("three");
    service.finish();
    assert_nothing_left(&head);
}

/// A trivial build over an open session, by the service and by the hook.
#[test]
#[ignore = "a measurement"]
fn throughput_of_a_service() {
    const ROUNDS: usize = 25;
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().start();
    head.write_machines(&[b1.entry().set("overload_threshold", false).set("keep_connection", 600)]);
    let mut direct = head.direct();
    let mut service = Program::start(&head, "service", &["/etc/guix/machines.lua"]);
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..=ROUNDS {
        let hook = direct.make(&Drv::new(&format!("hook-{round}"))).path;
        let time = [direct.build_paths(&[hook]).unwrap(), {
            let drv = direct.make(&Drv::new(&format!("service-{round}"))).path;
            let begin = Instant::now();
            service.say(&format!("build {drv}"));
            service.wait_for(&format!("{drv}: built on"));
            begin.elapsed()
        }];
        // The first ones log in.
        if round > 0 {
            times.iter_mut().zip(time).for_each(|(times, time)| times.push(time));
        }
    }
    service.finish();
    for (who, times) in ["hook", "service"].iter().zip(&mut times) {
        times.sort();
        println!("{who}: median {:?}, {:?} to {:?}", times[ROUNDS / 2], times[0], times[ROUNDS - 1]);
    }
}
