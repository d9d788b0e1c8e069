//! What a killed process leaves behind, and what a head does whose disk or database fails.
//!
//! | file | has |
//! |---|---|
//! | `points.rs` | the hook is killed, and the head loses power, at each named point of a build |
//! | `random.rs` | the same at any instant |
//! | `disk.rs` | the head's disk is full, or its store read-only |
//! | `database.rs` | the store's database cannot be read, is damaged, or is locked |
//! | `campaign.rs` | random faults, of processes and links, beside builds |
//!
//! Afterwards: `guix gc --verify=contents` has nothing to say, the build succeeds at once, and `guix gc` takes away
//! what was left over.
//!
//! # What was tried
//!
//! | campaign | runs | lost |
//! |---|---|---|
//! | kills at named points: 32 points, hook and head each | 64 | none |
//! | kills at random instants: 284 of hooks, 102 of the daemon's process, 114 of heads | 500, of which 248 cut a build short | none |
//! | `guix gc` on head and machine at each of the 32 points of a build | 32 | none |
//! | random faults (`campaign.rs`, seed 840700): 370 tried, 300 of which hit; 30 builds ended with their own hook, client or daemon's process | 300 | none; one build hung, see below |
//! | `guix gc` in a loop on three hosts (471 runs), two clients for each build (`tests/concurrency.rs`) | 200 builds | none |
//!
//! Not explained:
//!
//! - Twice, in some 500 faults, a build hung after the process that holds its connection had been stopped for five seconds: the hook
//!   waited in `add_to_store` for a reply, the machine's daemon for data, and every queue between them was empty. The campaign is
//!   behind a switch until this is found.
//! - In one run (seed 1) something of a session or of a daemon was still there on a build machine a minute after 25 faults. It did not
//!   come back; the test now names the processes.

#[path = "../lab/mod.rs"]
mod lab;

mod campaign;
mod database;
mod disk;
mod points;
mod pool;
mod random;
