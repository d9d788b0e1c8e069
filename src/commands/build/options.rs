//! The options of builds by hand that the library takes.

use crate::embed::{Build, Pool};
use crate::store::path::StorePath;

#[derive(Debug, clap::Args)]
pub struct BuildOptions {
    /// Build only on this machine: its name, or NAME:PORT. Repeat it to allow several.
    #[arg(long, value_name = "NAME")]
    pub on: Vec<String>,
    /// Have the machine keep the directory of a failed build, and print where it is.
    #[arg(long, short = 'K')]
    pub keep_failed: bool,
    /// Build on drained machines as well.
    #[arg(long)]
    pub ignore_drain: bool,
}

impl BuildOptions {
    /// Returns the build of a derivation with these options.
    pub fn build<'a>(&self, pool: &'a Pool, derivation: &StorePath) -> Build<'a> {
        let build = pool.build(derivation).keep_failed(self.keep_failed).ignore_drains(self.ignore_drain);
        self.on.iter().fold(build, |build, name| build.on(name))
    }
}
