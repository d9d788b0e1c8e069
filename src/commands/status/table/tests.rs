use super::super::snapshot::{Drained, Failures};
use super::*;
use crate::state::SubstituteServers;
use crate::status::MachineStatus;

fn snapshot(name: &str) -> MachineSnapshot {
    MachineSnapshot {
        name: name.to_owned(),
        port: 22,
        state: MachineState::Ready,
        reachable: true,
        error: None,
        hint: None,
        status: MachineStatus {
            host_name: Some("eightysix".to_owned()),
            kernel: Some("Linux 6.12.1-gnu".to_owned()),
            architecture: Some("x86_64".to_owned()),
            uptime: Some(3 * 86_400 + 7200),
            load1: Some(2.126),
            cores: Some(16),
            pressure_cpu: Some(12.3),
            pressure_memory: Some(0.0),
            free_memory: Some(13 << 30),
            free_disk: Some(201 << 30),
            ..MachineStatus::default()
        },
        protocol: Some("0x164".to_owned()),
        guix: Some("1.5".to_owned()),
        clock_skew: Some(0.0),
        slots: 4,
        taken: Some(0),
        slots_error: None,
        builds: Vec::new(),
        connections: Vec::new(),
        failures: None,
        drained: None,
        power: None,
        substitutes: SubstituteServers::default(),
    }
}

fn table(machines: &[MachineSnapshot], width: Option<usize>) -> String {
    let mut out = Vec::new();
    let terminal = Terminal { width, ..Terminal::default() };
    write("/m.lua".as_ref(), machines, &OtherBuilds::default(), 10_000, terminal, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn builds_on_no_machine_are_shown_with_their_reasons() {
    let path = |name: &str| format!("/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-{name}.drv");
    let queued = |user: Option<&str>, hosts: &[&str], since| QueuedBuild {
        derivation: path("linux-libre-6.12.1"),
        system: "x86_64-linux".to_owned(),
        user: user.map(str::to_owned),
        since,
        pid: 4711,
        hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
    };
    let queue = vec![queued(Some("alice"), &["b1:22", "b2:2022"], 9_880), queued(None, &["b1:22"; 3], 9_995)];
    let reason = Some("b1: all its slots are taken; b2: it lacks the feature kvm".to_owned());
    let local_builds =
        vec![LocalBuild { derivation: path("profile"), user: Some("ci".to_owned()), since: 9_990, reason }];
    let mut out = Vec::new();
    let others = OtherBuilds { queue, local_builds };
    let terminal = Terminal { width: Some(80), ..Terminal::default() };
    write("/m.lua".as_ref(), &[snapshot("b1")], &others, 10_000, terminal, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    let (_, text) = text.split_once("\n\n").unwrap();
    let expected = "\
WAITS FOR  USER   PROCESS  MACHINES       DERIVATION
    2 min  alice     4711  b1, b2:2022    linux-libre-6.12.1.drv
      5 s  -         4711  b1 and 2 more  linux-libre-6.12.1.drv

BUILT HERE FOR  USER  DERIVATION
          10 s  ci    /gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-profile.drv
  profile.drv: declined: b1: all its slots are taken; b2: it lacks the feature
    kvm
";
    assert_eq!(text, expected);
}

#[test]
fn eighty_columns_hold_the_most_important_columns() {
    let build = Build {
        slot: 1,
        pid: Some(4711),
        derivation: Some("/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-linux-libre-6.12.1.drv".to_owned()),
        since: Some(9_700),
    };
    let first = MachineSnapshot { taken: Some(1), builds: vec![build], ..snapshot("eightysix.example.org") };
    let failures = Failures { since: 9_000, count: 3, error: "x".to_owned(), until: 10_030 };
    let second = MachineSnapshot {
        state: MachineState::Unreachable,
        reachable: false,
        error: Some("b2:22: connect: connection refused (10.0.0.2:22)".to_owned()),
        hint: Some("start the SSH server on b2, or correct 'port' (22 was tried)".to_owned()),
        failures: Some(failures),
        status: MachineStatus::default(),
        clock_skew: None,
        guix: None,
        ..snapshot("b2")
    };
    let third = MachineSnapshot {
        state: MachineState::Drained,
        drained: Some(Drained { since: 9_000, until: Some(17_200) }),
        ..snapshot("b3")
    };
    let text = table(&[first, second, third], Some(80));
    let expected = "\
NAME                   STATE        SLOTS     LOAD    DISK  MEMORY  PRESSURE
eightysix.example.org  ready          1/4  2.13/16  201.0G   13.0G    12/0/-
b2                     unreachable    0/4        -       -       -         -
b3                     drained        0/4  2.13/16  201.0G   13.0G    12/0/-
(too narrow for CLOCK, GUIX, ARCH, KERNEL, HOST, UP; --format=recutils has all)

MACHINE                SLOT    FOR  PROCESS  DERIVATION
eightysix.example.org     1  5 min     4711  linux-libre-6.12.1.drv

b2: connect: connection refused (10.0.0.2:22)
  hint: start the SSH server on b2, or correct 'port' (22 was tried)
  3 consecutive failures in 16 min; skipped for 30 s
b3: drained 16 min ago, for 2 h 0 min more
";
    assert_eq!(text, expected);
    assert!(include_str!("../../../../doc/manual/commands.md").contains(expected), "the manual shows another table");
    let (tables, _) = expected.split_once("\nb2: ").unwrap();
    assert!(include_str!("../../../../README.md").contains(tables), "README.md shows another table");
    assert!(text.lines().all(|line| line.chars().count() <= 80));
}

#[test]
fn a_wide_terminal_shows_all_columns() {
    let text = table(&[snapshot("b1")], None);
    assert_eq!(
        text,
        "\
NAME  STATE  SLOTS     LOAD    DISK  MEMORY  PRESSURE  CLOCK  GUIX  ARCH         UP  KERNEL            HOST
b1    ready    0/4  2.13/16  201.0G   13.0G    12/0/-   +0 s  1.5   x86_64  3 d 2 h  Linux 6.12.1-gnu  eightysix
"
    );
}

#[test]
fn control_characters_of_a_machine_are_not_printed() {
    let text = table(
        &[{
            let mut odd = snapshot("b1");
            odd.status.host_name = Some("\x1b[2J\n".to_owned());
            odd
        }],
        None,
    );
    assert!(!text.contains('\x1b') && text.contains("?[2J"), "{text:?}");
}
