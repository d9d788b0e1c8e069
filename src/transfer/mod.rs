//! Store items on their way: [`send`](send()) what a build needs, [`retrieve`](retrieve()) what it made.

mod add;
pub mod compression;
mod counter;
mod gauge;
pub mod head;
mod refusal;
pub mod retrieve;
pub mod send;
pub mod signer;
mod transmit;
pub mod trial;
pub mod turns;

pub use head::Head;
pub use refusal::Refusal;
pub use retrieve::{RetrieveError, Retrieved, retrieve};
pub use send::{SendError, send};
pub use signer::Signer;
pub use turns::Turns;
