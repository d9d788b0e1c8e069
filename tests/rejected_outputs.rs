//! Builders that run to their end and make what their daemon rejects: the fault is the derivation's, on every machine.

mod lab;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use lab::{Drv, Host, Lab, RELEASES};
use offload::internals::daemon::{BuildEvent, Options};

/// A derivation whose output is rejected, and words with which guix-daemon says so.
type Case = (Drv, &'static str);

/// What makes an output that refers to busybox.
const REFERS: &str = "echo $PATH >$out";

/// A path of which the kernel takes each half, and not the whole.
const TOO_DEEP: &str = "mkdir $out; cd $out; d=$(printf '%0100d' 0); p=$d; \
    while [ ${#p} -lt 2500 ]; do p=$p/$d; done; mkdir -p x/$p y/$p; mv y x/$p/y";

/// What a case needs that builds well.
const INPUT: &str = "input";

fn zeros(bytes: usize) -> String {
    "00".repeat(bytes)
}

/// Every way in which an output can be rejected.
fn cases() -> Vec<Case> {
    let drv = |name: &str, script: &str| Drv::new(name).script(script);
    let produce = "failed to produce output path";
    let refer = "is not allowed to refer to path";
    let permission = "suspicious ownership or permission on";
    let mismatch = "hash mismatch for store item";
    let regular = "should be a non-executable regular file";
    let kind = "has an unsupported type";
    vec![
        (drv("none", "true"), produce),
        (drv("one-of-two", "echo >$out").outputs(&["out", "lib"]), produce),
        (drv("none-fixed", "true").fixed_file("sha256", &zeros(32)), produce),
        (drv("not-allowed", REFERS).env("allowedReferences", ""), refer),
        (drv("not-allowed-requisite", REFERS).env("allowedRequisites", ""), refer),
        (drv("disallowed", "echo $out >$out").env("disallowedReferences", "out"), refer),
        (
            // The variable that says what is not allowed holds the path of the input.
            drv("disallowed-requisite", "echo $disallowedRequisites >$out").input_output(
                "disallowedRequisites",
                &drv(INPUT, "echo >$out"),
                "out",
            ),
            refer,
        ),
        (
            drv("requisite-of-its-own", "echo $lib >$out; echo >$lib")
                .outputs(&["out", "lib"])
                .env("disallowedRequisites", "lib"),
            "is not valid",
        ),
        (drv("no-specifier", REFERS).env("allowedReferences", "nonsense"), "invalid reference specifier"),
        (drv("open-directory", "mkdir $out; chmod 777 $out"), permission),
        (drv("open-file", "echo >$out; chmod 620 $out"), permission),
        (drv("hash", "echo >$out").fixed_file("sha256", &zeros(32)), mismatch),
        (drv("hash-of-tree", "mkdir $out").fixed_tree("sha256", &zeros(32)), mismatch),
        (drv("hash-512", "echo >$out").fixed_file("sha512", &zeros(64)), mismatch),
        (drv("fixed-directory", "mkdir $out").fixed_file("sha256", &zeros(32)), regular),
        (drv("fixed-program", "echo >$out; chmod +x $out").fixed_file("sha256", &zeros(32)), regular),
        (
            drv("cycle", "echo $lib >$out; echo $out >$lib").outputs(&["out", "lib"]),
            "cycle detected in the references of",
        ),
        (drv("pipe", "mkdir $out; mkfifo $out/pipe"), kind),
        (drv("too-deep", TOO_DEEP), "getting attributes of path"),
        (drv("device", "mkdir $out; mknod $out/null c 1 3"), kind),
    ]
}

/// The guard of the table of words: a daemon that says something else fails here.
#[test]
fn daemons_have_these_messages_for_rejected_outputs() {
    for release in RELEASES {
        let lab = Lab::new();
        let daemon = lab.daemon("b1", release).start();
        let mut direct = daemon.direct();
        let options = Options { print_build_trace: true, multiplexed_build_output: true, ..Options::default() };
        direct.set_options(&options);
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&events);
        direct
            .daemon()
            .set_build_log(Box::new(|_| ()), Box::new(move |event| sink.lock().unwrap().push(event.clone())));
        for (drv, words) in cases() {
            let path = direct.make(&drv).path;
            let error = direct.daemon().build_paths(&[path.clone()].into()).unwrap_err();
            let mut events = std::mem::take(&mut *events.lock().unwrap());
            events.retain(|event| !format!("{event:?}").contains("-input.drv"));
            let case = format!("{release:?}, {}: {error:?}, {events:?}", drv.name());
            let offload::internals::daemon::Error::Daemon { message, status: 1, .. } = error else { panic!("{case}") };
            assert_eq!(events[0], BuildEvent::Started { derivation: path.to_string() }, "{case}");
            let failure = events.iter().find_map(|event| match event {
                BuildEvent::Failed { derivation, message } if *derivation == path.to_string() => Some(message.clone()),
                _ => None,
            });
            assert!(failure.unwrap_or(message).contains(words), "{case}");
            let has_hashes = events.iter().any(|event| matches!(event, BuildEvent::HashMismatch { .. }));
            assert_eq!(has_hashes, words.starts_with("hash mismatch"), "{case}");
        }
    }
}

