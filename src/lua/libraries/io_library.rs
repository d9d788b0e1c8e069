//! The library `io` of the manual of Lua 5.4 (section 6.8), except for the three standard files: standard input is
//! empty, and standard output is standard error, since the real one belongs to the program.
//!
//! It does not use C's stdio, for three reasons. A thread that blocks in a read of stdio holds a lock that `exit` of
//! recent C libraries waits for, so that the process could not even end. Children would inherit open files. And no read
//! could be cancelled.

use super::super::context::Context;
use super::super::values::describe;
use super::cancellable_io::Canceller;
use super::process::{Program, messages};
use crate::supervisor::Streams;
use file::{File, Stream, failure, lines};
use mlua::{AnyUserData, IntoLuaMulti as _, Lua, LuaString, MultiValue, Table, Value, Variadic};
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::rc::Rc;

mod file;
mod read;

pub(super) fn register(lua: &Lua, context: &Rc<Context>) -> mlua::Result<()> {
    let library = lua.create_table()?;
    let stdin = lua.create_userdata(File::standard(Stream::Empty))?;
    let stderr =
        lua.create_userdata(File::standard(Stream::Messages(Canceller::new(lua, context), Rc::clone(context))))?;
    library.raw_set("stdin", &stdin)?;
    library.raw_set("stdout", &stderr)?;
    library.raw_set("stderr", &stderr)?;
    let defaults = lua.create_table()?;
    defaults.raw_set("input", stdin)?;
    defaults.raw_set("output", stderr)?;
    opening(lua, &library, context)?;
    redirecting(lua, &library, &defaults, context)?;
    using(lua, &library, &defaults, context)?;
    lua.globals().raw_set("io", &library)?;
    let package: Table = lua.globals().raw_get("package")?;
    package.raw_get::<Table>("loaded")?.raw_set("io", library)
}

/// Registers `io.open`, `io.popen`, `io.tmpfile`, `io.type`.
fn opening(lua: &Lua, library: &Table, context: &Rc<Context>) -> mlua::Result<()> {
    let here = Rc::clone(context);
    let open_file = move |lua: &Lua, (name, mode): (LuaString, Option<String>)| -> mlua::Result<MultiValue> {
        let mode = mode.as_deref().unwrap_or("r");
        match open(lua, &here, &name, mode)? {
            Ok(file) => file.into_lua_multi(lua),
            Err(error) => failure(Some(&name.to_string_lossy()), &error).into_lua_multi(lua),
        }
    };
    library.raw_set("open", lua.create_function(open_file)?)?;
    let here = Rc::clone(context);
    let popen = move |lua: &Lua, (command, mode): (LuaString, Option<String>)| -> mlua::Result<MultiValue> {
        let reads = match mode.as_deref() {
            None | Some("r") => true,
            Some("w") => false,
            Some(_) => return Err(mlua::Error::RuntimeError("io.popen: invalid mode".to_owned())),
        };
        let start = || {
            let (reader, writer) = std::io::pipe()?;
            let (streams, own) = match reads {
                true => (Streams::Output { output: writer.into(), messages: messages(&here)? }, OwnedFd::from(reader)),
                false => (Streams::Input { input: reader.into(), messages: messages(&here)? }, OwnedFd::from(writer)),
            };
            let program = Program::shell(lua, &here, OsStr::from_bytes(&command.as_bytes()), streams)?;
            let pipe = program.pipe(own);
            std::io::Result::Ok(File::program(program, pipe, here.memory()))
        };
        match start() {
            Ok(file) => file.into_lua_multi(lua),
            Err(error) => failure(None, &error).into_lua_multi(lua),
        }
    };
    library.raw_set("popen", lua.create_function(popen)?)?;
    let here = Rc::clone(context);
    let tmpfile = move |lua: &Lua, ()| -> mlua::Result<MultiValue> {
        let flags = rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
        match rustix::fs::open(std::env::temp_dir(), flags, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR) {
            Ok(file) => File::new(Canceller::new(lua, &here).on(file), here.memory()).into_lua_multi(lua),
            Err(error) => failure(None, &error.into()).into_lua_multi(lua),
        }
    };
    library.raw_set("tmpfile", lua.create_function(tmpfile)?)?;
    let kind = |_: &Lua, value: Value| match value.as_userdata().and_then(|data| data.borrow::<File>().ok()) {
        Some(file) if file.closed() => Ok(Some("closed file")),
        Some(_) => Ok(Some("file")),
        None => Ok(None),
    };
    library.raw_set("type", lua.create_function(kind)?)
}

