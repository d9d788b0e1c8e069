//! The environment of user code: the standard library of Lua 5.4 without its unsafe parts, and the module `offload`.
//!
//! The library `debug`, C modules, bytecode, finalizers and `os.setlocale` are missing. `os.exit` raises an error, and
//! standard output is standard error. Reading an undefined global variable is an error.

use super::cancellation::CancelState;
use super::context::{Context, DeferredError, Position, RuntimeOptions};
use super::libraries;
use super::lua_error::LuaError;
use super::message::nearest;
use super::source::read_chunk;
use mlua::chunk::ChunkMode;
use mlua::{HookTriggers, Lua, LuaOptions, LuaString, MultiValue, StdLib, Table, Value, VmState};
use std::cell::Cell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

/// The number of Lua instructions between two checks for cancellation. Most take nanoseconds. An instruction that
/// compares or joins texts, or that triggers a garbage collection, may take tens of milliseconds with 64 MiB in use.
const INSTRUCTION_INTERVAL: HookTriggers = HookTriggers::new().every_nth_instruction(100);
/// The number of lines of the main file that are recorded one by one.
const LINE_INTERVAL: u32 = 2_000;

/// An interpreter with its context.
pub(crate) struct Runtime {
    pub lua: Lua,
    pub context: Rc<Context>,
}

/// The result of running the main file.
pub(crate) struct FileRun {
    /// The first value that it returned.
    pub result: Result<Value, LuaError>,
    /// Errors that it deferred.
    pub deferred: Vec<DeferredError>,
}

impl Runtime {
    /// Makes a new interpreter. `extend` adds to the global variables and to the module `offload`.
    pub fn new(
        options: RuntimeOptions,
        cancel_state: Arc<CancelState>,
        extend: impl FnOnce(&Lua, &Table, &Rc<Context>) -> mlua::Result<()>,
    ) -> mlua::Result<Runtime> {
        let libraries = StdLib::COROUTINE
            | StdLib::TABLE
            | StdLib::OS
            | StdLib::STRING
            | StdLib::UTF8
            | StdLib::MATH
            | StdLib::PACKAGE;
        let lua = Lua::new_with(libraries, LuaOptions::default())?;
        let runtime = Runtime { lua, context: Rc::new(Context::new(options, cancel_state)) };
        runtime.watch()?;
        let offload = runtime.lua.create_table()?;
        libraries::register(&runtime.lua, &offload, &runtime.context)?;
        extend(&runtime.lua, &offload, &runtime.context)?;
        let package: Table = runtime.lua.globals().raw_get("package")?;
        package.raw_get::<Table>("loaded")?.raw_set("offload", &offload)?;
        runtime.prelude()?;
        runtime.forbid_undefined()?;
        Ok(runtime)
    }

    /// Runs the main file with this text.
    pub fn run_file(&self, text: &[u8]) -> FileRun {
        let context = &self.context;
        let chunk = context.add_chunk(context.main_chunk(), context.file.clone());
        let result = self.follow().and_then(|()| self.limited(|lua| run(lua, text, &chunk)));
        let line = context.cancel_state.line();
        let result = self.watch().and(result);
        let deferred = context.take_deferred();
        let result = result.map_err(|error| {
            let mut error = LuaError::new(&error, context);
            // Lua does not report where memory ended.
            if let (None, Some(line)) = (&error.position, line) {
                error.position = Some(Position { chunk: context.main_chunk(), line });
            }
            error
        });
        FileRun { result, deferred }
    }

    /// Runs user code under the memory limit.
    pub fn limited<R>(&self, code: impl FnOnce(&Lua) -> mlua::Result<R>) -> mlua::Result<R> {
        self.lua.set_memory_limit(self.context.memory())?;
        let result = code(&self.lua);
        // Our own work is bounded, and an interpreter without a limit is faster.
        self.lua.set_memory_limit(0)?;
        result
    }

    /// Parks the thread soon after the evaluation is cancelled. Coroutines inherit the hook.
    fn watch(&self) -> mlua::Result<()> {
        hook(&self.lua, &self.context, INSTRUCTION_INTERVAL, None)
    }

