//! `score = offload.soonest` with real daemons: the history decides where builds go, large inputs keep them on one machine,
//! and tiny builds stay at the head.

mod lab;

use std::time::Instant;

use lab::{Drv, Host, Lab};
use offload::internals::state::StateDirectory;
use offload::internals::state::history::{History, Outcome, Row};
use serde_json::Value;

/// Records earlier builds of a name on a machine: seconds, and whether the link was slow.
fn record(head: &Host, name: &str, machine: &str, seconds: f64, is_slow: bool) {
    let derivation = format!("/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-{name}.drv");
    let row = Row::new(&derivation, "x86_64-linux", Outcome::Built, 1);
    let machine = Some(format!("{machine}:2022"));
    let row = Row { machine, attempt: 1, sending: 100, building: (seconds * 1000.0) as u64, retrieving: 50, ..row };
    let slow = Row { sending: 60_000, sent_bytes: 60 << 20, ..row.clone() };
    let rows = [row.clone(), row, slow];
    history(head).append(&rows[..if is_slow { 3 } else { 2 }]);
}

fn history(head: &Host) -> History {
    History::of(&StateDirectory::new(head.path("/var/guix/offload")))
}

fn machine_file(machines: [&Host; 2], head: &str) -> String {
    // The file calls the first one much faster.
    let [b1, b2] = [machines[0].entry().set("speed", 4.0), machines[1].entry()];
    let [b1, b2] = [b1, b2].map(|entry| entry.set("overload_threshold", false).lua());
    format!("local offload = require 'offload'\nreturn {{ {b1}, {b2}, {head} score = offload.soonest }}")
}

fn explain(head: &Host, derivation: &str) -> (Value, String) {
    let run = |arguments: &[&str]| {
        let output =
            head.command("/opt/offload/offload").args(["explain", derivation]).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    (serde_json::from_str(&run(&["--json"])).unwrap(), run(&[]))
}

/// Returns the derivation in the head's store, where nobody builds it.
fn instantiate(head: &Host, drv: &Drv) -> String {
    let failed = head.client().max_jobs(0).no_offload().build(&[drv]);
    failed.derivation(drv.name()).to_str().unwrap().to_owned()
}

/// Returns what `explain` says about a machine.
fn of<'a>(json: &'a Value, name: &str) -> &'a Value {
    let mut machines = json["machines"].as_array().unwrap().iter();
    machines.find(|machine| machine["name"] == name).unwrap()
}

/// The machine that is expected to respond first would win a race on a busy host, so builds that prepare a case have one
/// machine only.
#[test]
fn the_history_steers_builds_and_large_inputs_hold_them() {
    let lab = Lab::new();
    let (b1, b2) = (lab.build_machine("b1").start(), lab.build_machine("b2").start());
    let head = lab.head().start();
    let both = machine_file([&b1, &b2], "");
    let only_b2 = both.replace("score =", "accepts = function(_, machine) return machine.name == 'b2' end, score =");
    for (machine, seconds) in [("b1", 300.0), ("b2", 2.0)] {
        record(&head, "steered-1.0", machine, seconds, true);
    }
    history(&head).collect();

    // Another version counts, too; the output has 40 MB.
    let steered = Drv::new("steered-1.1").script("head -c 40000000 /dev/zero >$out");
    head.write_machine_file(&both);
    let (json, _) = explain(&head, &instantiate(&head, &steered));
    assert_eq!((&json["machine"], &json["request"]["expected_seconds"]), (&"b2".into(), &151.0.into()), "{json}");
    head.write_machine_file(&only_b2);
    head.build(&[&steered]).succeeded();

    // A build that needs it stays there, because sending it to `b1` would take longer than building there saves.
    record(&head, "next", "b1", 1.0, false);
    record(&head, "next", "b2", 5.0, false);
    let next = Drv::new("next").input(&steered).script("echo >$out");
    head.write_machine_file(&both);
    let (json, text) = explain(&head, &instantiate(&head, &next));
    assert!(json["request"]["input_bytes"].as_u64().unwrap() > 40_000_000, "{json}");
    let part = |machine: &str, part: &str| of(&json, machine)["estimate"][part].as_f64().unwrap();
    assert!(part("b1", "sending") > 30.0 && part("b2", "sending") < 10.0, "{json}");
    assert!(part("b1", "building") < part("b2", "building") && json["machine"] == "b2", "{json}");
    assert!(text.contains(" s to send, ") && text.contains(" s to build"), "{text}");
}

fn part_of(json: &Value, part: &str) -> f64 {
    of(json, "b2")["estimate"][part].as_f64().unwrap()
}

#[test]
fn tiny_builds_stay_at_the_head() {
    let lab = Lab::new();
    let (b1, b2) = (lab.build_machine("b1").start(), lab.build_machine("b2").start());
    let head = lab.head().max_jobs(2).start();
    head.write_machine_file(&machine_file([&b1, &b2], "local_machine { speed = 1, overload_threshold = false },"));
    for machine in ["b1", "b2"] {
        record(&head, "tiny", machine, 0.02, false);
        record(&head, "long", machine, 900.0, false);
    }
    head.build(&[&Drv::new("tiny-1").script("echo >$out"), &Drv::new("tiny-2").script("echo >$out")]).succeeded();
    assert_eq!((b1.built().len(), b2.built().len()), (0, 0));
    // It is expected to take longer at the head, by the speeds of the file.
    let (json, text) = explain(&head, &instantiate(&head, &Drv::new("long-1")));
    assert!(json["machine"] == "b1" || json["machine"] == "b2", "{json}");
    assert!(json["head_estimate"]["seconds"].as_f64().unwrap() > part_of(&json, "seconds"), "{json}");
    assert!(text.contains("the head itself  score -") && text.contains(" min to build"), "{text}");

    if std::env::var_os("OFFLOAD_CAMPAIGN").is_none() {
        return;
    }
    let many = |kind: &str| -> Vec<Drv> {
        (0..200).map(|number| Drv::new(&format!("tiny-{kind}{number}")).script("echo >$out")).collect()
    };
    let [local, offered] = ["l", "o"].map(many).map(|drvs| {
        let is_local = drvs[0].name().starts_with("tiny-l");
        let client = if is_local { head.client().no_offload() } else { head.client() };
        let start = Instant::now();
        client.build(&drvs.iter().collect::<Vec<_>>()).succeeded();
        start.elapsed()
    });
    println!("200 tiny builds: {local:?} locally, {offered:?} with offload.soonest");
    assert!(offered <= local.mul_f64(1.05), "{offered:?} {local:?}");
}
