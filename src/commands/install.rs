//! `offload install` and `offload uninstall`: configure guix-daemon under systemd to run this program, and undo it.
//!
//! It installs the program, with a link named `guix` beside it, in a directory of their own; a link in `bin`; manual
//! pages and completions; and a drop-in for the daemon's unit that sets the variable `GUIX` (systemd.unit(5)). A
//! manifest beside the program lists all of it. Files that are not in the manifest are never overwritten or removed.
//! The checks of all changes come before the first change, and a second run changes nothing. All paths are below
//! `--root`, which is `/` except for makers of packages or images.
//!
//! At the end it evaluates the machine file, and reports whether the user of the unit has the rights that the hook
//! needs. It changes none of them, but creates the directory of the hook's state for that user.

mod check;
mod environment;
mod error;
mod evaluated;
mod manifest;
mod package;
mod plan;
mod unit;

use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, lchown};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::documents::documents;
use super::failure::CommandResult;
use super::guix_wrapper;
use crate::engine::Engine;
use crate::exit::ExitStatus;
use crate::own_executable;
use crate::permissions::ownership::{self, Control};
use crate::permissions::{User, below, identity};
use error::InstallError;
use plan::{Item, Plan, Target, What};
pub(super) use unit::{UNIT, Unit};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "A restart of guix-daemon interrupts running builds. Without --restart nothing is restarted, and the \
                        remaining steps are printed. 'offload uninstall' removes all files that this command has written."
)]
pub struct InstallArgs {
    #[command(flatten)]
    place: Target,
    /// The real `guix`, if it is not beside the guix-daemon that the unit starts.
    #[arg(long, value_name = "FILE")]
    guix: Option<PathBuf>,
    /// Reload systemd's units and restart guix-daemon, which interrupts running builds.
    #[arg(long)]
    restart: bool,
    /// Print the changes without making them.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub struct UninstallArgs {
    #[command(flatten)]
    place: Target,
    /// Reload systemd's units and restart guix-daemon, which interrupts running builds.
    #[arg(long)]
    restart: bool,
    /// Print the changes without making them.
    #[arg(long)]
    dry_run: bool,
}

/// Runs `offload install`. `definition` is that of the whole command line, for the documents.
pub fn install(
    arguments: &InstallArgs,
    definition: clap::Command,
    engine: &Engine,
    out: &mut dyn Write,
) -> CommandResult {
    Ok(try_install(arguments, definition, engine, out).map(|()| ExitStatus::Success)?)
}

/// Runs `offload uninstall`.
pub fn uninstall(arguments: &UninstallArgs, engine: &Engine, out: &mut dyn Write) -> CommandResult {
    Ok(try_uninstall(arguments, engine, out).map(|()| ExitStatus::Success)?)
}

fn try_install(
    arguments: &InstallArgs,
    definition: clap::Command,
    engine: &Engine,
    out: &mut dyn Write,
) -> Result<(), InstallError> {
    let place = &arguments.place;
    check_arguments(place, arguments.restart)?;
    if own_executable::is_through_loader() {
        return Err(InstallError::Loader);
    }
    let unit = Unit::read(&place.root, UNIT).ok_or(InstallError::NoUnit)?;
    let user = User::named(&place.root, &unit.user).ok_or_else(|| InstallError::NoUser(unit.user.clone()))?;
    let guix = real_guix(arguments, &unit)?;
    let state = engine.state.path();
    let own = std::env::current_exe().map_err(InstallError::file(Path::new("/proc/self/exe")))?;
    if let Some(place) = package::place_of(&own, place) {
        package::describe(&unit, out)?;
        let makes_state = state_to_make(&place, state, &user, out)?;
        let is_used = package::is_used(&place.directory().join("guix"));
        if !arguments.dry_run {
            if makes_state {
                make_state(&place.root, state, &user)?;
            }
            if !is_used || arguments.restart {
                after(arguments.restart, &[RELOAD, RESTART], out)?;
            }
        }
        check::report(out, &place, &unit, &user, &guix, engine, arguments.dry_run)?;
        return Ok(());
    }
    if package::is_installed(&place.root) {
        return Err(InstallError::OfPackage);
    }
    let drop_in = Path::new(UNITS).join(format!("{UNIT}.d/offload.conf"));
    let mut items = program(place, engine, own)?;
    let link = place.directory().join("guix");
    items.push(Item::file(&drop_in, unit::drop_in(&link, &guix).into_bytes()));
    items.extend(timer(place));
    let documents = documents(definition);
    items
        .extend(documents.into_iter().map(|document| Item::file(&place.prefix.join(document.path), document.contents)));
    let plan = Plan::make(place.system(engine), &place.directory(), items)?;
    plan.describe(out)?;
    let makes_state = state_to_make(place, state, &user, out)?;
    for other in unit.others_that_set_guix(&drop_in) {
        writeln!(out, "warning: {} also sets GUIX, and overrides this setting", other.display())?;
    }
    if arguments.dry_run {
        let commands = [RELOAD, RESTART, START_TIMER].join(" &&\n  ");
        writeln!(out, "To apply it, reload systemd and restart guix-daemon:\n  {commands}")?;
    } else {
        plan.apply()?;
        if makes_state {
            make_state(&place.root, state, &user)?;
        }
        after(arguments.restart, &[RELOAD, RESTART, START_TIMER], out)?;
    }
    check::report(out, place, &unit, &user, &guix, engine, arguments.dry_run)?;
    if arguments.dry_run {
        writeln!(out, "Nothing was changed.")?;
    }
    Ok(())
}

