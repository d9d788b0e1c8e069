//! What is asked of a build machine: a stream to its daemon, and how it is doing.
//!
//! Those who talk to the daemon see a byte stream and nothing of SSH, so that another way of reaching it can take this
//! one's place.

mod archive_import;
mod connection;
mod error;
pub mod owner;
mod pace;
pub mod probe;
pub mod relay;
mod session_stream;
mod stream;
pub mod timeouts;

pub use archive_import::ArchiveImport;
pub use connection::Connection;
pub use error::Error;
pub use pace::Progress;
pub use stream::DaemonStream;
pub use timeouts::SilencePolicy;
