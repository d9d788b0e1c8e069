//! `on_event` of the machine file with real hooks: each event once, whichever process has it. No hook and no client
//! waits for the function.

mod lab;

use lab::{Drv, Host, LONG, Lab, wait_until};
use offload::internals::state::{Outbox, StateDirectory};
use serde_json::Value;

/// Writes each event into a file. Waits first if that of `slow` fails; fails for `bad`.
const ON_EVENT: &str = r#"
  limits = { on_event = 300 },
  on_event = function(event)
    if event.name == "bad" then error "this is broken" end
    if event.name == "slow" and event.type == "build_failed" then
      offload.exec({ "/bin/sh", "-c", "until [ -e /tmp/go ]; do sleep 0.1; done" }, { timeout = 300 })
    end
    local copy = {}
    for name, value in pairs(event) do copy[name] = value end
    local file = assert(io.open("/tmp/events", "a"))
    file:write(offload.json.encode(copy), "\n")
    file:close()
  end,"#;

/// Returns the events in the file.
fn events(head: &Host) -> Vec<Value> {
    let text = std::fs::read_to_string(head.path("/tmp/events")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn kinds(head: &Host) -> Vec<String> {
    events(head).iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn each_event_is_passed_on_once_and_no_client_waits_for_it() {
    let lab = Lab::new();
    let (b1, b2) = (lab.build_machine("b1").start(), lab.build_machine("b2").start());
    let head = lab.head().start();
    let [first, second] = [b1.entry().set("speed", 9.0), b2.entry()];
    let [first, second] = [first, second].map(|entry| entry.set("overload_threshold", false).lua());
    head.write_machine_file(&format!("local offload = require 'offload'\nreturn {{ {first}, {second}, {ON_EVENT} }}"));
    assert_eq!(head.offload(&["eval", "--json"]).status, Some(0));
    head.mark_healthy("b1");
    head.mark_healthy("b2");

    // The machine is dead when the build comes; the other one builds.
    b1.stop_sshd();
    head.client().max_jobs(0).build(&[&Drv::new("moved").script("echo >$out")]).succeeded();
    assert_eq!(b2.built(), ["moved"]);
    wait_until("the machine is down", LONG, || kinds(&head).contains(&"machine_down".to_owned()));
    let down = events(&head).into_iter().find(|event| event["type"] == "machine_down").unwrap();
    assert!(down["machine"].as_str().unwrap().starts_with("b1:"), "{down}");
    assert!(down["reason"].as_str().is_some_and(|reason| !reason.is_empty()) && down["time"].is_number(), "{down}");

    // A command finds that it is up again.
    b1.start_sshd();
    assert_eq!(head.offload(&["test", "b1"]).status, Some(0));
    wait_until("the machine is up", LONG, || kinds(&head).contains(&"machine_up".to_owned()));

    // The hook and its client end while the function waits; a later event waits for its turn.
    let failed = head.client().max_jobs(0).build(&[&Drv::new("slow").script("exit 3")]);
    assert_eq!(failed.status, Some(100), "{}", failed.log);
    let outbox = Outbox::of(&StateDirectory::new(head.path("/var/guix/offload")));
    wait_until("the function runs", LONG, || outbox.try_lock().unwrap().is_none());
    let failed = head.client().max_jobs(0).build(&[&Drv::new("quick").script("exit 4")]);
    assert_eq!(failed.status, Some(100), "{}", failed.log);
    assert!(!kinds(&head).contains(&"build_failed".to_owned()));
    head.write("/tmp/go", "");
    wait_until("both failures", LONG, || kinds(&head).iter().filter(|kind| *kind == "build_failed").count() == 2);
    let names: Vec<Value> = events(&head).into_iter().filter(|event| event["type"] == "build_failed").collect();
    assert_eq!((&names[0]["name"], &names[1]["name"]), (&"slow".into(), &"quick".into()));
    assert_eq!(names[1]["attempt"], 1, "{}", names[1]);
    assert!(names[1]["derivation"].as_str().unwrap().ends_with("-quick.drv"), "{}", names[1]);

    // An error is reported once, by a later hook, and harms nothing.
    let failed = head.client().max_jobs(0).build(&[&Drv::new("bad").script("exit 5")]);
    assert_eq!(failed.status, Some(100), "{}", failed.log);
    let record = head.path("/var/guix/offload/events.json");
    wait_until("the error is recorded", LONG, || std::fs::read_to_string(&record).unwrap().contains("broken"));
    let reported = |name: &str| {
        let built = head.client().max_jobs(0).build(&[&Drv::new(name).script("echo >$out")]).succeeded();
        built.error.contains("on_event: this is broken") || built.log.contains("on_event: this is broken")
    };
    assert_eq!((reported("after-1"), reported("after-2")), (true, false));
    let count = |kind: &str| kinds(&head).iter().filter(|known| *known == kind).count();
    assert_eq!([count("machine_down"), count("machine_up"), count("build_failed")], [1, 1, 2], "{:?}", events(&head));
    head.await_no_lock("afterwards");
}
