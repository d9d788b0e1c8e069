//! A pool that several heads share, through a PostgreSQL database (`shared` in the machine file).
//!
//! A build that takes a slot of a machine first takes a slot of its head, a lock of a file, and then a slot of the pool, an
//! advisory lock of its session with the database. If the second is taken, the first is given back. The kernel and the
//! database release both when the process ends, however it ends.
//!
//! The truth is in the locks. Tables show people and other heads who has them, who waits and what is drained.
//!
//! One connection serves a process, from its first attempt at a slot until it ends. A build that waits behind others of
//! its head has none. If the session ends during a build, the build continues, and its slot is taken again in the background.
//!
//! While the database cannot be used, `when_down` decides how many slots this head uses. The outage is recorded, so that
//! later processes do not try: one of them tries again each [`RETRY_INTERVAL`](crate::state::shared_pool::RETRY_INTERVAL).
//! No build is postponed or fails because of it.
//!
//! Without the cargo feature `shared`, nothing connects: `unavailable.rs` replaces the sessions.

#![cfg_attr(
    not(all(feature = "cli", feature = "shared")),
    allow(dead_code, unused_imports, reason = "nothing connects, or there are no commands")
)]

mod error;
mod keys;
mod messages;
mod overview;
pub mod schema;
mod slots;

#[cfg(feature = "shared")]
mod admin;
#[cfg(feature = "shared")]
mod connection;
#[cfg(feature = "shared")]
mod session;
#[cfg(feature = "shared")]
mod statements;
#[cfg(feature = "shared")]
mod tls;
#[cfg(feature = "shared")]
mod worker;

#[cfg(not(feature = "shared"))]
mod unavailable;
#[cfg(not(feature = "shared"))]
use unavailable::{admin, session};

pub use admin::{check, drain, init, overview, undrain};
pub use error::Error;
pub use overview::Overview;
pub use slots::{SharedSlot, SharedSlots, Taken};

use std::time::Duration;

/// The time limit for a connection with the database, and for each statement of a decision.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
