//! What a killed process leaves behind, and what a head does whose disk or database fails.
//!
//! | file | has |
//! |---|---|
//! | `points.rs` | the hook is killed, and the head loses power, at each named point of a build |
//! | `random.rs` | the same at any instant |
//! | `disk.rs` | the head's disk is full, or its store read-only |
//! | `database.rs` | the store's database cannot be read, is damaged, or is locked |
//!
//! Afterwards: `guix gc --verify=contents` has nothing to say, the build succeeds at once, and `guix gc` takes away what was
//! left over.

#[path = "../lab/mod.rs"]
mod lab;

mod database;
mod disk;
mod points;
mod pool;
mod random;
