//! `offload`: a build hook for the GNU Guix daemon.
//!
//! guix-daemon asks a *build hook* whether a derivation can be built on another machine. This library is such a hook.
//! It selects a build machine from a pool that a Lua program describes, sends the missing inputs over SSH, starts the
//! build in the machine's own daemon, and copies the outputs back into the store. The program `offload` is a thin shell
//! over it ([`commands::main()`]).
//!
//! # Map
//!
//! Arrows between these modules, and between the files inside each of them, point in one direction. Only the three
//! files that bind a C library contain `unsafe` code. `tests/layers/` checks both rules.
//!
//! ```text
//! commands ─► engine ─► build ─► scheduler, transfer ─► remote, local ─► daemon, ssh ─► store
//!                       scheduler ─► state, machine_file ─► lua;  transfer ─► state
//! ```
//!
//! | module | contents |
//! |---|---|
//! | [`commands`] | the subcommands, one file each: its arguments and a function that runs it |
//! | [`embed`] | the types of the library for other programs, at the root of the crate |
//! | [`engine`] | the steps from a machine file to an offloaded build, for the commands and for embedding programs |
//! | [`hook`] | the line protocol with the daemon: arguments, requests, replies, trace lines, build log, descriptors |
//! | [`machine`] | a build machine: fields, defaults, validity |
//! | [`status`] | the status of a machine that a probe returns |
//! | [`machine_file`] | the machine file: fields, evaluate, decode, check, call its functions |
//! | [`lua`] | a host for Lua programs: the interpreter thread, cancellation, limits, libraries; it does not know machines |
//! | [`scheduler`] | the choice of a machine: matching, ranking, probing, selection, decision, waiting |
//! | [`state`] | the state that outlives a process: slots, health, the queue, drained machines, transfers |
//! | [`cancel`] | cancellation of a build, from any thread |
//! | [`build`] | one accepted build, from the choice of a machine to the outputs in the store, with fail-over |
//! | [`transfer`] | upload of the missing inputs, download of the outputs |
//! | [`remote`] | the build machine's side: a stream to its daemon, a probe, the processes that own SSH sessions |
//! | [`local`] | this machine's store: read and sign, restore, check |
//! | [`daemon`] | a client of the worker protocol over any `Read + Write` |
//! | [`ssh`] | all code that calls libssh2 |
//! | [`store`] | formats, pure over `Read` and `Write`: paths, nars, export streams, derivations, signatures |
//! | [`gcrypt`] | the binding to libgcrypt |
//! | [`events`] | the events of a build, for the log and for embedding programs |
//! | [`error`], [`exit`] | the ways in which a build may fail, and the exit statuses |
//! | [`file_stamp`] | detection of changed files |
//! | [`own_executable`] | the command that starts this executable again, under another name |
//! | [`supervisor`] | programs that end with the process that started them |
//! | [`permissions`] | who may use a file, with the command that fixes a missing permission; root acting as the owner of the state |
//! | [`shell`] | quoted words for the commands that messages suggest |
//! | [`logging`], [`text`], [`timing`] | the log, the escaping of foreign text in it, and the time that each phase of a build takes |
//! | [`failpoints`] | points at which tests kill the process; compiled out of a usual build |
//!
//! # Embedding
//!
//! The first line of `main` should be [`remote::owner::serve_if_asked`]. It makes the programs that the machine file and
//! `proxy_command` start end with the process, and gives each SSH session a process of its own. Without it such programs
//! outlive a process that is killed, and sessions belong to threads of the process.
//!
//! Another program can do the work of the build hook, add its own functions to the machine file's language and observe
//! the builds. The steps are those of [`engine`]; `examples/embed.rs` takes them all.
//!
//! ```no_run
//! use offload::engine::Engine;
//! use offload::hook::{HookArguments, Request};
//! use offload::local::Directories;
//! use offload::store::path::StorePath;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Engine::new(Directories::from_environment()?, HookArguments::without_limits("x86_64-linux"));
//! let pool = engine.load_pool("/etc/guix/machines.lua".as_ref(), None)?;
//! let derivation = b"/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-vec.drv";
//! let request = Request {
//!     wants_local: false,
//!     system: "x86_64-linux".to_owned(),
//!     derivation: StorePath::parse(&engine.directories.store, derivation)?,
//!     features: vec!["kvm".to_owned()],
//! };
//! let (reply, machine) = engine.consider(&pool, &request).predict();
//! println!("{reply}, {machine:?}");
//! # Ok(())
//! # }
//! ```
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod build;
pub mod cancel;
#[cfg(feature = "cli")]
pub mod commands;
pub mod daemon;
pub mod embed;
pub mod engine;
pub mod error;
pub mod events;
pub mod exit;
pub mod failpoints;
pub mod file_stamp;
pub mod gcrypt;
pub mod hook;
pub mod local;
#[cfg(feature = "cli")]
pub mod logging;
pub mod lua;
pub mod machine;
pub mod machine_file;
pub mod own_executable;
pub mod permissions;
pub mod remote;
pub mod scheduler;
pub mod shell;
pub mod ssh;
pub mod state;
pub mod status;
pub mod store;
pub mod supervisor;
pub mod text;
pub mod timing;
pub mod transfer;

pub use cancel::Cancel;
pub use embed::{
    Attempt, Build, BuildError, Built, BuiltOn, Engine, EngineBuilder, EngineError, Explanation, LoadError,
    MachineExplanation, Obstacle, Pool, Query, Readiness, Verdict,
};
pub use events::Event;
pub use machine_file::{Diagnostic, Severity};
pub use store::path::StorePath;

/// Serves a session or supervises a program, if this process was started for that, and exits then.
///
/// Otherwise it returns, and from then on each SSH session of this process gets a process of its own, which can outlive
/// it, and the programs that machine files start end with it even if it is killed. Without this call, sessions are
/// threads of the process. Call it in the first line of `main`, before any thread is started.
pub fn serve_if_asked() {
    remote::owner::serve_if_asked(&std::env::args_os().collect::<Vec<_>>());
}

/// The crate of the Lua interpreter, for [`EngineBuilder::lua`].
#[cfg(feature = "raw-lua")]
pub use mlua;
