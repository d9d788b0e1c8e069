//! The arguments of the functions of a machine file: the request, and the status of a machine.

use super::constructors::strict_index;
use super::facts::{self, MachineFacts, RequestFacts};
use super::schema::{self, Field};
use super::soonest;
use crate::hook::{self, HookArguments};
use crate::lua::Context;
use crate::store::base16;
use crate::store::derivation::Derivation;
use mlua::{Lua, Table, Value};
use serde_json::json;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The end of the error that a request without a derivation raises if its derivation is read.
pub(super) const NO_DERIVATION: &str = "there is no derivation to read here";

/// The daemon's request to build one derivation.
#[derive(Clone, Debug, Default)]
pub struct LuaRequest {
    /// System type of the derivation.
    pub system: String,
    /// Features that the machine must offer.
    pub features: Vec<String>,
    /// File name of the derivation in the store.
    pub derivation: String,
    /// Name of the derivation: without directory, hash and `.drv`.
    pub name: String,
    /// Whether the daemon has room for a local build: the first field of its request.
    pub wants_local: bool,
    /// Seconds of silence after which a build has failed; 0: no limit.
    pub max_silent_time: u64,
    /// Seconds after which a build has failed; 0: no limit.
    pub build_timeout: u64,
    /// Name of the user whose command requests the build, if known.
    pub user: Option<String>,
    /// Names of the machines on which attempts at this build have failed, one for each attempt.
    pub tried: Vec<String>,
    /// Counts the builds in the queue, for `request.waiting`.
    pub queue: Option<QueueCounter>,
    /// Reads the derivation, for `request:read_derivation()`.
    pub reader: Option<DerivationReader>,
    /// Finds what is expected of the build.
    pub facts: Option<RequestFacts>,
}

impl LuaRequest {
    /// Makes it from the daemon's request and the arguments with which it started the hook.
    pub fn new(request: &hook::Request, arguments: &HookArguments) -> LuaRequest {
        let seconds = |limit: Option<Duration>| limit.map_or(0, |limit| limit.as_secs());
        let name = request.derivation.name();
        LuaRequest {
            system: request.system.clone(),
            features: request.features.clone(),
            derivation: request.derivation.as_str().to_owned(),
            name: name.strip_suffix(".drv").unwrap_or(name).to_owned(),
            wants_local: request.wants_local,
            max_silent_time: seconds(arguments.max_silent_time),
            build_timeout: seconds(arguments.build_timeout),
            ..LuaRequest::default()
        }
    }
}

/// A function that reads the derivation of a request; its error is a message.
#[derive(Clone)]
pub struct DerivationReader(pub Arc<dyn Fn() -> Result<Derivation, String> + Send + Sync>);

impl fmt::Debug for DerivationReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DerivationReader")
    }
}

/// A function that counts the builds that wait for a machine of this head. It is called if a function of the machine file
/// is, at most once in a decision.
#[derive(Clone)]
pub struct QueueCounter(pub Arc<dyn Fn() -> usize + Send + Sync>);

impl fmt::Debug for QueueCounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QueueCounter")
    }
}

/// The current facts about a machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LuaStatus {
    /// One-minute load over cores.
    pub load: Option<f64>,
    /// Load averages over 1, 5 and 15 minutes.
    pub loadavg: Option<[f64; 3]>,
    pub cores: Option<u32>,
    /// Share of time in the last 10 seconds in which some process waited for a processor, in percent.
    pub pressure: Option<f64>,
    /// Bytes.
    pub free_memory: Option<u64>,
    /// Bytes free in the store.
    pub free_disk: Option<u64>,
    /// Inodes free in the store.
    pub free_inodes: Option<u64>,
    /// The number of taken build slots.
    pub running: Option<u32>,
    /// Seconds its clock is ahead of ours.
    pub clock_skew: Option<f64>,
    /// Seconds since this was measured; `None`: never.
    pub age: Option<f64>,
    pub reachable: Option<bool>,
    /// For a machine on demand, whether it runs.
    pub power: Option<&'static str>,
    /// Finds further facts.
    pub facts: Option<MachineFacts>,
}

impl LuaStatus {
    /// Returns the result of a probe of a machine, `age` ago.
    pub fn measured(probe: &crate::status::MachineStatus, age: Duration) -> LuaStatus {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64());
        let loadavg = match (probe.load1, probe.load5, probe.load15) {
            (Some(load1), Some(load5), Some(load15)) => Some([load1, load5, load15]),
            _ => None,
        };
        LuaStatus {
            load: probe.load(),
            loadavg,
            cores: probe.cores,
            pressure: probe.pressure_cpu,
            free_memory: probe.free_memory,
            free_disk: probe.free_disk,
            free_inodes: probe.free_inodes,
            running: None,
            clock_skew: probe.clock.map(|clock| clock as f64 - (now - age.as_secs_f64())),
            age: Some(age.as_secs_f64()),
            reachable: Some(true),
            power: None,
            facts: None,
        }
    }
}

