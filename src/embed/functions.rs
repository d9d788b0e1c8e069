//! Functions of the embedding program for machine files, by serde types.

use std::any::Any;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use mlua::{Lua, LuaSerdeExt, Value, Variadic};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::machine_file::Extend;

/// Returns an extension that adds a global function.
pub(super) fn extend<A, R, E, F>(name: String, function: F) -> Extend
where
    A: DeserializeOwned,
    R: Serialize,
    E: Display,
    F: Fn(A) -> Result<R, E> + Send + Sync + 'static,
{
    let function = Arc::new(function);
    Arc::new(move |lua| {
        let (called, function) = (name.clone(), Arc::clone(&function));
        let call = move |lua: &Lua, arguments: Variadic<Value>| {
            let failed = |why: String| mlua::Error::RuntimeError(format!("{called}: {why}"));
            let argument: A = lua.from_value(one(lua, arguments)?).map_err(|error| failed(plain(&error)))?;
            match catch_unwind(AssertUnwindSafe(|| function(argument))) {
                Ok(Ok(value)) => lua.to_value(&value).map_err(|error| failed(plain(&error))),
                Ok(Err(error)) => Err(failed(error.to_string())),
                Err(panic) => Err(failed(format!("the program's function panicked: {}", text_of(&*panic)))),
            }
        };
        lua.globals().raw_set(name.as_str(), lua.create_function(call)?)
    })
}

/// Returns the arguments as one value: a list if there are several.
fn one(lua: &Lua, mut arguments: Variadic<Value>) -> mlua::Result<Value> {
    match arguments.len() {
        0 => Ok(Value::Nil),
        1 => Ok(arguments.remove(0)),
        _ => Ok(Value::Table(lua.create_sequence_from(arguments)?)),
    }
}

/// Returns an error of the conversion without the prefix of mlua.
fn plain(error: &mlua::Error) -> String {
    match error {
        mlua::Error::SerializeError(text) | mlua::Error::DeserializeError(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Returns the message of a panic.
fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    fn eval(function: &Extend, code: &str) -> Result<String, String> {
        let lua = Lua::new();
        function(&lua).unwrap();
        let value = lua.load(code).eval::<Value>().and_then(|value| value.to_string());
        value.map_err(|error| error.to_string())
    }

    #[test]
    fn arguments_and_results_are_values() {
        let slots = extend("slots".to_owned(), |class: String| if class == "big" { Ok(8u32) } else { Err("no class") });
        assert_eq!(eval(&slots, "return slots 'big'").unwrap(), "8");
        assert!(eval(&slots, "return slots 'small'").unwrap_err().contains("slots: no class"));
        assert!(eval(&slots, "return slots(nil)").unwrap_err().contains("slots: "));
        let add = extend("add".to_owned(), |(one, two): (i64, i64)| Ok::<_, String>(one + two));
        assert_eq!(eval(&add, "return add(1, 2)").unwrap(), "3");
        let now = extend("now".to_owned(), |()| Ok::<_, String>(Some(7)));
        assert_eq!(eval(&now, "return now()").unwrap(), "7");
    }

    #[test]
    fn a_table_is_a_struct() {
        #[derive(Serialize, Deserialize)]
        struct Rack {
            name: String,
            cores: Vec<u32>,
        }
        let rack = extend("rack".to_owned(), |rack: Rack| Ok::<_, String>(Rack { cores: vec![4], ..rack }));
        let code = "local r = rack { name = 'r1', cores = { 1, 2 } }; return r.name .. #r.cores .. r.cores[1]";
        assert_eq!(eval(&rack, code).unwrap(), "r114");
    }

    #[test]
    fn a_panic_is_an_error_with_its_text() {
        let fails = extend("fails".to_owned(), |text: String| -> Result<(), String> { panic!("out of {text}") });
        let error = eval(&fails, "return fails 'luck'").unwrap_err();
        assert!(error.contains("fails: the program's function panicked: out of luck"), "{error}");
    }
}
