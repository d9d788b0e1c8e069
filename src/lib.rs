//! `offload`: a build hook for the GNU Guix daemon.
//!
//! guix-daemon asks a *build hook* whether a derivation can be built elsewhere. This library is such a hook: it chooses
//! a build machine from a pool that a Lua program describes, sends the missing inputs over SSH, has the machine's own
//! daemon build, and brings the outputs back into the store. The program `offload` is a thin shell over it
//! ([`commands::main()`]).
//!
//! # Map
//!
//! Arrows go one way, between these modules and between the files inside each of them; `tests/layers/` keeps it so, and
//! `unsafe` code in the three files that bind a C library.
//!
//! ```text
//! commands ─► engine ─► build ─► scheduler, transfer ─► remote, local ─► daemon, ssh ─► store
//!                       scheduler ─► state, machine_file ─► lua;  transfer ─► state
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`commands`] | a file for each subcommand: its arguments, one function |
//! | [`engine`] | the steps from a machine file to an offloaded build, for the commands and for embedding programs |
//! | [`hook`] | the line protocol with the daemon: arguments, requests, replies, trace lines, build log, descriptors |
//! | [`machine`] | what a build machine is: fields, defaults, validity |
//! | [`status`] | how a machine is doing, as a probe finds out |
//! | [`machine_file`] | the machine file: fields, evaluate, decode, check, call its functions |
//! | [`lua`] | a host for Lua programs: the interpreter thread, cancellation, limits, libraries; knows nothing of machines |
//! | [`scheduler`] | which machine: matching, ranking, asking, choosing, deciding, waiting |
//! | [`state`] | what outlives a process: slots, health, places to wait, drained machines, transfers |
//! | [`build`] | one accepted build from choice to outputs in their places, with fail-over |
//! | [`transfer`] | send the missing inputs, retrieve the outputs |
//! | [`remote`] | what is asked of a build machine: a stream to its daemon, a probe; the processes that own SSH sessions |
//! | [`local`] | this machine's store: read and sign, restore, check |
//! | [`daemon`] | a client of the worker protocol over any `Read + Write` |
//! | [`ssh`] | everything that touches libssh2 |
//! | [`store`] | formats, pure over `Read` and `Write`: paths, nars, export streams, derivations, signatures |
//! | [`gcrypt`] | the binding to libgcrypt |
//! | [`events`] | what happens to a build, for the log and for embedding programs |
//! | [`error`], [`exit`] | how a build may fail, and the exit statuses |
//! | [`file_stamp`] | whether a file is still what it was |
//! | [`supervisor`] | programs that end with the process that started them |
//! | [`permissions`] | who may use a file, and what to do where somebody may not; root acting as the owner of the state |
//! | [`shell`] | words of commands that people are asked to run |
//! | [`logging`], [`text`], [`timing`] | messages for people, and what from outside may stand in them; where the time goes |
//! | [`failpoints`] | points at which tests kill the process; nothing in a usual build |
//!
//! # Embedding
//!
//! The first line of `main` should be [`remote::owner::serve_if_asked`]: what the machine file and `proxy_command` start
//! then ends with the process, and each SSH session belongs to a process of its own. Without it such programs outlive a
//! process that is killed, and sessions belong to threads of the process.
//!
//! Another program can do what the build hook does, with functions of its own in the machine file's language and an
//! observer of its own. The steps are those of [`engine`]; `examples/embed.rs` takes them all.
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
#[cfg(feature = "cli")]
pub mod commands;
pub mod daemon;
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
