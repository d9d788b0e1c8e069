//! Derivations for tests, which need only a static busybox.

use std::fmt::Write;
use std::sync::Arc;

use super::SYSTEM;
use super::entry::quote;

/// The first lines of each build script: a failure ends it, and start and end go to the file that `record.rs` reads.
const PREAMBLE: &str = "set -e
note() { read up rest </proc/uptime; echo \"$1 $$ $up $name\" >>/var/lab/builds; }
note start; trap 'note end' EXIT
";

/// A derivation to be: a script for busybox's shell, which stops at the first command that fails. Its PATH has all of
/// busybox, `$out` and the like are its outputs. A clone is the same derivation.
#[derive(Clone, Debug)]
pub struct Drv(pub(super) Arc<Description>);

#[derive(Clone, Debug)]
pub(super) struct Description {
    pub name: String,
    pub system: String,
    pub script: String,
    pub outputs: Vec<String>,
    pub inputs: Vec<(String, Drv, String)>,
    pub files: Vec<(String, String)>,
    pub environment: Vec<(String, String)>,
    pub hash: Option<(String, String, bool)>,
}

impl Drv {
    /// A derivation that makes an empty file. Names are unique within a build.
    pub fn new(name: &str) -> Drv {
        Drv(Arc::new(Description {
            name: name.to_owned(),
            system: SYSTEM.to_owned(),
            script: "true >$out".to_owned(),
            outputs: vec!["out".to_owned()],
            inputs: Vec::new(),
            files: Vec::new(),
            environment: Vec::new(),
            hash: None,
        }))
    }

    fn change(mut self, change: impl FnOnce(&mut Description)) -> Drv {
        change(Arc::make_mut(&mut self.0));
        self
    }

    pub fn name(&self) -> &str {
        &self.0.name
    }

    pub fn script(self, script: &str) -> Drv {
        self.change(|it| it.script = script.to_owned())
    }

    pub fn system(self, system: &str) -> Drv {
        self.change(|it| it.system = system.to_owned())
    }

    /// Default: `out` alone.
    pub fn outputs(self, ids: &[&str]) -> Drv {
        self.change(|it| it.outputs = ids.iter().map(|id| (*id).to_owned()).collect())
    }

    /// Output `out` of another derivation is an input. A variable named like that derivation, with `_` for what a
    /// variable cannot have, holds its path.
    pub fn input(self, of: &Drv) -> Drv {
        let variable = of.name().replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        self.input_output(&variable, of, "out")
    }

    /// An output of another derivation is an input; `variable` holds its path.
    pub fn input_output(self, variable: &str, of: &Drv, output: &str) -> Drv {
        self.change(|it| it.inputs.push((variable.to_owned(), of.clone(), output.to_owned())))
    }

    /// A file or directory of the host where the client runs is added to the store as an input; `variable` holds its
    /// path.
    pub fn file(self, variable: &str, path: &str) -> Drv {
        self.change(|it| it.files.push((variable.to_owned(), path.to_owned())))
    }

    pub fn env(self, variable: &str, value: &str) -> Drv {
        self.change(|it| it.environment.push((variable.to_owned(), value.to_owned())))
    }

    /// The features a machine must have.
    pub fn features(self, features: &[&str]) -> Drv {
        self.env("requiredSystemFeatures", &features.join(" "))
    }

    /// A fixed output that is a plain file with the hash `hex`, in base 16.
    pub fn fixed_file(self, algorithm: &str, hex: &str) -> Drv {
        self.change(|it| it.hash = Some((algorithm.to_owned(), hex.to_owned(), false)))
    }

    /// A fixed output of any form, whose nar has the hash `hex`, in base 16.
    pub fn fixed_tree(self, algorithm: &str, hex: &str) -> Drv {
        self.change(|it| it.hash = Some((algorithm.to_owned(), hex.to_owned(), true)))
    }

    /// Puts it behind what it needs, each once.
    pub(super) fn collect<'a>(&'a self, into: &mut Vec<&'a Drv>) {
        match into.iter().find(|known| known.name() == self.name()) {
            Some(known) => assert!(Arc::ptr_eq(&known.0, &self.0), "two derivations are named {}", self.name()),
            None => {
                self.0.inputs.iter().for_each(|(_, input, _)| input.collect(into));
                into.push(self);
            }
        }
    }

    /// What busybox's shell runs.
    pub(super) fn whole_script(&self) -> String {
        format!("{PREAMBLE}{}", self.0.script)
    }

    /// As `client.scm` reads it.
    pub(super) fn to_scheme(&self) -> String {
        let it = &self.0;
        let pairs = |list: &[(String, String)]| -> String {
            list.iter().map(|(name, value)| format!("({} {})", quote(name), quote(value))).collect()
        };
        let mut text = format!("((name . {}) (system . {})", quote(&it.name), quote(&it.system));
        write!(text, " (script . {})", quote(&self.whole_script())).unwrap();
        write!(text, " (outputs {})", it.outputs.iter().map(|id| quote(id)).collect::<String>()).unwrap();
        let inputs = it
            .inputs
            .iter()
            .map(|(variable, drv, output)| format!("({} {} {})", quote(variable), quote(drv.name()), quote(output)));
        write!(text, " (inputs {})", inputs.collect::<String>()).unwrap();
        write!(text, " (files {}) (environment {})", pairs(&it.files), pairs(&it.environment)).unwrap();
        if let Some((algorithm, hex, recursive)) = &it.hash {
            let recursive = if *recursive { "#t" } else { "#f" };
            write!(text, " (hash {} {} {recursive})", quote(algorithm), quote(hex)).unwrap();
        }
        text + ")"
    }
}
