//! The command line: which subcommand runs, or the build hook, or the real `guix`.
//!
//! A file each: the arguments of a subcommand and one function.

pub mod build_hook;
pub mod convert;
pub mod front_end;

use std::ffi::{OsStr, OsString};

use crate::exit::Status;

/// Runs the program with its arguments, the program's own name first.
///
/// Under the name `guix` only `offload` is served here; everything else goes to the real `guix`. A leading word
/// `offload` is what guix-daemon puts before the hook's arguments.
pub fn main(mut arguments: Vec<OsString>) -> Status {
    if arguments.is_empty() {
        return usage();
    }
    let argv0 = arguments.remove(0);
    let leading_word = arguments.first().is_some_and(|word| word == OsStr::new("offload"));
    if front_end::is_called_as_guix(&argv0) && !leading_word {
        eprintln!("guix: error: {}", front_end::hand_on(&argv0, &arguments));
        return Status::Failure;
    }
    if leading_word {
        arguments.remove(0);
    }
    build_hook::run(&arguments)
}

fn usage() -> Status {
    eprintln!("Usage: offload SYSTEM MAX-SILENT-TIME PRINT-BUILD-TRACE? BUILD-TIMEOUT");
    Status::Usage
}
