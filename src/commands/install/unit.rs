//! The parts of the daemon's unit that matter here: its user, its program, its environment, and other settings of
//! `GUIX`.
//!
//! systemd.unit(5): the unit's file is the first in a list of directories. The drop-ins `*.conf` of all of them follow,
//! sorted by name; a drop-in hides those of the same name in later directories. The last `User=` applies, and the last
//! `ExecStart=` that an empty one does not reset. systemd.service(5) has the marks before the program.
//!
//! Not read here: templates, `systemd.conf`, specifiers such as `%h`.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::environment::Environment;
use crate::permissions::below;

/// The daemon's unit.
pub const UNIT: &str = "guix-daemon.service";

/// The drop-in that a package of a distribution has.
pub const PACKAGE_DROP_IN: &str = "/usr/lib/systemd/system/guix-daemon.service.d/offload.conf";

/// The directories of units, the most important first.
const UNIT_DIRECTORIES: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// A unit.
#[derive(Debug, PartialEq, Eq)]
pub struct Unit {
    /// `User=`; root if it names none.
    pub user: String,
    /// The program that is started.
    pub daemon: PathBuf,
    pub environment: Environment,
    /// The files that set `GUIX`, in the order in which systemd reads them.
    set_guix: Vec<PathBuf>,
}

impl Unit {
    /// Reads a unit below `root`.
    pub fn read(root: &Path, name: &str) -> Option<Unit> {
        let file = UNIT_DIRECTORIES
            .iter()
            .map(|directory| Path::new(directory).join(name))
            .find(|file| below(root, file).exists())?;
        let mut drop_ins: BTreeMap<_, PathBuf> = BTreeMap::new();
        for directory in UNIT_DIRECTORIES {
            let directory = Path::new(directory).join(format!("{name}.d"));
            for entry in fs::read_dir(below(root, &directory)).into_iter().flatten().flatten() {
                let path = directory.join(entry.file_name());
                if path.extension().is_some_and(|extension| extension == "conf") {
                    drop_ins.entry(entry.file_name()).or_insert(path);
                }
            }
        }
        let mut unit = Unit {
            user: "root".to_owned(),
            daemon: PathBuf::new(),
            environment: Environment::default(),
            set_guix: Vec::new(),
        };
        for file in std::iter::once(file).chain(drop_ins.into_values()) {
            // A drop-in may be a link to nothing, and comments may have any encoding.
            match fs::read(below(root, &file)) {
                Ok(text) => unit.take(&String::from_utf8_lossy(&text), &file),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(_) => return None,
            }
        }
        (unit.daemon != Path::new("")).then_some(unit)
    }

    fn take(&mut self, text: &str, file: &Path) {
        // A backslash at the end of a line joins it with the next.
        let text = text.replace("\\\n", " ");
        let mut is_service = false;
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
            if line.starts_with('[') {
                is_service = line == "[Service]";
            }
            let Some((key, value)) = line.split_once('=').filter(|_| is_service) else { continue };
            let value = value.trim();
            match key.trim() {
                "User" => self.user = if value.is_empty() { "root".to_owned() } else { value.to_owned() },
                "ExecStart" => {
                    let program = value.trim_start_matches(['@', '-', ':', '+', '!', '|']);
                    self.daemon = program.split_whitespace().next().unwrap_or_default().trim_matches('"').into();
                }
                "Environment" => {
                    self.environment.assign(value);
                    if sets_guix(value) {
                        self.set_guix.push(file.to_owned());
                    }
                }
                "EnvironmentFile" => self.environment.add_file(value),
                _ => {}
            }
        }
    }

    /// Returns the files that set `GUIX` and are read after `own` or, under its name, instead of it.
    pub fn others_that_set_guix(&self, own: &Path) -> Vec<&Path> {
        let hides = |other: &Path| other.file_name() == own.file_name() && rank(other) < rank(own);
        let after = |other: &&PathBuf| {
            other.extension().is_some_and(|e| e == "conf") && (other.file_name() > own.file_name() || hides(other))
        };
        self.set_guix.iter().filter(after).map(PathBuf::as_path).collect()
    }
}

/// Returns the place of a drop-in's directory in the list: the first directory is the most important.
fn rank(drop_in: &Path) -> usize {
    let holds = |directory: &&str| drop_in.starts_with(directory);
    UNIT_DIRECTORIES.iter().position(holds).unwrap_or(UNIT_DIRECTORIES.len())
}

fn sets_guix(value: &str) -> bool {
    value.split_whitespace().any(|word| word.trim_start_matches(['"', '\'']).starts_with("GUIX="))
}

