//! What is asked of a build machine: a stream to its daemon, and how it is doing.
//!
//! Those who talk to the daemon see a byte stream and nothing of SSH, so that another way of reaching it can take this
//! one's place.

mod connection;
mod error;
mod importer;
pub mod kept;
mod lent;
pub mod patience;
pub mod probe;
pub mod relay;
mod stream;

pub use connection::Connection;
pub use error::Error;
pub use importer::Importer;
pub use patience::Patience;
pub use stream::DaemonStream;
