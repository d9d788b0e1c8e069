//! A client of a daemon in Rust, the program's own: it starts at once and says exactly when the daemon is done. For
//! measurements, and for tests that speak to the daemon in more words than `build`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use offload::internals::daemon::{Client, Error, Options};
use offload::internals::local::Dump;
use offload::internals::store::derivation::{Derivation, FixedOutput, ModuloHashes, Recipe};
use offload::internals::store::path::{StoreDir, StorePath};
use offload::internals::store::{HashAlgorithm, base16};

use super::derivation::Drv;
use super::host::Host;

/// A connection to a host's daemon. The garbage collector spares its items until it is dropped.
pub struct Direct<'a> {
    host: &'a Host,
    client: Client<UnixStream>,
    busybox: StorePath,
    made: BTreeMap<String, Made>,
}

/// A derivation in the store of a host.
#[derive(Clone, Debug)]
pub struct Made {
    pub path: StorePath,
    pub derivation: Derivation,
}

impl Made {
    /// Its output `out`.
    pub fn output(&self) -> &StorePath {
        &self.derivation.outputs["out"].path
    }
}

impl Host {
    /// A client in Rust of this host's daemon, with the options of [`Host::client`].
    pub fn direct(&self) -> Direct<'_> {
        let mut client = Client::connect(self.connect_to_daemon(), StoreDir::default()).unwrap();
        let busybox = add_tree(&mut client, self, "busybox", "/var/lab/busybox");
        let mut direct = Direct { host: self, client, busybox, made: BTreeMap::new() };
        direct.set_options(&direct.options());
        direct
    }
}

impl Direct<'_> {
    /// The options it begins with, to be changed and [set](Direct::set_options).
    pub fn options(&self) -> Options {
        let max_jobs = Some(self.host.options.max_jobs);
        Options { use_substitutes: false, offload: true, max_jobs, ..Options::default() }
    }

    pub fn set_options(&mut self, options: &Options) {
        self.client.set_options(options).unwrap();
    }

    /// Builds on the host itself from now on, so many at the same time.
    pub fn build_locally(&mut self, jobs: u32) {
        self.set_options(&Options { offload: false, max_jobs: Some(jobs), ..self.options() });
    }

    /// The connection itself.
    pub fn daemon(&mut self) -> &mut Client<UnixStream> {
        &mut self.client
    }

    /// Adds a derivation, those that it needs before it. Derivations of one name are the same for one client.
    pub fn make(&mut self, drv: &Drv) -> Made {
        self.make_with(drv, |_| ())
    }

    /// Adds a derivation that `change` may alter.
    pub fn make_with(&mut self, drv: &Drv, change: impl FnOnce(&mut Recipe)) -> Made {
        if let Some(made) = self.made.get(drv.name()) {
            return made.clone();
        }
        let mut recipe = self.recipe(drv);
        change(&mut recipe);
        let known: BTreeMap<&StorePath, &Derivation> =
            self.made.values().map(|made| (&made.path, &made.derivation)).collect();
        let lookup = |path: &StorePath| known.get(path).map(|drv| (*drv).clone()).ok_or(io::ErrorKind::NotFound.into());
        let derivation = recipe.derivation(&StoreDir::default(), drv.name(), &mut ModuloHashes::new(lookup)).unwrap();
        let references = derivation.references().into_iter().collect();
        let name = format!("{}.drv", drv.name());
        let path = self.client.add_text_to_store(&name, &derivation.write(), &references).unwrap();
        let made = Made { path, derivation };
        self.made.insert(drv.name().to_owned(), made.clone());
        made
    }

    fn recipe(&mut self, drv: &Drv) -> Recipe {
        let it = &*drv.0;
        let mut env = BTreeMap::from([
            (b"PATH".to_vec(), format!("{}/bin", self.busybox).into_bytes()),
            (b"name".to_vec(), it.name.clone().into_bytes()),
        ]);
        let mut input_derivations: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for (variable, input, output) in &it.inputs {
            let made = self.make(input);
            env.insert(variable.clone().into_bytes(), made.derivation.outputs[output].path.to_string().into_bytes());
            input_derivations.entry(made.path).or_default().insert(output.clone());
        }
        let mut input_sources = BTreeSet::from([self.busybox.clone()]);
        for (variable, file) in &it.files {
            let name = Path::new(file).file_name().unwrap().to_str().unwrap();
            let path = add_tree(&mut self.client, self.host, name, file);
            env.insert(variable.clone().into_bytes(), path.to_string().into_bytes());
            input_sources.insert(path);
        }
        env.extend(it.environment.iter().map(|(name, value)| (name.clone().into_bytes(), value.clone().into_bytes())));
        let fixed = it.hash.as_ref().map(|(algorithm, hex, recursive)| FixedOutput {
            recursive: *recursive,
            algorithm: HashAlgorithm::from_name(algorithm.as_bytes()).unwrap(),
            hash: base16::decode(hex.as_bytes()).unwrap(),
        });
        Recipe {
            outputs: it.outputs.iter().map(|id| (id.clone(), fixed.clone())).collect(),
            input_derivations,
            input_sources,
            system: it.system.clone(),
            builder: format!("{}/bin/busybox", self.busybox).into_bytes(),
            args: [b"sh".to_vec(), b"-c".to_vec(), drv.whole_script().into_bytes()].into(),
            env,
        }
    }

    /// Adds derivations and builds them; returns how long the daemon took.
    pub fn build(&mut self, drvs: &[&Drv]) -> Result<Duration, Error> {
        let paths: Vec<StorePath> = drvs.iter().map(|drv| self.make(drv).path).collect();
        self.build_paths(&paths)
    }

    /// Builds derivations that have been added; returns how long the daemon took.
    pub fn build_paths(&mut self, drvs: &[StorePath]) -> Result<Duration, Error> {
        let start = Instant::now();
        self.client.build_paths(&drvs.iter().cloned().collect())?;
        Ok(start.elapsed())
    }
}

/// Adds a file or directory of the host.
fn add_tree(client: &mut Client<UnixStream>, host: &Host, name: &str, file: &str) -> StorePath {
    let file = host.path(file);
    let parent = std::fs::File::open(file.parent().unwrap()).unwrap();
    let entry = std::ffi::CString::new(file.file_name().unwrap().as_encoded_bytes()).unwrap();
    client.add_to_store(name, true, "sha256", &mut Dump::new(&parent, &entry).unwrap()).unwrap()
}
