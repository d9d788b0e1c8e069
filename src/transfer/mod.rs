//! Store items on their way: [`send`] what a build needs, [`retrieve`] what it made.

pub mod retrieve;
pub mod send;

pub use retrieve::{RetrieveError, retrieve};
pub use send::{SendError, send};
