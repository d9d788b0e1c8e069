//! `os.execute`, as the manual of Lua describes it, but for what `process` says: the C function would make the whole
//! process deaf to interrupts while it waits, and could not be given up.

use super::super::context::Context;
use super::process::{Ended, Program, lua_status, messages};
use crate::supervisor::Streams;
use mlua::{IntoLuaMulti as _, Lua, LuaString, MultiValue, Table, Value};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::rc::Rc;

pub(super) fn register(lua: &Lua, context: &Rc<Context>) -> mlua::Result<()> {
    let context = Rc::clone(context);
    let execute = move |lua: &Lua, command: Option<LuaString>| -> mlua::Result<MultiValue> {
        let Some(command) = command else { return true.into_lua_multi(lua) };
        let run = || {
            let streams = Streams::Output { output: messages()?, messages: messages()? };
            Program::shell(lua, &context, OsStr::from_bytes(&command.as_bytes()), streams)?.wait(None)
        };
        match run() {
            Ok(Ended::With(status)) => lua_status(status).into_lua_multi(lua),
            Ok(Ended::Late) => (Value::Nil, "signal", 9).into_lua_multi(lua),
            Err(error) => (Value::Nil, super::plain_error(&error)).into_lua_multi(lua),
        }
    };
    let os: Table = lua.globals().raw_get("os")?;
    os.raw_set("execute", lua.create_function(execute)?)
}