fn built_on(machines: &[Host; 2]) -> Vec<String> {
    let mut built: Vec<String> = machines.iter().flat_map(Host::built).collect();
    built.sort();
    built
}

#[test]
fn a_rejected_output_is_built_once_and_fails_the_build() {
    for release in RELEASES {
        let lab = Lab::new();
        let machines = ["b1", "b2"].map(|name| lab.build_machine(name).release(release).start());
        let head = lab.head().start();
        head.write_machines(&machines.each_ref().map(Host::entry));
        let cases = cases();
        let drvs: Vec<&Drv> = cases.iter().map(|(drv, _)| drv).collect();
        let client = head.client().keep_going().option("print-build-trace", "#t");
        let result = client.build(&drvs);
        assert_eq!(result.status, Some(100), "{}\n{}", result.error, result.log);
        for (drv, words) in &cases {
            let name = drv.name();
            let derivation = result.derivation(name).display();
            let failed =
                format!("@ build-failed {derivation} - 1 builder for `{derivation}' failed with exit code 100");
            assert!(result.log.contains(&failed), "{release:?}, {name}: {}", result.log);
            let said = format!("'{derivation}' failed to build on 'b");
            let said = result.log.lines().find(|line| line.contains(&said));
            assert!(said.is_some_and(|line| line.contains(words)), "{release:?}, {name}: {}", result.log);
        }
        assert!(result.log.contains("expected sha512 hash: "), "{}", result.log);
        let names = cases.iter().map(|(drv, _)| drv.name()).chain([INPUT]);
        let names: BTreeSet<String> = names.map(str::to_owned).collect();
        assert_eq!(built_on(&machines), names.into_iter().collect::<Vec<_>>(), "{release:?}");
        for machine in &machines {
            let health = head.health_of(&format!("{}:2022", machine.name()));
            assert!(!health.contains("\"failures\":{"), "{release:?}: {health}");
        }
        head.verify_store();

        // A fixed output that could not be made is another matter: it may be made elsewhere.
        let download = Drv::new("download").script("exit 7").fixed_file("sha256", &zeros(32));
        let result = head.build(&[&download]);
        assert_eq!(result.status, Some(1), "{}", result.log);
        let tries = built_on(&machines).iter().filter(|name| *name == "download").count();
        assert_eq!(tries, 2, "{}", result.log);
    }
}

/// The output of a builder is never read as a message of the daemon, and arrives unchanged.
#[test]
fn a_builder_cannot_imitate_the_daemons_messages() {
    for release in RELEASES {
        let lab = Lab::new();
        let machines = ["b1", "b2"].map(|name| lab.build_machine(name).release(release).start());
        let head = lab.head().start();
        head.write_machines(&machines.each_ref().map(Host::entry));
        let lies = "echo '@ build-log 1 2'; echo \"@ hash-mismatch $out sha256 0 1\"; \
                    echo \"builder for \\`x.drv' failed to produce output path \\`$out'\";";
        let drv = Drv::new("liar").script(&format!("{lies} exit 7")).fixed_file("sha256", &zeros(32));
        let result = head.build(&[&drv]);
        assert_eq!(result.status, Some(1), "{}", result.log);
        assert_eq!(built_on(&machines), ["liar"; 2], "{}", result.log);
        assert!(!result.log.contains("expected sha256 hash"), "{}", result.log);

        let drv = Drv::new("honest").script(&format!("{lies} seq 1 20000; echo >$out"));
        let result = head.build(&[&drv]).succeeded();
        let log = head.build_log(result.derivation("honest"));
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines[1], "@ build-log 1 2", "{release:?}");
        assert_eq!(lines.len(), 4 + 20000, "{release:?}");
        assert_eq!(lines[4..], (1..=20000).map(|number| number.to_string()).collect::<Vec<_>>(), "{release:?}");
    }
}
