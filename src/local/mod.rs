//! This machine's store. The hook runs with the daemon's uid while that daemon holds the locks of the outputs and has
//! inputs and outputs as temporary roots.
//!
//! Inputs are read from the file system, checked against the database, and signed ([`Bundle`]). Outputs are restored in
//! a temporary place and moved into the store ([`Staging`]). None of this goes through the daemon, which would wait for
//! the locks that its own parent holds.

mod acl;
mod content_address;
mod database;
mod derivation;
mod directories;
mod directory_walk;
mod disk_space;
mod dump;
mod export;
mod files;
mod fixed;
mod hints;
mod import_connections;
mod local_daemon;
mod log_space;
mod output_lock;
mod remove;
mod restore;
mod store;
mod temporary_store;

pub use acl::{AclError, load_acl};
pub use content_address::{ContentAddress, MAX_TEXT_ITEM, content_address, read_nar, read_text};
pub use database::{Database, DatabaseError, Item, references_first};
pub use derivation::{ClosureError, ReadDerivationError, closure, read_derivation};
pub use directories::{Directories, DirectoryError};
pub use dump::Dump;
pub use export::{Bundle, ExportError};
pub use fixed::{FixedError, check_fixed_output};
pub use import_connections::ImportConnections;
pub use local_daemon::{LocalDaemon, LocalDaemonError, LocalStream, connect_to_daemon};
pub use log_space::{LOG_FULL_HINT, LogFull, LogReserve};
pub use output_lock::{OutputLockError, OutputLocks, is_output_locked};
pub use restore::{Restore, RestoreError, Staging, staged_item};
pub use store::{LocalStore, LocalStoreError, Store, StoreError};
pub use temporary_store::{TemporaryStore, is_read_only};
