//! The command `offload`, for a build of the library with the feature `failpoints`. It is an example so that it does
//! not replace the program that all other tests run.

use std::process::ExitCode;

fn main() -> ExitCode {
    offload::internals::commands::main(std::env::args_os().collect()).into()
}
