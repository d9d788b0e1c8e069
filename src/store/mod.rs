//! The formats of the store, pure over `Read` and `Write`: nothing here opens a file or a socket.
//!
//! Every reader is strict and bounded: it takes a maximum before it allocates, limits depth, and reports the position
//! of an error in the input.

pub mod base16;
pub mod base32;
pub mod derivation;
pub mod export;
pub mod hash;
mod hashing;
pub mod nar;
pub mod path;
pub mod sexp;
pub mod signature;
pub mod wire;

#[cfg(test)]
pub mod golden;

pub use derivation::Derivation;
pub use hash::HashAlgorithm;
pub use path::{PathError, StoreDir, StorePath};
