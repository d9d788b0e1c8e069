//! Machines on demand: real hooks and daemons, and a switch for the power of each machine. A program on the head writes
//! into the switch; a thread of the test reads there and turns sshd of the machine on and off.

#[path = "../lab/mod.rs"]
mod lab;

mod elsewhere;
mod kills;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use lab::{Drv, Entry, Host, LONG, Lab, SYSTEM, Signal, wait_until};
use offload::internals::machine::{HostKeyKind, Machine};
use offload::internals::state::{Phase, Power, PowerRecord, StateDirectory};

const KEY: HostKeyKind = HostKeyKind::Ed25519;

/// The switches, on the head.
const SWITCHES: &str = "/var/switches";

/// The switch of a machine, which takes `boot` to react.
struct Switch {
    file: PathBuf,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Switch {
    fn of(machine: &Arc<Host>, head: &Host, boot: Duration) -> Switch {
        fs::create_dir_all(head.path(SWITCHES)).unwrap();
        let file = head.path(SWITCHES).join(machine.name());
        fs::write(&file, "").unwrap();
        machine.stop_sshd();
        let is_over = Arc::new(AtomicBool::new(false));
        let (machine, watched, over) = (Arc::clone(machine), file.clone(), Arc::clone(&is_over));
        let thread = thread::spawn(move || {
            let (mut seen, mut is_on) = (0, false);
            while !over.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(20));
                let text = fs::read_to_string(&watched).unwrap();
                for line in text.lines().skip(seen) {
                    seen += 1;
                    match line {
                        "start" if !is_on => {
                            thread::sleep(boot);
                            machine.start_sshd();
                            is_on = true;
                        }
                        "stop" if is_on => {
                            machine.stop_sshd();
                            is_on = false;
                        }
                        _ => {}
                    }
                }
            }
        });
        Switch { file, is_over, thread: Some(thread) }
    }

    /// Returns what was written: `start` and `stop`, in order.
    fn uses(&self) -> Vec<String> {
        fs::read_to_string(&self.file).unwrap().lines().map(str::to_owned).collect()
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        if self.thread.take().unwrap().join().is_err() && !thread::panicking() {
            panic!("the switch has failed");
        }
    }
}

