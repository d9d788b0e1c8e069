use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use super::*;
use crate::build::watch::BuildWatch;
use crate::remote::Progress;
use crate::store::path::StoreDir;

/// A connection: its number, and whether it was open before.
#[derive(Clone, Copy, Debug)]
struct Link {
    number: usize,
    is_reused: bool,
    has_options: bool,
}

/// The steps that were taken, in order, as words with the number of the connection.
type Steps = Rc<RefCell<Vec<String>>>;

/// What a step answers.
enum Answer {
    Fails(AttemptError),
    /// The build fails with this status.
    Reports(u32),
}

/// A machine whose steps succeed, except those with an answer in the script.
struct Scripted {
    machine: Machine,
    derivation: StorePath,
    steps: Steps,
    /// The answers, each with the step that it is for, such as `upload 0`.
    script: Vec<(&'static str, Answer)>,
    /// The errors of the back-offs that are found, each time that the record is read.
    back_offs: VecDeque<Option<&'static str>>,
    has_session: bool,
    can_connect: bool,
    status: Option<MachineStatus>,
    missing_inputs: usize,
    connections: usize,
    /// The step during which the build is cancelled.
    cancelled_at: Option<&'static str>,
}

/// Records the time at which a slot is released.
struct Slot(Steps);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.borrow_mut().push("slot".to_owned());
    }
}

impl Scripted {
    fn new(script: Vec<(&'static str, Answer)>) -> Scripted {
        Scripted {
            machine: Machine::new("b1", "offload", Vec::new(), Vec::new()),
            derivation: StorePath::parse(&StoreDir::default(), b"/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-x.drv")
                .unwrap(),
            steps: Steps::default(),
            script,
            back_offs: VecDeque::new(),
            has_session: false,
            can_connect: true,
            status: Some(MachineStatus { free_disk: Some(1 << 40), ..MachineStatus::default() }),
            missing_inputs: 0,
            connections: 0,
            cancelled_at: None,
        }
    }

    fn note(&self, step: String) {
        self.steps.borrow_mut().push(step);
    }

    fn step(&mut self, name: &str, link: &Link) -> Result<Option<BuildReport>, AttemptError> {
        let step = format!("{name} {}", link.number);
        let answer = self.script.iter().position(|(of, _)| *of == step).map(|index| self.script.remove(index).1);
        self.note(step);
        match answer {
            None => Ok(None),
            Some(Answer::Fails(error)) => Err(error),
            Some(Answer::Reports(status)) => {
                let watch = BuildWatch::new(&self.derivation, &BTreeSet::new(), Progress::default());
                Ok(Some(BuildReport { status, message: "alas".to_owned(), watch }))
            }
        }
    }

    fn link(&mut self, is_reused: bool) -> Link {
        self.connections += 1;
        Link { number: self.connections, is_reused, has_options: false }
    }

    /// Makes an attempt, over a connection of the probe with number 0 if `probed` says whether that is reused.
    fn run(mut self, probed: Option<bool>) -> (Result<(), Failure>, String) {
        let slot = Slot(Rc::clone(&self.steps));
        let result =
            attempt(&mut self, slot, probed.map(|is_reused| Link { number: 0, is_reused, has_options: false }));
        assert!(self.script.is_empty(), "a step of the script was not taken");
        assert!(self.back_offs.is_empty(), "a back-off was not looked for");
        (result, self.steps.take().join(", "))
    }
}

impl AttemptSteps for Scripted {
    type Link = Link;
    type Connection = Link;
    type Outputs = usize;

    fn derivation(&self) -> &StorePath {
        &self.derivation
    }

    fn machine(&self) -> &Machine {
        &self.machine
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled_at.is_some_and(|last| self.steps.borrow().iter().any(|step| step == last))
    }

    fn back_off(&mut self) -> Option<String> {
        self.back_offs.pop_front().flatten().map(str::to_owned)
    }

    fn open(&mut self) -> Result<Link, String> {
        self.note("open".to_owned());
        match self.has_session {
            true => Ok(Link { has_options: true, ..self.link(true) }),
            false => self.connect(),
        }
    }

    fn has_options(&self, link: &Link) -> bool {
        link.has_options
    }

    fn connect(&mut self) -> Result<Link, String> {
        self.note("connect".to_owned());
        if self.can_connect { Ok(self.link(false)) } else { Err("no route".to_owned()) }
    }

    fn send_options(&mut self, link: &mut Link) -> Result<(), AttemptError> {
        self.step("options", link).map(drop)
    }

    fn keep(&mut self, link: &Link) {
        self.note(format!("keep {}", link.number));
    }