/// Returns the drop-in that makes the daemon run `link` instead of `guix`.
pub fn drop_in(link: &Path, guix: &Path) -> String {
    format!(
        "# Written by 'offload install'; 'offload uninstall' removes it.\n\
         [Service]\n\
         # What guix-daemon runs for 'offload', and for its other helpers,\n\
         # which go to the real 'guix'.\n\
         Environment={}\n\
         Environment={}\n",
        quoted("GUIX", link),
        quoted(front_end_variable(), guix),
    )
}

fn front_end_variable() -> &'static str {
    crate::commands::guix_wrapper::REAL_GUIX_VARIABLE
}

/// The unit that stops idle machines on demand, and its timer.
pub const REAP_SERVICE: &str = "offload-reap.service";
pub const REAP_TIMER: &str = "offload-reap.timer";

/// Returns the text of [`REAP_SERVICE`]. It does nothing on a head that has never started a machine.
pub fn reap_service(program: &Path) -> String {
    format!(
        "# Written by `offload install`.\n\
         [Unit]\n\
         Description=Stop the idle build machines of offload\n\
         [Service]\n\
         Type=oneshot\n\
         # A process that calls on_event may outlive it.\n\
         KillMode=process\n\
         ExecStart=\"{}\" reap --as-daemon\n",
        program.display()
    )
}

/// Returns the text of [`REAP_TIMER`].
pub fn reap_timer() -> String {
    "# Written by `offload install`.\n\
     [Unit]\n\
     Description=Stop the idle build machines of offload every minute\n\
     [Timer]\n\
     OnActiveSec=1min\n\
     OnUnitInactiveSec=1min\n\
     [Install]\n\
     WantedBy=timers.target\n"
        .to_owned()
}

/// Writes an assignment in the syntax of systemd.exec(5) and systemd.syntax(7): quotes, and `%` begins a specifier.
fn quoted(name: &str, value: &Path) -> String {
    let value = value.to_string_lossy().replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    format!("\"{name}={value}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(files: &[(&str, &str)]) -> Option<Unit> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = below(root.path(), Path::new(path));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Unit::read(root.path(), "guix-daemon.service")
    }

    const USR: &str = "/usr/lib/systemd/system/guix-daemon.service";

    #[test]
    fn the_user_and_the_program_are_read_from_the_service_section() {
        let read = |text| unit(&[(USR, text)]).map(|unit| (unit.user, unit.daemon));
        let plain = "[Unit]\nUser=x\n[Service]\nExecStart=/usr/bin/guix-daemon \\\n    --discover=no\n";
        assert_eq!(read(plain), Some(("root".into(), "/usr/bin/guix-daemon".into())));
        let text = "[Service]\n# User=no\nUser=guix-daemon\nExecStart=-+/gnu/bin/guix-daemon\nExecStartPre=/bin/true\n";
        assert_eq!(read(text), Some(("guix-daemon".into(), "/gnu/bin/guix-daemon".into())));
        assert_eq!(read("[Service]\nUser=x\n"), None);
        assert_eq!(unit(&[]), None);
    }

    #[test]
    fn drop_ins_apply_in_the_order_of_their_names() {
        let (etc, run) = ("/etc/systemd/system/guix-daemon.service.d", "/run/systemd/system/guix-daemon.service.d");
        let unit = unit(&[
            (USR, "[Service]\nUser=one\nExecStart=/one/guix-daemon\nEnvironment=A=b GUIX=/in-unit\n"),
            (&format!("{etc}/20.conf"), "[Service]\nUser=two\nExecStart=\nExecStart=/two/guix-daemon\n"),
            (&format!("{run}/20.conf"), "[Service]\nUser=hidden\n"),
            (&format!("{run}/10.conf"), "[Service]\nUser=earlier\nEnvironment=\"GUIX=/ten\"\n"),
            (&format!("{etc}/override.conf"), "[Service]\nEnvironment=\"GUIX=/override\"\nEnvironment=GUIX_X=1\n"),
            (&format!("{etc}/offload.conf"), "[Service]\nEnvironment=\"GUIX=/own\"\n"),
        ])
        .unwrap();
        assert_eq!((unit.user.as_str(), unit.daemon.as_path()), ("two", Path::new("/two/guix-daemon")));
        let own = Path::new(etc).join("offload.conf");
        let after = Path::new(etc).join("override.conf");
        assert_eq!(unit.others_that_set_guix(&own), [after.as_path()]);
        // A file of a package, which the one in /etc hides.
        let of_package = Path::new("/usr/lib/systemd/system/guix-daemon.service.d/offload.conf");
        assert_eq!(unit.others_that_set_guix(of_package), [own.as_path(), &after]);
    }

    #[test]
    fn names_are_quoted() {
        let text = drop_in(Path::new("/a b/100%/guix"), Path::new("/usr/bin/guix"));
        assert!(
            text.contains("\nEnvironment=\"GUIX=/a b/100%%/guix\"\nEnvironment=\"OFFLOAD_GUIX=/usr/bin/guix\"\n"),
            "{text}"
        );
    }
}
