//! The engine: a program offloads builds with it in four steps.
//!
//! 1. The program makes an [`Engine`] from the daemon's directories and the limits for builds.
//! 2. The engine loads a machine file into a [`Pool`]. The program may add its own functions to the interpreter.
//! 3. The engine considers a request: [`Consideration::explain`] explains, [`Consideration::decide`] decides.
//! 4. [`Consideration::offload`] runs the accepted build, and reports its events to an observer.
//!
//! The build hook is one such program (`commands/build_hook.rs`). Other programs use the module `embed`.

mod consideration;
mod head;
mod loading;
mod offloading;

pub use consideration::Consideration;
pub use head::{Engine, STATE_SUBDIRECTORY};
pub use offloading::{Accepted, Task};
