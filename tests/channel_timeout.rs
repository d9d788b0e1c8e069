//! `ChannelTimeout` in a build machine's sshd_config (OpenSSH 9.2 and later): the server closes a channel on which nothing
//! moves, and with it ends a build that says nothing.

mod lab;

use lab::{BuildResult, Drv, Host, LONG, Lab, Signal, wait_until};

/// Closes channels to sockets; a second on a busy machine is soon over.
const SOCKETS: &str = "ChannelTimeout direct-streamlocal@openssh.com=3";

/// A build that says nothing for long enough.
fn silent(name: &str) -> Drv {
    Drv::new(name).script("echo begun; sleep 12; echo $name >$out")
}

fn machine(lab: &Lab, name: &str, sshd_options: &[&str]) -> Host {
    let options = lab.build_machine(name);
    sshd_options.iter().fold(options, |options, line| options.sshd_option(line)).start()
}

#[track_caller]
fn assert_named(result: &BuildResult) {
    let text = &result.log;
    assert!(text.contains("b1:2022: its SSH server closed the channel to the daemon after "), "{text}");
    assert!(text.contains("hint: disable `ChannelTimeout` for this user in its sshd_config"), "{text}");
}

#[test]
fn a_silent_build_whose_channel_is_closed_goes_to_another_machine() {
    let lab = Lab::new();
    let machines = [machine(&lab, "b1", &[SOCKETS]), machine(&lab, "b2", &[])];
    let head = lab.head().start();
    head.write_machines(&[machines[0].entry().set("speed", 9.0), machines[1].entry()]);
    machines.iter().for_each(|machine| head.mark_healthy(machine.name()));

    let result = head.build(&[&silent("silent")]).succeeded();
    assert_named(&result);
    assert_eq!(machines.each_ref().map(|machine| machine.built().len()), [1, 1], "{}", result.log);

    // The machine is as good as before for builds that say something.
    head.build(&[&Drv::new("quick")]).succeeded();
    assert!(machines[0].built().contains(&"quick".to_owned()), "{:?}", machines[0].built());
}

#[test]
fn a_machine_that_closes_the_channel_of_a_build_is_not_tried_again() {
    let lab = Lab::new();
    let b1 = machine(&lab, "b1", &[SOCKETS]);
    let head = lab.head().start();
    head.write_machines(&[b1.entry()]);

    // Over a new connection, and over one that was kept from the build before.
    for (name, quick) in [("first", false), ("second", true)] {
        if quick {
            head.build(&[&Drv::new("quick")]).succeeded();
        }
        let result = head.build(&[&silent(name)]);
        assert_eq!(result.status, Some(1), "{}", result.log);
        assert_named(&result);
        assert_eq!(b1.built().iter().filter(|built| *built == name).count(), 1, "{}", result.log);
    }
}

#[test]
fn a_daemon_that_dies_in_a_silent_build_is_not_taken_for_a_closed_channel() {
    let lab = Lab::new();
    let b1 = machine(&lab, "b1", &["ChannelTimeout direct-streamlocal@openssh.com=600"]);
    let head = lab.head().start();
    head.write_machines(&[b1.entry()]);

    let mut build = head.client().start(&[&Drv::new("orphan").script("sleep 2; touch /var/lab/silent; sleep 1000")]);
    // The silence that a closed channel would need.
    wait_until("the build has been silent", LONG, || b1.path("/var/lab/silent").exists());
    let main =
        b1.processes().into_iter().filter(|process| process.name == "guix-daemon").map(|daemon| daemon.pid).min();
    let is_of_client = |process: &lab::Process| process.name == "guix-daemon" && Some(process.parent) == main;
    b1.processes().iter().filter(|process| is_of_client(process)).for_each(|process| process.signal(Signal::KILL));
    build.wait_for_log("the connection to the daemon failed");
    let text = build.log();
    build.interrupt(Signal::INT);
    assert!(!text.contains("closed the channel"), "{text}");
}

#[test]
fn a_relay_keeps_its_channel_open() {
    let lab = Lab::new();
    let b1 = machine(&lab, "b1", &["AllowStreamLocalForwarding no", "ChannelTimeout session=5"]);
    let head = lab.head().start();
    head.write_machines(&[b1.entry()]);

    let result = head.build(&[&silent("silent")]).succeeded();
    assert_eq!(b1.built(), ["silent"], "{}", result.log);
}
