//! `offload test` has each machine build something.

mod lab;

use std::fs;

use lab::{Entry, Host, Lab, RELEASES, SYSTEM};

/// What `offload test` finds in the step `build`: outcome and text, with its remedies.
fn trial_build(head: &Host, entry: Entry) -> (bool, Vec<(String, String)>) {
    head.write_machines(&[entry]);
    let output = head.command("/opt/offload/offload").args(["test", "--json"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let machine = &report["machines"][0];
    let findings = machine["findings"].as_array().unwrap().iter().filter(|finding| finding["step"] == "build");
    let report = |finding: &serde_json::Value| {
        let remedies = finding["remedies"].as_array().unwrap().iter().map(|remedy| remedy["text"].as_str().unwrap());
        let texts = [finding["text"].as_str().unwrap()].into_iter().chain(remedies);
        (finding["outcome"].as_str().unwrap().to_owned(), texts.collect::<Vec<_>>().join("; "))
    };
    (machine["usable"].as_bool().unwrap(), findings.map(report).collect())
}

/// The items that the test has left in the host's store.
fn left(host: &Host) -> Vec<String> {
    let names = fs::read_dir(host.path("/gnu/store")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains("-offload-test")).collect()
}

#[test]
fn a_machine_that_may_build_nothing_does_not_pass() {
    let lab = Lab::new();
    let idle = lab.build_machine("b1").max_jobs(0).start();
    let head = lab.head().start();
    let (usable, findings) = trial_build(&head, idle.entry().set("parallel_builds", 1.0));
    assert!(!usable, "{findings:?}");
    let [(outcome, text)] = &findings[..] else { panic!("{findings:?}") };
    assert_eq!(outcome, "error");
    assert!(text.starts_with("its daemon may build nothing: it was started with '--max-jobs=0'; start"), "{text}");
}

#[test]
fn each_trial_build_is_new_and_garbage_afterwards() {
    let lab = Lab::new();
    let head = lab.head().start();
    for (release, name) in RELEASES.into_iter().zip(["b1", "b2"]) {
        let machine = lab.build_machine(name).release(release).start();
        for round in 1..=2 {
            let (usable, findings) = trial_build(&head, machine.entry());
            assert!(usable, "{findings:?}");
            assert_eq!(findings, [("ok".to_owned(), format!("it builds for {SYSTEM}"))]);
            let outputs = left(&machine).into_iter().filter(|name| name.ends_with("-offload-test-build")).count();
            assert_eq!(outputs, round, "{:?}", left(&machine));
        }
        machine.run("guix", &["gc"]);
        assert_eq!(left(&machine), [""; 0], "{release:?}");
        machine.verify_store();
    }
}

#[test]
fn each_system_type_of_a_machine_is_tried() {
    let lab = Lab::new();
    let machine = lab.build_machine("b1").start();
    let head = lab.head().start();
    let foreign = if SYSTEM == "riscv64-linux" { "aarch64-linux" } else { "riscv64-linux" };

    let (usable, findings) = trial_build(&head, machine.entry().set("systems", [SYSTEM, foreign]));
    assert!(!usable, "{findings:?}");
    let [(error, text), ok] = &findings[..] else { panic!("{findings:?}") };
    assert!(error == "error" && text.starts_with(&format!("{foreign}: ")), "{text}");
    assert!(text.ends_with(&format!("; take '{foreign}' out of 'systems'")), "{text}");
    assert_eq!(*ok, ("ok".to_owned(), format!("it builds for {SYSTEM}")));

    let (usable, findings) = trial_build(&head, machine.entry().set("systems", ["i586-gnu"]));
    assert!(usable, "{findings:?}");
    let text = "not tried for i586-gnu, for which there is no trial builder";
    assert_eq!(findings, [("warning".to_owned(), text.to_owned())]);
}
