//! Builds that fail, machines that cannot be used: what the client sees, and what stays behind.

mod lab;

use std::time::Duration;

use lab::{Drv, Host, LONG, Lab, wait_until};
use rustix::process::Signal;

fn pool() -> (Lab, Host, Host) {
    let lab = Lab::with_substitutes();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().start();
    head.write_machines(&[b1.entry().set("overload_threshold", false)]);
    (lab, b1, head)
}

#[test]
fn a_failed_builder_fails_the_build() {
    let (_lab, b1, head) = pool();
    let drv = Drv::new("failing").script("echo out of luck; exit 3");
    let result = head.build(&[&drv]);
    assert_eq!(result.status, Some(100), "{}\n{}", result.error, result.log);
    assert!(head.build_log(result.derivation("failing")).contains("out of luck"));
    assert!(result.log.contains("b1"), "{}", result.log);
    assert!(head.path_info(result.output("failing")).is_none());
    assert_eq!(b1.built(), ["failing"]);
    head.await_no_lock("afterwards");
    head.verify_store();
}

#[test]
fn the_end_of_a_long_log_is_complete() {
    let (_lab, _b1, head) = pool();
    // 1 MiB in the last instant.
    let drv = Drv::new("wordy")
        .script("head -c 786432 /dev/urandom | base64 -w 0 | head -c 1048576; echo; echo THE END; echo x >$out");
    let result = head.build(&[&drv]).succeeded();
    let log = head.build_log(result.derivation("wordy"));
    assert!(log.len() > 1 << 20, "{} bytes", log.len());
    assert!(log.trim_end().ends_with("THE END"), "{}", &log[log.len().saturating_sub(300)..]);
}

#[test]
fn a_build_that_exceeds_the_timeout_is_ended() {
    let (_lab, b1, head) = pool();
    let drv = Drv::new("slow").script("while true; do echo still here; sleep 0.2; done");
    // Enough for the build to have begun: guix-daemon does not find a builder to kill that it is just starting.
    let result = head.client().timeout(5).build(&[&drv]);
    assert_eq!(result.status, Some(101), "{}\n{}", result.error, result.log);
    wait_until("the build is gone", LONG, || !b1.is_building());
    head.await_no_lock("afterwards");
}

/// As systemd ends the processes of a unit.
#[test]
fn a_hook_that_gets_sigterm_cancels_its_build() {
    let (lab, b1, head) = pool();
    let link = lab.proxy("link", b1.ssh_address());
    head.write_machines(&[b1.entry().set("overload_threshold", false).via(&link)]);
    let terminate_hook = || {
        let is_hook = |process: &lab::Process| {
            process.name != "offload-session" && process.command.split(' ').nth(1) == Some("offload")
        };
        let hooks: Vec<_> = head.processes().into_iter().filter(is_hook).collect();
        let [hook] = &hooks[..] else { panic!("not one hook: {hooks:?}") };
        hook.signal(Signal::TERM);
    };
    // While the machine builds, and while an output comes back over a link that stands still.
    let endless = Drv::new("endless").script("echo here we are; sleep 1000");
    let large = Drv::new("large").script("head -c 30000000 /dev/urandom >$out");
    for drv in [endless, large] {
        link.freeze_after(lab::Direction::FromTarget, 5_000_000);
        let (name, mut build) = (drv.name(), head.client().start(&[&drv]));
        if name == "large" {
            wait_until("an output comes back", LONG, || {
                head.strays().iter().any(|name| name.ends_with("-large.chroot"))
            });
        } else {
            build.wait_for_log("here we are");
        }
        terminate_hook();
        let result = build.wait();
        assert_ne!(result.status, Some(0), "{}", result.log);
        assert!(result.log.contains("the build is cancelled, because of a signal"), "{}", result.log);
        wait_until("the build is gone", LONG, || !b1.is_building());
        head.await_no_lock(name);
        // The lock files are guix-daemon's.
        let strays: Vec<String> = head.strays().into_iter().filter(|name| !name.ends_with(".lock")).collect();
        assert_eq!(strays, [""; 0], "{name}");
    }
    // The machine has not failed.
    link.forget_faults();
    head.build(&[&Drv::new("next")]).succeeded();
    assert_eq!(b1.built().last().map(String::as_str), Some("next"));
}

#[test]
fn a_silent_builder_is_ended_after_the_limit() {
    let (_lab, b1, head) = pool();
    let drv = Drv::new("silent").script("sleep 1000");
    let result = head.client().max_silent_time(2).build(&[&drv]);
    assert_eq!(result.status, Some(101), "{}\n{}", result.error, result.log);
    wait_until("the build is gone", LONG, || !b1.is_building());
    head.await_no_lock("afterwards");
}

#[test]
fn an_interrupted_client_ends_the_build() {
    let (_lab, b1, head) = pool();
    for (name, signal) in [("interrupted", Signal::INT), ("killed", Signal::KILL)] {
        let drv = Drv::new(name).script("echo running; sleep 1000");
        let mut build = head.client().start(&[&drv]);
        build.wait_for_log("running");
        assert!(b1.is_building());
        build.interrupt(signal);
        wait_until("the build is gone", LONG, || !b1.is_building());
        head.await_no_lock("afterwards");
    }
    head.verify_store();
}

