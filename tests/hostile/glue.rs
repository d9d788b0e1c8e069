//! One build from end to end with a scripted daemon: the limits that the machine's daemon gets, the meaning of its answers for
//! the client, and the records of the machine.

use std::collections::{BTreeMap, BTreeSet};

use offload::internals::daemon::Error;
use offload::internals::machine::Machine;
use offload::internals::state::{Health, HealthRecord, KnownOutputs, StateDirectory, health};
use offload::internals::status::MachineStatus;
use offload::internals::store::path::{StoreDir, StorePath};

use super::Stage;
use super::cases::Scene;
use super::lab::{Direct, Drv, SSH_PORT};
use super::peer::{At, ERROR, Play, ReceivedOptions};
use super::{archive::ints, archive::word};

/// The record of the machine afterwards.
#[derive(Clone, Copy, Debug)]
enum Recorded {
    /// How it is doing, as it said.
    Status,
    /// A failure, with this in its message.
    Failure(&'static str),
    /// Nothing new.
    Nothing,
}

/// What the machine does, the status that the client gets, words of the message, and whether the machine is known to have
/// the outputs.
type Case = (&'static str, fn(&Scene) -> Play, Option<u32>, &'static str, Recorded, bool);

/// The build ends with this status.
fn ends_with(status: u64) -> Play {
    Play::says(At::Build, [ints(&[ERROR]), word(b"alas"), ints(&[status])].concat())
}

const CASES: &[Case] = &[
    ("an honest build", |scene| Play::exports(&scene.item().signed(&scene.trusted)), None, "", Recorded::Status, true),
    ("a failed build", |_| ends_with(100), Some(100), "alas", Recorded::Status, false),
    ("a build that takes too long", |_| ends_with(101), Some(101), "alas", Recorded::Status, false),
    ("a build that is refused", |_| ends_with(1), Some(1), "alas", Recorded::Status, false),
    ("a status that means nothing", |_| ends_with(102), Some(1), "alas", Recorded::Status, false),
    (
        "a lost connection during the build",
        |_| Play::ends(At::Build, vec![]),
        Some(1),
        "building: ",
        Recorded::Failure("building: "),
        false,
    ),
    (
        "an invalid reply to the build",
        |_| Play::says(At::Build, ints(&[7])),
        Some(1),
        "building: ",
        Recorded::Failure("building: "),
        false,
    ),
    (
        "a daemon that refuses the options",
        |_| Play::says(At::Options, [ints(&[ERROR]), word(b"alas"), ints(&[1])].concat()),
        Some(1),
        "greeting its daemon: ",
        Recorded::Failure("greeting its daemon: "),
        false,
    ),
    (
        "a lost connection before the build",
        |_| Play::ends(At::Query, vec![]),
        Some(1),
        "sending inputs: ",
        Recorded::Failure("sending inputs: "),
        false,
    ),
    (
        "an output that is not signed",
        |scene| Play::exports(&scene.item().unsigned()),
        Some(1),
        "retrieving outputs: ",
        Recorded::Failure("it lacks a signature"),
        true,
    ),
    (
        "an output that is not there",
        |_| Play::says(At::Export, [ints(&[ERROR]), word(b"alas"), ints(&[1])].concat()),
        Some(1),
        "retrieving outputs: ",
        Recorded::Failure("alas"),
        true,
    ),
    (
        "a lost connection after the build",
        |_| Play::ends(At::Export, vec![]),
        Some(1),
        "retrieving outputs: ",
        Recorded::Failure("retrieving outputs: "),
        true,
    ),
];

fn machine() -> Machine {
    Machine { port: SSH_PORT, ..Machine::new("b1", "root", Vec::new(), Vec::new()) }
}

impl Stage {
    /// A record by which the machine is chosen, and which is old enough to be renewed after a build.
    fn mark_measured_a_while_ago(&self) {
        self.head.change_health("b1", |_| Health::reached(MachineStatus::default(), health::now() - 20_000));
    }

