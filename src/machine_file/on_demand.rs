//! `on_demand` of a machine and of the pool, and what a function `start` returns.
//!
//! `start` and `stop` are a list (a program and its arguments) or a function of the machine. `start` may return a
//! table with `name`, `port` and `host_key`, which replace those of the machine until it is off. The host key is that
//! of the entry or this one: a machine whose host key is unknown is never contacted.

use super::decode::{self, seconds_to_json};
use super::fields::{Fields, FindingLocation, Subject};
use super::schema::{self, Field, FieldValues};
use crate::lua::values::{self, describe};
use crate::machine::{Action, OnDemand, PoolLimits, StartedAs};
use mlua::Value;
use serde_json::json;

type OnDemandField = Field<OnDemand>;
type LimitField = Field<PoolLimits>;
type StartedField = Field<StartedAs>;

/// The longest time limit of a start or a stop, in seconds: a day.
const MAX_SECONDS: f64 = 86400.0;
/// The longest `idle` and `min_up`, in seconds: 30 days.
const MAX_UP_SECONDS: f64 = 30.0 * 86400.0;
/// The largest `max_running` and `max_starting`.
const MAX_MACHINES: u64 = 10_000;

/// The fields of `on_demand` of a machine.
pub const ON_DEMAND_FIELDS: &[Field<OnDemand>] = &[
    OnDemandField::new(
        "start",
        "string[]|fun(machine: offload.BuildMachine): offload.Started?",
        "Starts the machine: a program and its arguments, or a function of the machine. It may return before the \
         machine has booted. The function may return a table with the fields `name`, `port` and `host_key`.",
    )
    .required()
    .read(|f, o| action(f).map(|action| o.start = action))
    .json(|o| action_to_json(&o.start)),
    OnDemandField::new(
        "stop",
        "string[]|fun(machine: offload.BuildMachine)",
        "Stops the machine, as `start` starts it. It also runs after a failed start, so it must succeed if the machine \
         does not run.",
    )
    .required()
    .read(|f, o| action(f).map(|action| o.stop = action))
    .json(|o| action_to_json(&o.stop)),
    OnDemandField::new(
        "boot_timeout",
        "number",
        "The time limit from the call of `start` to the response of the machine's daemon.",
    )
    .unit("seconds")
    .read(|f, o| f.seconds(MAX_SECONDS).map(|time| o.boot_timeout = time))
    .json(|o| seconds_to_json(o.boot_timeout)),
    OnDemandField::new("stop_timeout", "number", "The time limit of `stop`.")
        .unit("seconds")
        .read(|f, o| f.seconds(MAX_SECONDS).map(|time| o.stop_timeout = time))
        .json(|o| seconds_to_json(o.stop_timeout)),
    OnDemandField::new("idle", "number", "After this time without a build, the machine is stopped.")
        .unit("seconds")
        .read(|f, o| f.seconds_from(0.0, MAX_UP_SECONDS).map(|time| o.idle = time))
        .json(|o| seconds_to_json(o.idle)),
    OnDemandField::new(
        "min_up",
        "number",
        "The machine is not stopped before it has run for this time, such as 3600 where each hour that has begun is \
         paid for.",
    )
    .unit("seconds")
    .read(|f, o| f.seconds_from(0.0, MAX_UP_SECONDS).map(|time| o.min_up = time))
    .json(|o| seconds_to_json(o.min_up)),
    OnDemandField::new(
        "start_after",
        "number",
        "How long a build waits for a slot of a machine that runs, before this machine is started. If no matching \
         machine runs, this machine is started at once.",
    )
    .unit("seconds")
    .read(|f, o| f.seconds_from(0.0, MAX_SECONDS).map(|time| o.start_after = time))
    .json(|o| seconds_to_json(o.start_after)),
];

/// The fields of `on_demand` of the pool.
pub const ON_DEMAND_LIMITS_FIELDS: &[Field<PoolLimits>] = &[
    LimitField::new("max_running", "integer", "How many machines may run or start at the same time.")
        .read(|f, l| f.whole(0, MAX_MACHINES).map(|count| l.max_running = Some(count)))
        .json(|l| json!(l.max_running)),
    LimitField::new("max_starting", "integer", "How many machines may start at the same time.")
        .read(|f, l| f.whole(0, MAX_MACHINES).map(|count| l.max_starting = Some(count)))
        .json(|l| json!(l.max_starting)),
    LimitField::new(
        "max_hours",
        "number",
        "How many hours the machines may have run within the last 24 hours, all added up. Then none is started.",
    )
    .read(|f, l| f.positive("a number of hours", 24.0 * MAX_MACHINES as f64).map(|hours| l.max_hours = Some(hours)))
    .json(|l| json!(l.max_hours)),
];

