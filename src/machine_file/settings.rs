//! The settings of the pool: the named fields of the table that a machine file returns.

use super::fields::{Fields, FindingLocation, LIMITS, POOL};
use super::values;
use mlua::{Function, Table, Value};
use std::time::Duration;

/// What the pool says beside its machines.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What to do when every matching machine is busy. Default `Wait`.
    pub when_busy: When,
    /// What to do when no matching machine answers. Default `Local`.
    pub when_unreachable: When,
    /// Attempts at one build, on one machine or several. Default 3.
    pub max_attempts: u32,
    /// How long an accepted build may wait for a slot inside the hook. Default 600 s.
    pub wait_for_slot: Duration,
    /// What Lua code may use.
    pub limits: Limits,
    /// Whether the pool has an `accepts` of its own.
    pub has_accepts: bool,
    /// Whether the pool has a `score` of its own.
    pub has_score: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            when_busy: When::Wait,
            when_unreachable: When::Local,
            max_attempts: 3,
            wait_for_slot: Duration::from_secs(600),
            limits: Limits::default(),
            has_accepts: false,
            has_score: false,
        }
    }
}

/// What to do with a build that no machine can take right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// Wait for a machine.
    Wait,
    /// Decline, if the head may and can build it.
    Local,
    /// Ask the function that the machine file gives.
    Function,
}

impl When {
    /// The choice with this name.
    pub(super) fn from_name(name: &str) -> Option<When> {
        match name {
            "wait" => Some(When::Wait),
            "local" => Some(When::Local),
            _ => None,
        }
    }
}

/// What Lua code may use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Time to evaluate the machine file. Default 5 s.
    pub evaluate: Duration,
    /// Time for all calls of functions of the machine file during one decision. Default 0.5 s.
    pub decide: Duration,
    /// Bytes of memory. Default 64 MiB.
    pub memory: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { evaluate: Duration::from_secs(5), decide: Duration::from_millis(500), memory: 64 << 20 }
    }
}

/// A wait for Lua beyond this would hold up the daemon, which serves nothing else meanwhile.
const MAX_SECONDS: f64 = 300.0;
const LEAST_MEMORY: u64 = 1 << 20;
const MOST_MEMORY: u64 = 1 << 40;

/// The functions among the settings.
#[derive(Clone, Debug, Default)]
pub(super) struct PoolFunctions {
    pub when_busy: Option<Function>,
    pub when_unreachable: Option<Function>,
}

/// Reads the settings; what they do not say stays as in `limits` and the defaults.
pub(super) fn read(fields: &mut Fields, limits: Limits) -> (Settings, PoolFunctions) {
    fields.unknown(POOL, true);
    let mut settings = Settings { limits, ..Settings::default() };
    let mut functions_of_pool = PoolFunctions::default();
    for (field, setting, choice) in [
        ("when_busy", &mut settings.when_busy, &mut functions_of_pool.when_busy),
        ("when_unreachable", &mut settings.when_unreachable, &mut functions_of_pool.when_unreachable),
    ] {
        let read = |value: &Value| match value {
            Value::Function(function) => Some((When::Function, Some(function.clone()))),
            value => When::from_name(&values::string(value)?).map(|when| (when, None)),
        };
        if let Some((when, function)) = fields.read(field, "\"wait\", \"local\" or a function", read) {
            (*setting, *choice) = (when, function);
        }
    }
    if let Some(attempts) = fields.whole("max_attempts", 1, 1000) {
        settings.max_attempts = attempts as u32;
    }
    let seconds = |value: &Value| values::number(value).filter(|seconds| (0.0..=86400.0).contains(seconds));
    if let Some(seconds) = fields.read("wait_for_slot", "a number of seconds from 0 to 86400", seconds) {
        settings.wait_for_slot = Duration::from_secs_f64(seconds);
    }
    if let Some(table) = fields.read("limits", "a table", |value| value.as_table().cloned()) {
        let mut inner = Fields {
            table: &table,
            place: FindingLocation::Limits,
            subject: "limits".to_owned(),
            findings: &mut *fields.findings,
        };
        settings.limits = read_limits(&mut inner, limits);
    }
    (settings, functions_of_pool)
}

fn read_limits(fields: &mut Fields, mut limits: Limits) -> Limits {
    fields.unknown(LIMITS, false);
    if let Some(seconds) = fields.positive("evaluate", "a number of seconds", MAX_SECONDS) {
        limits.evaluate = Duration::from_secs_f64(seconds);
    }
    if let Some(seconds) = fields.positive("decide", "a number of seconds", MAX_SECONDS) {
        limits.decide = Duration::from_secs_f64(seconds);
    }
    if let Some(bytes) = fields.whole("memory", LEAST_MEMORY, MOST_MEMORY) {
        limits.memory = bytes as usize;
    }
    limits
}

/// The limits that a table states, as far as they are valid; used before the machine file has been evaluated.
pub(super) fn stated_limits(table: &Table, limits: Limits) -> Limits {
    let mut findings = Vec::new();
    let place = FindingLocation::Limits;
    read_limits(&mut Fields { table, place, subject: String::new(), findings: &mut findings }, limits)
}
