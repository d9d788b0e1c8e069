//! What the checks of a machine find, and what to do about it.

use std::fmt::Display;

use serde::Serialize;

/// What was found of one machine.
#[derive(Serialize)]
pub struct Checked<'a> {
    pub name: &'a str,
    pub port: u16,
    pub usable: bool,
    pub findings: Vec<Finding>,
}

/// What was found in one step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    pub step: Step,
    pub outcome: Outcome,
    pub text: String,
    /// What to do about it, the likeliest first.
    pub remedies: Vec<Remedy>,
}

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Ok,
    /// Builds can be offloaded, but something is not as it should be.
    Warning,
    Error,
}

/// The steps, in the order in which an offloaded build would meet what they check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The private key can be used.
    PrivateKey,
    /// The name resolves.
    Resolve,
    /// An SSH server answers.
    Connect,
    /// Its host key is the one in the machine file.
    HostKey,
    /// The account can be logged in to.
    Authenticate,
    /// The daemon's socket can be reached.
    Channel,
    /// The daemon answers, in a version that is understood.
    Daemon,
    /// It imports what this machine signs.
    Import,
    /// This machine accepts what it signs.
    Export,
    /// Its daemon builds, for each of the system types that it is said to have.
    Build,
    /// The machine tells how it is doing.
    Status,
    /// Its clock agrees with this machine's.
    Clock,
    /// There is room in its store.
    Disk,
    /// It is not overloaded.
    Load,
    /// Its build slots can be counted.
    Slots,
}

impl Step {
    /// The word for it in the report.
    pub fn word(self) -> &'static str {
        match self {
            Step::PrivateKey => "private key",
            Step::Resolve => "name",
            Step::Connect => "connection",
            Step::HostKey => "host key",
            Step::Authenticate => "login",
            Step::Channel => "channel",
            Step::Daemon => "daemon",
            Step::Import => "import there",
            Step::Export => "import here",
            Step::Build => "trial build",
            Step::Status => "status",
            Step::Clock => "clock",
            Step::Disk => "disk",
            Step::Load => "load",
            Step::Slots => "build slots",
        }
    }
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Remedy {
    /// Where it is to be done.
    pub place: RemedyPlace,
    pub kind: RemedyKind,
    /// One line, to be taken as it is where it is no advice.
    pub text: String,
    /// What to make sure of first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
}

/// Where something is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RemedyPlace {
    /// On this machine.
    Head,
    /// On the build machine.
    Machine,
    /// In the machine file, in the entry of the machine.
    MachineFile,
}

/// What a remedy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RemedyKind {
    /// A command for root's shell.
    Command,
    /// A field of the machine file.
    Line,
    /// Words for a person.
    Advice,
}

impl Remedy {
    pub fn on_head(command: impl Display) -> Remedy {
        Remedy { place: RemedyPlace::Head, kind: RemedyKind::Command, text: command.to_string(), condition: None }
    }

    pub fn on_machine(command: impl Display) -> Remedy {
        Remedy { place: RemedyPlace::Machine, kind: RemedyKind::Command, text: command.to_string(), condition: None }
    }

    pub fn in_file(line: impl Display) -> Remedy {
        Remedy { place: RemedyPlace::MachineFile, kind: RemedyKind::Line, text: line.to_string(), condition: None }
    }

    pub fn advice(place: RemedyPlace, text: impl Display) -> Remedy {
        Remedy { place, kind: RemedyKind::Advice, text: text.to_string(), condition: None }
    }

    /// The same, to be done if `condition` holds.
    pub fn provided(self, condition: impl Display) -> Remedy {
        Remedy { condition: Some(condition.to_string()), ..self }
    }
}
