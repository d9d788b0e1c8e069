//! An installation by the package manager of a distribution.
//!
//! The package has the program, the link `guix`, the documents, and a drop-in for the daemon's unit that sets `GUIX`. Its
//! files belong to the package manager, so that `offload install` changes none of them: it creates the directory of the
//! state and checks the permissions. The scripts of the package in `packaging/debian` run it.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::plan::Target;
use super::unit::{PACKAGE_DROP_IN, UNIT, Unit};
use crate::permissions::below;

/// The prefix of a package.
const PREFIX: &str = "/usr";

/// Returns whether a package has installed the program in the system below `root`.
pub fn is_installed(root: &Path) -> bool {
    below(root, Path::new(PACKAGE_DROP_IN)).exists()
}

/// Returns the place where the package has put the program, if `own` is that program.
pub fn place_of(own: &Path, place: &Target) -> Option<Target> {
    let of_package = Target { prefix: PathBuf::from(PREFIX), root: place.root.clone() };
    (place.is_running_system() && own == of_package.directory().join("offload")).then_some(of_package)
}

/// Prints the drop-in that the package has, and what overrides it.
pub fn describe(unit: &Unit, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "keep     {PACKAGE_DROP_IN} (of the package)")?;
    for other in unit.others_that_set_guix(Path::new(PACKAGE_DROP_IN)) {
        writeln!(out, "warning: {} also sets GUIX, and overrides this setting", other.display())?;
    }
    Ok(())
}

/// Returns whether the running daemon has `link` as its `GUIX`.
pub fn is_used(link: &Path) -> bool {
    let output = Command::new("systemctl").args(["show", "--property=MainPID", "--value", UNIT]).output();
    let pid = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    let variables = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let wanted = [b"GUIX=", link.as_os_str().as_encoded_bytes()].concat();
    variables.split(|byte| *byte == 0).any(|variable| variable == wanted)
}
