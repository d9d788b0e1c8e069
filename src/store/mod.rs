//! The formats of the store, pure over `Read` and `Write`: nothing here opens a file or a socket.
//!
//! Every reader is strict and bounded: it takes a maximum before it allocates, limits depth, and says at which byte
//! the input went wrong.

pub mod base16;
pub mod base32;
pub mod hash;
pub mod path;
pub mod wire;

pub use hash::HashAlgorithm;
pub use path::{PathError, StoreDir, StorePath};
