//! Things to put into a store: trees, and derivations that a static busybox builds.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

use offload::daemon::Client;
use offload::store::derivation::{Derivation, FixedOutput, Hashes, Recipe};
use offload::store::nar::{self, NarPath, Visitor};
use offload::store::path::{StoreDir, StorePath};

use super::Daemon;

pub fn path(text: &str) -> StorePath {
    StorePath::parse(&StoreDir::default(), text.as_bytes()).unwrap()
}

/// The nar of one file.
pub fn file_nar(executable: bool, contents: &[u8]) -> Vec<u8> {
    let mut writer = nar::Writer::new(Vec::new());
    writer.file(&NarPath::root(), executable, contents.len() as u64, &mut &contents[..]).unwrap();
    writer.finish().unwrap()
}

/// The nar of a directory with one executable.
pub fn program_nar(name: &str, contents: &[u8]) -> Vec<u8> {
    let mut writer = nar::Writer::new(Vec::new());
    let mut path = NarPath::root();
    writer.directory(&path).unwrap();
    path.push(name.as_bytes()).unwrap();
    writer.file(&path, true, contents.len() as u64, &mut &contents[..]).unwrap();
    path.pop();
    writer.leave_directory(&path).unwrap();
    writer.finish().unwrap()
}

/// Adds a directory with the static busybox of the daemon's root directory.
pub fn add_busybox<S: Read + Write>(daemon: &Daemon, client: &mut Client<S>) -> StorePath {
    let nar = program_nar("busybox", &std::fs::read(daemon.path("/bin/busybox")).unwrap());
    client.add_to_store("busybox", true, "sha256", &mut nar.as_slice()).unwrap()
}

/// A derivation that is built by a shell script, in which every applet of busybox is a command.
pub struct Script<'a> {
    pub busybox: &'a StorePath,
    pub script: &'a str,
    pub outputs: &'a [&'a str],
    pub fixed: Option<FixedOutput>,
    pub inputs: &'a [(&'a StorePath, &'a Derivation)],
}

impl<'a> Script<'a> {
    pub fn new(busybox: &'a StorePath, script: &'a str) -> Script<'a> {
        Script { busybox, script, outputs: &["out"], fixed: None, inputs: &[] }
    }

    /// Adds the derivation and returns its path and itself.
    pub fn add<S: Read + Write>(&self, client: &mut Client<S>, name: &str) -> (StorePath, Derivation) {
        let store = StoreDir::default();
        let program = format!("{}/busybox", self.busybox);
        let setup = format!("{program} mkdir bin && {program} --install -s bin && export PATH=$PWD/bin && ");
        let output = |id: &&str| (id.to_string(), self.fixed.clone());
        let input = |(path, derivation): &(&StorePath, &Derivation)| {
            ((*path).clone(), derivation.outputs.keys().cloned().collect::<BTreeSet<_>>())
        };
        let recipe = Recipe {
            outputs: self.outputs.iter().map(output).collect(),
            input_derivations: self.inputs.iter().map(input).collect(),
            input_sources: [self.busybox.clone()].into(),
            system: "x86_64-linux".into(),
            builder: program.into_bytes(),
            args: vec![b"sh".into(), b"-c".into(), (setup + self.script).into_bytes()],
            env: BTreeMap::from([(b"name".into(), name.into())]),
        };
        let lookup = |path: &StorePath| {
            let input = self.inputs.iter().find(|(input, _)| *input == path);
            input.map(|(_, derivation)| (*derivation).clone()).ok_or(io::ErrorKind::NotFound.into())
        };
        let derivation = recipe.derivation(&store, name, &mut Hashes::new(lookup)).unwrap();
        let references = derivation.references().into_iter().collect();
        let text = derivation.write();
        (client.add_text_to_store(&format!("{name}.drv"), &text, &references).unwrap(), derivation)
    }
}