/// The fields of the table that `start` may return.
const STARTED_FIELDS: &[Field<StartedAs>] = &[
    StartedField::new("name", "string", "").read(|f, o| decode::name(f).map(|name| o.name = Some(name))),
    StartedField::new("port", "integer", "").read(|f, o| f.whole(1, 65535).map(|port| o.port = Some(port))),
    StartedField::new("host_key", "string|string[]", "")
        .read(|f, o| decode::host_keys(f).map(|keys| o.host_keys = Some(keys))),
];

/// Decodes the result of a function `start`. The error says what is wrong.
pub(super) fn started_as(value: &Value) -> Result<StartedAs, String> {
    let table = match value {
        Value::Nil => return Ok(StartedAs::default()),
        Value::Table(table) => table,
        other => {
            let fields = "a table with name, port or host_key";
            return Err(format!("start: expected {fields}, or nothing, found {}", describe(other)));
        }
    };
    let mut findings = Vec::new();
    let mut started_as = StartedAs::default();
    let mut fields =
        Fields::new(table, FindingLocation::PoolTable("start"), Subject::Table("start".to_owned()), &mut findings);
    schema::read(STARTED_FIELDS, &mut fields, &mut started_as);
    match findings.first() {
        None => Ok(started_as),
        Some(finding) => Err(match &finding.hint {
            Some(hint) => format!("{}; {hint}", finding.message),
            None => finding.message.clone(),
        }),
    }
}

/// Reads `on_demand` of a machine.
pub(super) fn machine(fields: &mut Fields) -> Option<OnDemand> {
    let table = fields.table()?;
    let subject = Subject::Table(format!("{}: on_demand", fields.subject()));
    let mut on_demand = OnDemand::default();
    let mut inner = Fields::new(&table, fields.place, subject, fields.findings);
    schema::read(ON_DEMAND_FIELDS, &mut inner, &mut on_demand).then_some(on_demand)
}

/// Returns whether a function starts the machine, which may return the host key.
pub(super) fn starts_by_function(fields: &Fields) -> bool {
    let on_demand = fields.get("on_demand");
    let start = on_demand.as_table().map(|table| table.raw_get::<Value>("start"));
    matches!(start, Some(Ok(Value::Function(_))))
}

/// Returns `on_demand` of a machine for `offload eval --json`.
pub(super) fn machine_to_json(on_demand: Option<&OnDemand>) -> serde_json::Value {
    on_demand.map_or(serde_json::Value::Null, |on_demand| json!(FieldValues(ON_DEMAND_FIELDS, on_demand)))
}

/// Reads `on_demand` of the pool.
pub(super) fn pool(fields: &mut Fields, limits: &mut PoolLimits) -> Option<()> {
    let table = fields.table()?;
    let place = FindingLocation::PoolTable("on_demand");
    let mut inner = Fields::new(&table, place, Subject::Table("on_demand".to_owned()), fields.findings);
    schema::read(ON_DEMAND_LIMITS_FIELDS, &mut inner, limits).then_some(())
}

fn action(fields: &mut Fields) -> Option<Action> {
    const EXPECTED: &str = "a program and its arguments, such as { \"virsh\", \"start\", \"b1\" }, or a function";
    if fields.value().is_function() {
        return Some(Action::Function);
    }
    let words = fields.strings(EXPECTED, |word| match word.contains('\0') {
        true => Err("a text without NUL".to_owned()),
        false => Ok(()),
    })?;
    if words.first().is_none_or(String::is_empty) {
        let found = values::describe(&fields.value());
        fields.error(format!("expected {EXPECTED}, found {found}"), None);
        return None;
    }
    if words.first().is_some_and(|program| program.contains('/') && !program.starts_with('/')) {
        // Hooks and timers have other working directories than the administrator who tries it.
        let remedy = "write the absolute path, or the name of a program on guix-daemon's PATH";
        fields.error(
            format!("the program '{}' is relative to no directory in particular", words[0]),
            Some(remedy.to_owned()),
        );
        return None;
    }
    Some(Action::Program(words))
}

fn action_to_json(action: &Action) -> serde_json::Value {
    match action {
        Action::Program(words) => json!(words),
        Action::Function => json!("function"),
    }
}