#[test]
fn a_build_that_no_machine_matches_stays_on_the_head() {
    let lab = Lab::with_substitutes();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().max_jobs(2).start();
    head.write_machines(&[b1.entry()]);
    let drv = Drv::new("special").features(&["quantum"]).script("echo here >$out");
    let result = head.client().max_jobs(2).build(&[&drv]).succeeded();
    assert_eq!(head.built(), ["special"]);
    assert!(b1.built().is_empty());
    assert!(result.log.contains("it lacks the feature quantum"), "{}", result.log);
}

/// The store of the better machine is on a file system that has no room for what the build needs. The input
/// comes as a single item, in a signed bundle, or in a bundle over a link with latency, which a program on the machine
/// imports.
#[test]
fn a_full_disk_during_an_import_moves_the_build() {
    let lab = Lab::with_substitutes();
    let (small, other) = (lab.build_machine("small").start(), lab.build_machine("other").start());
    small.limit_store(12);
    let link = lab.proxy("link", small.ssh_address());
    let head = lab.head().env("OFFLOAD_LOG", "debug").start();
    let small_entry = small.entry().via(&link).set("speed", 1000).set("minimum_disk_space", 0);

    let large = "head -c 24000000 /dev/urandom";
    head.write_machines(&[other.entry()]);
    let inputs = ["bundled", "streamed"].map(|name| Drv::new(name).script(&format!("{large} >$out")));
    head.build(&inputs.each_ref()).succeeded();
    head.run("sh", &["-c", &format!("{large} >/tmp/large")]);
    head.write_machines(&[small_entry, other.entry()]);
    let builds = [
        Drv::new("of-added").file("data", "/tmp/large"),
        Drv::new("of-bundled").input(&inputs[0]),
        Drv::new("of-streamed").input(&inputs[1]),
    ];
    for (drv, delay) in builds.iter().zip([0, 0, 5]) {
        link.delay(Duration::from_millis(delay));
        head.forget_health();
        head.mark_healthy("link");
        let result = head.build(&[drv]).succeeded();
        let (name, log) = (drv.name(), &result.log);
        let line = log.lines().find(|line| line.contains("could not be built on 'link': sending inputs: "));
        assert!(line.is_some_and(|line| line.contains("No space left on device")), "{name}: {log}");
        assert_eq!(other.built().last().map(String::as_str), Some(name));
        assert_eq!(log.contains("the program on the machine"), delay > 0, "{name}: {log}");
        if name == "of-added" {
            // guix-daemon itself leaves what it was adding, not valid, to its garbage collector.
            assert!(small.strays().iter().all(|stray| stray.contains("-large")), "{:?}", small.strays());
            small.run("guix", &["gc", "--collect-garbage"]);
        }
        assert_eq!((small.strays(), head.strays()), (Vec::new(), Vec::new()), "{name}");
        assert!(head.health_of("link:2022").contains("No space left on device"), "{name}");
        head.await_no_lock("afterwards");
    }
    assert_eq!(small.built(), [""; 0]);
    [&small, &other, &head].into_iter().for_each(Host::verify_store);
}

#[test]
fn builds_wait_while_all_slots_are_taken() {
    let lab = Lab::with_substitutes();
    let b1 = lab.build_machine("b1").max_jobs(1).start();
    let head = lab.head().start();
    head.write_machines(&[b1.entry().set("overload_threshold", false)]);
    let drvs: Vec<Drv> =
        (0..3).map(|number| Drv::new(&format!("queue-{number}")).script("sleep 1; echo >$out")).collect();
    head.build(&drvs.iter().collect::<Vec<_>>()).succeeded();
    assert_eq!(b1.built().len(), 3);
    assert_eq!(lab::max_concurrency(&b1.builds()), 1);
}

/// The daemon asks again about a build that is not accepted, and an accepted one would fail.
#[test]
fn a_build_that_would_wait_too_long_is_not_accepted() {
    let lab = Lab::with_substitutes();
    let b1 = lab.build_machine("b1").max_jobs(1).start();
    let head = lab.head().start();
    let entry = b1.entry().set("overload_threshold", false);
    head.write_machine_file(&format!("return {{ {}, wait_for_slot = 8 }}", entry.lua()));
    let drvs: Vec<Drv> =
        (0..4).map(|number| Drv::new(&format!("queue-{number}")).script("sleep 5; echo >$out")).collect();
    head.build(&drvs.iter().collect::<Vec<_>>()).succeeded();
    assert_eq!(b1.built().len(), 4);

    // So it is where the daemon gives the build less time than the queue would take of it.
    head.write_machines(&[entry]);
    let drvs: Vec<Drv> =
        (0..4).map(|number| Drv::new(&format!("limited-{number}")).script("sleep 5; echo >$out")).collect();
    head.client().timeout(12).start(&drvs.iter().collect::<Vec<_>>()).wait().succeeded();
    assert_eq!(b1.built().len(), 8);
}
