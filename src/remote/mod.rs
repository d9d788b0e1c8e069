//! Connections to build machines: streams to their daemons, commands, and probes of their status.
//!
//! The client of the daemon uses a byte stream and knows no SSH, so another transport could replace SSH.

mod archive_import;
mod connection;
mod error;
pub mod owner;

pub mod probe;
pub mod relay;
mod session_stream;
mod stall_detector;
mod stream;
pub mod timeouts;

pub use archive_import::ArchiveImport;
pub use connection::Connection;
pub use error::Error;
pub use session_stream::StreamCloser;
pub use stall_detector::Progress;
pub use stream::DaemonStream;
pub use timeouts::SilencePolicy;
