//! Libraries for user code: the module `offload`, and safe replacements of those parts of Lua's standard library that
//! could block or confuse the process. Each group has a file with one `register`.

use super::context::Context;
use mlua::{Lua, Table};
use std::rc::Rc;

mod cached;
mod cancellable_io;
mod exec;
mod files_and_variables;
mod io_library;
mod json;
mod log;
mod patterns;
mod process;
mod wake_on_lan;

/// Fills the module `offload`, and replaces parts of the standard library.
pub(super) fn register(lua: &Lua, module: &Table, context: &Rc<Context>) -> mlua::Result<()> {
    exec::register(lua, module, context)?;
    files_and_variables::register(lua, module, context)?;
    json::register(lua, module, context)?;
    cached::register(lua, module, context)?;
    log::register(lua, module, context)?;
    wake_on_lan::register(lua, module)?;
    io_library::register(lua, context)
}

/// Gives `host` the functions that `lua/bounded.lua` uses.
pub(super) fn register_bounded(lua: &Lua, host: &Table, context: &Rc<Context>) -> mlua::Result<()> {
    patterns::register(lua, host, context)?;
    let context = Rc::clone(context);
    let park_if_cancelled = move |lua: &Lua, ()| {
        context.park_if_cancelled(lua);
        Ok(())
    };
    host.raw_set("park_if_cancelled", lua.create_function(park_if_cancelled)?)
}