type StatusField = Field<LuaStatus>;
type RequestField = Field<LuaRequest>;

/// The fields of `status`.
pub const STATUS_FIELDS: &[Field<LuaStatus>] = &[
    StatusField::new(
        "load",
        "number",
        "One-minute load average divided by the number of cores. The hook adds builds that have just started, because \
         the average does not contain them yet.",
    )
    .json(|s| json!(s.load)),
    StatusField::new("loadavg", "number[]", "Load averages over 1, 5 and 15 minutes.").json(|s| json!(s.loadavg)),
    StatusField::new("cores", "integer", "Number of cores.").json(|s| json!(s.cores)),
    StatusField::new(
        "pressure",
        "number",
        "Percentage of the last 10 seconds in which some process waited for a processor.",
    )
    .json(|s| json!(s.pressure)),
    StatusField::new("free_memory", "integer", "Memory that is available.")
        .unit("bytes")
        .json(|s| json!(s.free_memory)),
    StatusField::new("free_disk", "integer", "Space free in the store.").unit("bytes").json(|s| json!(s.free_disk)),
    StatusField::new("free_inodes", "integer", "Inodes free in the store.").json(|s| json!(s.free_inodes)),
    StatusField::new("running", "integer", "Build slots that are taken.").json(|s| json!(s.running)),
    StatusField::new("clock_skew", "number", "How far the machine's clock is ahead of the head's.")
        .unit("seconds")
        .json(|s| json!(s.clock_skew)),
    StatusField::new("age", "number", "Time since the machine was last probed; nil: it was never probed.")
        .unit("seconds")
        .json(|s| json!(s.age)),
    StatusField::new("reachable", "boolean", "Whether the last attempt to reach the machine succeeded.")
        .json(|s| json!(s.reachable)),
    StatusField::new(
        "power",
        "string",
        "For a machine with `on_demand`: `\"off\"`, `\"starting\"`, `\"running\"`, `\"stopping\"`, or `\"failed\"` while no \
         start is tried after a failed one. Nil for other machines.",
    )
    .json(|s| json!(s.power)),
    StatusField::new(
        "missing_inputs",
        "integer",
        "How many of the derivations that the build needs have outputs that the machine is not known to have. The head \
         knows what was built there recently, and what those builds needed.",
    ),
    StatusField::new("missing_bytes", "integer", "Size of the inputs that the machine is not known to have.")
        .unit("bytes"),
];

/// The fields of `request`.
pub const REQUEST_FIELDS: &[Field<LuaRequest>] = &[
    RequestField::new("system", "string", "System type of the derivation.").json(|r| json!(r.system)),
    RequestField::new("features", "string[]", "Features that the machine must offer.").json(|r| json!(r.features)),
    RequestField::new("derivation", "string", "File name of the derivation.").json(|r| json!(r.derivation)),
    RequestField::new("name", "string", "Name of the derivation: its file name without directory, hash and `.drv`.")
        .json(|r| json!(r.name)),
    RequestField::new("wants_local", "boolean", "Whether guix-daemon could build the derivation itself now.")
        .json(|r| json!(r.wants_local)),
    RequestField::new("max_silent_time", "integer", "A build fails after this time of silence; 0: no limit.")
        .unit("seconds")
        .json(|r| json!(r.max_silent_time)),
    RequestField::new("build_timeout", "integer", "A build fails after this time; 0: no limit.")
        .unit("seconds")
        .json(|r| json!(r.build_timeout)),
    RequestField::new(
        "user",
        "string|nil",
        "Name of the user whose command requests the build, or the number of a user without an account. nil if \
         guix-daemon does not tell it, such as for a client of another machine.",
    )
    .json(|r| json!(r.user)),
    RequestField::new(
        "attempt",
        "integer",
        "Number of the attempt: 1 at first, 2 after an attempt on a machine has failed.",
    )
    .json(|r| json!(r.tried.len() + 1)),
    RequestField::new(
        "tried",
        "string[]",
        "Names of the machines on which attempts have failed, one for each attempt.",
    )
    .json(|r| json!(r.tried)),
    RequestField::new(
        "waiting",
        "integer",
        "How many builds of this head wait for a machine. If this build waits already, it counts too.",
    )
    .json(|r| json!(r.queue.as_ref().map_or(0, |queue| (queue.0)()))),
    RequestField::new(
        "input_bytes",
        "integer",
        "Size of the inputs that the derivation names, without what these refer to; nil: unknown, for example because \
         an input is not built yet.",
    )
    .unit("bytes"),
    RequestField::new(
        "expected_seconds",
        "number",
        "Time that the build is expected to take, from the history: on the machine in the middle, if machines \
         differ; nil: unknown.",
    )
    .unit("seconds"),
    RequestField::new(
        "expected_output_bytes",
        "number",
        "Expected size of the outputs, from the history; nil: unknown.",
    )
    .unit("bytes"),
    RequestField::new(
        "read_derivation",
        "fun(self: offload.Request): offload.Derivation",
        "A method, `request:read_derivation()`: reads the derivation from the store.",
    ),
];

