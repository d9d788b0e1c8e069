//! The world in which a machine file runs: the standard library of Lua 5.4 without what could harm the process, the
//! constructors, and the module `offload`.
//!
//! Missing are the library `debug`, C modules, bytecode, finalizers and `os.setlocale`; `os.exit` raises an error, and
//! standard output is standard error. Reading a global variable that does not exist is an error.

use super::cancellation::CancelState;
use super::constructors;
use super::context::{Context, DeferredError, RuntimeOptions};
use super::libraries;
use super::request::LuaRequest;
use super::suggest;
use crate::permissions;
use mlua::{HookTriggers, Lua, LuaOptions, LuaString, StdLib, Table, Value, VmState};
use std::cell::{Cell, RefCell};
use std::ffi::OsStr;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// A file of Lua may have this many bytes.
pub(super) const MAX_CHUNK: u64 = 16 << 20;
/// More than most have: what is read in one piece.
const USUAL_CHUNK: usize = 8 << 10;
/// Instructions of Lua between two looks at whether anyone still waits. Most take nanoseconds; one that compares or
/// joins texts, or that has garbage collected, may take tens of milliseconds where 64 MiB are in use.
const INSTRUCTION_INTERVAL: HookTriggers = HookTriggers::new().every_nth_instruction(100);
/// Lines of the machine file that are followed one by one.
const LINE_INTERVAL: u32 = 20_000;

/// An interpreter and what is known of the files it runs.
pub(super) struct Runtime {
    pub lua: Lua,
    pub context: Rc<Context>,
    /// What the machine file gave, once it has been evaluated.
    pub functions: Option<super::evaluate::Functions>,
    /// The request of the decision that is being taken, and its table.
    request: RefCell<Option<(Arc<LuaRequest>, Table)>>,
}

impl Runtime {
    /// A fresh interpreter.
    pub fn new(setting: RuntimeOptions, cancel_state: Arc<CancelState>) -> mlua::Result<Runtime> {
        let libraries = StdLib::COROUTINE
            | StdLib::TABLE
            | StdLib::OS
            | StdLib::STRING
            | StdLib::UTF8
            | StdLib::MATH
            | StdLib::PACKAGE;
        let lua = Lua::new_with(libraries, LuaOptions::default())?;
        let context = Rc::new(Context::new(setting, cancel_state));
        let runtime = Runtime { lua, context, functions: None, request: RefCell::default() };
        runtime.watch()?;
        let offload = runtime.lua.create_table()?;
        constructors::register(&runtime.lua, &offload, &runtime.context)?;
        libraries::register(&runtime.lua, &offload, &runtime.context)?;
        let package: Table = runtime.lua.globals().raw_get("package")?;
        package.raw_get::<Table>("loaded")?.raw_set("offload", &offload)?;
        runtime.prelude()?;
        runtime.forbid_undefined()?;
        Ok(runtime)
    }

    /// Runs user code under the memory limit.
    pub fn limited<R>(&self, code: impl FnOnce(&Lua) -> mlua::Result<R>) -> mlua::Result<R> {
        self.lua.set_memory_limit(self.context.memory())?;
        let result = code(&self.lua);
        // Our own work is bounded, and an interpreter without limit is quicker to ask.
        self.lua.set_memory_limit(0)?;
        result
    }

    /// The table of a request: one for all calls of one decision.
    pub fn request(&self, request: &Arc<LuaRequest>) -> mlua::Result<Table> {
        let mut current = self.request.borrow_mut();
        if let Some((known, table)) = &*current
            && Arc::ptr_eq(known, request)
        {
            return Ok(table.clone());
        }
        let table = request.to_lua(&self.lua)?;
        *current = Some((Arc::clone(request), table.clone()));
        Ok(table)
    }

    /// Parks the thread at the next occasion once nobody waits for it any more. Coroutines inherit the hook.
    pub fn watch(&self) -> mlua::Result<()> {
        hook(&self.lua, &self.context, INSTRUCTION_INTERVAL, None)
    }

    /// As `watch`, and keeps the current line of the machine file known, for the case that the evaluation gets stuck
    /// inside a C function. That costs about 0.1 µs a line, so after `LINE_INTERVAL` lines it is done now and then only.
    pub fn follow(&self) -> mlua::Result<()> {
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
            let meant = suggest::nearest(&name, words);
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

/// Sets the hook that looks up; with `lines`, it notes the current line, and no longer every line after so many.
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

/// Reads a file of Lua: no more than `MAX_CHUNK` bytes, without the first line if that begins with `#`, as `lua` does.
pub(super) fn read_chunk(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::with_capacity(USUAL_CHUNK);
    permissions::open_at_once(path)?.take(MAX_CHUNK + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_CHUNK {
        return Err(std::io::Error::other(format!("it has more than {MAX_CHUNK} bytes")));
    }
    if text.starts_with(b"\xef\xbb\xbf") {
        text.drain(..3);
    }
    if text.first() == Some(&b'#') {
        let line = text.iter().position(|&byte| byte == b'\n').unwrap_or(text.len());
        text.drain(..line);
    }
    Ok(text)
}
