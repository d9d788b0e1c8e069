//! The positional arguments of the subcommands about machines.
//!
//! One rule holds for all subcommands. A word that contains a `/` or ends in `.lua` is the machine file. Any other word
//! selects machines: it is a name, `NAME:PORT`, or a regular expression that matches the whole of either.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::builder::{OsStringValueParser, TypedValueParser};
use regex_lite::Regex;

use super::failure::CommandError;
use super::machines::MachineFileArgs;
use crate::exit::ExitStatus;
use crate::machine::{Machine, label};
use crate::machine_file::Pool;

/// The number of names that the message about an unknown machine lists.
const MAX_LISTED_NAMES: usize = 20;

/// The machines that a subcommand applies to, and the machine file that has them.
#[derive(Debug, clap::Args)]
pub struct Selection {
    /// Machines: names, NAME:PORT, or regular expressions for whole names. A word with a `/`, or that ends in .lua, is
    /// the machine file.
    #[arg(value_name = "NAME", value_parser = OsStringValueParser::new().try_map(word))]
    words: Vec<Word>,
    #[command(flatten)]
    file: MachineFileArgs,
}

/// One positional argument.
#[derive(Clone, Debug)]
enum Word {
    File(PathBuf),
    Name(NamePattern),
}

/// A name of a machine, or an expression for names.
#[derive(Clone, Debug)]
struct NamePattern {
    text: String,
    whole: Regex,
}

/// Returns whether a positional argument is a machine file.
pub fn is_machine_file(word: &OsStr) -> bool {
    let bytes = word.as_encoded_bytes();
    bytes.contains(&b'/') || bytes.ends_with(b".lua")
}

/// Returns the parser of a positional argument that can only be a machine file.
pub fn machine_file_parser() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().try_map(|word| match is_machine_file(&word) {
        true => Ok(PathBuf::from(word)),
        false => {
            Err(format!("the name of a machine file contains a '/' or ends in '.lua': write ./{}", word.display()))
        }
    })
}

fn word(word: OsString) -> Result<Word, String> {
    if is_machine_file(&word) {
        return Ok(Word::File(word.into()));
    }
    let text = word.to_str().ok_or("not UTF-8, as names of machines are")?;
    let invalid = |error| format!("neither a name nor a regular expression: {error}");
    // Alone, since `a)|(b` would be valid inside the other one.
    Regex::new(text).map_err(invalid)?;
    let whole = Regex::new(&format!("^(?:{text})$")).map_err(invalid)?;
    Ok(Word::Name(NamePattern { text: text.to_owned(), whole }))
}

/// Returns the machine file that is named, as a positional argument or by the option.
pub fn named_once<'a>(
    positional: impl IntoIterator<Item = &'a Path>,
    option: Option<&'a Path>,
) -> Result<Option<&'a Path>, CommandError> {
    let mut files = positional.into_iter().chain(option);
    match (files.next(), files.next()) {
        (file, None) => Ok(file),
        (_, Some(second)) => Err(CommandError::new(
            ExitStatus::Usage,
            format!("more than one machine file is given; '{}' is the second", second.display()),
        )),
    }
}

impl Selection {
    /// Returns the machine file that is named, the first one if there are several.
    pub fn machine_file(&self) -> Option<&Path> {
        self.files().next().or(self.file.named())
    }

    /// Returns the machine file that is named; an error if there are several.
    pub fn one_machine_file(&self) -> Result<Option<&Path>, CommandError> {
        named_once(self.files(), self.file.named())
    }

    /// Returns the words that select machines.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.patterns().map(|name| name.text.as_str())
    }

    /// Returns an error if no machine is named, for a command that does not apply to all of them by default.
    pub fn require_names(&self) -> Result<(), CommandError> {
        match self.names().next() {
            Some(_) => Ok(()),
            None => Err(CommandError::new(ExitStatus::Usage, "name a machine")),
        }
    }

    /// Returns the selected machines of a pool, each host once; all of them if none is named. Each word must match one.
    pub fn hosts<'a>(&self, pool: &'a Pool) -> Result<Vec<&'a Machine>, CommandError> {
        self.select(pool.machines.iter().map(|entry| &entry.machine))
    }

    fn select<'a>(&self, machines: impl Iterator<Item = &'a Machine>) -> Result<Vec<&'a Machine>, CommandError> {
        let mut hosts: Vec<&Machine> = Vec::new();
        for machine in machines {
            if !hosts.iter().any(|host| host.address() == machine.address()) {
                hosts.push(machine);
            }
        }
        if let Some(name) = self.patterns().find(|name| !hosts.iter().any(|host| name.matches(host))) {
            return Err(unknown(&name.text, &hosts));
        }
        hosts.retain(|host| self.names().next().is_none() || self.patterns().any(|name| name.matches(host)));
        Ok(hosts)
    }

    fn files(&self) -> impl Iterator<Item = &Path> {
        self.words.iter().filter_map(|word| match word {
            Word::File(file) => Some(file.as_path()),
            Word::Name(_) => None,
        })
    }

    fn patterns(&self) -> impl Iterator<Item = &NamePattern> {
        self.words.iter().filter_map(|word| match word {
            Word::File(_) => None,
            Word::Name(name) => Some(name),
        })
    }
}

