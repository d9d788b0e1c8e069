//! Commands that write a file about the history: it is complete, or not there.
//!
//! Root's command reads the history as the owner of the state (`as_user`), who may be unable to write the file. So a process of
//! that user prints the contents, and root's process writes the file.

use std::ffi::OsString;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;
use std::process::Stdio;

use super::as_user;
use super::atomic_file::AtomicFile;
use super::failure::{CommandError, CommandResult};
use crate::exit::ExitStatus;
use crate::permissions::User;

/// The longest file that such a process can print, in bytes. 100,000 builds take less than a tenth.
const MAX_CONTENTS: u64 = 1 << 30;

/// The option of such a process.
const TO_OUTPUT: &str = "to-output";

/// Where the contents go.
#[derive(Debug, clap::Args)]
pub struct Destination {
    /// Print the contents of the file instead.
    #[arg(long = TO_OUTPUT, hide = true)]
    to_output: bool,
}

impl Destination {
    /// Writes the file with `contents`. `-` is standard output.
    pub fn write(&self, file: &Path, contents: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> CommandResult {
        if self.to_output || file == Path::new("-") {
            let mut out = BufWriter::new(io::stdout().lock());
            contents(&mut out).and_then(|()| out.flush()).map_err(|error| CommandError::output("the file", &error))?;
            return Ok(ExitStatus::Success);
        }
        let write = || {
            let mut out = BufWriter::new(AtomicFile::create(file)?);
            contents(&mut out)?;
            out.into_inner().map_err(io::IntoInnerError::into_error)?.finish()
        };
        write().map_err(|cause| problem(file, &cause))?;
        Ok(ExitStatus::Success)
    }
}

/// Writes the file with what a process of `user` prints, which gets the arguments of this one.
pub fn write_as(user: &User, arguments: &[OsString], file: &Path) -> CommandResult {
    if file == Path::new("-") {
        return Ok(as_user::run(user, arguments, Stdio::null())?);
    }
    // A file that cannot be written is reported first.
    let mut out = AtomicFile::create(file).map_err(|cause| problem(file, &cause))?;
    let mut command = as_user::command(user);
    command.args(arguments).arg(format!("--{TO_OUTPUT}")).stdout(Stdio::piped());
    let failed = |cause| CommandError::failure(format!("cannot run this as {}: {cause}", user.name));
    let mut child = command.spawn().map_err(failed)?;
    let contents = child.stdout.take().map(|contents| contents.take(MAX_CONTENTS + 1));
    // The process ends when nothing reads the rest.
    let copied = contents.map_or(Ok(0), |mut contents| io::copy(&mut contents, &mut out));
    let status = child.wait().map_err(failed)?;
    let copied = copied.and_then(|copied| match copied > MAX_CONTENTS {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(()),
    });
    copied.map_err(|cause| problem(file, &cause))?;
    if !status.success() {
        // It has printed why.
        return Ok(ExitStatus::from_code(status.code()));
    }
    out.finish().map_err(|cause| problem(file, &cause))?;
    Ok(ExitStatus::Success)
}

fn problem(file: &Path, cause: &io::Error) -> CommandError {
    CommandError::failure(format!("cannot write '{}': {cause}", file.display()))
}
