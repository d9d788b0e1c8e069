//! Checks of a pool against its environment, without contacting any machine. They are for commands that check the
//! machine file, not for the build hook.

use super::diagnostic::Diagnostic;
use super::machine_fields::Entry;
use super::pool::{LoadContext, Pool};
use crate::lua::values;
use crate::permissions::passwd::home_directory;
use crate::permissions::{Need, remedy};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// The private keys that are tried for a machine without `private_key`, below the home directory.
pub const DEFAULT_KEYS: [&str; 3] = [".ssh/id_ed25519", ".ssh/id_ecdsa", ".ssh/id_rsa"];

/// Warns of one machine that seems to have several names, of private keys that cannot be read, and if no machine builds
/// for `system`, the head's own.
pub fn check_environment(pool: &Pool, context: &LoadContext, system: &str) -> Vec<Diagnostic> {
    let file = pool.path.display().to_string();
    let mut warnings = same_host_keys(pool, &file);
    let mut seen: Vec<&Path> = Vec::new();
    for entry in &pool.machines {
        let Some(key) = entry.machine.private_key.as_deref().filter(|key| !seen.contains(key)) else { continue };
        seen.push(key);
        if let Some(error) = unreadable(key) {
            let name = &entry.machine.name;
            let message = format!("build_machine<{name}>: private_key: {}: {error}", key.display());
            let hint = match error.kind() {
                io::ErrorKind::NotFound => {
                    "make one with ssh-keygen -t ed25519 -N '', and add its public half to the account's \
                         ~/.ssh/authorized_keys on the build machine"
                        .to_owned()
                }
                _ => remedy::advice(key, Need::ReadSecret, &error)
                    .unwrap_or_else(|| "guix-daemon's user must be able to read it".to_owned()),
            };
            let warning = Diagnostic::warning(file.clone(), message).at(entry.line).hint(hint);
            warnings.push(Diagnostic { field: Some("private_key".to_owned()), ..warning });
        }
    }
    if let Some(entry) = pool.machines.iter().find(|entry| entry.machine.private_key.is_none()) {
        let home = context.home.clone().or_else(home_directory);
        let keys: Vec<PathBuf> = home.iter().flat_map(|home| DEFAULT_KEYS.map(|key| home.join(key))).collect();
        if keys.iter().all(|key| unreadable(key).is_some()) {
            let names: Vec<String> = keys.iter().map(|key| key.display().to_string()).collect();
            let message = format!(
                "build_machine<{}>: private_key: not given, and none of {} can be read",
                entry.machine.name,
                if names.is_empty() { "the usual ones".to_owned() } else { names.join(", ") }
            );
            let warning = Diagnostic::warning(file.clone(), message).at(entry.line);
            warnings.push(Diagnostic { field: Some("private_key".to_owned()), ..warning });
        }
    }
    let builds = |systems: &[String]| systems.iter().any(|other| other == system);
    let any = pool.machines.iter().any(|entry| entry.machine.enabled && builds(&entry.machine.systems));
    if !pool.machines.is_empty() && !any {
        warnings.push(Diagnostic::warning(
            file,
            format!("no build machine is enabled for {system}, the head's own system"),
        ));
    }
    warnings
}

/// Warns once for each host key that entries with different names have in common: they may be one machine. The entries
/// still do not share slots, since machines that were copied from one image have the same key.
fn same_host_keys(pool: &Pool, file: &str) -> Vec<Diagnostic> {
    let mut warnings = Vec::new();
    let mut seen: HashMap<(&[u8], u16), (&Entry, bool)> = HashMap::new();
    for entry in &pool.machines {
        let machine = &entry.machine;
        for key in &machine.host_keys {
            let (first, is_reported) = seen.entry((&key.blob, machine.port)).or_insert((entry, false));
            if *is_reported || first.machine.address() == machine.address() {
                continue;
            }
            *is_reported = true;
            let line = first.line.map_or(String::new(), |line| format!(" on line {line}"));
            let message = format!(
                "build_machine<{}>: host_key: build_machine<{}>{line} has the same one: if that is one machine under two names, \
                 its build slots are counted twice",
                machine.name, first.machine.name
            );
            let hint = format!("write name = {} in both, if it is one", values::quote(&first.machine.name));
            let warning = Diagnostic::warning(file, message).at(entry.line).hint(hint);
            warnings.push(Diagnostic { field: Some("host_key".to_owned()), ..warning });
        }
    }
    warnings
}

/// Why a file cannot be read, and whether that is because there is none.
fn unreadable(file: &Path) -> Option<io::Error> {
    match File::open(file).and_then(|file| file.metadata()) {
        Ok(metadata) if metadata.is_file() => None,
        Ok(_) => Some(io::Error::other("not a file")),
        Err(error) => Some(error),
    }
}
