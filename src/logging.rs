//! The log: messages for people, on standard error, every line prefixed.
//!
//! The level comes from `OFFLOAD_LOG`, in the syntax of env_logger (`debug`, `offload::ssh=trace`, …); by default
//! warnings and the few lines that tell where a build goes are shown.

use std::io::Write;

use env_logger::{Builder, Env, Target};
use log::Level;

use crate::hook::descriptors::PREFIX;

/// The environment variable that sets the level.
pub const VARIABLE: &str = "OFFLOAD_LOG";

/// Starts logging to `target`; only the first call in a process has an effect.
pub fn start(target: Target) {
    let _ = Builder::from_env(Env::new().filter_or(VARIABLE, "offload=info"))
        .target(target)
        .format(|buffer, record| {
            let kind = match record.level() {
                Level::Error => "error: ",
                Level::Warn => "warning: ",
                Level::Info => "",
                Level::Debug => "debug: ",
                Level::Trace => "trace: ",
            };
            // One write a line, so that lines of several processes do not mix in the daemon's pipe.
            let text = record.args().to_string();
            let mut lines = String::new();
            for line in text.lines() {
                lines.push_str(&format!("{PREFIX}{kind}{line}\n"));
            }
            buffer.write_all(lines.as_bytes())
        })
        .try_init();
}
