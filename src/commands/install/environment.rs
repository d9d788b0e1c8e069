//! The environment of the daemon, as its unit sets it.
//!
//! systemd.exec(5): `Environment=` has assignments in words, some of them in quotes, and an empty one resets all of them.
//! `EnvironmentFile=` names files with an assignment in each line; these override the others. A file after `-` may be
//! missing. A file that another user than root can change is not read: its variables would apply to root's processes.
//!
//! Not read here: `PassEnvironment=`, `UnsetEnvironment=`, specifiers except `%%`, and lines that continue after a
//! backslash in such a file.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use log::warn;

use crate::permissions::below;
use crate::permissions::ownership::{Control, control_below};

/// The variables that a unit sets.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Environment {
    assigned: BTreeMap<String, String>,
    /// The values of `EnvironmentFile=`.
    files: Vec<String>,
}

impl Environment {
    /// Takes the value of `Environment=`.
    pub fn assign(&mut self, value: &str) {
        if value.is_empty() {
            self.assigned.clear();
        }
        self.assigned.extend(words(value).iter().filter_map(|word| assignment(word)));
    }

    /// Takes the value of `EnvironmentFile=`.
    pub fn add_file(&mut self, value: &str) {
        match value {
            "" => self.files.clear(),
            file => self.files.push(file.trim_start_matches('-').to_owned()),
        }
    }

    /// Returns the variables. The files are below `root`.
    pub fn variables(&self, root: &Path) -> BTreeMap<String, String> {
        let mut variables = self.assigned.clone();
        for file in &self.files {
            let text = read_of_root(root, Path::new(file));
            let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
            let assignments = lines.filter_map(|line| {
                let (name, value) = line.split_once('=')?;
                Some((name.trim().to_owned(), words(value).join(" ")))
            });
            variables.extend(assignments);
        }
        variables
    }
}

/// Reads a file that only root can change; empty if it is missing or is none.
fn read_of_root(root: &Path, file: &Path) -> String {
    let path = below(root, file);
    if !path.exists() {
        return String::new();
    }
    match control_below(root, file) {
        Ok(Control::Root) => {}
        Ok(_) => {
            warn!("'{}' is not read: other users than root can change it", path.display());
            return String::new();
        }
        Err(error) => {
            warn!("'{}' is not read: {error}", path.display());
            return String::new();
        }
    }
    let bytes = fs::read(&path).unwrap_or_else(|error| {
        warn!("'{}' cannot be read: {error}", path.display());
        Vec::new()
    });
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Splits a value into words: quotes hold words together, and a backslash makes the next character a plain one.
fn words(value: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match (character, quote) {
            ('\\', _) => word.get_or_insert_default().extend(characters.next()),
            (character, Some(end)) if character == end => quote = None,
            ('"' | '\'', None) => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (blank, None) if blank.is_whitespace() => words.extend(word.take()),
            (character, _) => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

fn assignment(word: &str) -> Option<(String, String)> {
    let (name, value) = word.split_once('=')?;
    Some((name.to_owned(), value.replace("%%", "%")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_come_from_words_and_from_files() {
        let root = tempfile::tempdir().unwrap();
        let mut environment = Environment::default();
        environment.assign("LOST=1");
        environment.assign("");
        environment.assign(r#"A=b "GUIX_STATE_DIRECTORY=/a b/100%%" 'C=d "e"' F=\"g G="#);
        environment.assign("A=later");
        environment.add_file("/lost");
        environment.add_file("");
        environment.add_file("-/missing");
        environment.add_file("/etc/default/guix-daemon");
        fs::create_dir_all(root.path().join("etc/default")).unwrap();
        let text = "# N=o\n OFFLOAD_MACHINE_FILE=\"/srv/the machines.lua\"\nnonsense\nF=file\n";
        fs::write(root.path().join("etc/default/guix-daemon"), text).unwrap();
        environment.add_file("/etc/changed-by-others");
        let others = root.path().join("etc/changed-by-others");
        fs::write(&others, "LD_PRELOAD=/x.so\n").unwrap();
        std::os::unix::fs::chown(&others, Some(12345), None).unwrap();
        let variables = environment.variables(root.path());
        let variables: Vec<(&str, &str)> =
            variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(
            variables,
            [
                ("A", "later"),
                ("C", "d \"e\""),
                ("F", "file"),
                ("G", ""),
                ("GUIX_STATE_DIRECTORY", "/a b/100%"),
                ("OFFLOAD_MACHINE_FILE", "/srv/the machines.lua"),
            ]
        );
    }
}
