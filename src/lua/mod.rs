//! A host for Lua 5.4 whose programs cannot block, end or confuse the process. It does not know machines.
//!
//! A program is the *main file* of a user and the modules beside it. It runs on a thread of its own (`interpreter`),
//! which is abandoned when the caller's time limit has passed (`cancellation`), and its memory is limited (`runtime`).
//! A program can use the language, the module `offload` and a safe standard library (`libraries`); the caller adds its
//! own functions through `extend` of `Runtime::new`. Functions called from Lua share the `Context`: the user's files,
//! the memory limit, whether the evaluation is cancelled.
//!
//! Errors come back as `LuaError`, reduced to the user's part (`lua_error`). `values` reads Lua values and names them
//! in messages; `source` finds the lines of fields in a text, and adds items to its table.
//!
//! An `Interpreter` holds the `Runtime` and other values of the caller on its thread. Values leave the thread only as
//! Rust values.

mod cancellation;
mod context;
mod idle_priority;
mod interpreter;
mod libraries;
mod lua_error;
mod message;
mod runtime;
mod source;
pub(crate) mod values;

pub(crate) use cancellation::{CancelState, SourceLocation};
pub(crate) use context::{Context, DeferredError, Messages, Position, RuntimeOptions};
pub(crate) use interpreter::{Interpreter, Stopped};
pub(crate) use lua_error::LuaError;
pub(crate) use message::{nearest, plain_error};
pub(crate) use runtime::{FileRun, Runtime};
pub(crate) use source::{ItemLines, Source, read_chunk, with_item};
