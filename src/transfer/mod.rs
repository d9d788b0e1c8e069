//! Transfers of store items: [`upload`](upload()) of the inputs of a build, [`download`](download()) of its outputs.

mod add_items;
mod bundle;
pub mod compression;
mod destination;
pub mod download;
mod downloads;
mod error;
mod fetch;
mod fetch_plan;
mod forecast;
mod kept_apart;
pub mod limiter;
mod meter;
mod progress;
mod rejected;
mod running_fetch;
pub mod signature_test;
pub mod signing_connection;
mod signing_key_check;
mod substitute_query;
pub mod substitute_test;
pub mod trial_build;
pub mod upload;

pub use destination::{Destination, LeftForDaemon, ThroughDaemon};
pub use download::{Downloaded, download};
pub use error::{DownloadError, UploadError};
pub use forecast::{Amount, Forecast, forecast};
pub use kept_apart::KeptApart;
pub use limiter::TransferLimiter;
pub use rejected::RejectedOutput;
pub use signing_connection::SigningConnection;
pub use signing_key_check::{check_signing_key, refused, remember};
pub use upload::{is_input_root, upload};
