//! Connections kept between hook processes: what shares one, how it ends, and what becomes of a build that loses it.

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
mod record;
mod reuse;
mod revocation;
mod together;
mod unread;
