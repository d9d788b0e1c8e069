//! `offload.log.info(…)` and `offload.log.warn(…)`: messages with their location.

use super::super::context::Context;
use super::super::message::plain;
use mlua::{Lua, Table, Value, Variadic};
use std::rc::Rc;

/// The bytes of a message that are collected; far fewer are shown.
const MAX_LOG_MESSAGE: usize = 4000;

pub(super) fn register(lua: &Lua, module: &Table, context: &Rc<Context>) -> mlua::Result<()> {
    let table = lua.create_table()?;
    for (name, level) in [("info", log::Level::Info), ("warn", log::Level::Warn)] {
        let context = Rc::clone(context);
        let function = lua.create_function(move |lua, words: Variadic<Value>| {
            let mut message = String::new();
            for word in words.iter() {
                if !message.is_empty() {
                    message.push(' ');
                }
                message.push_str(&word.to_string()?);
                if message.len() > MAX_LOG_MESSAGE {
                    break;
                }
            }
            let text = plain(&message);
            match context.location(lua, 1) {
                Some(location) => {
                    log::log!(target: context.log_target, level, "{}:{}: {text}", location.file, location.line)
                }
                None => log::log!(target: context.log_target, level, "{text}"),
            }
            Ok(())
        })?;
        table.raw_set(name, function)?;
    }
    // `warn` of the standard library. Messages that begin with @ are for Lua itself.
    let target = context.log_target;
    lua.set_warning_function(move |_, message, _| {
        if !message.starts_with('@') {
            log::warn!(target: target, "{}", plain(message));
        }
        Ok(())
    });
    module.raw_set("log", table)
}
