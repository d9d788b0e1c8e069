//! What the functions of a machine file are told: the request, and the status of a machine.

use mlua::{Lua, Table, Value};
use std::fmt;
use std::sync::Arc;

/// What the daemon asks for: one derivation to be built.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// System type of the derivation.
    pub system: String,
    /// Features that the machine must offer.
    pub features: Vec<String>,
    /// File name of the derivation in the store.
    pub derivation: String,
    /// Name of the derivation: without directory, hash and `.drv`. See [`Request::name_of`].
    pub name: String,
    /// Whether the daemon has room for a local build: the first field of its request.
    pub wants_local: bool,
    /// Seconds of silence after which a build has failed; 0: no limit.
    pub max_silent_time: u64,
    /// Seconds after which a build has failed; 0: no limit.
    pub build_timeout: u64,
    /// Reads the derivation, for `request:read_derivation()`.
    pub reader: Option<DerivationReader>,
}

impl Request {
    /// The name in the file name of a derivation: `hello-2.12` in `/gnu/store/HASH-hello-2.12.drv`.
    pub fn name_of(derivation: &str) -> &str {
        let base = derivation.rsplit('/').next().unwrap_or_default();
        let base = base.split_once('-').map_or(base, |(_, name)| name);
        base.strip_suffix(".drv").unwrap_or(base)
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

/// What `request:read_derivation()` shows of a derivation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Derivation {
    /// The program that builds it.
    pub builder: Vec<u8>,
    pub args: Vec<Vec<u8>>,
    /// Environment variables of the builder.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Derivations it needs, each with the names of their outputs.
    pub inputs: Vec<(String, Vec<String>)>,
    /// Store items it needs that are no outputs.
    pub sources: Vec<String>,
    /// Names of its outputs, with their file names.
    pub outputs: Vec<(String, String)>,
}

/// What is known of a machine at this moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
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
    /// Build slots that are taken.
    pub running: Option<u32>,
    /// Seconds its clock is ahead of ours.
    pub clock_skew: Option<f64>,
    /// Seconds since this was measured; `None`: never.
    pub age: Option<f64>,
    pub reachable: Option<bool>,
}

impl Status {
    /// The fields' names in Lua.
    pub const FIELDS: [&str; 11] = [
        "load",
        "loadavg",
        "cores",
        "pressure",
        "free_memory",
        "free_disk",
        "free_inodes",
        "running",
        "clock_skew",
        "age",
        "reachable",
    ];

    pub(super) fn to_lua(&self, lua: &Lua) -> mlua::Result<Table> {
        let table = lua.create_table()?;
        table.raw_set("load", self.load)?;
        table.raw_set("loadavg", self.loadavg.map(Vec::from))?;
        table.raw_set("cores", self.cores)?;
        table.raw_set("pressure", self.pressure)?;
        table.raw_set("free_memory", self.free_memory)?;
        table.raw_set("free_disk", self.free_disk)?;
        table.raw_set("free_inodes", self.free_inodes)?;
        table.raw_set("running", self.running)?;
        table.raw_set("clock_skew", self.clock_skew)?;
        table.raw_set("age", self.age)?;
        table.raw_set("reachable", self.reachable)?;
        Ok(table)
    }
}

impl Request {
    /// The fields' names in Lua; the method is `read_derivation`.
    pub const FIELDS: [&str; 7] =
        ["system", "features", "derivation", "name", "wants_local", "max_silent_time", "build_timeout"];

    pub(super) fn to_lua(&self, lua: &Lua) -> mlua::Result<Table> {
        let table = lua.create_table()?;
        table.raw_set("system", self.system.as_str())?;
        table.raw_set("features", self.features.as_slice())?;
        table.raw_set("derivation", self.derivation.as_str())?;
        table.raw_set("name", self.name.as_str())?;
        table.raw_set("wants_local", self.wants_local)?;
        table.raw_set("max_silent_time", self.max_silent_time)?;
        table.raw_set("build_timeout", self.build_timeout)?;
        let methods = lua.create_table()?;
        let (reader, file) = (self.reader.clone(), self.derivation.clone());
        let cell = lua.create_table()?;
        let read = move |lua: &Lua, _: Value| {
            if let Value::Table(known) = cell.raw_get(1)? {
                return Ok(known);
            }
            let failed =
                |error: &str| mlua::Error::RuntimeError(format!("the derivation {file} cannot be read: {error}"));
            let reader = reader.as_ref().ok_or_else(|| failed("nothing reads it here"))?;
            let derivation = (reader.0)().map_err(|error| failed(&error))?.to_lua(lua)?;
            cell.raw_set(1, &derivation)?;
            Ok(derivation)
        };
        methods.raw_set("read_derivation", lua.create_function(read)?)?;
        let metatable = lua.create_table()?;
        metatable.raw_set("__index", methods)?;
        metatable.raw_set("__name", "request")?;
        table.set_metatable(Some(metatable))?;
        Ok(table)
    }
}

impl Derivation {
    /// The fields' names in Lua.
    pub const FIELDS: [&str; 6] = ["builder", "args", "env", "inputs", "sources", "outputs"];

    fn to_lua(&self, lua: &Lua) -> mlua::Result<Table> {
        let string = |bytes: &Vec<u8>| lua.create_string(bytes);
        let table = lua.create_table()?;
        table.raw_set("builder", string(&self.builder)?)?;
        let args = self.args.iter().map(string).collect::<mlua::Result<Vec<_>>>()?;
        table.raw_set("args", args)?;
        let env = lua.create_table()?;
        for (name, value) in &self.env {
            env.raw_set(string(name)?, string(value)?)?;
        }
        table.raw_set("env", env)?;
        let inputs = lua.create_table()?;
        for (derivation, outputs) in &self.inputs {
            inputs.raw_set(derivation.as_str(), outputs.as_slice())?;
        }
        table.raw_set("inputs", inputs)?;
        table.raw_set("sources", self.sources.as_slice())?;
        let outputs = lua.create_table()?;
        for (name, file) in &self.outputs {
            outputs.raw_set(name.as_str(), file.as_str())?;
        }
        table.raw_set("outputs", outputs)?;
        Ok(table)
    }
}
