//! `offload convert FILE` converts a machine file of Guix or of Nix to a machine file in Lua.
//!
//! A file is Guix's `machines.scm` if its name ends in `.scm`, or if a parenthesis or a quote is the first character that is
//! neither white space nor in a comment. Any other file is a Nix `machines` file. Fields with the default value are left out.
//! Comments in the result, and warnings, name the fields that have no counterpart or another meaning.
//!
//! Host names and keys are copied, also invalid ones. The result is written and then evaluated. If `offload eval` would refuse
//! it, the status is 3, and the user can correct the result.

mod check;
mod comments;
mod error;
mod lua;
mod meaning;
mod nix;
mod repl;
mod scheme;

use std::env;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::failure::{CommandError, CommandResult};
use super::guix_wrapper::{self, WrapperError};
use super::output_file;
use crate::exit::ExitStatus;
use crate::permissions;
use error::MAX_FILE;

pub use error::{ConvertError, Problem};
pub use lua::Document;

/// The field of a `machines.scm` that names a private key.
const PRIVATE_KEY: &[u8] = b"private-key";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file to convert.
    file: PathBuf,
    /// Write the result to FILE, if `offload eval` accepts it, and keep the old FILE as a backup; without this option,
    /// the result goes to standard output.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Args {
    /// The file to convert. A `machines.scm` is a program.
    pub fn file(&self) -> &Path {
        &self.file
    }
}

/// Converts `file`, and writes the machine file to `out`, or to the output file, and warnings and errors to `messages`. If
/// `file` cannot be converted, nothing is written to `out`. The output file is replaced as a whole, and only by a machine
/// file that can be used. The output of a `machines.scm` goes to standard error.
pub fn run(args: &Args, out: &mut dyn Write, messages: &mut dyn Write) -> CommandResult {
    let document = convert(&args.file, guix_wrapper::real_guix)?;
    if args.output.is_none() {
        let written = write!(out, "{document}").and_then(|()| out.flush());
        written.map_err(|error| CommandError::output("the machine file", &error))?;
    }
    for line in document.warnings() {
        // If standard error cannot be written, nobody reads it.
        let _ = writeln!(messages, "{line}");
    }
    let found = check::check(&document);
    for error in &found.errors {
        let _ = writeln!(messages, "{error}");
    }
    match (found.count, &args.output) {
        (0, None) => Ok(ExitStatus::Success),
        (0, Some(file)) => {
            if is_same(file, &args.file) {
                let message = format!("'{}' is the file to convert", file.display());
                return Err(CommandError::new(ExitStatus::Usage, message));
            }
            let replaced = output_file::replace(file, document.to_string().as_bytes());
            let replaced = replaced
                .map_err(|error| CommandError::failure(format!("cannot write '{}': {error}", file.display())))?;
            let _ = writeln!(messages, "{}", replaced.report(file));
            Ok(ExitStatus::Success)
        }
        (count, output) => {
            let errors = if count == 1 { "error" } else { "errors" };
            let what = match output {
                Some(file) => format!("'{}' is not written, because 'offload eval' would refuse it", file.display()),
                None => "the machine file is written, but 'offload eval' refuses it".to_owned(),
            };
            let message = format!("{what}: {count} {errors}");
            let hint = "correct what the messages above name, in it or in the file that was converted".to_owned();
            Err(CommandError::new(ExitStatus::MachineFile, message).with_hint(Some(hint)))
        }
    }
}

/// Converts `file`. `guix` finds the real `guix`, and is called only for a `machines.scm`.
pub fn convert(file: &Path, guix: impl FnOnce() -> Result<PathBuf, WrapperError>) -> Result<Document, ConvertError> {
    if file.extension().is_some_and(|extension| extension == "lua") {
        return Err(ConvertError::Lua(file.to_owned()));
    }
    let text = read(file)?;
    if is_scheme(file, &text) {
        let machines = repl::evaluate(&guix()?, file).map_err(|error| match error {
            ConvertError::InFile(problems) if is_of_system(&text) => ConvertError::OfSystem(problems),
            error => error,
        })?;
        // A name that the file does not give is that of the account that runs the daemon; it is not root's here.
        let is_default = !text.windows(PRIVATE_KEY.len()).any(|word| word == PRIVATE_KEY);
        let home = env::var_os("HOME").filter(|_| is_default).map(PathBuf::from);
        let mut document = scheme::document(file, machines, home.as_deref())?;
        document.keep_scheme_comments(&text);
        Ok(document)
    } else {
        let mut document = nix::document(file, &text)?;
        document.keep_nix_comments(&text);
        Ok(document)
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

fn read(path: &Path) -> Result<Vec<u8>, ConvertError> {
    let mut text = Vec::new();
    let file = permissions::open_at_once(path).map_err(|cause| ConvertError::Read { path: path.to_owned(), cause })?;
    file.take(MAX_FILE + 1)
        .read_to_end(&mut text)
        .map_err(|cause| ConvertError::Read { path: path.to_owned(), cause })?;
    if text.is_empty() && !path.is_file() {
        return Err(ConvertError::Nothing(path.to_owned()));
    }
    if text.len() as u64 > MAX_FILE {
        return Err(ConvertError::TooLong(path.to_owned()));
    }
    Ok(text)
}

/// Returns whether this is a `machines.scm`, by the rule at the head of this file.
fn is_scheme(file: &Path, text: &[u8]) -> bool {
    if file.extension().is_some_and(|extension| extension == "scm") {
        return true;
    }
    let mut rest = text.trim_ascii_start();
    loop {
        let comment_ends: &[u8] = match rest {
            [b'(' | b'\'' | b'`', ..] => return true,
            [b'#', b'|', ..] => b"|#",
            [b'#', b'!', ..] => b"!#",
            [b'#' | b';', ..] => b"\n",
            _ => return false,
        };
        let Some(end) = rest.windows(comment_ends.len()).position(|window| window == comment_ends) else {
            return false;
        };
        rest = rest[end + comment_ends.len()..].trim_ascii_start();
    }
}

/// Returns whether a file in Scheme looks like the configuration of a system, or like G-expressions, from which Guix System
/// generates the list of machines.
fn is_of_system(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    ["(operating-system", "(guix-configuration", "(build-machines", "#~", "(gexp"]
        .iter()
        .any(|word| text.contains(word))
}

#[cfg(test)]
mod tests;