/// Registers `io.input` and `io.output`: the default files.
fn redirecting(lua: &Lua, library: &Table, defaults: &Table, context: &Rc<Context>) -> mlua::Result<()> {
    for (name, mode) in [("input", "r"), ("output", "w")] {
        let (defaults, here) = (defaults.clone(), Rc::clone(context));
        let redirect = move |lua: &Lua, file: Value| -> mlua::Result<Value> {
            match file {
                Value::Nil => {}
                Value::String(path) => {
                    let file = open(lua, &here, &path, mode)?;
                    let file = file.map_err(|error| raise(Some(&path.to_string_lossy()), &error))?;
                    defaults.raw_set(name, lua.create_userdata(file)?)?;
                }
                Value::UserData(file) if file.is::<File>() => defaults.raw_set(name, file)?,
                other => {
                    let found = describe(&other);
                    return Err(mlua::Error::RuntimeError(format!("io.{name}: expected a file, found {found}")));
                }
            }
            defaults.raw_get(name)
        };
        library.raw_set(name, lua.create_function(redirect)?)?;
    }
    Ok(())
}

/// Registers `io.read`, `io.write`, `io.lines`, `io.close`.
fn using(lua: &Lua, library: &Table, defaults: &Table, context: &Rc<Context>) -> mlua::Result<()> {
    let files = defaults.clone();
    let read = move |lua: &Lua, formats: Variadic<Value>| {
        let file: AnyUserData = files.raw_get("input")?;
        file.borrow_mut::<File>()?.read(lua, &formats)
    };
    library.raw_set("read", lua.create_function(read)?)?;
    let files = defaults.clone();
    let write = move |lua: &Lua, values: Variadic<Value>| -> mlua::Result<MultiValue> {
        let file: AnyUserData = files.raw_get("output")?;
        file::write(lua, file, &values)
    };
    library.raw_set("write", lua.create_function(write)?)?;
    let (files, here) = (defaults.clone(), Rc::clone(context));
    let lines = move |lua: &Lua, (name, formats): (Option<LuaString>, Variadic<Value>)| {
        let Some(name) = name else {
            let file: AnyUserData = files.raw_get("input")?;
            return Ok((lines(lua, file, formats, false)?, Value::Nil, Value::Nil, Value::Nil));
        };
        let file = open(lua, &here, &name, "r")?.map_err(|error| raise(Some(&name.to_string_lossy()), &error))?;
        let file = lua.create_userdata(file)?;
        let next = lines(lua, file.clone(), formats, true)?;
        Ok((next, Value::Nil, Value::Nil, Value::UserData(file)))
    };
    library.raw_set("lines", lua.create_function(lines)?)?;
    let files = defaults.clone();
    let close = move |lua: &Lua, file: Option<AnyUserData>| {
        let file = file.map_or_else(|| files.raw_get("output"), Ok)?;
        file.borrow_mut::<File>()?.close(lua)
    };
    library.raw_set("close", lua.create_function(close)?)
}

fn open(lua: &Lua, context: &Rc<Context>, name: &LuaString, mode: &str) -> mlua::Result<std::io::Result<File>> {
    let plain = mode.trim_end_matches('b');
    let mut options = OpenOptions::new();
    match plain {
        "r" => options.read(true),
        "r+" => options.read(true).write(true),
        "w" => options.write(true).create(true).truncate(true),
        "w+" => options.read(true).write(true).create(true).truncate(true),
        "a" => options.append(true).create(true),
        "a+" => options.read(true).append(true).create(true),
        _ => return Err(mlua::Error::RuntimeError("io.open: invalid mode".to_owned())),
    };
    let path = OsStr::from_bytes(&name.as_bytes()).to_owned();
    Ok(options.open(path).map(|file| File::new(Canceller::new(lua, context).on(file), context.memory())))
}

fn raise(name: Option<&str>, error: &std::io::Error) -> mlua::Error {
    mlua::Error::RuntimeError(failure(name, error).1)
}
