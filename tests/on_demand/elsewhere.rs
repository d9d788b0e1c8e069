//! A build that waits for a machine goes elsewhere if that machine cannot be started. Several machines stop side by side,
//! and neither a head that stands still nor a clock that jumps stops or keeps the wrong machine.

use std::sync::Arc;
use std::time::Duration;

use offload::internals::machine::Machine;
use offload::internals::state::{Phase, PowerRecord, StateDirectory, health};

use crate::lab::{Drv, Host, LONG, Lab, SYSTEM, Signal, wait_until};
use crate::{SWITCHES, Switch, on_demand, power};

fn record(head: &Host, name: &str, port: u16) -> PowerRecord {
    let mut machine = Machine::new(name, "root", vec![SYSTEM.to_owned()], Vec::new());
    machine.port = port;
    PowerRecord::of(&StateDirectory::new(head.path("/var/guix/offload")), &machine).unwrap()
}

#[test]
fn a_waiting_build_goes_to_another_machine_when_a_start_fails() {
    let lab = Lab::new();
    let [b1, b2] = ["b1", "b2"].map(|name| lab.build_machine(name).start());
    let head = lab.head().start();
    let text = b1.entry().set("speed", 2.0).lua();
    let fields = text.strip_suffix('}').unwrap();
    let failing = format!(
        "{fields} on_demand = {{ start = {{ '/bin/sh', '-c', 'touch /var/tried; exit 4' }}, stop = {{ 'true' }}, \
         start_after = 0 }} }}"
    );
    b1.stop_sshd();
    let second = b2.entry().set("parallel_builds", 1.0).lua();
    head.write_machine_file(&format!("return {{ {second} }}"));
    let long = Drv::new("long").script("until [ -e /tmp/go ]; do sleep 0.1; done; echo x >$out");
    let busy = head.client().max_jobs(0).start(&[&long]);
    wait_until("b2 is busy", LONG, || !b2.builds().is_empty());
    head.write_machine_file(&format!("return {{ {failing}, {second} }}"));
    let mut build = head.client().max_jobs(0).start(&[&Drv::new("x").script("echo x >$out")]);
    let port = b1.ssh_address().port();
    let begin = std::time::Instant::now();
    wait_until("the start has failed", LONG, || {
        assert!(!build.is_done() && begin.elapsed() < LONG / 2, "{}", build.log());
        power(&head, "b1", port).failures == 1
    });
    assert!(head.path("/var/tried").exists());
    b2.write("/tmp/go", "");
    build.wait().succeeded();
    busy.wait().succeeded();
    assert_eq!((b1.builds().len(), b2.builds().len()), (0, 2));
    // No other machine: the daemon has no way to build what the hook has accepted. The build fails with the cause, and the
    // next one is built by the head.
    head.run("rm", &["-r", &format!("/var/guix/offload/b1:{port}")]);
    head.write_machine_file(&format!("return {{ {failing}, wait_for_machine = 1 }}"));
    let failed = head.client().max_jobs(1).build(&[&Drv::new("y").script("echo y >$out")]);
    assert!(failed.status != Some(0) && failed.log.contains("its last start failed"), "{}", failed.log);
    head.client().max_jobs(1).build(&[&Drv::new("y").script("echo y >$out")]).succeeded();
}

#[test]
fn stops_run_side_by_side_and_clocks_may_jump() {
    let lab = Lab::new();
    let head = lab.head().start();
    // Nothing listens there. Each stop waits until the other one runs.
    let entry = |number: u32| {
        let stop = format!(
            "touch /var/stop-{number}; for i in 1 2 3 4 5 6 7 8 9; do [ -e /var/stop-{} ] && exit; sleep 1; done; exit 1",
            3 - number
        );
        format!(
            "build_machine {{ name = '127.0.0.1', port = {number}, user = 'x', systems = {{ '{SYSTEM}' }}, \
             host_key = '{}', on_demand = {{ start = {{ 'true' }}, stop = {{ '/bin/sh', '-c', '{stop}' }}, idle = 3600 }} }}",
            lab.stranger_host_key()
        )
    };
    head.write_machine_file(&format!("return {{ {}, {} }}", entry(1), entry(2)));
    let records = [1, 2].map(|number| record(&head, "127.0.0.1", number));
    let now = health::now();
    let hours = |count: u64| count * 3_600_000;
    let reap = || {
        let said = head.offload(&["reap"]);
        assert_eq!(said.status, Some(0), "{said:?}");
        records.each_ref().map(|record| record.read().phase)
    };
    // The clock was an hour ahead when the machines were started, and was set back: the idle time begins now.
    for record in &records {
        record
            .change(|power| {
                power.starting(now + hours(1));
                power.running(now + hours(1));
            })
            .unwrap();
    }
    assert_eq!(reap(), [Phase::Running; 2]);
    for record in &records {
        let power = record.read();
        assert!((now..=health::now()).contains(&power.used) && power.started <= health::now(), "{power:?}");
    }
    // The clock jumps ahead, as after a night of suspension: both were idle for long.
    for record in &records {
        record.change(|power| (power.used, power.started) = (now - hours(9), now - hours(10))).unwrap();
    }
    assert_eq!(reap(), [Phase::Off; 2]);
}

#[test]
fn a_head_that_stands_still_during_a_start_goes_on() {
    let lab = Lab::new();
    let b1 = Arc::new(lab.build_machine("b1").start());
    let head = lab.head().start();
    let switch = Switch::of(&b1, &head, Duration::from_secs(1));
    head.write_machine_file(&format!("return {{ {} }}", on_demand(&b1.entry(), "b1", "idle = 3600")));
    let build = head.client().max_jobs(0).start(&[&Drv::new("x").script("echo x >$out")]);
    let starter = || head.processes().into_iter().find(|process| process.command.contains("start --machine-file"));
    wait_until("it is started", LONG, || !switch.uses().is_empty() && starter().is_some());
    let starter = starter().unwrap();
    starter.signal(Signal::STOP);
    let port = b1.ssh_address().port();
    // The start is an hour old by the clock, as after a suspension.
    record(&head, "b1", port).change(|power| power.started -= 3_600_000).unwrap();
    let reap = head.offload(&["reap"]);
    assert_eq!((reap.status, switch.uses().len()), (Some(0), 1), "{reap:?}");
    let stop = head.offload(&["stop", "b1"]);
    assert!(stop.status == Some(1) && stop.messages.contains("another process starts or stops it"), "{stop:?}");
    starter.signal(Signal::CONT);
    let built = build.wait().succeeded();
    assert!(built.log.contains("being started"), "{}", built.log);
    // A machine that still responds after `stop` gets no builds, and the next reaper tries again.
    let entry = on_demand(&b1.entry(), "b1", "idle = 0");
    let stop = entry.split_once("stop = {").unwrap().1.split_once('}').unwrap().0;
    let useless = entry.replace(stop, " 'true' ").replace("stop_timeout = 20", "stop_timeout = 1");
    head.write_machine_file(&format!("return {{ {useless} }}"));
    let stop = head.offload(&["stop", "b1"]);
    assert!(stop.status == Some(1) && stop.messages.contains("it still responds 1 s after `stop`"), "{stop:?}");
    assert_eq!(power(&head, "b1", port).phase, Phase::Stopping);
    head.write_machine_file(&format!("return {{ {entry} }}"));
    wait_until("the idle machine is stopped", LONG, || {
        head.offload(&["reap"]);
        power(&head, "b1", port).phase == Phase::Off
    });
    assert_eq!(switch.uses(), ["start", "stop"], "{SWITCHES}");
}
