//! The explanation which machine would build something, and why the others would not.

use std::fmt;
use std::time::Duration;

use crate::machine_file::Diagnostic;
use crate::scheduler::{self, Mismatch, Reason};

/// The answer to a [`Query`](super::Query): which machine would build it, and what stands against the others.
///
/// It comes from the records that all programs share. No machine is contacted. `Display` gives a text of several lines.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Explanation {
    /// What would become of a build.
    pub verdict: Verdict,
    /// The machines, in the order in which they would be tried; those that cannot take the build come last.
    pub machines: Vec<MachineExplanation>,
    /// Errors of the machine file's functions, with file and line.
    pub warnings: Vec<Diagnostic>,
}

/// What would become of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The machine of this name builds it.
    Machine(String),
    /// It waits until a machine that matches is free or can be reached.
    Waits,
    /// No machine matches.
    NoMatch,
}

/// One machine in an [`Explanation`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct MachineExplanation {
    /// The name of the machine. Two entries of the machine file may have the same.
    pub name: String,
    /// The port of its SSH server.
    pub port: u16,
    /// Its score, if it matches and gets one.
    pub score: Option<f64>,
    /// Whether it can take the build now.
    pub readiness: Readiness,
    /// The time after which the outputs would be here, as `offload.soonest` estimates it from the history, if the machine
    /// matches. It includes the wait for a build slot.
    pub soonest: Option<Duration>,
}

/// Whether a machine can take a build now.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Readiness {
    /// It can, by its record.
    Ready,
    /// It was not checked recently, and is checked before use.
    NotChecked,
    /// It cannot.
    Not(Obstacle),
}

/// Why a machine cannot take a build. `Display` gives a sentence.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Obstacle {
    /// The machine file disables it.
    Disabled,
    /// It does not build for the system type.
    System {
        /// The system types that it builds for.
        offered: Vec<String>,
        /// The system type of the build.
        wanted: String,
    },
    /// It lacks these features.
    Features(Vec<String>),
    /// A function of the machine file refuses it, for this reason.
    Refused(String),
    /// It is drained.
    Drained,
    /// It is a machine on demand that does not run, for this reason.
    Off(String),
    /// All its slots are taken, and this many builds wait for one.
    Busy(usize),
    /// It cannot be reached, or failed recently.
    Unreachable(String),
    /// Its load per core is above the threshold.
    Overloaded {
        /// The load per core.
        load: f64,
        /// The threshold.
        threshold: f64,
    },
    /// Its store has too few free bytes.
    LowDisk {
        /// The free bytes.
        free: u64,
        /// The required bytes.
        minimum: u64,
    },
    /// Its build slots cannot be read on this machine.
    SlotsUnknown(String),
}

impl From<Reason> for Obstacle {
    fn from(reason: Reason) -> Obstacle {
        match reason {
            Reason::Mismatch(Mismatch::Disabled) => Obstacle::Disabled,
            Reason::Mismatch(Mismatch::System { wanted, offered }) => Obstacle::System { offered, wanted },
            Reason::Mismatch(Mismatch::Features(missing)) => Obstacle::Features(missing),
            Reason::Refused(why) | Reason::ScoreDeclined(why) => Obstacle::Refused(why),
            Reason::Drained(_) => Obstacle::Drained,
            Reason::Power(power) => Obstacle::Off(power.to_string()),
            Reason::NoSlot { ahead } => Obstacle::Busy(ahead),
            Reason::SlotsUnknown(why) => Obstacle::SlotsUnknown(why),
            Reason::Unreachable(why) => Obstacle::Unreachable(why),
            Reason::Overloaded { load, threshold } => Obstacle::Overloaded { load, threshold },
            Reason::LowDisk { free, minimum } => Obstacle::LowDisk { free, minimum },
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mismatch = match self {
            Obstacle::Disabled => Mismatch::Disabled,
            Obstacle::System { offered, wanted } => {
                Mismatch::System { wanted: wanted.clone(), offered: offered.clone() }
            }
            Obstacle::Features(missing) => Mismatch::Features(missing.clone()),
            Obstacle::Refused(why) | Obstacle::Unreachable(why) | Obstacle::Off(why) => return f.write_str(why),
            Obstacle::Drained => return f.write_str("drained: it gets no new builds"),
            Obstacle::Busy(ahead) => return Reason::NoSlot { ahead: *ahead }.fmt(f),
            Obstacle::SlotsUnknown(why) => return Reason::SlotsUnknown(why.clone()).fmt(f),
            Obstacle::Overloaded { load, threshold } => {
                return Reason::Overloaded { load: *load, threshold: *threshold }.fmt(f);
            }
            Obstacle::LowDisk { free, minimum } => {
                return Reason::LowDisk { free: *free, minimum: *minimum }.fmt(f);
            }
        };
        mismatch.fmt(f)
    }
}

impl From<scheduler::Readiness> for Readiness {
    fn from(readiness: scheduler::Readiness) -> Readiness {
        match readiness {
            scheduler::Readiness::Ready => Readiness::Ready,
            scheduler::Readiness::Unknown => Readiness::NotChecked,
            scheduler::Readiness::Not(reason) => Readiness::Not(reason.into()),
        }
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Readiness::Ready => f.write_str("can take it"),
            Readiness::NotChecked => f.write_str("not checked recently; checked before use"),
            Readiness::Not(obstacle) => obstacle.fmt(f),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Machine(name) => write!(f, "built on {name}"),
            Verdict::Waits => f.write_str("waits: no machine can take it now"),
            Verdict::NoMatch => f.write_str("not built: no machine matches"),
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for MachineExplanation { name, port, score, readiness, .. } in &self.machines {
            let score = score.map_or("-".to_owned(), |score| format!("{score:.3}"));
            let readiness = readiness.to_string().replace('\n', "\n    ");
            writeln!(f, "{name}:{port}  score {score}  {readiness}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "{warning}")?;
        }
        write!(f, "→ {}", self.verdict)
    }
}
