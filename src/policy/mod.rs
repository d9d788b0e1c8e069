//! The machine file: a program in Lua 5.4 that returns the pool of build machines.
//!
//! ```lua
//! local base = { user = "offload", private_key = "/etc/guix/offload_ed25519" }
//!
//! return {
//!   build_machine {
//!     inherit = base,                    -- fields not given here come from this table
//!     name = "eightysix.example.org",
//!     systems = { "x86_64-linux", "i686-linux" },
//!     host_key = "ssh-ed25519 AAAAC3Nz…",
//!   },
//!   local_machine { speed = 1.0 },       -- optional: the head itself takes part
//!   when_busy = "wait",                  -- settings of the pool have names
//! }
//! ```
//!
//! [`load`] evaluates the file (`evaluate`) in an interpreter of its own (`interpreter`, `runtime`), decodes what it
//! returns (`fields`, `decode`, `settings`) and checks the whole (`duplicates`); all that is wrong comes back in one
//! [`Report`], each finding with its line (`locate`, `source`). [`Pool::decide`] begins a [`Decision`], which asks the
//! functions of the file (`calls`). What the file may use beside the language is in `modules`.
//!
//! Nothing that Lua code does can hang, end or confuse the process. It runs on a thread of its own, which is given up
//! when the time of [`Limits`] is over; see `interpreter` and `leash`. Where a function fails there is a default.
//!
//! Not checked here: whether hosts answer. Whether key files can be read, [`surroundings`] says.

mod calls;
mod constructors;
mod decision;
mod decode;
mod diagnostic;
mod duplicates;
mod evaluate;
mod fields;
mod interpreter;
mod leash;
mod locate;
mod modules;
mod pool;
mod raised;
mod request;
mod runtime;
mod settings;
mod shared;
mod source;
mod suggest;
mod surroundings;
mod values;

pub use decision::{Candidate, Decision, Score, Verdict, default_score};
pub use decode::LocalMachine;
pub use diagnostic::{Diagnostic, Report, Severity};
pub use evaluate::Entry;
pub use fields::{BUILD_MACHINE, Field, LIMITS, LOCAL_MACHINE, POOL};
pub use pool::{Extend, LoadContext, Pool, load};
pub use request::{DERIVATION_FIELDS, DerivationReader, OUTPUT_FIELDS, Request, Status};
pub use settings::{Limits, Settings, When};
pub use surroundings::{DEFAULT_KEYS, surroundings};

/// Annotations of what a machine file may use, for editors with the Lua language server.
pub const ANNOTATIONS: &str = include_str!("../../lua/offload.lua");

#[cfg(test)]
mod tests;
