//! The command `offload`: a thin shell over the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    offload::internals::commands::main(std::env::args_os().collect()).into()
}
