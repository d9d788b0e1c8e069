//! A command of `offload` on a head: the derivations that it is given, and what it prints.

use std::process::Output;

use super::{BuildResult, Drv, Host};

/// What a command printed, and its exit status.
#[derive(Debug)]
pub struct Said {
    pub status: Option<i32>,
    pub out: String,
    pub messages: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Said {
        let [out, messages] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        Said { status: output.status.code(), out, messages }
    }
}

impl Host {
    /// Runs `offload` with these arguments, as root.
    pub fn offload(&self, arguments: &[&str]) -> Said {
        self.command("/opt/offload/offload").args(arguments).output().unwrap().into()
    }
}

/// Puts derivations into the store of the head. Without a machine file none is built.
pub fn derivations(head: &Host, drvs: &[&Drv]) -> BuildResult {
    let result = head.build(drvs);
    assert_ne!(result.status, Some(0));
    result
}

/// Returns the file name of a derivation.
pub fn drv<'a>(result: &'a BuildResult, name: &str) -> &'a str {
    result.derivation(name).to_str().unwrap()
}
