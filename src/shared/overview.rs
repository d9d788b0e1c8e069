//! What people see of a shared pool: `offload shared status`.

use serde::{Deserialize, Serialize};

use crate::state::shared_pool::SharedDrain;

/// A shared pool.
#[derive(Clone, Debug, Serialize)]
pub struct Overview {
    /// The version of the server.
    pub server: String,
    /// The version of the tables.
    pub version: i32,
    /// By how many milliseconds the clock of the server is ahead of this head's.
    pub clock_ahead: i64,
    /// Whether a pooler shares sessions between clients, so that locks belong to no client.
    pub is_pooled: bool,
    /// How many connections the server still accepts.
    pub free_connections: i64,
    pub heads: Vec<SeenHead>,
    pub holders: Vec<Holder>,
    pub waiting: Vec<Waiting>,
    pub drains: Vec<SharedDrain>,
}

/// A head that was there within 30 days.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SeenHead {
    pub name: String,
    /// The version of its program.
    pub program: String,
    /// When it last connected, in milliseconds since 1970.
    pub seen: u64,
}

/// A build that has a slot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Holder {
    /// `NAME:PORT`.
    pub host: String,
    pub slot: u32,
    /// The name of the head.
    pub head: String,
    pub derivation: String,
    /// The user whose command requests the build, if known.
    pub user: Option<String>,
    /// In milliseconds since 1970.
    pub since: u64,
}

/// A build that waits for a slot, as the first of its head.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Waiting {
    /// `NAME:PORT`.
    pub host: String,
    /// The name of the head.
    pub head: String,
    pub derivation: String,
    /// The user whose command requests the build, if known.
    pub user: Option<String>,
    /// In milliseconds since 1970.
    pub since: u64,
}
