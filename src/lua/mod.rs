//! A host for Lua 5.4 whose programs cannot hang, end or confuse the process. It knows nothing of machines.
//!
//! A program is the *main file* of a user and the modules beside it. It runs on a thread of its own (`interpreter`), which
//! is given up when the time that the caller allows is over (`cancellation`), and whose memory is limited (`runtime`).
//! Beside the language it finds the module `offload` and a standard library that is made safe (`libraries`); the caller
//! adds functions of its own with the `extend` of `Runtime::new`. What functions called from Lua share is the
//! `Context`: the user's files, the memory limit, whether anyone still waits.
//!
//! Errors come back as `LuaError`, cut down to what the user wrote (`lua_error`). `values` reads Lua values and names them
//! in messages; `source` finds the lines of fields in a text.
//!
//! An `Interpreter` holds whatever the caller wants to keep beside the `Runtime` on its thread. Values leave the
//! thread only as Rust values.

mod cancellation;
mod context;
mod ffi;
mod interpreter;
mod libraries;
mod lua_error;
mod message;
mod runtime;
mod source;
pub(crate) mod values;

pub(crate) use cancellation::{CancelState, SourceLocation};
pub(crate) use context::{Context, DeferredError, Position, RuntimeOptions};
pub(crate) use interpreter::{Interpreter, Stopped};
pub(crate) use lua_error::LuaError;
pub(crate) use message::{nearest, plain_error};
pub(crate) use runtime::{FileRun, Runtime};
pub(crate) use source::{Items, Source, read_chunk};
