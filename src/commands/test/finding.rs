//! The findings of the checks of a machine, and their remedies.

use std::fmt::Display;

use serde::Serialize;

/// The findings about a machine.
#[derive(Serialize)]
pub struct Checked<'a> {
    pub name: &'a str,
    pub port: u16,
    pub usable: bool,
    pub findings: Vec<Finding>,
}

/// The result of a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    pub step: Step,
    pub outcome: Outcome,
    pub text: String,
    /// The remedies, the likeliest first.
    pub remedies: Vec<Remedy>,
}

/// The outcome of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Ok,
    /// Builds can be offloaded, but there is a problem.
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
    /// The server has the host key of the machine file.
    HostKey,
    /// The login to the account succeeds.
    Authenticate,
    /// The daemon's socket can be reached.
    Channel,
    /// The daemon answers, in a version that `offload` supports.
    Daemon,
    /// The daemon imports an item that this machine signs.
    Import,
    /// This machine accepts an item that the daemon signs.
    Export,
    /// The daemon builds for each system type of the entry.
    Build,
    /// The substitute servers of the machine answer, and have items that it accepts.
    Substitutes,
    /// The machine reports its status.
    Status,
    /// The machine's clock agrees with this machine's.
    Clock,
    /// The machine's store has room.
    Disk,
    /// The machine is not overloaded.
    Load,
    /// The build slots of the machine can be counted.
    Slots,
    /// The database of the pool that several heads share can be used.
    Database,
}

impl Step {
    /// Returns the name of the step in the report.
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
            Step::Substitutes => "substitutes",
            Step::Status => "status",
            Step::Clock => "clock",
            Step::Disk => "disk",
            Step::Load => "load",
            Step::Slots => "build slots",
            Step::Database => "database",
        }
    }
}

/// A fix for a finding.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Remedy {
    /// The place of the fix.
    pub place: RemedyPlace,
    pub kind: RemedyKind,
    /// The text of the fix. A command or a field is a line that can be pasted.
    pub text: String,
    /// The condition that must hold, such as "if guix-daemon does not run".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
}

/// The place of a fix.
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

/// The kind of a remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RemedyKind {
    /// A command for root's shell.
    Command,
    /// A field of the machine file.
    Line,
    /// Text for a person.
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

    /// Returns the remedy with a condition: it is for the case that `condition` holds.
    pub fn provided(self, condition: impl Display) -> Remedy {
        Remedy { condition: Some(condition.to_string()), ..self }
    }
}
