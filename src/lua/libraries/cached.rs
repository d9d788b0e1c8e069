//! `offload.cached(key, ttl, fn)`: the value of `fn`, cached between processes.
//!
//! Each value has a file of its own, `SHA-256(key).json` in the cache directory: an object with the key, the time in
//! seconds since 1970, and the value. An unreadable file counts as missing. When the value is older than `ttl` seconds,
//! one caller calls `fn`, under a lock (`SHA-256(key).lock`, flock, never unlinked). Other callers get the old value
//! meanwhile, or wait if there is none. If `fn` fails (an error, or nil), the old value stays in use.

use super::super::cancellation::{CancelState, POLL_INTERVAL};
use super::super::context::Context;
use super::super::lua_error::LuaError;
use super::super::message::plain_error;
use super::cancellable_io::Canceller;
use super::json;
use crate::permissions::files;
use fs4::{FileExt, TryLockError};
use mlua::{Function, Lua, MultiValue, Table, Value};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

/// A larger file, in bytes, counts as absent.
const MAX_CACHE_FILE: u64 = 32 << 20;

pub(super) fn register(lua: &Lua, module: &Table, context: &Rc<Context>) -> mlua::Result<()> {
    let context = Rc::clone(context);
    let cached = move |lua: &Lua, (key, ttl, function): (String, f64, Function)| match &context.cache {
        Some(directory) => Cache { lua, context: &context, directory, key: &key, ttl }.get(&function),
        None => call(lua, &context, &key, &function).map(|(value, _)| value),
    };
    module.raw_set("cached", lua.create_function(cached)?)
}

/// The contents of a cache file.
#[derive(Serialize, Deserialize)]
struct CacheEntry {
    key: String,
    time: f64,
    value: serde_json::Value,
}

struct Cache<'a> {
    lua: &'a Lua,
    context: &'a Rc<Context>,
    directory: &'a Path,
    key: &'a str,
    ttl: f64,
}

/// A lock that is released when the interpreter is cancelled.
struct HeldLock<'a>(&'a CancelState, u64);

impl Drop for HeldLock<'_> {
    fn drop(&mut self) {
        self.0.release(self.1);
    }
}

impl Cache<'_> {
    fn get(&self, function: &Function) -> mlua::Result<Value> {
        // Root must not trust a file that another user can write, and that user would not benefit from root's values.
        if !files::is_ours(self.directory) {
            return call(self.lua, self.context, self.key, function).map(|(value, _)| value);
        }
        let old = self.read();
        if let Some(entry) = old.as_ref().filter(|entry| self.fresh(entry)) {
            return self.value(entry);
        }
        let lock = match self.lock(old.is_none()) {
            Ok(lock) => lock,
            Err(error) => return self.without(&error, function),
        };
        if let (None, Some(entry)) = (&lock, &old) {
            return self.value(entry);
        }
        let old = self.read();
        if let Some(entry) = old.as_ref().filter(|entry| self.fresh(entry)) {
            return self.value(entry);
        }
        match (call(self.lua, self.context, self.key, function), old) {
            (Ok((value, json)), _) => {
                if let Err(error) = self.write(json) {
                    log::info!("cache {}: {}", self.directory.display(), plain_error(&error));
                }
                Ok(value)
            }
            (Err(error), Some(entry)) => {
                let message = LuaError::new(&error, self.context).message;
                log::warn!(target: self.context.log_target, "{message}; using the value of {:.0} s ago", now() - entry.time);
                self.value(&entry)
            }
            (Err(error), None) => Err(error),
        }
    }

    /// Continues without the cache: a cache that cannot be used must not make the program fail.
    fn without(&self, error: &io::Error, function: &Function) -> mlua::Result<Value> {
        log::info!("cache {}: {}", self.directory.display(), plain_error(error));
        call(self.lua, self.context, self.key, function).map(|(value, _)| value)
    }

    fn file(&self, ending: &str) -> PathBuf {
        let name: String = Sha256::digest(self.key).iter().map(|byte| format!("{byte:02x}")).collect();
        self.directory.join(name + ending)
    }

    /// Returns the cached value, if this user has written it.
    fn read(&self) -> Option<CacheEntry> {
        let file = files::open(&self.file(".json")).ok()?;
        if file.metadata().ok()?.uid() != rustix::process::geteuid().as_raw() {
            return None;
        }
        let mut text = Vec::new();
        file.take(MAX_CACHE_FILE).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok().filter(|entry: &CacheEntry| entry.key == self.key)
    }

    /// Returns whether a value is fresh. A time in the future comes from a clock that was set back, and does not count.
    fn fresh(&self, entry: &CacheEntry) -> bool {
        (now() - entry.time).abs() < self.ttl
    }

    fn value(&self, entry: &CacheEntry) -> mlua::Result<Value> {
        json::to_lua(self.lua, &entry.value).map_err(mlua::Error::RuntimeError)
    }

    /// Takes the lock of this key; `None` if another caller has it, unless `wait` is true.
    fn lock(&self, wait: bool) -> io::Result<Option<HeldLock<'_>>> {
        files::make_directory(self.directory)?;
        let file = files::open_or_make(&self.file(".lock"))?;
        let canceller = Canceller::new(self.lua, self.context);
        loop {
            match FileExt::try_lock(&file) {
                Ok(()) => return Ok(Some(HeldLock(&self.context.cancel_state, self.context.cancel_state.hold(file)))),
                Err(TryLockError::Error(error)) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                Err(TryLockError::WouldBlock) if !wait => return Ok(None),
                Err(_) if canceller.is_cancelled() => canceller.park(),
                Err(_) => std::thread::sleep(POLL_INTERVAL),
            }
        }
    }

    /// Replaces the old value atomically.
    fn write(&self, value: serde_json::Value) -> io::Result<()> {
        let entry = CacheEntry { key: self.key.to_owned(), time: now(), value };
        let temporary = self.file(&format!(".{}", std::process::id()));
        files::make_new(&temporary)?.write_all(&serde_json::to_vec(&entry)?)?;
        files::rename(&temporary, &self.file(".json"))
    }
}

/// Calls `function`; returns its value in the form in which the cache returns it, and as JSON.
fn call(lua: &Lua, context: &Context, key: &str, function: &Function) -> mlua::Result<(Value, serde_json::Value)> {
    let failed = |message: String| mlua::Error::RuntimeError(format!("cached: '{key}': {message}"));
    let values: MultiValue = function.call(())?;
    let value = values.front().cloned().unwrap_or(Value::Nil);
    if value.is_nil() {
        let why = values.get(1).and_then(Value::as_string).map(|text| format!(": {}", text.to_string_lossy()));
        return Err(failed(format!("the function returned nil{}", why.unwrap_or_default())));
    }
    let json = json::from_lua(lua, context, value).map_err(&failed)?;
    Ok((json::to_lua(lua, &json).map_err(&failed)?, json))
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}
