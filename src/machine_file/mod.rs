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
//! [`load`] evaluates the file (`evaluate`) with the Lua host of the crate's module `lua`, decodes its result with the
//! tables of fields (`schema`, `machine_fields`, `settings`) and checks the whole (`duplicates`). All errors are in one
//! [`Report`], each finding with its line (`locate`). [`Pool::callbacks`] begins a [`RequestCallbacks`], which calls
//! the functions of the file (`functions`, `callbacks`). [`insert`] adds an entry to the text of a file. Besides the language and the host's libraries, the file may
//! use the constructors (`constructors`) and `known_hosts`; see `loaded_file`.
//!
//! Lua code cannot block, end or confuse the process. It runs on a thread of its own, which is abandoned when a time
//! limit of [`Limits`] has passed. If a function fails, the default applies.
//!
//! Not checked here: whether hosts respond. [`check_environment`] checks whether key files can be read.

mod callbacks;
mod checks;
mod constructors;
mod decode;
mod defaults;
mod diagnostic;
mod duplicates;
mod evaluate;
mod facts;
mod fields;
mod functions;
mod insert;
mod known_hosts;
mod loaded_file;
mod locate;
mod machine_fields;
mod on_demand;
mod on_demand_calls;
mod on_event;
mod pool;
mod request;
mod request_callbacks;
mod schema;
mod settings;
mod shared;
mod soonest;
mod suggest;
mod trial;

pub use checks::{DEFAULT_KEYS, check_environment};
pub use diagnostic::{Diagnostic, Report, Severity};
pub use facts::{FoundFacts, FoundRequestFacts, MachineFacts, RequestFacts};
pub use functions::Candidate;
pub use insert::{InsertError, insert};
pub use machine_fields::{BUILD_MACHINE_FIELDS, Entry, LOCAL_MACHINE_FIELDS, LocalMachine};
pub use on_demand::{ON_DEMAND_FIELDS, ON_DEMAND_LIMITS_FIELDS};
pub use on_demand_calls::ActionFunction;
pub use on_event::EVENT_FIELDS;
pub use pool::{Extend, LoadContext, Pool, load, load_text};
pub use request::{
    DERIVATION_FIELDS, DerivationReader, LuaRequest, LuaStatus, OUTPUT_FIELDS, QueueCounter, REQUEST_FIELDS,
    STATUS_FIELDS,
};
pub use request_callbacks::{Acceptance, RequestCallbacks, Score};
pub use schema::{Field, FieldValues};
pub use settings::{Fallback, LIMITS_FIELDS, Limits, POOL_FIELDS, Settings, SlotWait};
pub use shared::SHARED_FIELDS;
pub use soonest::{ASSUMED_BUILD, default_score};
pub use trial::try_functions;

/// Annotations of the machine file's functions and fields, for editors with the Lua language server.
pub const ANNOTATIONS: &str = include_str!("../../lua/offload.lua");

#[cfg(test)]
mod tests;
