//! `offload` has the builds of GNU Guix run on other machines: as a build hook of guix-daemon, and as this library.
//!
//! An [`Engine`] is this machine. It loads a machine file, a program in Lua, into a [`Pool`] of build machines. A
//! [`Build`] sends the missing inputs of a derivation to the best machine over SSH, starts the build in that machine's own
//! daemon, fetches the outputs, and registers them in the store of this machine.
//!
//! ```no_run
//! use std::collections::HashMap;
//! use std::error::Error;
//! use std::io::{self, stdin};
//! use std::sync::{Arc, Mutex};
//! use std::thread;
//!
//! use offload::{BuildError, Cancel, Engine, Query};
//!
//! fn main() -> Result<(), Box<dyn Error>> {
//!     let slots = Arc::new(Mutex::new(HashMap::from([("big".to_owned(), 8u32)])));
//!     let engine = Engine::builder() // the system's daemon, its directories, its system type
//!         .function("slots", move |class: String| slots.lock().unwrap().get(&class).copied().ok_or("no such class"))
//!         .build()?;
//!     let pool = engine.load("/etc/guix/machines.lua")?;
//!     println!("{}", pool.explain(&Query::system("x86_64-linux").feature("kvm")));
//!     thread::scope(|scope| {
//!         for drv in stdin().lines().map_while(Result::ok) {
//!             let (cancel, pool) = (Cancel::default(), &pool); // Cancel: Send + Sync + Clone; cancel.cancel() from anywhere
//!             #[rustfmt::skip]
//!             scope.spawn(move || match pool.build(&drv).cancel(&cancel).log(io::stderr()).on_event(|event| println!("{event}")).run() {
//!                 Ok(built) => println!("{drv} on {}: {:?}, {} B sent, {} B fetched", built.machine, built.building, built.sent, built.fetched),
//!                 Err(BuildError::Cancelled) => println!("{drv}: cancelled"),
//!                 Err(error) => println!("{drv}: {error}"),
//!             });
//!         }
//!     });
//!     Ok(())
//! }
//! ```
//!
//! `examples/` has this program (`thirty_lines.rs`), one that explains decisions (`explain.rs`), and a service with
//! three builds at a time, progress and cancellation (`service.rs`).
//!
//! # What a build does
//!
//! - Outputs that are valid are neither built nor fetched. Inputs that are not valid are asked of this machine's daemon,
//!   which may fetch or build them.
//! - The locks of the outputs are those of guix-daemon. So two programs, two threads, and a program and guix-daemon do not
//!   build the same derivation at the same time: the others wait, and find valid outputs. One gap is left: guix-daemon
//!   may begin a build of its own in the milliseconds in which it takes over the lock to register an output. Then the
//!   registration waits for that build.
//! - A machine that fails is replaced by another one. Only the report of a machine's daemon about the build itself ends
//!   the build ([`BuildError::Failed`]).
//! - Outputs are imported through this machine's daemon, which checks their signatures against its access-control list,
//!   after this library has checked the same. They are temporary roots until the [`Built`] is dropped, and longer:
//!   a connection for imports is kept until the first build that comes a minute later, or until the end of the [`Engine`].
//! - [`Cancel`] ends a build from any thread, wherever it waits: in the queue, while it connects, sends, builds, fetches or
//!   registers.
//!
//! The program must run as root, or as the user of guix-daemon: it reads the store's database and signs with the key in
//! `/etc/guix/signing-key.sec`, as the hook does.
//!
//! # Threads and processes
//!
//! [`Engine`], [`Pool`], [`Cancel`] and [`Built`] are `Send`, `Sync` and cheap to clone. [`Build::run`] blocks its thread
//! and calls `on_event` there; the log is written by the same thread. A program that is asynchronous runs each build by
//! `spawn_blocking`:
//!
//! ```no_run
//! # fn spawn_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
//! #     std::thread::spawn(work)
//! # }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = offload::Engine::builder().build()?.load("/etc/guix/machines.lua")?;
//! let cancel = offload::Cancel::default();
//! let task = {
//!     let (pool, cancel) = (pool.clone(), cancel.clone());
//!     // tokio::task::spawn_blocking, for example
//!     spawn_blocking(move || pool.build("/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-vec.drv").cancel(&cancel).run())
//! };
//! cancel.cancel();
//! # task.join().unwrap().unwrap_err();
//! # Ok(())
//! # }
//! ```
//!
//! Each machine file has a thread for Lua, each SSH session has an owner, and probes and the history of builds have threads
//! for a moment. An owner is
//! a thread of the program, or a process if `main` begins with [`serve_if_asked`]. Sessions stay open for the next build, of
//! this program or of the hook, for `keep_connection` of the machine file.
//!
//! The library changes no state of the process: it sets no signal handler, changes no directory, and writes to none of the
//! standard streams. A machine file prints to the crate `log`. It starts processes only for `exec` and the like in
//! a machine file, for `proxy_command`, and for sessions after [`serve_if_asked`]. Two numbers are kept for the whole
//! process: whether that function was called, and how many sockets of sessions were named.
//!
//! # Features
//!
//! | feature | default | |
//! |---|---|---|
//! | `cli` | yes | the program `offload` with its command line; a program that embeds the library needs none of it |
//! | `bundled-sqlite` | yes | compiles SQLite in; without it the system's is linked |
//! | `vendored-lua` | yes | compiles Lua 5.4 in; without it the system's is linked |
//! | `shared` | yes | several heads share one pool, through PostgreSQL (`shared` in the machine file) |
//! | `raw-lua` | no | `EngineBuilder::lua`, and the crate `mlua`, for functions that work on Lua's own values |
//!
//! # Licence
//!
//! The library is under the GNU General Public License, version 3 or later. A program that links it and is given to others
//! has to be under a compatible licence. A program that only starts the command `offload` does not.
//!
//! # Map of the source
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
//! | [`state`] | the state that outlives a process: slots, health, the queue, drained machines, transfers, the history |
//! | [`cancel`] | cancellation of a build, from any thread |
//! | [`build`] | one accepted build, from the choice of a machine to the outputs in the store, with fail-over |
//! | [`transfer`] | upload of the missing inputs, download of the outputs |
//! | [`remote`] | the build machine's side: a stream to its daemon, a probe, the processes that own SSH sessions |
//! | [`power`] | machines on demand: start, stop, and stop those that are idle |
//! | [`shared`] | a pool that several heads share, through a PostgreSQL database: sessions, slots, schema |
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
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
#![deny(missing_docs)]
#![allow(rustdoc::private_intra_doc_links)]

