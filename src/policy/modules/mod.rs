//! What user code finds beside the constructors: the module `offload`, and the parts of Lua's standard library that
//! reach outside, made so that they cannot hold up or confuse the process. Each group has a file with one `register`.

use super::shared::Shared;
use mlua::{Lua, Table};
use std::io;
use std::rc::Rc;

mod cached;
mod exec;
mod files;
mod io_library;
mod json;
mod known_hosts;
mod log;
mod os_library;
mod patient;
mod process;

/// Fills the module `offload`, and replaces parts of the standard library.
pub(super) fn register(lua: &Lua, module: &Table, shared: &Rc<Shared>) -> mlua::Result<()> {
    exec::register(lua, module, shared)?;
    files::register(lua, module, shared)?;
    json::register(lua, module)?;
    cached::register(lua, module, shared)?;
    log::register(lua, module, shared)?;
    known_hosts::register(lua, module, shared)?;
    io_library::register(lua, shared)?;
    os_library::register(lua, shared)
}

/// The text of a system error as C programs print it, without its number.
fn plain_error(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" (os error ") {
        Some((text, _)) => text.to_owned(),
        None => text,
    }
}