/// Returns the entry of a machine with `on_demand`; `more` are further fields of that table.
fn on_demand(entry: &Entry, name: &str, more: &str) -> String {
    let press = |word| format!(r#"{{ "/bin/sh", "-c", "echo {word} >>{SWITCHES}/{name}" }}"#);
    let (start, stop) = (press("start"), press("stop"));
    let text = entry.lua();
    let fields = text.strip_suffix('}').unwrap();
    format!(
        "{fields}  on_demand = {{ start = {start}, stop = {stop}, stop_timeout = 20, boot_timeout = 60, {more} }},\n}}"
    )
}

fn power(head: &Host, entry: &str, port: u16) -> Power {
    let mut machine = Machine::new(entry, "root", vec![SYSTEM.to_owned()], Vec::new());
    machine.port = port;
    PowerRecord::of(&StateDirectory::new(head.path("/var/guix/offload")), &machine).unwrap().read()
}

#[test]
fn many_builds_cause_one_start_and_the_idle_machine_is_stopped() {
    let lab = Lab::new();
    let b1 = Arc::new(lab.build_machine("b1").max_jobs(4).start());
    let head = lab.head().start();
    let switch = Switch::of(&b1, &head, Duration::from_secs(1));
    let entry = b1.entry().set("parallel_builds", 4.0);
    let machine = on_demand(&entry, "b1", "idle = 2");
    head.write_machine_file(&format!("return {{ {machine} }}"));
    // What explain says before.
    let explained = head.offload(&["explain", "--system", SYSTEM]);
    assert!(explained.out.contains("off, and can be started"), "{explained:?}");
    let drvs: Vec<Drv> = (0..8).map(|n| Drv::new(&format!("one-{n}")).script("echo x >$out")).collect();
    head.client().max_jobs(0).build(&drvs.iter().collect::<Vec<_>>()).succeeded();
    assert_eq!(b1.builds().len(), 8);
    assert_eq!(switch.uses(), ["start"]);
    let port = b1.ssh_address().port();
    let running = power(&head, "b1", port);
    assert_eq!((running.phase, running.boots.len()), (Phase::Running, 1));
    // While a build runs there, and before `idle` has passed, nothing stops it.
    let long = Drv::new("long").script("until [ -e /tmp/go ]; do sleep 0.1; done; echo x >$out");
    let build = head.client().max_jobs(0).start(&[&long]);
    wait_until("the build runs", LONG, || b1.processes().iter().any(|process| process.command.contains("/tmp/go")));
    // The process of a client, by which a machine that stops itself knows that it is used.
    // `pgrep -f 'guix-daemon [0-9]+( |$)'` in the example `self-stop`.
    let is_client = |command: &str| {
        let mut words = command.split(' ');
        words.next() == Some("guix-daemon") && words.next().is_some_and(|word| word.parse::<u32>().is_ok())
    };
    assert!(b1.processes().iter().any(|process| is_client(&process.command)), "{:?}", b1.processes());
    let stop = head.offload(&["stop", "b1"]);
    assert!(stop.status == Some(1) && stop.messages.contains("1 build runs on it"), "{stop:?}");
    thread::sleep(Duration::from_secs(2));
    assert_eq!(head.offload(&["reap"]).status, Some(0));
    assert_eq!(switch.uses(), ["start"]);
    b1.write("/tmp/go", "");
    build.wait().succeeded();
    let mut messages = String::new();
    wait_until("the idle machine is stopped", LONG, || {
        let reap = head.offload(&["reap"]);
        assert_eq!(reap.status, Some(0), "{reap:?}");
        messages += &reap.messages;
        power(&head, "b1", port).phase == Phase::Off
    });
    assert_eq!(switch.uses(), ["start", "stop"]);
    assert!(messages.contains("b1:") && messages.contains("stopped"), "{messages}");
    // By hand.
    let start = head.offload(&["start", "b1"]);
    assert!(start.status == Some(0) && start.messages.contains("started within"), "{start:?}");
    assert!(head.offload(&["start", "b1"]).messages.contains("it runs already"));
    assert_eq!(head.offload(&["stop", "b1"]).status, Some(0));
    assert_eq!(switch.uses(), ["start", "stop", "start", "stop"]);
    // The history has both starts and both stops.
    let history = head.offload(&["history", "--summary", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&history.out).unwrap();
    let power = &json["power"][0];
    assert_eq!(
        (&power["starts"], &power["stops"], &power["failed_starts"]),
        (&2.into(), &2.into(), &0.into()),
        "{json}"
    );
    assert!(power["on"].as_u64() > power["booting"].as_u64() && power["median_boot"].as_u64() >= Some(1_000), "{json}");
    let metrics = head.offload(&["metrics"]).out;
    assert!(metrics.contains(&format!("offload_machine_power{{machine=\"b1:{port}\",state=\"off\"}} 1")), "{metrics}");
}

#[test]
fn a_start_that_fails_is_undone_and_backs_off() {
    let lab = Lab::new();
    let b1 = Arc::new(lab.build_machine("b1").start());
    let head = lab.head().start();
    let switch = Switch::of(&b1, &head, Duration::ZERO);
    let port = b1.ssh_address().port();
    // Started, it has another host key than its entry says.
    let entry = b1.entry().set("host_key", lab.stranger_host_key());
    let machine = on_demand(&entry, "b1", "");
    head.write_machine_file(&format!("return {{ {machine}, wait_for_machine = 2 }}"));
    let start = head.offload(&["start", "b1"]);
    assert!(start.status == Some(1) && start.messages.contains("host key"), "{start:?}");
    assert_eq!(switch.uses(), ["start", "stop"]);
    let failed = power(&head, "b1", port);
    assert_eq!((failed.phase, failed.failures), (Phase::Off, 1));
    // A build goes elsewhere, and does not start it again.
    head.client().max_jobs(1).build(&[&Drv::new("here").script("echo x >$out")]).succeeded();
    assert_eq!((b1.builds().len(), switch.uses().len()), (0, 2));
    let explained = head.offload(&["explain", "--system", SYSTEM]);
    assert!(explained.out.contains("its last start failed"), "{explained:?}");
    // A program that fails, one that hangs, one that starts nothing.
    for (start, timeout, error) in [
        (r#"{ "/bin/sh", "-c", "echo no credit >&2; exit 4" }"#, 9, "no credit"),
        (r#"{ "sleep", "60" }"#, 1, "did not end within 1 s"),
        (r#"{ "true" }"#, 1, "did not respond within 1 s (boot_timeout)"),
        (r#"function() return { nmae = "x" } end"#, 9, "did you mean 'name'?"),
        (r#"function(machine) error(machine.name .. " is broken") end"#, 9, "b1 is broken"),
    ] {
        let text = b1.entry().lua();
        let fields = text.strip_suffix('}').unwrap();
        let stop = format!(r#"{{ "/bin/sh", "-c", "echo stop >>{SWITCHES}/b1" }}"#);
        let on_demand = format!("{{ start = {start}, stop = {stop}, boot_timeout = {timeout} }}");
        head.write_machine_file(&format!("return {{ {fields} on_demand = {on_demand} }} }}"));
        let before = switch.uses().len();
        let said = head.offload(&["start", "b1"]);
        assert!(said.status == Some(1) && said.messages.contains(error), "{start}: {said:?}");
        assert_eq!(switch.uses().len(), before + 1, "{start}: stop was not run");
    }
}

#[test]
fn a_machine_whose_functions_hang_or_fail_is_stopped_and_hours_are_limited() {
    let lab = Lab::new();
    let b1 = Arc::new(lab.build_machine("b1").start());
    let head = lab.head().start();
    let switch = Switch::of(&b1, &head, Duration::ZERO);
    let port = b1.ssh_address().port();
    let text = b1.entry().lua();
    let fields = text.strip_suffix('}').unwrap();
    let write = |start: &str, stop: &str, more: &str| {
        head.write_machine_file(&format!(
            r#"local offload = require "offload"
            local function press(word) assert(offload.exec {{ "/bin/sh", "-c", "echo " .. word .. " >>{SWITCHES}/b1" }}) end
            return {{ {fields} on_demand = {{
              start = function() {start} end, stop = function() {stop} end, boot_timeout = 20, stop_timeout = 2, idle = 0,
              {more} }} }}, on_demand = {{ max_hours = 2 }} }}"#
        ));
    };
    // The function has started the machine, and does not return.
    write("press 'start' while true do end", "press 'stop'", "boot_timeout = 3");
    let said = head.offload(&["start", "b1"]);
    assert!(said.status == Some(1) && said.messages.contains("did not return within 3 s"), "{said:?}");
    assert_eq!((switch.uses(), power(&head, "b1", port).phase), (vec!["start".into(), "stop".into()], Phase::Off));
    // `stop` fails: no build gets the machine, and the next reaper tries again.
    write("press 'start'", "error 'no'", "");
    assert_eq!(head.offload(&["start", "b1"]).status, Some(0));
    let said = head.offload(&["reap"]);
    assert!(said.status == Some(1) && said.messages.contains("no"), "{said:?}");
    assert_eq!(power(&head, "b1", port).phase, Phase::Stopping);
    write("press 'start'", "press 'stop'", "");
    assert_eq!(head.offload(&["reap"]).status, Some(0));
    assert_eq!((switch.uses().len(), power(&head, "b1", port).phase), (4, Phase::Off));
    // The machine's own hours count. The head builds.
    let mut machine = Machine::new("b1", "root", vec![SYSTEM.to_owned()], Vec::new());
    machine.port = port;
    let record = PowerRecord::of(&StateDirectory::new(head.path("/var/guix/offload")), &machine).unwrap();
    let now = offload::internals::state::health::now();
    record.change(|power| power.ran.push((now - 7_200_000, now))).unwrap();
    let explained = head.offload(&["explain", "--system", SYSTEM]);
    assert!(explained.out.contains("ran 2.0 h within 24 h; max_hours is 2"), "{explained:?}");
    // A record that nobody can read means that the machine may run.
    fs::write(head.path(format!("/var/guix/offload/b1:{port}/power.json")), "{").unwrap();
    assert_eq!(head.offload(&["reap"]).status, Some(0));
    assert_eq!((switch.uses().len(), power(&head, "b1", port).phase), (5, Phase::Off));
}

#[test]
fn a_machine_is_contacted_as_start_says() {
    let lab = Lab::new();
    let b1 = Arc::new(lab.build_machine("b1").start());
    let head = lab.head().start();
    let switch = Switch::of(&b1, &head, Duration::ZERO);
    let (address, key) = (b1.ssh_address(), b1.host_key(KEY));
    let fields = b1.entry().unset("host_key").set("name", "cloud").set("port", 22.0).lua();
    let fields = fields.strip_suffix('}').unwrap();
    head.write_machine_file(&format!(
        r#"local offload = require "offload"
        local function press(word) assert(offload.exec {{ "/bin/sh", "-c", "echo " .. word .. " >>{SWITCHES}/b1" }}) end
        return {{ {fields}
          on_demand = {{
            start = function(machine)
              press "start"
              return {{ name = "{}", port = {}, host_key = "{key}" }}
            end,
            stop = function(machine) press "stop" end,
          }} }} }}"#,
        address.ip(),
        address.port()
    ));
    head.client().max_jobs(0).build(&[&Drv::new("there").script("echo x >$out")]).succeeded();
    head.client().max_jobs(0).build(&[&Drv::new("again").script("echo x >$out")]).succeeded();
    assert_eq!((b1.builds().len(), switch.uses()), (2, vec!["start".to_owned()]));
    let test = head.offload(&["test", "cloud"]);
    assert_eq!(test.status, Some(0), "{test:?}");
    let stop = head.offload(&["stop", "cloud"]);
    assert_eq!((stop.status, power(&head, "cloud", 22).started_as), (Some(0), Default::default()), "{stop:?}");
    assert_eq!(switch.uses(), ["start", "stop"]);
}

#[test]
fn a_start_whose_process_is_killed_is_undone_before_the_next_one() {
    let lab = Lab::new();
    let b1 = Arc::new(lab.build_machine("b1").start());
    let head = lab.head().start();
    let switch = Switch::of(&b1, &head, Duration::from_secs(2));
    let machine = on_demand(&b1.entry(), "b1", "");
    head.write_machine_file(&format!("return {{ {machine} }}"));
    let build = head.client().max_jobs(0).start(&[&Drv::new("x").script("echo x >$out")]);
    wait_until("it is started", LONG, || !switch.uses().is_empty());
    let starter = || head.processes().into_iter().find(|process| process.command.contains("start --machine-file"));
    wait_until("its starter runs", LONG, || starter().is_some());
    rustix::process::kill_process(rustix::process::Pid::from_raw(starter().unwrap().pid as i32).unwrap(), Signal::KILL)
        .unwrap();
    build.wait().succeeded();
    assert_eq!(switch.uses(), ["start", "stop", "start"]);
    // One that is killed while no build waits: the reaper stops the machine.
    assert_eq!(head.offload(&["stop", "b1"]).status, Some(0));
    let mut by_hand = head.command("/opt/offload/offload").args(["start", "b1"]).spawn().unwrap();
    wait_until("it is started again", LONG, || switch.uses().len() == 5);
    by_hand.kill().unwrap();
    by_hand.wait().unwrap();
    let reap = head.offload(&["reap"]);
    assert!(reap.status == Some(0) && reap.messages.contains("stopped"), "{reap:?}");
    assert_eq!(switch.uses()[4..], ["start", "stop"]);
    assert_eq!(power(&head, "b1", b1.ssh_address().port()).phase, Phase::Off);
}

#[test]
fn no_more_machines_are_started_than_the_limits_and_the_queue_allow() {
    let lab = Lab::new();
    let [b1, b2] = ["b1", "b2"].map(|name| Arc::new(lab.build_machine(name).max_jobs(2).start()));
    let head = lab.head().start();
    let switches = [&b1, &b2].map(|machine| Switch::of(machine, &head, Duration::from_secs(1)));
    let write = |start_after: u32, limits: &str| {
        let entries = [&b1, &b2].map(|machine| {
            let entry = machine.entry().set("parallel_builds", 2.0);
            on_demand(&entry, machine.name(), &format!("start_after = {start_after}"))
        });
        head.write_machine_file(&format!("return {{ {}, {limits} }}", entries.join(", ")));
    };
    write(60, "");
    let builds = |prefix: &str, count: usize| {
        let drvs: Vec<Drv> =
            (0..count).map(|n| Drv::new(&format!("{prefix}-{n}")).script("sleep 1; echo x >$out")).collect();
        head.client().max_jobs(0).build(&drvs.iter().collect::<Vec<_>>()).succeeded();
    };
    // Two builds need one machine of two slots.
    builds("two", 2);
    assert_eq!((switches[0].uses().len(), switches[1].uses().len()), (1, 0));
    // With a limit of one, the others wait.
    write(0, "on_demand = { max_running = 1 }");
    builds("limited", 4);
    assert_eq!((switches[0].uses().len(), switches[1].uses().len()), (1, 0));
    let explained = head.offload(&["explain", "--system", SYSTEM]);
    assert!(explained.out.contains("1 machine on demand runs; max_running is 1"), "{explained:?}");
    // Four more builds than the slots that run need the other one.
    write(0, "");
    builds("four", 6);
    assert_eq!((switches[0].uses().len(), switches[1].uses().len()), (1, 1));
    assert!(!b2.builds().is_empty());
}

#[test]
fn a_machine_stops_itself_an_hour_after_its_last_client() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/on-demand/self-stop");
    b1.write("/self-stop", fs::read_to_string(script).unwrap());
    let stand_in =
        |status: u32| b1.write("/bin-of-test/pgrep", format!("#!/bin/sh\n[ \"$1\" = -f ] && exit {status}\n"));
    let run = || {
        b1.run("chmod", &["755", "/self-stop", "/bin-of-test/pgrep"]);
        let path = "PATH=/bin-of-test:/usr/bin:/bin";
        b1.run("env", &[path, "POWEROFF=echo off", "/self-stop"])
    };
    let age = |minutes: u32| b1.run("touch", &["-d", &format!("{minutes} minutes ago"), "/run/offload-last-client"]);
    stand_in(1);
    assert_eq!(run(), "", "just booted");
    age(50);
    assert_eq!(run(), "", "not yet");
    age(70);
    assert_eq!(run(), "off\n");
    stand_in(0);
    assert_eq!(run(), "", "a client is there");
    stand_in(1);
    assert_eq!(run(), "", "the hour begins with the last client");
}

/// The commands of the examples, by stand-ins that press the switch and do what the real ones do otherwise.
#[test]
fn the_examples_start_and_stop_their_machines() {
    let lab = Lab::new();
    let b1 = Arc::new(lab.build_machine("b1").start());
    let head = lab.head().start();
    let switch = Switch::of(&b1, &head, Duration::ZERO);
    let stand_in = |name: &str, script: &str| {
        let file = format!("/usr/bin/{name}");
        head.write(&file, format!("#!/bin/sh\n{script}\n"));
        head.run("chmod", &["755", &file]);
    };
    let press = |word| format!("echo {word} >>{SWITCHES}/b1");
    let (start, stop) = (press("start"), press("stop"));
    let state = "/var/vm-state";
    // virsh(1): `start` fails for a domain that runs, and `shutdown` for one that does not.
    stand_in(
        "virsh",
        &format!(
            "[ \"$1 $2\" = '--connect qemu:///system' ] && [ \"$4\" = vm1 ] || exit 64\n\
             case $3 in\n\
             start) [ ! -e {state} ] || exit 1; touch {state}; {start};;\n\
             shutdown) [ -e {state} ] || {{ echo 'domain is not running' >&2; exit 1; }}; rm {state}; {stop};;\n\
             domstate) if [ -e {state} ]; then echo running; else echo 'shut off'; fi;;\n\
             *) exit 64;;\n\
             esac"
        ),
    );
    stand_in(
        "herd",
        &format!("[ \"$2\" = build-vm ] || exit 64\ncase $1 in start) {start};; stop) {stop};; *) exit 64;; esac"),
    );
    stand_in(
        "ssh",
        &format!(
            "[ \"$*\" = '-o ConnectTimeout=5 power@cellar.example.org systemctl suspend' ] || exit 64\n{stop}\nexit 255"
        ),
    );
    let address = b1.ssh_address();
    stand_in(
        "cloud",
        &format!(
            "case $* in\n\
             'create cloud1 --image guix-builder') {start}; echo {};;\n\
             'delete cloud1 --if-exists') {stop};;\n\
             *) exit 64;;\n\
             esac",
            address.ip()
        ),
    );
    // A magic packet starts the machine, too.
    let receiver = std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    // The examples before it take their time.
    receiver.set_read_timeout(Some(10 * LONG)).unwrap();
    let (port, switch_file) = (receiver.local_addr().unwrap().port(), switch.file.clone());
    let woken = thread::spawn(move || {
        let mut packet = [0; 200];
        let length = receiver.recv(&mut packet).unwrap();
        let text = fs::read_to_string(&switch_file).unwrap();
        fs::write(&switch_file, text + "start\n").unwrap();
        packet[..length].to_vec()
    });
    for (example, name) in [
        ("virsh", "vm1.example.org"),
        ("herd", "localhost"),
        ("cloud", "cloud1"),
        ("wake-on-lan", "cellar.example.org"),
    ] {
        let file = format!("{}/examples/on-demand/{example}.lua", env!("CARGO_MANIFEST_DIR"));
        // The machine is in the lab, and has the key of the lab.
        let changed = fs::read_to_string(file)
            .unwrap()
            .replace(
                "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL7IXUOk4UGVgqdIPoSuBaIAMeKniSBTCBBJ3SWoyb2u",
                &b1.host_key(KEY),
            )
            .replace("192.0.2.255\"", &format!("127.0.0.1\", port = {port}"))
            .replace("port = 11022,", "")
            .replace("user = \"offloading\"", "user = \"offload\"")
            .replace(
                "user = \"offload\"",
                &format!(
                    "overload_threshold = false, private_key = \"{}/ed25519\", port = {}, user = \"offload\"",
                    lab::USER_KEYS,
                    address.port()
                ),
            );
        let reached = format!("name = \"{}\"", address.ip());
        head.write_machine_file(&match example {
            "cloud" => changed.replace("min_up = 3000", "min_up = 0"),
            _ => changed.replace(&format!("name = \"{name}\""), &reached),
        });
        let name = if example == "cloud" { name.to_owned() } else { address.ip().to_string() };
        let before = switch.uses().len();
        let said = head.offload(&["start", &name]);
        assert!(said.status == Some(0) && said.messages.contains("started within"), "{example}: {said:?}");
        head.client().max_jobs(0).build(&[&Drv::new(&format!("by-{example}")).script("echo x >$out")]).succeeded();
        let said = head.offload(&["stop", &name]);
        assert_eq!(said.status, Some(0), "{example}: {said:?}");
        assert_eq!(switch.uses()[before..], ["start", "stop"], "{example}");
    }
    let packet = woken.join().unwrap();
    assert_eq!((packet.len(), &packet[..6]), (102, &[0xff; 6][..]));
    assert!(packet[6..].chunks(6).all(|part| part == [0x00, 0x16, 0x3e, 0x12, 0x34, 0x56]));
    // `stop` succeeds for a machine that does not run: it also runs after a failed start.
    let off = head.command("/bin/sh").args(["-c", "virsh --connect qemu:///system shutdown vm1"]).status().unwrap();
    assert!(!off.success());
}
