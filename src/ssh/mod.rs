//! SSH connections to build machines. Only this module uses libssh2.
//!
//! A [`Session`] is connected and logged in, and its server has shown a pinned host key. A [`Channel`] is a byte stream
//! to a Unix-domain socket or to a command on the machine. libssh2 runs non-blocking, and every wait is a poll(2) with
//! a time limit, in `driver`. So neither a dead network nor a silent server can block the caller indefinitely.
//!
//! Not supported: known_hosts, `~/.ssh/config`, agents, passwords and passphrases. All settings are in the machine
//! file.

mod channel;
mod code;
mod deadline;
mod driver;
mod error;
mod ffi;
mod handshake_sniffer;
mod hint;
mod host_key;
mod pending_channel;
pub(crate) mod poll;
mod private_key;
mod proxy;
mod receive_budget;
mod refusal;
mod session;
mod suggested;
mod tcp;

pub use channel::{Channel, Output};
pub use error::{Algorithm, Cause, Error, Phase};
pub use pending_channel::{PendingChannel, Target};
pub use private_key::stamp as private_key_stamp;
pub use session::Session;
pub use suggested::{USER_KEY, authorize_key, make_key};
