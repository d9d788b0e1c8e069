//! What is asked of a build machine: a stream to its daemon, and how it is doing.
//!
//! Those who talk to the daemon see a byte stream and nothing of SSH, so that another way of reaching it can take this
//! one's place.

mod connection;
mod error;
mod archive_import;
pub mod persist;
mod persisted_stream;
mod pace;
pub mod timeouts;
pub mod probe;
pub mod relay;
mod stream;

pub use connection::Connection;
pub use error::Error;
pub use archive_import::ArchiveImport;
pub use pace::Progress;
pub use timeouts::SilencePolicy;
pub use stream::DaemonStream;
