//! SSH against real servers: the sshd of Debian sid (OpenSSH 10) and of bullseye (8.4), with Guix 1.5.0 and 1.2.0.
//!
//! Needs root, the root directories of the lab (`OFFLOAD_LAB`) and ssh-keygen.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod faults;
mod login;
mod private_key;
mod probe;
mod reach;
mod refusals;
#[path = "../lab/roots.rs"]
mod roots;
mod sshd;
mod stream;