    /// Takes the step only if it fails, so that the other tests need not name it.
    fn check_signing_key(&mut self, link: &mut Link) -> Result<(), AttemptError> {
        let step = format!("check {}", link.number);
        match self.script.iter().any(|(of, _)| *of == step) {
            true => self.step("check", link).map(drop),
            false => Ok(()),
        }
    }

    fn upload(&mut self, link: &mut Link) -> Result<(), AttemptError> {
        self.step("upload", link).map(drop)
    }

    fn build(&mut self, link: &mut Link) -> Result<Option<BuildReport>, AttemptError> {
        self.step("build", link)
    }

    fn count_missing_inputs(&mut self, link: &mut Link) -> Result<usize, AttemptError> {
        self.step("count", link).map(|_| self.missing_inputs)
    }

    fn probe(&mut self, link: &Link) -> Option<MachineStatus> {
        self.note(format!("probe {}", link.number));
        self.status.clone()
    }

    fn download(&mut self, link: &mut Link) -> Result<usize, AttemptError> {
        self.step("download", link).map(|_| link.number)
    }

    fn is_reused(&self, link: &Link) -> bool {
        link.is_reused
    }

    fn retire(&mut self, link: &Link) {
        self.note(format!("retire {}", link.number));
    }

    fn release(&mut self, link: Link) -> Link {
        self.note(format!("release {}", link.number));
        link
    }

    fn record_success(&mut self, status: MachineStatus) {
        assert_eq!(Some(status), self.status);
        self.note("success".to_owned());
    }

    fn record_failure(&mut self, cause: &str) {
        self.note(format!("failure '{cause}'"));
    }

    fn record_outputs(&mut self) {
        self.note("outputs".to_owned());
    }

    fn refresh_status(&mut self, connection: &Link) {
        self.note(format!("refresh {}", connection.number));
    }

