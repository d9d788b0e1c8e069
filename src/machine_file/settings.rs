//! The settings of the pool, the named fields of the table that a machine file returns, in the order of the manual.

use super::decode::seconds_to_json;
use super::fields::{Fields, FindingLocation, Subject};
use super::on_demand::{self, ON_DEMAND_LIMITS_FIELDS};
use super::schema::{self, Field, FieldValues};
use super::shared;
use crate::lua::values;
use crate::machine::{PoolLimits, SharedPool};
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
    /// The limit of attempts at one build, on one machine or several. `None`: a function of the machine file decides.
    pub max_attempts: Option<u32>,
    /// How long an accepted build may wait for a slot inside the hook.
    pub wait_for_slot: SlotWait,
    /// How long an accepted build may wait while no matching machine can be reached.
    pub wait_for_machine: Duration,
    /// The limits of all machines on demand together.
    pub on_demand: PoolLimits,
    /// The engine that this head shares the machines with others through.
    pub shared: Option<SharedPool>,
    /// The limits of Lua code.
    pub limits: Limits,
    /// Whether the pool has an `accepts` of its own.
    pub has_accepts: bool,
    /// Whether the pool has a `score` of its own.
    pub has_score: bool,
    /// Whether that is `offload.soonest`.
    pub scores_soonest: bool,
    /// Whether there is a function `on_event`.
    pub has_on_event: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            when_busy: Some(Fallback::Wait),
            when_unreachable: Some(Fallback::Local),
            max_attempts: Some(DEFAULT_MAX_ATTEMPTS),
            wait_for_slot: SlotWait::Unlimited,
            wait_for_machine: Duration::from_secs(60),
            on_demand: PoolLimits::default(),
            shared: None,
            limits: Limits::default(),
            has_accepts: false,
            has_score: false,
            scores_soonest: false,
            has_on_event: false,
        }
    }
}

/// The attempts at a build if the machine file has no valid number.
pub(super) const DEFAULT_MAX_ATTEMPTS: u32 = 3;

/// How long an accepted build may wait for a slot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SlotWait {
    /// As long as the daemon's limits allow.
    Unlimited,
    Limited(Duration),
    /// A function of the machine file decides.
    Function,
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
    /// Time for a call of `on_event`.
    pub on_event: Duration,
    /// Bytes of memory.
    pub memory: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            evaluate: Duration::from_secs(5),
            decide: Duration::from_millis(500),
            on_event: Duration::from_secs(10),
            memory: 64 << 20,
        }
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
        "Returns whether a machine takes a build. The hook calls it for each machine whose systems and features \
         match. Without this function, all these machines take the build.",
    )
    .read(|f, s| f.function().map(|_| s.has_accepts = true))
    .json(|s| json!(s.has_accepts)),
    PoolField::new(
        "score",
        "offload.ScoreFunction",
        "Returns the score of a machine for a build. The highest score is the best. The hook calls it for \
         machines without a `score` of their own. Without any function `score`, the score is speed / (1 + load).",
    )
    .read(|f, s| f.function().map(|_| s.has_score = true))
    .json(|s| json!(s.has_score)),
    PoolField::new(
        "when_busy",
        "\"wait\"|\"local\"|offload.Choice",
        "What happens if no matching machine can take the build now, but at least one is only busy: without a free \
         slot, overloaded, drained or low on disk. `\"wait\"`: the build waits. `\"local\"`: if the daemon offers \
         to build and the head has the system type, the head builds; otherwise the build waits. A function \
         of the request can return one of these words.",
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
    PoolField::new(
        "max_attempts",
        "integer|offload.Attempts",
        "How many attempts a build gets, on different machines or again on the same machine; 1 to 1000. Or a function \
         of the request that returns such a number. It is called once, when the build is accepted.",
    )
    .read(|f, s| attempts(f).map(|attempts| s.max_attempts = attempts))
    .json(|s| s.max_attempts.map_or(json!("function"), |attempts| json!(attempts))),
    PoolField::new(
        "wait_for_slot",
        "number|offload.Wait",
        "How long an accepted build may wait for a build slot; 0 to 86400. Without this field, only the daemon's own \
         limits apply. Or a function of the request that returns such a number, or nil for the daemon's limits.",
    )
    .unit("seconds")
    .read(|f, s| slot_wait(f).map(|wait| s.wait_for_slot = wait))
    .json(|s| match s.wait_for_slot {
        SlotWait::Unlimited => json!(null),
        SlotWait::Limited(time) => seconds_to_json(time),
        SlotWait::Function => json!("function"),
    }),
    PoolField::new(
        "wait_for_machine",
        "number",
        "How long an accepted build may wait while no matching machine can be reached; 0 to 86400.",
    )
    .unit("seconds")
    .read(|f, s| waiting_time(f).map(|time| s.wait_for_machine = time))
    .json(|s| seconds_to_json(s.wait_for_machine)),
    PoolField::new(
        "on_event",
        "offload.OnEvent",
        "Receives events: builds that failed, machines that went down or came up, machines on demand that were started \
         or stopped. A process of its own calls it, which no build waits for.",
    )
    .read(|f, s| f.function().map(|_| s.has_on_event = true))
    .json(|s| json!(s.has_on_event)),
    PoolField::new("on_demand", "offload.OnDemandLimits", "Limits of all machines with `on_demand` together.")
        .read(|f, s| on_demand::pool(f, &mut s.on_demand))
        .json(|s| json!(FieldValues(ON_DEMAND_LIMITS_FIELDS, &s.on_demand))),
    PoolField::new(
        "shared",
        "offload.SharedPool",
        "The database with which several heads share the machines, so that all of them together run no more than \
         `parallel_builds` builds on a machine. Without this field, each head counts its own builds.",
    )
    .read(|f, s| shared::pool(f).map(|shared| s.shared = Some(shared)))
    .json(|s| shared::to_json(s.shared.as_ref())),
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
    LimitField::new(
        "decide",
        "number",
        "Time for all calls of the file's functions during one decision of the hook, in total.",
    )
    .unit("seconds")
    .read(|f, l| f.seconds(MAX_LUA_SECONDS).map(|time| l.decide = time))
    .json(|l| seconds_to_json(l.decide)),
    LimitField::new("on_event", "number", "Time for a call of `on_event`.")
        .unit("seconds")
        .read(|f, l| f.seconds(MAX_LUA_SECONDS).map(|time| l.on_event = time))
        .json(|l| seconds_to_json(l.on_event)),
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
    fields.read(WAIT_EXPECTED, wait_from_lua)
}

