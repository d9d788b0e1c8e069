//! The world in which a machine file runs: the standard library of Lua 5.4 without what could harm the process, the
//! constructors, and the module `offload`.
//!
//! Missing are the library `debug`, C modules, bytecode, finalizers and `os.setlocale`; `os.exit` raises an error, and
//! standard output is standard error. Reading a global variable that does not exist is an error.

use super::constructors::{self, Made};
use super::leash::{Leash, Spot};
use super::modules;
use super::raised::plain;
use super::request::Request;
use super::suggest;
use mlua::{HookTriggers, Lua, LuaOptions, LuaString, StdLib, Table, Value, VmState};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// A file of Lua may have this many bytes.
pub(super) const MAX_CHUNK: u64 = 16 << 20;
/// Instructions of Lua between two looks at whether anyone still waits: well under a millisecond.
const EVERY_NOW_AND_THEN: HookTriggers = HookTriggers::new().every_nth_instruction(10_000);
/// Lines of the machine file that are followed one by one.
const LINES: u32 = 20_000;

/// An interpreter and what is known of the files it runs.
pub(super) struct Runtime {
    pub lua: Lua,
    pub shared: Rc<Shared>,
    /// What the machine file gave, once it has been evaluated.
    pub functions: Option<super::evaluate::Functions>,
    /// The request of the decision that is being taken, and its table.
    request: RefCell<Option<(Arc<Request>, Table)>>,
}

/// What functions called from Lua need to know.
#[derive(Debug)]
pub(super) struct Shared {
    /// The directory of the machine file.
    pub directory: PathBuf,
    /// Path of the machine file.
    pub file: PathBuf,
    pub leash: Arc<Leash>,
    /// The user's chunks, as Lua names them in messages, and their files.
    chunks: RefCell<HashMap<String, PathBuf>>,
    /// Build machines constructed so far, in order.
    pub made: RefCell<Vec<Made>>,
    /// Errors noted while the machine file was evaluated, which went on; `None` once that is over.
    pub noted: RefCell<Option<Vec<Noted>>>,
    /// Memory limit in bytes.
    memory: Cell<usize>,
    /// What `~` stands for.
    pub home: Option<PathBuf>,
    /// Where `cached` keeps values.
    pub cache: Option<PathBuf>,
}

/// A place in one of the user's files, as Lua names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub chunk: String,
    pub line: u32,
}

/// An error after which the evaluation went on with nil, to find all errors in one run.
#[derive(Clone, Debug)]
pub(super) struct Noted {
    pub message: String,
    pub hint: Option<String>,
    pub position: Option<Position>,
    /// The global variable that was read, but does not exist.
    pub global: Option<String>,
}

/// What a runtime is made with.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    /// The machine file.
    pub file: PathBuf,
    /// What `~` stands for.
    pub home: Option<PathBuf>,
    /// Where `cached` keeps values.
    pub cache: Option<PathBuf>,
    /// Memory limit in bytes, once user code runs.
    pub memory: usize,
}

impl Runtime {
    /// A fresh interpreter.
    pub fn new(setting: Setting, leash: Arc<Leash>) -> mlua::Result<Runtime> {
        let libraries = StdLib::COROUTINE
            | StdLib::TABLE
            | StdLib::OS
            | StdLib::STRING
            | StdLib::UTF8
            | StdLib::MATH
            | StdLib::PACKAGE;
        let lua = Lua::new_with(libraries, LuaOptions::default())?;
        let Setting { file, home, cache, memory } = setting;
        let directory = match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        let shared = Rc::new(Shared {
            directory,
            file,
            leash,
            chunks: RefCell::default(),
            made: RefCell::default(),
            noted: RefCell::new(Some(Vec::new())),
            memory: Cell::new(memory),
            home,
            cache,
        });
        let runtime = Runtime { lua, shared, functions: None, request: RefCell::default() };
        runtime.watch()?;
        let offload = runtime.lua.create_table()?;
        constructors::register(&runtime.lua, &offload, &runtime.shared)?;
        modules::register(&runtime.lua, &offload, &runtime.shared)?;
        let package: Table = runtime.lua.globals().raw_get("package")?;
        package.raw_get::<Table>("loaded")?.raw_set("offload", &offload)?;
        runtime.prelude()?;
        runtime.forbid_undefined()?;
        Ok(runtime)
    }

    /// Runs user code under the memory limit.
    pub fn limited<R>(&self, code: impl FnOnce(&Lua) -> mlua::Result<R>) -> mlua::Result<R> {
        self.lua.set_memory_limit(self.shared.memory())?;
        let result = code(&self.lua);
        // Our own work is bounded, and an interpreter without limit is quicker to ask.
        self.lua.set_memory_limit(0)?;
        result
    }

    /// The table of a request: one for all calls of one decision.
    pub fn request(&self, request: &Arc<Request>) -> mlua::Result<Table> {
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
        self.shared.leash.at_line(None);
        hook(&self.lua, &self.shared, EVERY_NOW_AND_THEN, None)
    }

    /// As `watch`, and keeps the current line of the machine file known, for the case that the evaluation gets stuck
    /// inside a C function. That costs about 0.1 µs a line, so after `LINES` lines it is done now and then only.
    pub fn follow(&self) -> mlua::Result<()> {
        hook(&self.lua, &self.shared, EVERY_NOW_AND_THEN.every_line(), Some(LINES))
    }