impl NamePattern {
    fn matches(&self, machine: &Machine) -> bool {
        machine.is_called(&self.text) || self.whole.is_match(&machine.name) || self.whole.is_match(&machine.address())
    }
}

/// Returns the machine of a pool that is called `name`.
pub fn find_one<'a>(pool: &'a Pool, name: &str) -> Result<&'a Machine, CommandError> {
    let hosts: Vec<&Machine> = pool.machines.iter().map(|entry| &entry.machine).collect();
    hosts.iter().find(|host| host.is_called(name)).copied().ok_or_else(|| unknown(name, &hosts))
}

/// Returns the machine of a pool that has this name in records, which is exact about the port.
pub fn find_recorded<'a>(pool: &'a Pool, name: &str) -> Result<&'a Machine, CommandError> {
    let hosts: Vec<&Machine> = pool.machines.iter().map(|entry| &entry.machine).collect();
    let is_it = |host: &&&Machine| label(&host.name, host.port) == name;
    hosts.iter().find(is_it).copied().ok_or_else(|| unknown(name, &hosts))
}

/// Returns the error about a word that no machine matches.
fn unknown(word: &str, hosts: &[&Machine]) -> CommandError {
    let mut names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let more = names.len().saturating_sub(MAX_LISTED_NAMES);
    names.truncate(MAX_LISTED_NAMES);
    let known = match (names.as_slice(), more) {
        ([], _) => "no machines".to_owned(),
        (names, 0) => names.join(", "),
        (names, more) => format!("{} and {more} more", names.join(", ")),
    };
    let is_file = Path::new(word).is_file();
    let hint =
        is_file.then(|| format!("'{word}' is a file: to use it as the machine file, write --machine-file {word}"));
    CommandError::new(ExitStatus::NoMatch, format!("no machine matches '{word}'; the machine file has {known}"))
        .with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(words: &[&str]) -> Selection {
        Selection {
            words: words.iter().map(|&text| word(text.into()).unwrap()).collect(),
            file: MachineFileArgs::default(),
        }
    }

    #[test]
    fn a_word_is_a_machine_file_only_with_a_slash_or_the_extension() {
        for text in ["./pool", "/etc/guix/machines.lua", "machines.lua", "a/b"] {
            assert_eq!(selection(&[text]).machine_file(), Some(Path::new(text)));
            assert_eq!(selection(&[text]).names().count(), 0, "{text}");
        }
        for text in ["b1", "b1:22", "2", "machines.lua.example.org", "b.*", "::1"] {
            assert_eq!((selection(&[text]).names().count(), selection(&[text]).machine_file()), (1, None), "{text}");
        }
        assert!(word("(".into()).is_err() && word("a)|(b".into()).is_err());
        assert_eq!(selection(&["b1", "a/b"]).one_machine_file(), Ok(Some(Path::new("a/b"))));
        assert!(selection(&["a.lua", "b1", "b.lua"]).one_machine_file().is_err());
        let both = Selection { file: MachineFileArgs::naming("b"), ..selection(&["a.lua"]) };
        assert!(both.one_machine_file().is_err());
    }

    #[test]
    fn a_name_selects_its_machine_and_not_those_that_begin_with_it() {
        let machine =
            |name: &str, port| Machine { port, ..Machine::new(name, "u", vec!["x86_64-linux".into()], Vec::new()) };
        let machines =
            [machine("b1", 22), machine("b10", 22), machine("b1", 22), machine("b1", 2022), machine("c.x", 22)];
        let select = |words: &[&str]| {
            let hosts = selection(words).select(machines.iter());
            hosts.map(|hosts| hosts.iter().map(|host| host.address()).collect::<Vec<_>>().join(" "))
        };
        for (words, expected) in [
            (&[][..], "b1:22 b10:22 b1:2022 c.x:22"),
            (&["b1"], "b1:22 b1:2022"),
            (&["b1:2022"], "b1:2022"),
            (&["C.X."], "c.x:22"),
            (&["b.*"], "b1:22 b10:22 b1:2022"),
            (&["b10|c"], "b10:22"),
            (&["c.x", "b10"], "b10:22 c.x:22"),
            (&[".*:2022"], "b1:2022"),
        ] {
            assert_eq!(select(words), Ok(expected.to_owned()), "{words:?}");
        }
        // Each word is the name of something, also the second.
        for words in [&["b"][..], &["b1", "b2"], &["b2", "b1"], &["b1:23"]] {
            let mut message = Vec::new();
            assert_eq!(select(words).unwrap_err().print(&mut message), ExitStatus::NoMatch, "{words:?}");
            let message = String::from_utf8(message).unwrap();
            assert!(message.ends_with("; the machine file has b1, b10, c.x\n"), "{message}");
        }
    }
}
