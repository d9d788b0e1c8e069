//! `offload.soonest(request, machine, status)`: minus the seconds until the outputs of the build would be here.
//!
//! A machine file names it as `score`, or calls it in a `score` of its own. The engine computes the number. If the file
//! names it, no Lua code runs for a score. The default score is here, too.

use crate::lua::values::{self, describe};
use mlua::{Function, Lua, Table, Value};

/// The field of the metatable of a status that has the function.
const FUNCTION: &str = "soonest";

/// The assumed time of a build about which nothing is known, in seconds.
pub const ASSUMED_BUILD: f64 = 30.0;

/// Returns the score of a machine without a function: its speed over one plus its load per core. An unknown load counts
/// as 0.
pub fn default_score(speed: f64, load: Option<f64>) -> f64 {
    speed / (1.0 + load.unwrap_or(0.0).max(0.0))
}

/// Adds the function to the module.
pub(super) fn register(lua: &Lua, module: &Table) -> mlua::Result<Function> {
    let soonest = lua.create_function(|_, arguments: (Value, Value, Value)| {
        let (Value::Table(_), Value::Table(machine), Value::Table(status)) = &arguments else {
            let (request, machine, status) = &arguments;
            let found = [request, machine, status].map(describe).join(", ");
            return Err(mlua::Error::RuntimeError(format!(
                "soonest: expected the request, the machine and the status that a function `score` receives, found {found}"
            )));
        };
        if let Some(metatable) = status.metatable()
            && let Value::Function(estimate) = metatable.raw_get(FUNCTION)?
        {
            return estimate.call::<f64>(());
        }
        // `offload eval` tries functions with a status of its own.
        let number = |table: &Table, field| table.raw_get(field).map(|value: Value| values::number(&value));
        let score = default_score(number(machine, "speed")?.unwrap_or(1.0), number(status, "load")?);
        Ok(-ASSUMED_BUILD / score.max(f64::MIN_POSITIVE))
    })?;
    module.raw_set("soonest", &soonest)?;
    Ok(soonest)
}

/// Makes `offload.soonest` return this number for a status.
pub(super) fn attach(lua: &Lua, metatable: &Table, soonest: impl Fn() -> f64 + Send + 'static) -> mlua::Result<()> {
    metatable.raw_set(FUNCTION, lua.create_function(move |_, ()| Ok(soonest()))?)
}
