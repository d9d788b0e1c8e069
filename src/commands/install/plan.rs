//! The plan of an installation: a list of files and links, compared with the present ones, and its execution.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::error::InstallError;
use super::manifest::{Manifest, mark, mark_of_bytes, mark_of_link};
use crate::engine::Engine;
use crate::permissions::{below, identity};

#[derive(Debug, clap::Args)]
pub struct Target {
    /// The installation prefix: the program goes to DIR/lib/offload.
    #[arg(long, value_name = "DIR", default_value = "/usr/local")]
    pub prefix: PathBuf,
    /// The directory to use instead of `/`, to prepare a system that is not running.
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
}

impl Target {
    /// Returns the directory of the program, with its path in the installed system.
    pub fn directory(&self) -> PathBuf {
        self.prefix.join("lib/offload")
    }

    pub fn system<'a>(&'a self, engine: &'a Engine) -> System<'a> {
        System { root: &self.root, state: &engine.directories.state }
    }

    pub fn is_running_system(&self) -> bool {
        self.root == Path::new("/")
    }
}

/// A file or link to install, with its path in the installed system.
pub struct Item {
    pub path: PathBuf,
    pub what: What,
}

/// The contents of an item.
pub enum What {
    /// A file, readable by all.
    File(Vec<u8>),
    /// A copy of a program.
    Copy(PathBuf),
    /// A symbolic link with this target.
    Link(PathBuf),
}

/// The action for an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Keep,
    Write,
    Replace,
}

impl Item {
    pub fn file(path: &Path, contents: Vec<u8>) -> Item {
        Item { path: path.to_owned(), what: What::File(contents) }
    }

    pub fn link(path: &Path, target: &Path) -> Item {
        Item { path: path.to_owned(), what: What::Link(target.to_owned()) }
    }

    /// Returns the program that is copied.
    fn program(&self) -> Option<PathBuf> {
        match &self.what {
            What::Copy(from) => Some(from.clone()),
            What::File(_) | What::Link(_) => None,
        }
    }

    fn mark(&self) -> Result<String, InstallError> {
        match &self.what {
            What::File(contents) => Ok(mark_of_bytes(contents)),
            What::Link(target) => Ok(mark_of_link(target)),
            What::Copy(from) => match mark(from) {
                Ok(mark) => Ok(mark.unwrap_or_default()),
                Err(error) => Err(InstallError::file(from)(error)),
            },
        }
    }
}

/// The system in which files are installed.
#[derive(Clone, Copy)]
pub struct System<'a> {
    /// The directory that replaces `/`.
    pub root: &'a Path,
    /// The daemon's state, which may belong to a user of its own.
    pub state: &'a Path,
}

impl System<'_> {
    /// Runs `work` at `path`. In the state it runs with the rights of the owner, who could redirect root elsewhere.
    fn at<T: Send>(&self, path: &Path, work: impl FnOnce(&Path) -> io::Result<T> + Send) -> Result<T, InstallError> {
        let file = below(self.root, path);
        let done = match path.parent() {
            Some(directory) if path.starts_with(self.state) => {
                identity::in_directory(self.root, directory, || work(&file))
            }
            _ => work(&file),
        };
        done.map_err(InstallError::file(&file))
    }
}

/// All actions of an installation.
pub struct Plan<'a> {
    system: System<'a>,
    steps: Vec<(Item, String, Action)>,
    old: Manifest,
    manifest: PathBuf,
}