    fn prelude(&self) -> mlua::Result<()> {
        let host = self.lua.create_table()?;
        let shared = Rc::clone(&self.shared);
        host.raw_set(
            "read_chunk",
            self.lua.create_function(move |lua, file: LuaString| {
                let path = PathBuf::from(OsStr::from_bytes(&file.as_bytes()));
                match read_chunk(&path) {
                    Ok(text) => {
                        let short = path.strip_prefix(&shared.directory).unwrap_or(&path).display().to_string();
                        Ok((Some(lua.create_string(text)?), shared.add_chunk(short, path)))
                    }
                    Err(error) => Ok((None, format!("{}: {error}", path.display()))),
                }
            })?,
        )?;
        let directory = self.shared.directory.display();
        host.raw_set("module_path", format!("{directory}/?.lua;{directory}/?/init.lua"))?;
        let shared = Rc::clone(&self.shared);
        host.raw_set(
            "candidates",
            self.lua.create_function(move |_, name: String| {
                let file = shared.directory.join(name.replace('.', "/"));
                Ok(format!("{0}.lua or {0}/init.lua", file.display()))
            })?,
        )?;
        self.lua.load(include_str!("../../lua/prelude.lua")).set_name("=[offload]").call(host)
    }

    fn forbid_undefined(&self) -> mlua::Result<()> {
        let shared = Rc::clone(&self.shared);
        let index = self.lua.create_function(move |lua, (globals, name): (Table, Value)| {
            let Value::String(name) = name else { return Ok(()) };
            let name = name.to_string_lossy();
            let keys: Vec<String> = globals.pairs::<String, Value>().filter_map(|pair| Some(pair.ok()?.0)).collect();
            let words = keys.iter().map(String::as_str).chain(["true", "false", "nil"]);
            let meant = suggest::nearest(&name, words);
            let noted = Noted {
                message: format!("undefined global '{name}'"),
                hint: meant.map(|meant| format!("did you mean '{meant}'?")),
                position: shared.position(lua, 1),
                global: Some(name),
            };
            shared.note_or_raise(noted)
        })?;
        let metatable = self.lua.create_table()?;
        metatable.raw_set("__index", index)?;
        metatable.raw_set("__metatable", false)?;
        self.lua.globals().set_metatable(Some(metatable))
    }
}

/// Sets the hook that looks up; with `lines`, it notes the current line, and no longer every line after so many.
fn hook(lua: &Lua, shared: &Rc<Shared>, triggers: HookTriggers, lines: Option<u32>) -> mlua::Result<()> {
    let (shared, main, left) = (Rc::clone(shared), shared.main_chunk(), Cell::new(lines));
    lua.set_global_hook(triggers, move |lua, call| {
        if shared.leash.abandoned() {
            shared.leash.park(shared.spot(lua, 0));
        }
        let Some(lines) = left.get() else { return Ok(VmState::Continue) };
        if call.source().short_src.as_deref() == Some(&main) {
            shared.leash.at_line(call.current_line());
        }
        left.set(Some(lines.saturating_sub(1)));
        if lines == 1 {
            hook(lua, &shared, EVERY_NOW_AND_THEN, Some(0))?;
        }
        Ok(VmState::Continue)
    })
}

impl Shared {
    /// Memory limit in bytes.
    pub fn memory(&self) -> usize {
        self.memory.get()
    }

    pub fn set_memory(&self, limit: usize) {
        self.memory.set(limit);
    }

    /// Notes an error at the place of the caller, while the machine file is evaluated; raises it afterwards.
    pub fn note(&self, lua: &Lua, message: String, hint: Option<String>) -> mlua::Result<()> {
        self.note_or_raise(Noted { message, hint, position: self.position(lua, 1), global: None })
    }

    fn note_or_raise(&self, noted: Noted) -> mlua::Result<()> {
        let noted = Noted { message: plain(&noted.message), ..noted };
        match &mut *self.noted.borrow_mut() {
            Some(list) => list.push(noted),
            None => return Err(mlua::Error::RuntimeError(noted.message)),
        }
        Ok(())
    }

    /// As `position`, as a message names it.
    pub fn spot(&self, lua: &Lua, level: usize) -> Option<Spot> {
        let position = self.position(lua, level)?;
        Some(Spot { file: self.path_of(&position), line: position.line })
    }

    /// Makes a file known under a short name; gives the name for Lua.
    pub fn add_chunk(&self, name: String, file: PathBuf) -> String {
        let chunk = format!("@{name}");
        self.chunks.borrow_mut().insert(name, file);
        chunk
    }

    /// The file that is known to Lua by this name.
    pub fn file_of(&self, chunk: &str) -> Option<PathBuf> {
        self.chunks.borrow().get(chunk).cloned()
    }

    /// The file of a place, for a message.
    pub fn path_of(&self, position: &Position) -> String {
        let file = self.file_of(&position.chunk);
        file.map_or_else(|| position.chunk.clone(), |file| file.display().to_string())
    }

    /// What Lua calls the machine file.
    pub fn main_chunk(&self) -> String {
        self.file.file_name().unwrap_or(self.file.as_os_str()).to_string_lossy().into_owned()
    }

    /// The innermost place in one of the user's files, from `level` of the call stack outwards.
    pub fn position(&self, lua: &Lua, level: usize) -> Option<Position> {
        (level..level + 100).map_while(|level| lua.inspect_stack(level, |call| self.position_of(call))).flatten().next()
    }

    fn position_of(&self, call: &mlua::debug::Debug) -> Option<Position> {
        let line = call.current_line()?;
        let chunk = call.source().short_src?.into_owned();
        self.chunks.borrow().contains_key(&chunk).then_some(())?;
        Some(Position { chunk, line: u32::try_from(line).ok()? })
    }
}

/// Reads a file of Lua: no more than `MAX_CHUNK` bytes, without the first line if that begins with `#`, as `lua` does.
pub(super) fn read_chunk(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(MAX_CHUNK + 1).read_to_end(&mut text)?;
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