    fn place(&mut self, outputs: usize) -> Result<(), String> {
        match self.step("place", &Link { number: outputs, is_reused: false, has_options: false }) {
            Err(AttemptError::Head(cause)) => Err(cause),
            _ => Ok(()),
        }
    }
}

fn fails(step: &'static str, error: fn(String) -> AttemptError) -> (&'static str, Answer) {
    (step, Answer::Fails(error(format!("{step}!"))))
}

/// Runs an attempt that ends well.
fn succeeds(scripted: Scripted, probed: Option<bool>) -> String {
    let (result, steps) = scripted.run(probed);
    result.unwrap_or_else(|error| panic!("{error}: {steps}"));
    steps
}

/// Runs an attempt that fails, and returns its steps and the failure's kind and text.
fn failure(scripted: Scripted, probed: Option<bool>) -> (String, &'static str, String) {
    let (result, steps) = scripted.run(probed);
    let failure = result.unwrap_err();
    let kind = match &failure {
        Failure::Machine { machine, .. } if machine == "b1" => "machine",
        Failure::Refused { machine, .. } if machine == "b1" => "refused",
        Failure::Head(_) => "head",
        Failure::Build { machine, .. } if machine == "b1" => "build",
        Failure::TimedOut { machine, .. } if machine == "b1" => "timeout",
        other => panic!("{other:?}"),
    };
    (steps, kind, failure.to_string())
}

#[test]
fn the_slot_is_released_before_the_outputs_are_placed() {
    // A status is measured within the slot over a new connection, and after everything else over an old one.
    let new = "options 0, keep 0, upload 0, build 0, outputs, download 0, release 0, refresh 0, slot, place 0";
    assert_eq!(succeeds(Scripted::new(vec![]), Some(false)), new);
    let reused = "options 0, keep 0, upload 0, build 0, outputs, download 0, release 0, slot, place 0, refresh 0";
    assert_eq!(succeeds(Scripted::new(vec![]), Some(true)), reused);
    let place = failure(Scripted::new(vec![fails("place 0", AttemptError::Head)]), Some(true));
    assert_eq!((place.0 + ", refresh 0", place.1, place.2), (reused.to_owned(), "head", "place 0!".to_owned()));
}

#[test]
fn an_open_session_is_used_before_a_new_one() {
    let rest = "upload 1, build 1, outputs, download 1, release 1";
    let scripted = Scripted { has_session: true, ..Scripted::new(vec![]) };
    assert_eq!(succeeds(scripted, None), format!("open, keep 1, {rest}, slot, place 1, refresh 1"));
    let steps = format!("open, connect, options 1, keep 1, {rest}, refresh 1, slot, place 1");
    assert_eq!(succeeds(Scripted::new(vec![]), None), steps);
}

#[test]
fn a_machine_in_a_back_off_is_not_contacted() {
    for has_session in [false, true] {
        let back_offs = [Some("down")].into();
        let result = failure(Scripted { has_session, back_offs, ..Scripted::new(vec![]) }, None);
        assert_eq!(result, ("slot".to_owned(), "machine", "down".to_owned()));
    }
    // Nor after the first connection was lost.
    let lost = vec![fails("build 0", AttemptError::OwnerLost)];
    let result = failure(Scripted { back_offs: [Some("down")].into(), ..Scripted::new(lost) }, Some(false));
    let steps = "options 0, keep 0, upload 0, build 0, retire 0, slot";
    assert_eq!(result, (steps.to_owned(), "machine", "down".to_owned()));
}

#[test]
fn a_machine_that_cannot_be_reached_is_recorded() {
    let result = failure(Scripted { can_connect: false, ..Scripted::new(vec![]) }, None);
    assert_eq!(result, ("open, connect, failure 'no route', slot".to_owned(), "machine", "no route".to_owned()));
    let lost = vec![fails("upload 0", AttemptError::OwnerLost)];
    let result = failure(Scripted { can_connect: false, ..Scripted::new(lost) }, Some(true));
    let steps = "options 0, keep 0, upload 0, retire 0, connect, failure 'no route', slot";
    assert_eq!(result, (steps.to_owned(), "machine", "no route".to_owned()));
}

/// The steps up to each step that may fail, and its name.
const FALLIBLE: [(&str, &str); 4] = [
    ("options 0", "options 0"),
    ("options 0, keep 0, upload 0", "upload 0"),
    ("options 0, keep 0, upload 0, build 0", "build 0"),
    ("options 0, keep 0, upload 0, build 0, outputs, download 0", "download 0"),
];

#[test]
fn a_failure_is_recorded_if_the_machine_is_at_fault() {
    type Case = (fn(String) -> AttemptError, bool, &'static str);
    let cases: [Case; 4] = [
        (AttemptError::Machine, true, "machine"),
        (AttemptError::NotStarted, false, "machine"),
        (AttemptError::ChannelTimeout, false, "refused"),
        (AttemptError::Head, false, "head"),
    ];
    for (steps, step) in FALLIBLE {
        for (error, is_recorded, kind) in cases {
            for is_reused in [false, true] {
                let result = failure(Scripted::new(vec![fails(step, error)]), Some(is_reused));
                // Before the slot is free, so that the next build finds the record.
                let record = if is_recorded { format!(", failure '{step}!'") } else { String::new() };
                assert_eq!(result, (format!("{steps}{record}, slot"), kind, format!("{step}!")));
            }
        }
    }
}

#[test]
fn an_attempt_whose_owner_was_lost_is_repeated_once_over_a_new_connection() {
    let again = "retire 0, connect, options 1, keep 1, upload 1, build 1, outputs, download 1";
    for (steps, step) in FALLIBLE {
        for is_reused in [false, true] {
            let first = || fails(step, AttemptError::OwnerLost);
            let steps = format!("{steps}, {again}");
            let ended = succeeds(Scripted::new(vec![first()]), Some(is_reused));
            assert_eq!(ended, format!("{steps}, release 1, refresh 1, slot, place 1"));
            // The second failure counts, whatever it is.
            let errors: [fn(String) -> AttemptError; 3] =
                [AttemptError::OwnerLost, AttemptError::Machine, AttemptError::UnauthorizedKey];
            for error in errors {
                let result = failure(Scripted::new(vec![first(), fails("download 1", error)]), Some(is_reused));
                let cause = "download 1!".to_owned();
                assert_eq!(result, (format!("{steps}, failure '{cause}', slot"), "machine", cause));
            }
            let result = failure(Scripted::new(vec![first(), fails("download 1", AttemptError::Head)]), Some(true));
            assert_eq!(result, (format!("{steps}, slot"), "head", "download 1!".to_owned()));
        }
    }
}

#[test]
fn an_old_signature_counts_over_a_new_connection_only() {
    let unauthorized = |step| fails(step, AttemptError::UnauthorizedKey);
    let first = "options 0, keep 0, upload 0, build 0, outputs, download 0";
    let again = "retire 0, connect, options 1, keep 1, upload 1, build 1, outputs, download 1";
    let ended = succeeds(Scripted::new(vec![unauthorized("download 0")]), Some(true));
    assert_eq!(ended, format!("{first}, {again}, release 1, refresh 1, slot, place 1"));
    let (steps, kind, _) =
        failure(Scripted::new(vec![unauthorized("download 0"), unauthorized("download 1")]), Some(true));
    assert_eq!((steps, kind), (format!("{first}, {again}, failure 'download 1!', slot"), "machine"));
    let (steps, kind, _) = failure(Scripted::new(vec![unauthorized("download 0")]), Some(false));
    assert_eq!((steps, kind), (format!("{first}, failure 'download 0!', slot"), "machine"));
}

#[test]
fn a_report_of_the_daemon_is_classified_by_what_the_machine_has_left() {
    let steps = |status| format!("options 0, keep 0, upload 0, build 0, count 0, probe 0{status}, slot");
    let free = |free| Some(MachineStatus { free_disk: Some(free), ..MachineStatus::default() });
    // The status, the free bytes of the disk, the missing inputs; and the failure, with words of its text.
    for (code, status, missing_inputs, kind, words) in [
        (100, free(1 << 40), 0, "build", "ssh offload@b1 zcat"),
        (101, free(1 << 40), 0, "timeout", "ssh offload@b1 zcat"),
        (1, free(1 << 40), 0, "refused", "alas"),
        (100, free(1 << 20), 0, "machine", "alas; its store is nearly full"),
        (100, free(1 << 40), 2, "machine", "alas; 2 inputs were garbage collected"),
        (101, free(1 << 20), 2, "timeout", "alas"),
        // An account that may run no commands.
        (100, Some(MachineStatus::default()), 0, "build", "on b1: zcat"),
        // Without a status nothing is recorded, and the report is classified without it.
        (100, None, 0, "build", "on b1: zcat"),
        (100, None, 1, "machine", "alas; 1 inputs"),
    ] {
        let recorded = if status.is_some() { ", success" } else { "" };
        let script = vec![("build 0", Answer::Reports(code))];
        let (taken, found, text) = failure(Scripted { status, missing_inputs, ..Scripted::new(script) }, Some(true));
        assert_eq!((taken, found), (steps(recorded), kind), "{text}");
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn a_connection_lost_after_the_report_leaves_the_report_unclassified() {
    let script = |error| vec![("build 0", Answer::Reports(100)), fails("count 0", error)];
    let first = "options 0, keep 0, upload 0, build 0, count 0";
    let result = failure(Scripted::new(script(AttemptError::Machine)), Some(false));
    assert_eq!(result, (format!("{first}, failure 'count 0!', slot"), "machine", "count 0!".to_owned()));
    let ended = succeeds(Scripted::new(script(AttemptError::OwnerLost)), Some(false));
    let again = "retire 0, connect, options 1, keep 1, upload 1, build 1, outputs, download 1";
    assert_eq!(ended, format!("{first}, {again}, release 1, refresh 1, slot, place 1"));
}

#[test]
fn a_cancelled_build_says_nothing_about_the_machine() {
    for (steps, last) in FALLIBLE {
        for error in [AttemptError::Machine as fn(String) -> AttemptError, AttemptError::OwnerLost] {
            let scripted = Scripted { cancelled_at: Some(last), ..Scripted::new(vec![fails(last, error)]) };
            let (result, taken) = scripted.run(Some(true));
            assert!(matches!(result, Err(Failure::Cancelled)), "{last}: {result:?}");
            assert_eq!(taken, format!("{steps}, slot"));
        }
    }
    // Outputs that have arrived are not placed.
    let scripted = Scripted { cancelled_at: Some("download 0"), ..Scripted::new(vec![]) };
    let (result, taken) = scripted.run(Some(true));
    assert!(matches!(result, Err(Failure::Cancelled)) && !taken.contains("place"), "{taken}");
}

#[test]
fn a_key_that_is_not_authorized_is_found_before_the_upload() {
    let scripted = Scripted::new(vec![fails("check 1", AttemptError::UnauthorizedKey)]);
    let (steps, kind, text) = failure(scripted, None);
    assert_eq!(steps, "open, connect, options 1, keep 1, check 1, failure 'check 1!', slot");
    assert_eq!(kind, "machine", "{text}");
    // Over an old session the machine's daemon may still use an old key.
    let scripted = Scripted::new(vec![fails("check 0", AttemptError::UnauthorizedKey)]);
    let steps = succeeds(scripted, Some(true));
    assert!(
        steps.starts_with("options 0, keep 0, check 0, retire 0, connect, options 1, keep 1, upload 1, "),
        "{steps}"
    );
}

#[test]
fn a_refused_build_on_a_full_disk_names_the_disk() {
    for (free_disk, is_full) in [(0, true), (1 << 40, false)] {
        let mut scripted = Scripted::new(vec![("build 1", Answer::Reports(1))]);
        scripted.status = Some(MachineStatus { free_disk: Some(free_disk), ..MachineStatus::default() });
        let (_, kind, text) = failure(scripted, None);
        assert_eq!((kind, text.contains("its store is nearly full (0 KiB free)")), ("refused", is_full), "{text}");
    }
}