impl<'a> Plan<'a> {
    /// Compares the items with the present files. An existing file that is not in the manifest is a conflict, unless
    /// its contents are the wanted ones, or it is the program that is copied.
    pub fn make(system: System<'a>, directory: &Path, items: Vec<Item>) -> Result<Plan<'a>, InstallError> {
        let manifest = Manifest::path(directory);
        let file = below(system.root, &manifest);
        let old = Manifest::read(&file).map_err(InstallError::file(&file))?.unwrap_or_default();
        let mut steps = Vec::new();
        let program = items.iter().find_map(Item::program).and_then(|program| file_of(&program));
        for item in items {
            let wanted = item.mark()?;
            let is_program = || program.is_some() && file_of(&below(system.root, &item.path)) == program;
            let action = match system.at(&item.path, mark)? {
                None => Action::Write,
                Some(found) if found == wanted => Action::Keep,
                Some(found) if old.marks.get(&item.path).is_some_and(|marks| marks.contains(&found)) => Action::Replace,
                // The user has put it there by hand. The copy is made before its name gets a link.
                Some(_) if is_program() => Action::Replace,
                Some(_) => return Err(InstallError::Foreign(item.path)),
            };
            steps.push((item, wanted, action));
        }
        Ok(Plan { system, steps, old, manifest })
    }

    /// Prints the actions, and the contents of the drop-in.
    pub fn describe(&self, out: &mut dyn Write) -> io::Result<()> {
        for (item, _, action) in &self.steps {
            let path = item.path.display();
            match (action, &item.what) {
                (Action::Keep, _) => writeln!(out, "keep     {path}")?,
                (_, What::Link(target)) => writeln!(out, "link     {path} -> {}", target.display())?,
                (_, What::Copy(from)) => writeln!(out, "copy     {path} (from {})", from.display())?,
                (Action::Write, What::File(_)) => writeln!(out, "write    {path}")?,
                (Action::Replace, What::File(_)) => writeln!(out, "replace  {path}")?,
            }
            if let What::File(contents) = &item.what
                && item.path.extension().is_some_and(|extension| extension == "conf")
            {
                String::from_utf8_lossy(contents).lines().try_for_each(|line| writeln!(out, "         | {line}"))?;
            }
        }
        Ok(())
    }

    /// Executes the actions. It also removes files that only an earlier version installed.
    pub fn apply(&self) -> Result<(), InstallError> {
        let mut new = Manifest { directories: self.old.directories.clone(), ..Manifest::default() };
        for (item, mark, _) in &self.steps {
            new.add(&item.path, mark);
            self.make_parents(&item.path, &mut new.directories)?;
        }
        self.make_parents(&self.manifest, &mut new.directories)?;
        let mut both = Manifest { directories: new.directories.clone(), marks: self.old.marks.clone() };
        self.steps.iter().for_each(|(item, mark, _)| both.add(&item.path, mark));
        self.write_manifest(&both)?;
        for (item, ..) in self.steps.iter().filter(|(_, _, action)| *action != Action::Keep) {
            self.system.at(&item.path, |file| put(&item.what, file))?;
        }
        for path in self.old.marks.keys().filter(|path| !new.marks.contains_key(*path)) {
            if self.system.at(path, |file| self.old.has(path, file))? {
                self.system.at(path, |file| fs::remove_file(file))?;
            }
        }
        self.write_manifest(&new)
    }

    fn make_parents(&self, path: &Path, made: &mut BTreeSet<PathBuf>) -> Result<(), InstallError> {
        let missing: Vec<&Path> =
            path.ancestors().skip(1).take_while(|directory| !below(self.system.root, directory).exists()).collect();
        for directory in missing.into_iter().rev() {
            self.system.at(directory, |file| fs::create_dir(file))?;
            made.insert(directory.to_owned());
        }
        Ok(())
    }

    fn write_manifest(&self, manifest: &Manifest) -> Result<(), InstallError> {
        let (file, text) = (below(self.system.root, &self.manifest), manifest.text().into_bytes());
        if mark(&file).is_ok_and(|old| old == Some(mark_of_bytes(&text))) {
            return Ok(());
        }
        put(&What::File(text), &file).map_err(InstallError::file(&file))
    }
}

/// Returns the numbers of the file system and of the file, without following a link.
fn file_of(path: &Path) -> Option<(u64, u64)> {
    path.symlink_metadata().ok().map(|data| (data.dev(), data.ino()))
}

/// Replaces a file atomically: a hook may be running from it.
fn put(what: &What, file: &Path) -> io::Result<()> {
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    let new = Path::new(&new);
    match fs::remove_file(new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match what {
        What::Link(target) => symlink(target, new)?,
        What::File(contents) => {
            let mut file = File::create_new(new)?;
            file.write_all(contents)?;
            file.set_permissions(Permissions::from_mode(0o644))?;
            file.sync_all()?;
        }
        What::Copy(from) => {
            let mut file = File::create_new(new)?;
            io::copy(&mut File::open(from)?, &mut file)?;
            file.set_permissions(Permissions::from_mode(0o755))?;
            file.sync_all()?;
        }
    }
    fs::rename(new, file)
}

/// Removes the installed files, and the directories that were created for them if they are empty.
pub fn remove(system: System<'_>, directory: &Path, dry_run: bool, out: &mut dyn Write) -> Result<(), InstallError> {
    let path = Manifest::path(directory);
    let file = below(system.root, &path);
    let manifest = Manifest::read(&file)
        .map_err(InstallError::file(&file))?
        .ok_or_else(|| InstallError::NotInstalled(path.clone()))?;
    for path in manifest.marks.keys() {
        if system.at(path, |file| manifest.has(path, file))? {
            writeln!(out, "remove   {}", path.display())?;
            if !dry_run {
                system.at(path, |file| fs::remove_file(file))?;
            }
        } else if fs::symlink_metadata(below(system.root, path)).is_ok() {
            writeln!(out, "leave    {} (it has been changed)", path.display())?;
        }
    }
    if dry_run {
        return Ok(());
    }
    fs::remove_file(&file).map_err(InstallError::file(&file))?;
    for directory in manifest.directories.iter().rev() {
        // A directory with other files stays.
        let _ = system.at(directory, |file| fs::remove_dir(file));
    }
    Ok(())
}
