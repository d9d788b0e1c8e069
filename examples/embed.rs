//! A program with a build hook of its own: it adds a function to the machine file's language, explains a decision, and
//! has a derivation built elsewhere.
//!
//! ```text
//! embed MACHINE-FILE            explain what would become of a build for this system
//! embed MACHINE-FILE DRV        have the derivation built (as root, where guix-daemon runs)
//! ```
//!
//! A machine file for it may call `fleet(NAME)`, which gives a number of build slots:
//!
//! ```lua
//! return { build_machine { name = "b1", parallel_builds = fleet "b1", … } }
//! ```

use std::collections::BTreeSet;
use std::error::Error;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use offload::engine::{Accepted, Engine};
use offload::events::Event;
use offload::hook::{BuildLog, HookArguments, Request};
use offload::local::{Directories, closure, read_derivation};
use offload::machine_file::Extend;
use offload::scheduler::{Decision, Readiness};
use offload::store::path::StorePath;

fn main() -> Result<(), Box<dyn Error>> {
    // What the machine file starts ends with this process.
    offload::remote::owner::serve_if_asked(&std::env::args_os().collect::<Vec<_>>());
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (file, drv) = match arguments.as_slice() {
        [file] => (file, None),
        [file, drv] => (file, Some(drv)),
        _ => return Err("usage: embed MACHINE-FILE [DRV]".into()),
    };

    let engine = Engine::new(Directories::from_environment()?, HookArguments::without_limits("x86_64-linux"));
    let pool = engine.load_pool(Path::new(file), Some(fleet()))?;
    let request = request(&engine, drv)?;
    let consideration = engine.consider(&pool, &request);

    for surveyed in consideration.explain() {
        let machine = consideration.machines[surveyed.machine];
        let verdict = match surveyed.verdict {
            Readiness::Ready => "can take it".to_owned(),
            Readiness::Unknown => "would have to be asked".to_owned(),
            Readiness::Not(reason) => reason.to_string(),
        };
        println!("{} ({} slots): {verdict}", machine.name, machine.parallel_builds);
    }
    if drv.is_none() {
        println!("the decision would be: {}", consideration.predict().0);
        return Ok(());
    }

    let accepted = loop {
        match consideration.decide() {
            Decision::Accept(choice) => break Accepted::Chosen(Box::new(choice)),
            Decision::AcceptAndWait(place) => break Accepted::Waiting(place),
            Decision::Decline(_) => return Err("no machine takes it".into()),
            // guix-daemon asks again after five seconds, and so does this.
            Decision::Postpone(_) => std::thread::sleep(Duration::from_secs(5)),
        }
    };
    // guix-daemon tells its hook the inputs and the missing outputs; here they are worked out.
    let derivation = read_derivation(&engine.directories.store, &request.derivation)?;
    let inputs = closure(&engine.directories, &request.derivation, &derivation)?;
    let outputs: BTreeSet<StorePath> = derivation.output_paths().cloned().collect();
    let log = BuildLog::new(File::from(std::io::stderr().as_fd().try_clone_to_owned()?));
    consideration.offload(accepted, &inputs, &outputs, &log, &mut |event: &Event<'_>| println!("{event}"))?;
    Ok(())
}

/// The function `fleet`, for machine files.
fn fleet() -> Extend {
    Arc::new(|lua| {
        let fleet = lua.create_function(|_, name: String| Ok(if name.starts_with("big-") { 16 } else { 2 }))?;
        lua.globals().set("fleet", fleet)
    })
}

fn request(engine: &Engine, drv: Option<&String>) -> Result<Request, Box<dyn Error>> {
    let store = &engine.directories.store;
    let Some(drv) = drv else {
        let derivation = StorePath::parse(store, format!("{store}/{}-none.drv", "0".repeat(32)).as_bytes())?;
        let system = engine.arguments.system.clone();
        return Ok(Request { wants_local: false, system, derivation, features: Vec::new() });
    };
    let derivation = StorePath::parse(store, drv.as_bytes())?;
    let read = read_derivation(store, &derivation)?;
    let features = read.required_features();
    Ok(Request { wants_local: false, system: read.system, derivation, features })
}
