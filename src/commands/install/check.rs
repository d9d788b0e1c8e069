//! Checks whether the daemon can use the installed files: its user's rights, the keys, and the wrapper's path to the
//! real `guix`.

use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

use super::super::as_user;
use super::super::guix_wrapper::REAL_GUIX_VARIABLE;
use super::super::machines::machine_file;
use super::evaluated::{self, Evaluated, Finding};
use super::plan::Target;
use super::unit::Unit;
use crate::engine::Engine;
use crate::permissions::{Need, PermissionProblem, User, below};
use crate::shell::{in_quotes, quote};

/// systemd's default SHELL_PATH of services.
const SHELL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin";

/// Writes the problems with their remedies.
pub fn report(
    out: &mut dyn Write,
    place: &Target,
    unit: &Unit,
    user: &User,
    guix: &Path,
    engine: &Engine,
    dry_run: bool,
) -> io::Result<()> {
    let evaluated = Evaluated::of(place, user, engine);
    evaluated.write(out)?;
    let mut findings = rights(place, user, guix, engine, &evaluated);
    findings.extend(evaluated.finding());
    findings.extend(app_armor(place, unit));
    if place.is_running_system() && !dry_run {
        findings.extend(check_wrapper(place, user, guix));
    }
    for Finding { problem, remedy } in &findings {
        writeln!(out, "to do: {problem}\n  remedy: {remedy}")?;
    }
    if findings.is_empty() {
        writeln!(out, "guix-daemon, which runs as {}, has all the rights that it needs.", user.name)?;
    }
    Ok(())
}

/// Checks the files that the hook uses as the daemon's user.
fn rights(place: &Target, user: &User, guix: &Path, engine: &Engine, evaluated: &Evaluated) -> Vec<Finding> {
    let root = &place.root;
    let directories = &engine.directories;
    let secret = directories.signing_key();
    let mut findings = Vec::new();
    let mut need = |path: &Path, need: Need| {
        if let Some(problem) = PermissionProblem::find(user, root, path, need) {
            findings.push(Finding { problem: problem.to_string(), remedy: problem.remedy(root).to_string() });
        }
    };
    need(&place.directory().join("offload"), Need::Run);
    need(guix, Need::Run);
    need(&machine_file(None, directories), Need::Read);
    need(&directories.acl(), Need::Read);
    need(&secret.with_extension("pub"), Need::Read);
    need(&secret, Need::ReadSecret);
    need(engine.state.path(), Need::Own);
    let keys = evaluated.private_keys(place, user);
    keys.iter().for_each(|key| need(key, Need::ReadSecret));
    let missing = |path: &Path| !below(root, path).exists();
    let mut check_exists = |path: &Path, what: &str, remedy: String| {
        if missing(path) {
            findings.push(Finding { problem: format!("there is no {what} '{}'", path.display()), remedy });
        }
    };
    let given = |files: String| if user.uid == 0 { String::new() } else { format!(" && chown {}: {files}", user.name) };
    let both = format!("{}*", quote(&secret.with_extension("").to_string_lossy()));
    check_exists(&secret, "signing key", format!("guix archive --generate-key{}", given(both)));
    let file = machine_file(None, directories);
    let scheme = file.with_file_name("machines.scm");
    if missing(&scheme) {
        check_exists(&file, "machine file", "offload add HOST".to_owned());
    } else {
        let [from, to] = [&scheme, &file].map(|path| quote(&path.to_string_lossy()));
        let what = format!("machine file ('{}' is not used any more)", scheme.display());
        check_exists(&file, &what, format!("offload convert {from} -o {to}"));
    }
    for key in &keys {
        check_exists(key, "private key", evaluated::remedy_of_missing(place, user, key, directories));
    }
    findings
}

/// Checks the profile of AppArmor that comes with Guix. It confines a daemon that runs from the store, and forbids it
/// to run other programs.
fn app_armor(place: &Target, unit: &Unit) -> Option<Finding> {
    let (profile, local) = ("/etc/apparmor.d/guix-daemon", "/etc/apparmor.d/local/guix-daemon");
    let is_confined = unit.daemon.starts_with("/gnu/store") || unit.daemon.starts_with("/var/guix/profiles");
    if !is_confined || !below(&place.root, Path::new(profile)).exists() {
        return None;
    }
    let rule = format!("{}/* Ux,", place.directory().display());
    let text = std::fs::read_to_string(below(&place.root, Path::new(local))).unwrap_or_default();
    (!text.lines().any(|line| line.trim() == rule)).then(|| Finding {
        problem: format!(
            "the AppArmor profile '{profile}' does not let guix-daemon run '{}'",
            place.directory().display()
        ),
        remedy: format!("echo {} >> {local} && apparmor_parser -r {profile}", in_quotes(&rule)),
    })
}

/// Runs the wrapper with the daemon's user and environment.
fn check_wrapper(place: &Target, user: &User, guix: &Path) -> Option<Finding> {
    let link = place.directory().join("guix");
    let mut command = Command::new(&link);
    command.arg("--version").env_clear().env("PATH", SHELL_PATH).env(REAL_GUIX_VARIABLE, guix).current_dir("/");
    as_user::set_user(&mut command, user.uid, user.groups.first().copied().unwrap_or(user.uid));
    let problem = match command.output() {
        Ok(output) if output.status.success() && output.stdout.starts_with(b"guix ") => return None,
        Ok(output) => {
            let message = String::from_utf8_lossy(&output.stderr);
            format!("`{} --version` as {}: {}: {}", link.display(), user.name, output.status, message.trim())
        }
        Err(error) => format!("`{} --version` as {}: {error}", link.display(), user.name),
    };
    Some(Finding { problem, remedy: "name the real 'guix' with --guix".to_owned() })
}
