//! The line protocol between guix-daemon and its build hook.
//!
//! The daemon starts `$GUIX offload SYSTEM MAX-SILENT-TIME PRINT-BUILD-TRACE? BUILD-TIMEOUT` and writes requests, a
//! line each, to its standard input. It blocks until a line `# accept`, `# decline` or `# postpone` comes back on
//! standard output or error. After `# accept` two more lines follow (inputs, outputs), and the process builds that one
//! derivation; after the other replies the next request may come, or end of file.
//!
//! The facts are those of `tryBuildHook` and its neighbours in guix-daemon's `build.cc`, from 1.2.0 to 1.5.0.
//! [`crate::scheduler`] chooses the reply.

pub mod arguments;
pub mod build_log;
pub mod daemon_process;
pub mod descriptors;
pub mod paths;
pub mod reply;
pub mod request;

pub use arguments::{HookArguments, own_system};
pub use build_log::BuildLog;
pub use daemon_process::{DaemonProcess, client_user, main_daemon};
pub use descriptors::Descriptors;
pub use reply::Reply;
pub use request::Request;