    fn state(&self) -> StateDirectory {
        StateDirectory::new(self.head.path("/var/guix/offload"))
    }

    fn check_meaning(&self, direct: &mut Direct<'_>, number: usize, limits: [u64; 2], case: &Case) {
        let (what, play, status, words, recorded, is_known) = case;
        let scene = self.scene(direct, &Drv::new(&format!("meaning-{number}")));
        self.mark_measured_a_while_ago();
        let (result, mut said) = self.build_within(direct, &scene, limits, play(&scene));
        let found = match &result {
            Ok(_) => None,
            Err(Error::Daemon { status, message, .. }) => {
                said.push_str(message);
                Some(*status)
            }
            Err(other) => panic!("{what}: {other}"),
        };
        assert_eq!(found, *status, "{what}: {said}");
        assert!(said.contains(words), "{what}: {said}");
        let record = HealthRecord::of(&self.state(), &machine()).unwrap().read();
        let has_status = record.status.as_ref().is_some_and(|status| status.cores.is_some());
        let failures = record.failures.as_ref();
        match recorded {
            Recorded::Status => assert!(has_status && failures.is_none(), "{what}: {record:?}"),
            Recorded::Nothing => assert!(!has_status && failures.is_none(), "{what}: {record:?}"),
            Recorded::Failure(words) => {
                let is_recorded =
                    failures.is_some_and(|failures| failures.count == 1 && failures.error.contains(words));
                assert!(is_recorded, "{what}: {record:?}");
            }
        }
        let derivation = StorePath::parse(&StoreDir::default(), scene.derivation.as_bytes()).unwrap();
        let known = KnownOutputs::of(&self.state(), &machine()).unwrap();
        assert_eq!(known.missing_inputs(&BTreeSet::from([derivation])) == 0, *is_known, "{what}");
    }
}

#[test]
fn each_answer_has_its_meaning_and_its_record() {
    let stage = Stage::new();
    let mut direct = stage.head.direct();
    for (number, case) in CASES.iter().enumerate() {
        stage.check_meaning(&mut direct, number, [0, 0], case);
    }
    // Somebody else builds it there, say: the machine is good for other builds.
    let waits: Case =
        ("a build that does not begin", |_| Play::is_silent(At::Build), Some(1), "", Recorded::Nothing, false);
    stage.check_meaning(&mut direct, CASES.len(), [4, 0], &waits);
}

/// Each limit arrives as it was given, and only where it was given.
#[test]
fn the_machine_gets_the_limits_of_the_client() {
    let stage = Stage::new();
    let mut direct = stage.head.direct();
    for (number, (limits, substitutes)) in
        [([0, 0], "auto"), ([0, 1234], "never"), ([321, 0], "always"), ([321, 1234], "auto")].into_iter().enumerate()
    {
        stage.write_machine(|entry| entry.set("substitutes", substitutes));
        let scene = stage.scene(&mut direct, &Drv::new(&format!("limits-{number}")));
        stage.mark_healthy();
        let play = Play::exports(&scene.item().signed(&scene.trusted));
        let (result, said) = stage.build_within(&mut direct, &scene, limits, play);
        result.unwrap_or_else(|error| panic!("{error}\n{said}"));
        let names = ["build-max-silent-time", "build-timeout"];
        let mut settings: BTreeMap<String, String> = (names.into_iter().zip(limits))
            .filter(|(_, seconds)| *seconds > 0)
            .map(|(name, seconds)| (name.to_owned(), seconds.to_string()))
            .collect();
        settings.insert("multiplexed-build-output".to_owned(), "true".to_owned());
        // Nothing is kept, there is no fallback, it is not to offload; a trace; and no substitutes, whatever the machine
        // file says about inputs.
        let numbers = vec![0, 0, 0, 0, 0, 0, 0, 1, 0];
        assert_eq!(stage.peer.received_options(), Some(ReceivedOptions { numbers, settings }), "{limits:?}");
    }
}
