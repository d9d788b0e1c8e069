//! The evaluation of the machine file at the end of an installation, and the private keys that the file names.
//!
//! On the running system the file is evaluated by `offload eval`, as the user that the daemon runs as, or as the user
//! who can write it. Below another root directory this process evaluates it, unless another user can write it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::geteuid;
use serde_json::Value;

use super::super::as_user;
use super::super::machines::machine_file;
use super::plan::Target;
use crate::engine::Engine;
use crate::local::Directories;
use crate::machine_file::{DEFAULT_KEYS, LoadContext, load};
use crate::permissions::ownership::{Control, control_below};
use crate::permissions::remedy::copy_of_key;
use crate::permissions::{Need, PermissionProblem, User, below};
use crate::shell::quote;
use crate::ssh::{USER_KEY, make_key};

/// A problem with its remedy.
#[derive(Clone)]
pub struct Finding {
    pub problem: String,
    pub remedy: String,
}

/// The result of the evaluation.
pub struct Evaluated {
    file: PathBuf,
    result: Outcome,
}

enum Outcome {
    /// There is no file, or the user cannot read it; both are reported elsewhere.
    Nothing,
    /// The private key of each machine, if the machine names one.
    Machines(Vec<Option<PathBuf>>),
    Errors(Vec<String>),
    /// Root must not evaluate it, or cannot determine that.
    Skipped(Finding),
}

impl Evaluated {
    /// Evaluates the machine file of the installed system.
    pub fn of(place: &Target, user: &User, engine: &Engine) -> Evaluated {
        let path = machine_file(None, &engine.directories);
        let file = below(&place.root, &path);
        let is_readable = || PermissionProblem::find(user, &place.root, &path, Need::Read).is_none();
        // What `~` means for the hook. Another user may evaluate the file.
        let home = user.home(&place.root).unwrap_or_default();
        let result = match control_below(&place.root, &path) {
            Err(error) => Outcome::Skipped(Finding {
                problem: format!("the machine file '{}' is not evaluated: {error}", path.display()),
                remedy: "correct its name and the directories above it, then: offload eval".to_owned(),
            }),
            Ok(_) if !file.exists() => Outcome::Nothing,
            Ok(Control::User { uid, gid, .. }) if geteuid().is_root() => {
                as_other(&User::numbered(&place.root, uid, gid), &file, &home)
            }
            Ok(Control::Others { path: shared }) => {
                let shared = Path::new("/").join(shared.strip_prefix(&place.root).unwrap_or(&shared));
                let (path, shared) = (path.display(), shared.to_string_lossy());
                Outcome::Skipped(Finding {
                    problem: format!("the machine file '{path}' is not evaluated: other users can write to '{shared}'"),
                    remedy: format!("chmod go-w {}", quote(&shared)),
                })
            }
            Ok(_) if geteuid().is_root() && user.uid != 0 && place.is_running_system() => match is_readable() {
                true => as_other(user, &file, &home),
                false => Outcome::Nothing,
            },
            Ok(_) => match load(&file, &LoadContext { home: Some(home), ..LoadContext::default() }) {
                Ok(pool) => {
                    Outcome::Machines(pool.machines.into_iter().map(|entry| entry.machine.private_key).collect())
                }
                Err(report) => Outcome::Errors(report.diagnostics.iter().map(ToString::to_string).collect()),
            },
        };
        Evaluated { file: path, result }
    }

    /// Writes a line about a file that can be used.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.result {
            Outcome::Machines(machines) => {
                let noun = if machines.len() == 1 { "machine" } else { "machines" };
                writeln!(out, "eval     {} ({} {noun})", self.file.display(), machines.len())
            }
            Outcome::Nothing | Outcome::Errors(_) | Outcome::Skipped(_) => Ok(()),
        }
    }

    /// Returns the finding about a file with errors, or one that was not evaluated.
    pub fn finding(&self) -> Option<Finding> {
        let errors = match &self.result {
            Outcome::Errors(errors) => errors,
            Outcome::Skipped(finding) => return Some(finding.clone()),
            Outcome::Nothing | Outcome::Machines(_) => return None,
        };
        let problem = format!("the machine file '{}' has errors: {}", self.file.display(), errors.join("\n  "));
        Some(Finding { problem, remedy: "correct the file, then: offload eval".to_owned() })
    }

    /// Returns the private keys that the machines use, each once.
    pub fn private_keys(&self, place: &Target, user: &User) -> Vec<PathBuf> {
        let Outcome::Machines(machines) = &self.result else { return Vec::new() };
        let home = user.home(&place.root).unwrap_or_default();
        let mut keys: Vec<PathBuf> = Vec::new();
        for key in machines {
            let key = match key {
                Some(key) => key.clone(),
                None => {
                    let usual = DEFAULT_KEYS.map(|key| home.join(key));
                    let found = usual.iter().find(|key| below(&place.root, key).exists());
                    found.unwrap_or(&usual[0]).clone()
                }
            };
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        keys
    }
}

/// Returns the result of `offload eval`, run as another user. `home` is the directory that `~` means.
fn as_other(user: &User, file: &Path, home: &Path) -> Outcome {
    let mut command = as_user::command(user);
    command.args(["eval", "--json", "--machine-file"]).arg(file).arg("--home").arg(home).current_dir("/");
    let failed = |error: String| Outcome::Errors(vec![format!("`offload eval` as {}: {error}", user.name)]);
    let (status, printed) = match as_user::output(command.stderr(Stdio::null())) {
        Ok(ended) => ended,
        Err(error) => return failed(error.to_string()),
    };
    let object: Value = serde_json::from_slice(&printed).unwrap_or_default();
    match object["machines"].as_array() {
        Some(machines) => {
            let key = |machine: &Value| machine["private_key"].as_str().map(PathBuf::from);
            Outcome::Machines(machines.iter().map(key).collect())
        }
        None => match object["errors"].as_array() {
            Some(errors) => Outcome::Errors(errors.iter().map(line).collect()),
            None => failed(status.to_string()),
        },
    }
}

/// Returns the line of a diagnostic in JSON.
fn line(error: &Value) -> String {
    let [file, message] = ["file", "message"].map(|field| error[field].as_str().unwrap_or_default());
    match error["line"].as_u64() {
        Some(line) => format!("{file}:{line}: error: {message}"),
        None => format!("{file}: error: {message}"),
    }
}

/// Returns the remedy for a private key that does not exist. The daemon's user may have no home directory: its keys
/// belong into the configuration directory. A key that root has under the same name was probably meant.
pub fn remedy_of_missing(place: &Target, user: &User, key: &Path, directories: &Directories) -> String {
    let home = user.home(&place.root).unwrap_or_default();
    let root_home = User::numbered(&place.root, 0, 0).home(&place.root);
    let new = |file: &Path| make_key(file, (user.uid != 0).then_some(user.name.as_str()));
    match key.strip_prefix(&home) {
        Ok(inside) if user.uid != 0 => {
            let roots = root_home.map(|home| home.join(inside)).filter(|roots| below(&place.root, roots).exists());
            let file = directories.configuration.join(USER_KEY);
            let used = format!("{}  # then private_key = \"{}\" in the machine file", new(&file), file.display());
            roots.map_or(used, |roots| copy_of_key(&user.name, &roots))
        }
        _ => new(key),
    }
}
