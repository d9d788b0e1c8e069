//! `offload add --write`: the entry goes into the machine file.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::geteuid;

use crate::commands::failure::CommandError;
use crate::commands::output_file::{self, Replaced};
use crate::engine::Engine;
use crate::exit::ExitStatus;
use crate::machine::Machine;
use crate::machine_file::{InsertError, Report, insert};
use crate::shell::quote;

/// The result of adding a machine.
pub enum Written {
    /// The file has the machine already, with the same host key.
    Known,
    File(Replaced),
}

/// Adds `entry`, which describes `machine`, to the machine file `path`, or makes the file. The file is replaced as a
/// whole, by one that can be evaluated.
pub fn write(path: &Path, entry: &str, machine: &Machine, engine: &Engine) -> Result<Written, CommandError> {
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if real.starts_with(engine.directories.store.as_str()) {
        let message = format!("'{}' is an item of the store, so it cannot be changed", real.display());
        let hint = format!("put this entry into the file that the item is made from:\n{entry}");
        return Err(CommandError::new(ExitStatus::MachineFile, message).with_hint(Some(hint)));
    }
    engine.check_writers(path).map_err(|report| broken(&report))?;
    output_file::check_control(path).map_err(|error| unwritable("write", path, &error))?;
    let text = match fs::read(path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(unwritable("read", path, &error)),
    };
    let text = insert(path, text.as_deref(), entry, machine, &engine.load_context());
    let text = text.map_err(|error| refused(path, error, entry))?;
    let Some(text) = text else { return Ok(Written::Known) };
    let replaced = output_file::replace(path, text.as_bytes());
    replaced.map(Written::File).map_err(|error| unwritable("write", path, &error))
}

fn broken(report: &Report) -> CommandError {
    CommandError::report(ExitStatus::MachineFile, report)
}

fn unwritable(verb: &str, path: &Path, error: &io::Error) -> CommandError {
    let message = format!("cannot {verb} the machine file '{}': {error}", path.display());
    CommandError::failure(message).with_hint(match error.kind() {
        io::ErrorKind::PermissionDenied if !geteuid().is_root() => Some(hint(path)),
        _ => None,
    })
}

/// Returns the hint for a user other than root who may not write the file. Root's command becomes that user if the user
/// owns the file.
fn hint(path: &Path) -> String {
    let is_own = path.metadata().is_ok_and(|data| data.uid() == geteuid().as_raw());
    match is_own {
        true => format!("as root: `chown root: {}`", quote(&path.to_string_lossy())),
        false => "run this command as root".to_owned(),
    }
}

fn refused(path: &Path, error: InsertError, entry: &str) -> CommandError {
    let hint = match &error {
        InsertError::Broken(report) => return broken(report),
        InsertError::OtherHostKey { .. } => {
            "compare the keys on the machine itself, then change 'host_key' in the file by hand".to_owned()
        }
        InsertError::Shape | InsertError::NotText | InsertError::Refused(_) | InsertError::Changes => {
            format!("put this entry into its list by hand:\n{entry}")
        }
    };
    let message = format!("the machine file '{}' was not changed: {error}", path.display());
    CommandError::new(ExitStatus::MachineFile, message).with_hint(Some(hint))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{lchown, symlink};

    use super::*;
    use crate::hook::HookArguments;
    use crate::local::Directories;

    #[test]
    fn root_does_not_read_what_a_link_of_another_user_names() {
        let directory = tempfile::tempdir().unwrap();
        let [precious, link] = ["precious", "machines.lua"].map(|name| directory.path().join(name));
        fs::write(&precious, "of root").unwrap();
        symlink(&precious, &link).unwrap();
        lchown(&link, Some(995), Some(995)).unwrap();
        let engine = Engine::new(Directories::default(), HookArguments::without_limits("x86_64-linux"));
        let machine = Machine::new("b1", "offload", Vec::new(), Vec::new());
        let Err(error) = write(&link, "build_machine {}", &machine, &engine) else { panic!("written") };
        let mut said = Vec::new();
        error.print(&mut said);
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains(&format!("'{}' belongs to 995", link.display())) && !said.contains("precious"), "{said}");
    }
}