    /// Works like `watch`, and also records the current line of the main file, in case the evaluation blocks inside a C
    /// function. That costs about 0.5 µs per line, so after `LINE_INTERVAL` lines it is done only at intervals.
    fn follow(&self) -> mlua::Result<()> {
        hook(&self.lua, &self.context, INSTRUCTION_INTERVAL.every_line(), Some(LINE_INTERVAL))
    }

    fn prelude(&self) -> mlua::Result<()> {
        let host = self.lua.create_table()?;
        let context = Rc::clone(&self.context);
        host.raw_set(
            "read_chunk",
            self.lua.create_function(move |lua, file: LuaString| {
                let path = PathBuf::from(OsStr::from_bytes(&file.as_bytes()));
                match read_chunk(&path) {
                    Ok(text) => {
                        let short = path.strip_prefix(&context.directory).unwrap_or(&path).display().to_string();
                        Ok((Some(lua.create_string(text)?), context.add_chunk(short, path)))
                    }
                    Err(error) => Ok((None, format!("{}: {error}", path.display()))),
                }
            })?,
        )?;
        libraries::register_bounded(&self.lua, &host, &self.context)?;
        self.lua.load(include_str!("../../lua/bounded.lua")).set_name("=[offload]").call::<()>(&host)?;
        let directory = self.context.directory.display();
        host.raw_set("module_path", format!("{directory}/?.lua;{directory}/?/init.lua"))?;
        let context = Rc::clone(&self.context);
        host.raw_set(
            "candidates",
            self.lua.create_function(move |_, name: String| {
                let file = context.directory.join(name.replace('.', "/"));
                Ok(format!("{0}.lua or {0}/init.lua", file.display()))
            })?,
        )?;
        self.lua.load(include_str!("../../lua/prelude.lua")).set_name("=[offload]").call(host)
    }

    fn forbid_undefined(&self) -> mlua::Result<()> {
        let context = Rc::clone(&self.context);
        let index = self.lua.create_function(move |lua, (globals, name): (Table, Value)| {
            let Value::String(name) = name else { return Ok(()) };
            let name = name.to_string_lossy();
            let keys: Vec<String> = globals.pairs::<String, Value>().filter_map(|pair| Some(pair.ok()?.0)).collect();
            let words = keys.iter().map(String::as_str).chain(["true", "false", "nil"]);
            let meant = nearest(&name, words);
            let deferred = DeferredError {
                message: format!("undefined global '{name}'"),
                hint: meant.map(|meant| format!("did you mean '{meant}'?")),
                position: context.position(lua, 1),
                global: Some(name),
            };
            context.defer_or_raise(deferred)
        })?;
        let metatable = self.lua.create_table()?;
        metatable.raw_set("__index", index)?;
        metatable.raw_set("__metatable", false)?;
        self.lua.globals().set_metatable(Some(metatable))
    }
}

/// Runs a text and returns its first value.
fn run(lua: &Lua, text: &[u8], chunk: &str) -> mlua::Result<Value> {
    let function = lua.load(text).set_name(chunk).set_mode(ChunkMode::Text).into_function()?;
    let values: MultiValue = function.call(())?;
    Ok(values.into_iter().next().unwrap_or(Value::Nil))
}

/// Sets the hook that checks for cancellation. With `lines`, it records the current line, but not every line after so
/// many.
fn hook(lua: &Lua, context: &Rc<Context>, triggers: HookTriggers, lines: Option<u32>) -> mlua::Result<()> {
    let (context, main, left) = (Rc::clone(context), context.main_chunk(), Cell::new(lines));
    lua.set_global_hook(triggers, move |lua, call| {
        if context.cancel_state.is_cancelled() {
            context.cancel_state.park(context.location(lua, 0));
        }
        let Some(lines) = left.get() else { return Ok(VmState::Continue) };
        if call.source().short_src.as_deref() == Some(&main) {
            context.cancel_state.at_line(call.current_line());
        }
        left.set(Some(lines.saturating_sub(1)));
        if lines == 1 {
            hook(lua, &context, INSTRUCTION_INTERVAL, Some(0))?;
        }
        Ok(VmState::Continue)
    })
}