#[allow(missing_docs)]
mod build;
mod cancel;
#[cfg(feature = "cli")]
#[allow(missing_docs)]
mod commands;
#[allow(missing_docs)]
mod daemon;
mod embed;
#[allow(missing_docs)]
mod engine;
#[allow(missing_docs)]
mod error;
mod events;
#[allow(missing_docs)]
mod exit;
#[allow(missing_docs)]
mod failpoints;
#[allow(missing_docs)]
mod file_stamp;
#[allow(missing_docs)]
mod gcrypt;
#[allow(missing_docs)]
mod hook;
#[allow(missing_docs)]
mod local;
#[cfg(feature = "cli")]
#[allow(missing_docs)]
mod logging;
#[allow(missing_docs)]
mod lua;
#[allow(missing_docs)]
mod machine;
#[allow(missing_docs)]
mod machine_file;
#[allow(missing_docs)]
mod own_executable;
#[allow(missing_docs)]
mod permissions;
#[allow(missing_docs)]
mod power;
#[allow(missing_docs)]
mod remote;
#[allow(missing_docs)]
mod scheduler;
#[allow(missing_docs)]
mod shared;
#[allow(missing_docs)]
mod shell;
#[allow(missing_docs)]
mod ssh;
#[allow(missing_docs)]
mod state;
#[allow(missing_docs)]
mod status;
#[allow(missing_docs)]
mod store;
#[allow(missing_docs)]
mod supervisor;
#[allow(missing_docs)]
mod text;
#[allow(missing_docs)]
mod timing;
#[allow(missing_docs)]
mod transfer;

pub use cancel::Cancel;
pub use embed::{
    Attempt, Build, BuildError, Built, BuiltOn, Challenge, Challenged, CopyDifference, CopySource, DifferenceKind,
    Engine, EngineBuilder, EngineError, Explanation, FileDifference, LoadError, MachineExplanation, Obstacle,
    OutputComparison, OutputCopy, Plan, Pool, Query, Readiness, Verdict,
};
pub use events::Event;
pub use events::pool::{PoolEvent, PoolEventKind};
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

/// The parts of the library, for the program `offload` and its own tests. Nothing here is promised: anything may change or
/// vanish at any time.
#[doc(hidden)]
#[allow(missing_docs)]
pub mod internals {
    pub mod build {
        pub use crate::build::*;
    }
    pub mod cancel {
        pub use crate::cancel::*;
    }
    #[cfg(feature = "cli")]
    pub mod commands {
        pub use crate::commands::*;
    }
    pub mod daemon {
        pub use crate::daemon::*;
    }
    pub mod embed {
        pub use crate::embed::*;
    }
    pub mod engine {
        pub use crate::engine::*;
    }
    pub mod error {
        pub use crate::error::*;
    }
    pub mod events {
        pub use crate::events::*;
    }
    pub mod exit {
        pub use crate::exit::*;
    }
    pub mod failpoints {
        pub use crate::failpoints::*;
    }
    pub mod file_stamp {
        pub use crate::file_stamp::*;
    }
    pub mod gcrypt {
        pub use crate::gcrypt::*;
    }
    pub mod hook {
        pub use crate::hook::*;
    }
    pub mod local {
        pub use crate::local::*;
    }
    #[cfg(feature = "cli")]
    pub mod logging {
        pub use crate::logging::*;
    }
    pub mod machine {
        pub use crate::machine::*;
    }
    pub mod machine_file {
        pub use crate::machine_file::*;
    }
    pub mod own_executable {
        pub use crate::own_executable::*;
    }
    pub mod permissions {
        pub use crate::permissions::*;
    }
    pub mod remote {
        pub use crate::remote::*;
    }
    pub mod scheduler {
        pub use crate::scheduler::*;
    }
    pub mod shell {
        pub use crate::shell::*;
    }
    pub mod ssh {
        pub use crate::ssh::*;
    }
    pub mod state {
        pub use crate::state::*;
    }
    pub mod status {
        pub use crate::status::*;
    }
    pub mod store {
        pub use crate::store::*;
    }
    pub mod supervisor {
        pub use crate::supervisor::*;
    }
    pub mod text {
        pub use crate::text::*;
    }
    pub mod timing {
        pub use crate::timing::*;
    }
    pub mod transfer {
        pub use crate::transfer::*;
    }
}
