//! SSH connections to build machines: everything that touches libssh2.
//!
//! A [`Session`] is connected, its server known by a pinned host key, and logged in. A [`Channel`] is a byte stream to
//! a Unix-domain socket or to a command on the other side. libssh2 runs non-blocking and every wait is a poll(2) with a
//! limit, in `driver`, so that neither a dead network nor a silent server can hang the caller.
//!
//! What is not done here: known_hosts, `~/.ssh/config`, agents, passwords, passphrases. The machine file says it all.

mod channel;
mod code;
mod deadline;
mod driver;
mod error;
mod ffi;
mod handshake_sniffer;
mod hint;
mod host_key;
mod opening;
pub(crate) mod poll;
mod private_key;
mod proxy;
mod receive_budget;
mod refusal;
mod session;
mod tcp;

pub use channel::{Channel, Output};
pub use error::{Algorithm, Cause, Error, Phase};
pub use hint::make_key;
pub use opening::{Opening, Target};
pub use private_key::stamp as private_key_stamp;
pub use session::Session;
