//! The settings of the pool, the named fields of the table that a machine file returns, in the order of the manual.

use super::decode::seconds_to_json;
use super::fields::{Fields, FindingLocation};
use super::schema::{self, Field, FieldValues};
use crate::lua::values;
use mlua::{Table, Value};
use serde_json::json;
use std::time::Duration;

/// The settings of the pool besides its machines.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The action when every matching machine is busy. `None`: a function of the machine file decides.
    pub when_busy: Option<Fallback>,
    /// The action when no matching machine can be reached. `None`: a function of the machine file decides.
    pub when_unreachable: Option<Fallback>,
    /// The limit of attempts at one build, on one machine or several.
    pub max_attempts: u32,
    /// How long an accepted build may wait for a slot inside the hook. `None`: as long as the daemon's limits allow.
    pub wait_for_slot: Option<Duration>,
    /// How long an accepted build may wait while no matching machine can be reached.
    pub wait_for_machine: Duration,
    /// The limits of Lua code.
    pub limits: Limits,
    /// Whether the pool has an `accepts` of its own.
    pub has_accepts: bool,
    /// Whether the pool has a `score` of its own.
    pub has_score: bool,
    /// Whether that is `offload.soonest`.
    pub scores_soonest: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            when_busy: Some(Fallback::Wait),
            when_unreachable: Some(Fallback::Local),
            max_attempts: 3,
            wait_for_slot: None,
            wait_for_machine: Duration::from_secs(60),
            limits: Limits::default(),
            has_accepts: false,
            has_score: false,
            scores_soonest: false,
        }
    }
}

/// The action for a build that no machine can take now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// Waits for a machine.
    Wait,
    /// Declines the build, if the head may and can build it.
    Local,
}

impl Fallback {
    /// Returns the fallback with this name.
    pub(super) fn from_name(name: &str) -> Option<Fallback> {
        [Fallback::Wait, Fallback::Local].into_iter().find(|fallback| fallback.name() == name)
    }

    /// Returns the name that machine files use.
    pub fn name(self) -> &'static str {
        match self {
            Fallback::Wait => "wait",
            Fallback::Local => "local",
        }
    }
}

/// Returns the word that `offload eval --json` prints for such a setting.
fn fallback_to_json(setting: Option<Fallback>) -> serde_json::Value {
    json!(setting.map_or("function", Fallback::name))
}

/// The limits of Lua code.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Time to evaluate the machine file.
    pub evaluate: Duration,
    /// Time for all calls of functions of the machine file during one decision.
    pub decide: Duration,
    /// Bytes of memory.
    pub memory: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { evaluate: Duration::from_secs(5), decide: Duration::from_millis(500), memory: 64 << 20 }
    }
}

/// The longest time limit for Lua, in seconds: guix-daemon serves nothing else meanwhile.
const MAX_LUA_SECONDS: f64 = 300.0;
/// The smallest `memory` of `limits`, in bytes.
const MIN_LUA_MEMORY: u64 = 1 << 20;
/// The largest `memory` of `limits`, in bytes.
const MAX_LUA_MEMORY: u64 = 1 << 40;

type PoolField = Field<Settings>;
type LimitField = Field<Limits>;

