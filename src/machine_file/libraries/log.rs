//! `offload.log.info(…)` and `offload.log.warn(…)`: messages with the place they come from.

use super::super::context::Context;
use mlua::{Lua, Table, Value, Variadic};
use std::rc::Rc;

const MAX_MESSAGE: usize = 1000;

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
                // What follows is not shown.
                if message.len() > 4 * MAX_MESSAGE {
                    break;
                }
            }
            let text = shortened(&message);
            match context.location(lua, 1) {
                Some(location) => {
                    log::log!(target: "offload::machine_file", level, "{}:{}: {text}", location.file, location.line)
                }
                None => log::log!(target: "offload::machine_file", level, "{text}"),
            }
            Ok(())
        })?;
        table.raw_set(name, function)?;
    }
    // `warn` of the standard library; messages that begin with @ are for Lua itself.
    lua.set_warning_function(|_, message, _| {
        if !message.starts_with('@') {
            log::warn!(target: "offload::machine_file", "{}", shortened(message));
        }
        Ok(())
    });
    module.raw_set("log", table)
}

/// A message on one line, cut after so many characters.
fn shortened(message: &str) -> String {
    let mut text: String = message.chars().take(MAX_MESSAGE).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.len() < message.len() {
        text.push('…');
    }
    text
}