fn try_uninstall(arguments: &UninstallArgs, engine: &Engine, out: &mut dyn Write) -> Result<(), InstallError> {
    let place = &arguments.place;
    check_arguments(place, arguments.restart)?;
    match plan::remove(place.system(engine), &place.directory(), arguments.dry_run, out) {
        Err(InstallError::NotInstalled(_)) if package::is_installed(&place.root) => {
            return Err(InstallError::OfPackage);
        }
        removed => removed?,
    }
    if arguments.dry_run {
        writeln!(out, "Nothing was changed.")?;
        return Ok(());
    }
    after(arguments.restart, &[STOP_TIMER, RELOAD, RESTART], out)
}

/// Returns whether the directory of the state has to be made, and prints it.
fn state_to_make(place: &Target, state: &Path, user: &User, out: &mut dyn Write) -> io::Result<bool> {
    let is_missing = !below(&place.root, state).exists();
    if is_missing {
        writeln!(out, "make     {} (for {})", state.display(), user.name)?;
    }
    Ok(is_missing)
}

fn check_arguments(place: &Target, restart: bool) -> Result<(), InstallError> {
    let prefix = place.prefix.to_str().unwrap_or_default();
    let is_plain = prefix.starts_with('/') && !prefix.contains("..") && !prefix.chars().any(char::is_control);
    match () {
        () if !is_plain => Err(InstallError::Prefix),
        () if restart && !place.is_running_system() => Err(InstallError::RestartElsewhere),
        () => Ok(()),
    }
}

/// Returns the program and the links to it. A program in the store stays there, protected by a garbage collector root.
fn program(place: &Target, engine: &Engine, own: PathBuf) -> Result<Vec<Item>, InstallError> {
    let directory = place.directory();
    let target = directory.join("offload");
    let store: &Path = engine.directories.store.as_ref();
    let mut items = match own.strip_prefix(store).ok().and_then(|rest| rest.components().next()) {
        Some(item) => vec![
            Item::link(&target, &own),
            Item::link(&engine.directories.state.join("gcroots/offload"), &store.join(item)),
        ],
        None => vec![Item { path: target, what: What::Copy(own) }],
    };
    items.push(Item::link(&directory.join("guix"), Path::new("offload")));
    items.push(Item::link(&place.prefix.join("bin/offload"), Path::new("../lib/offload/offload")));
    Ok(items)
}

/// Returns the units that stop idle machines on demand.
fn timer(place: &Target) -> [Item; 3] {
    let units = Path::new(UNITS);
    let program = place.directory().join("offload");
    [
        Item::file(&units.join(unit::REAP_SERVICE), unit::reap_service(&program).into_bytes()),
        Item::file(&units.join(unit::REAP_TIMER), unit::reap_timer().into_bytes()),
        Item::link(&units.join("timers.target.wants").join(unit::REAP_TIMER), &Path::new("..").join(unit::REAP_TIMER)),
    ]
}

/// Returns the real `guix`, with its path in the installed system.
fn real_guix(arguments: &InstallArgs, unit: &Unit) -> Result<PathBuf, InstallError> {
    let place = &arguments.place;
    let is_real = |path: &Path| below(&place.root, path).exists() && !path.starts_with(place.directory());
    if let Some(guix) = &arguments.guix {
        // It is written to a file of lines, and systemd accepts no other name.
        if !guix.to_str().is_some_and(|name| name.starts_with('/') && !name.contains(char::is_control)) {
            return Err(InstallError::GuixName);
        }
        return if is_real(guix) { Ok(guix.clone()) } else { Err(InstallError::NotGuix(guix.clone())) };
    }
    let beside = unit.daemon.with_file_name("guix");
    let usual = guix_wrapper::USUAL_PLACES.iter().map(|directory| Path::new(directory).join("guix"));
    std::iter::once(beside)
        .chain(usual)
        .find(|guix| is_real(guix))
        .ok_or_else(|| InstallError::NoGuix(unit.daemon.clone()))
}

fn make_state(root: &Path, state: &Path, user: &User) -> Result<(), InstallError> {
    let path = below(root, state);
    let group = user.groups.first().copied();
    let make = || -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        // In a directory of the user's, the user creates it and owns it already.
        match ownership::control_below(root, state)? {
            Control::Root => lchown(&path, Some(user.uid), group),
            _ => Ok(()),
        }
    };
    let directory = state.parent().unwrap_or(state);
    identity::in_directory(root, directory, make).map_err(InstallError::file(&path))
}

/// Where an administrator's units are.
const UNITS: &str = "/etc/systemd/system";

/// The commands after which systemd and the daemon use the change.
const RELOAD: &str = "systemctl daemon-reload";
const RESTART: &str = "systemctl restart guix-daemon.service";
const START_TIMER: &str = "systemctl start offload-reap.timer";
/// A pattern, since a timer that never ran is not loaded, which would be an error.
const STOP_TIMER: &str = "systemctl stop offload-reap.*";

fn after(restart: bool, commands: &[&str], out: &mut dyn Write) -> Result<(), InstallError> {
    if !restart {
        writeln!(out, "To apply it (this interrupts running builds):\n  {}", commands.join(" &&\n  "))?;
        return Ok(());
    }
    for command in commands {
        writeln!(out, "run      {command}")?;
        let mut words = command.split(' ');
        let output = Command::new(words.next().unwrap_or_default()).args(words).output();
        let problem = match output {
            Ok(output) if output.status.success() => continue,
            Ok(output) => format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()),
            Err(error) => error.to_string(),
        };
        return Err(InstallError::Systemctl { command: (*command).to_owned(), problem });
    }
    Ok(())
}