impl LuaRequest {
    pub(super) fn to_lua(&self, lua: &Lua, context: &Rc<Context>) -> mlua::Result<Table> {
        let table = schema::to_lua(REQUEST_FIELDS, lua, self)?;
        let methods = lua.create_table()?;
        let (reader, file) = (self.reader.clone(), self.derivation.clone());
        let cell = lua.create_table()?;
        let read = move |lua: &Lua, _: Value| {
            if let Value::Table(known) = cell.raw_get(1)? {
                return Ok(known);
            }
            let failed =
                |error: &str| mlua::Error::RuntimeError(format!("the derivation {file} cannot be read: {error}"));
            let reader = reader.as_ref().ok_or_else(|| failed(NO_DERIVATION))?;
            let derivation = (reader.0)().map_err(|error| failed(&error))?;
            let derivation = derivation_to_lua(lua, &derivation)?;
            cell.raw_set(1, &derivation)?;
            Ok(derivation)
        };
        methods.raw_set("read_derivation", lua.create_function(read)?)?;
        let metatable = lua.create_table()?;
        let known = REQUEST_FIELDS.iter().map(|field| field.name).collect();
        let method = move |_: &Lua, _: &Table, name: &Value| methods.raw_get(name);
        let strict = strict_index(lua, "request", known, method, Rc::clone(context))?;
        let facts = self.facts.clone();
        metatable.raw_set("__index", facts::index(lua, strict, move || facts.as_ref().map(RequestFacts::values))?)?;
        metatable.raw_set("__name", "request")?;
        table.set_metatable(Some(metatable))?;
        Ok(table)
    }
}

impl LuaStatus {
    pub(super) fn to_lua(&self, lua: &Lua, context: &Rc<Context>) -> mlua::Result<Table> {
        let table = schema::to_lua(STATUS_FIELDS, lua, self)?;
        let known = STATUS_FIELDS.iter().map(|field| field.name).collect();
        let metatable = lua.create_table()?;
        let strict = strict_index(lua, "status", known, |_, _, _| Ok(Value::Nil), Rc::clone(context))?;
        let facts = self.facts.clone();
        let values = move || facts.as_ref().map(MachineFacts::values);
        metatable.raw_set("__index", facts::index(lua, strict, values)?)?;
        if let Some(facts) = self.facts.clone() {
            soonest::attach(lua, &metatable, move || (facts.0)().soonest)?;
        }
        metatable.raw_set("__name", "status")?;
        table.set_metatable(Some(metatable))?;
        Ok(table)
    }
}

/// The names of the fields of a derivation in Lua.
pub const DERIVATION_FIELDS: [&str; 6] = ["builder", "args", "env", "inputs", "sources", "outputs"];
/// The names of the fields of an output of a derivation in Lua.
pub const OUTPUT_FIELDS: [&str; 3] = ["path", "method", "hash"];

/// Returns the table of a derivation. The system is that of the request.
fn derivation_to_lua(lua: &Lua, derivation: &Derivation) -> mlua::Result<Table> {
    let strings = |strings: &mut dyn Iterator<Item = &[u8]>| {
        let strings = strings.map(|bytes| lua.create_string(bytes)).collect::<mlua::Result<Vec<_>>>()?;
        lua.create_sequence_from(strings)
    };
    let table = lua.create_table()?;
    table.raw_set("builder", lua.create_string(&derivation.builder)?)?;
    table.raw_set("args", strings(&mut derivation.args.iter().map(Vec::as_slice))?)?;
    let env = lua.create_table()?;
    for (name, value) in &derivation.env {
        env.raw_set(lua.create_string(name)?, lua.create_string(value)?)?;
    }
    table.raw_set("env", env)?;
    let inputs = lua.create_table()?;
    for (input, outputs) in &derivation.input_derivations {
        inputs.raw_set(input.as_str(), strings(&mut outputs.iter().map(String::as_bytes))?)?;
    }
    table.raw_set("inputs", inputs)?;
    let sources = &mut derivation.input_sources.iter().map(|source| source.as_str().as_bytes());
    table.raw_set("sources", strings(sources)?)?;
    let outputs = lua.create_table()?;
    for (id, output) in &derivation.outputs {
        let shown = lua.create_table()?;
        shown.raw_set("path", output.path.as_str())?;
        if let Some(fixed) = &output.fixed {
            shown.raw_set("method", fixed.method())?;
            shown.raw_set("hash", base16::encode(&fixed.hash))?;
        }
        outputs.raw_set(id.as_str(), shown)?;
    }
    table.raw_set("outputs", outputs)?;
    Ok(table)
}
