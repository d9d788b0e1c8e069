//! `offload`: a build hook for the GNU Guix daemon.

pub mod commands;
pub mod daemon;
pub mod error;
pub mod events;
pub mod exit;
pub mod gcrypt;
pub mod hook;
pub mod job;
pub mod local;
pub mod logging;
pub mod machine;
pub mod policy;
pub mod remote;
pub mod schedule;
pub mod ssh;
pub mod state;
pub mod status;
pub mod store;
pub mod transfer;