/// The named fields of the table that a machine file returns.
pub const POOL_FIELDS: &[Field<Settings>] = &[
    PoolField::new(
        "accepts",
        "offload.Accepts",
        "Returns whether a machine takes a build. Called for each machine whose systems and features match. Without \
         this function, every such machine takes the build.",
    )
    .read(|f, s| f.function().map(|_| s.has_accepts = true))
    .json(|s| json!(s.has_accepts)),
    PoolField::new(
        "score",
        "offload.ScoreFunction",
        "Returns the score of a machine for a build. The highest score is the best. Called for machines without a \
         `score` of their own. Without any function `score`, the score is speed / (1 + load).",
    )
    .read(|f, s| f.function().map(|_| s.has_score = true))
    .json(|s| json!(s.has_score)),
    PoolField::new(
        "when_busy",
        "\"wait\"|\"local\"|offload.Choice",
        "What happens if no matching machine can take the build now, but some can later: their slots are taken, or \
         they are overloaded, drained or low on disk. `\"wait\"`: the build waits. `\"local\"`: if the daemon offers \
         to build and the head has the system type, the head builds; otherwise the build waits. Or a function of the \
         request that returns one of these words.",
    )
    .read(|f, s| fallback(f).map(|fallback| s.when_busy = fallback))
    .json(|s| fallback_to_json(s.when_busy)),
    PoolField::new(
        "when_unreachable",
        "\"wait\"|\"local\"|offload.Choice",
        "What happens if no matching machine can be reached: `\"wait\"`, `\"local\"` or a function, as for `when_busy`.",
    )
    .read(|f, s| fallback(f).map(|fallback| s.when_unreachable = fallback))
    .json(|s| fallback_to_json(s.when_unreachable)),
    PoolField::new("max_attempts", "integer", "How many attempts a build gets, on different machines or again on the same machine.")
        .read(|f, s| f.whole(1, 1000).map(|attempts| s.max_attempts = attempts))
        .json(|s| json!(s.max_attempts)),
    PoolField::new(
        "wait_for_slot",
        "number",
        "How long an accepted build may wait for a build slot; 0 to 86400. Without this field, only the daemon's own \
         limits apply.",
    )
    .unit("seconds")
    .read(|f, s| waiting_time(f).map(|time| s.wait_for_slot = Some(time)))
    .json(|s| json!(s.wait_for_slot.map(seconds_to_json))),
    PoolField::new(
        "wait_for_machine",
        "number",
        "How long an accepted build may wait while no matching machine can be reached; 0 to 86400.",
    )
    .unit("seconds")
    .read(|f, s| waiting_time(f).map(|time| s.wait_for_machine = time))
    .json(|s| seconds_to_json(s.wait_for_machine)),
    PoolField::new("limits", "offload.Limits", "Limits of time and memory for Lua code.")
        .read(|f, s| read_limits(f, &mut s.limits))
        .json(|s| json!(FieldValues(LIMITS_FIELDS, &s.limits))),
];

/// The fields of `limits`.
pub const LIMITS_FIELDS: &[Field<Limits>] = &[
    LimitField::new("evaluate", "number", "Time to evaluate the machine file.")
        .unit("seconds")
        .read(|f, l| f.seconds(MAX_LUA_SECONDS).map(|time| l.evaluate = time))
        .json(|l| seconds_to_json(l.evaluate)),
    LimitField::new("decide", "number", "Time for all calls of the file's functions during one decision, together.")
        .unit("seconds")
        .read(|f, l| f.seconds(MAX_LUA_SECONDS).map(|time| l.decide = time))
        .json(|l| seconds_to_json(l.decide)),
    LimitField::new("memory", "number", "Memory of the Lua interpreter.")
        .unit("bytes")
        .read(|f, l| f.whole(MIN_LUA_MEMORY, MAX_LUA_MEMORY).map(|bytes| l.memory = bytes))
        .json(|l| json!(l.memory)),
];

fn fallback(fields: &mut Fields) -> Option<Option<Fallback>> {
    fields.read("\"wait\", \"local\" or a function", |value| match value {
        Value::Function(_) => Some(None),
        value => Fallback::from_name(&values::string(value)?).map(Some),
    })
}

fn waiting_time(fields: &mut Fields) -> Option<Duration> {
    let seconds = |value: &Value| values::number(value).filter(|seconds| (0.0..=86400.0).contains(seconds));
    fields.read("a number of seconds from 0 to 86400", seconds).map(Duration::from_secs_f64)
}

fn read_limits(fields: &mut Fields, limits: &mut Limits) -> Option<()> {
    let table = fields.table()?;
    let mut inner = Fields::new(&table, FindingLocation::Limits, "limits".to_owned(), fields.findings);
    schema::read(LIMITS_FIELDS, &mut inner, limits).then_some(())
}

/// Returns the valid limits of a table; used before the machine file has been evaluated.
pub(super) fn stated_limits(table: &Table, mut limits: Limits) -> Limits {
    let mut findings = Vec::new();
    schema::read(
        LIMITS_FIELDS,
        &mut Fields::new(table, FindingLocation::Limits, String::new(), &mut findings),
        &mut limits,
    );
    limits
}
