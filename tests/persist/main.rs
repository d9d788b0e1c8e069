//! SSH sessions that hooks share: which builds reuse one, how it ends, and how a build continues that loses it.
//!
//! Each session has an owner, a process that stays open for later hooks.

mod commands;
mod data;
#[path = "../lab/mod.rs"]
mod lab;
mod liveness;
mod loss;
mod memory;
mod peers;
mod pool;
mod process;
mod protocol;
mod record;
mod reuse;
mod revocation;
mod together;
mod unread;
