//! `offload.read_file(name)` and `offload.env(name[, default])`.

use super::super::context::Context;
use super::super::message::plain_error;
use mlua::{Lua, LuaString, Table};
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::rc::Rc;

/// The size limit of a file; a larger one is an error.
const MAX_READ_FILE: u64 = 16 << 20;

pub(super) fn register(lua: &Lua, module: &Table, context: &Rc<Context>) -> mlua::Result<()> {
    let context = Rc::clone(context);
    let read_file = move |lua: &Lua, name: LuaString| {
        let path = context.resolve(&name.as_bytes());
        match read(lua, &context, &path) {
            Ok(text) => Ok((Some(lua.create_string(text)?), None)),
            Err(error) => Ok((None, Some(format!("{}: {}", path.display(), plain_error(&error))))),
        }
    };
    module.raw_set("read_file", lua.create_function(read_file)?)?;
    let env = |lua: &Lua, (name, default): (String, Option<LuaString>)| {
        let value = (!name.is_empty() && !name.contains(['=', '\0'])).then(|| std::env::var_os(name)).flatten();
        value.map_or(Ok(default), |value| lua.create_string(value.into_vec()).map(Some))
    };
    module.raw_set("env", lua.create_function(env)?)
}

/// Reads a file with a limit of its size. The read ends if the call is cancelled.
fn read(lua: &Lua, context: &Rc<Context>, path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let file = super::cancellable_io::Canceller::new(lua, context).on(std::fs::File::open(path)?);
    file.take(MAX_READ_FILE + 1).read_to_end(&mut text)?;
    match text.len() as u64 > MAX_READ_FILE {
        true => Err(std::io::Error::other(format!("it has more than {} MiB", MAX_READ_FILE >> 20))),
        false => Ok(text),
    }
}