/// The values of a wait, in words.
pub(super) const WAIT_EXPECTED: &str = "a number of seconds from 0 to 86400";

/// Returns a wait, if it is within the limits.
pub(super) fn wait_from_lua(value: &Value) -> Option<Duration> {
    values::number(value).filter(|seconds| (0.0..=86400.0).contains(seconds)).map(Duration::from_secs_f64)
}

fn slot_wait(fields: &mut Fields) -> Option<SlotWait> {
    match fields.value() {
        Value::Function(_) => Some(SlotWait::Function),
        _ => fields.read(&format!("{WAIT_EXPECTED}, or a function"), wait_from_lua).map(SlotWait::Limited),
    }
}

/// The values of `max_attempts`, in words.
pub(super) const ATTEMPTS_EXPECTED: &str = "a whole number from 1 to 1000";

/// Returns a number of attempts, if it is within the limits.
pub(super) fn attempts_from_lua(value: &Value) -> Option<u32> {
    values::whole(value).filter(|number| (1..=1000).contains(number)).and_then(|number| number.try_into().ok())
}

fn attempts(fields: &mut Fields) -> Option<Option<u32>> {
    match fields.value() {
        Value::Function(_) => Some(None),
        _ => fields.read(&format!("{ATTEMPTS_EXPECTED}, or a function"), attempts_from_lua).map(Some),
    }
}

fn read_limits(fields: &mut Fields, limits: &mut Limits) -> Option<()> {
    let table = fields.table()?;
    let mut inner =
        Fields::new(&table, FindingLocation::PoolTable("limits"), Subject::Table("limits".to_owned()), fields.findings);
    schema::read(LIMITS_FIELDS, &mut inner, limits).then_some(())
}

/// Returns the valid limits of a table; used before the machine file has been evaluated.
pub(super) fn stated_limits(table: &Table, mut limits: Limits) -> Limits {
    let mut findings = Vec::new();
    schema::read(
        LIMITS_FIELDS,
        &mut Fields::new(table, FindingLocation::PoolTable("limits"), Subject::Pool, &mut findings),
        &mut limits,
    );
    limits
}
