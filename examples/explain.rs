//! Explains which machine would build something.
//!
//! ```text
//! explain MACHINE-FILE                     for any derivation of this machine's system type
//! explain MACHINE-FILE FEATURE…            for one that requires features
//! explain MACHINE-FILE DERIVATION          for this derivation
//! ```
//!
//! A machine file for it may call `fleet(NAME)`, which gives a number of build slots:
//!
//! ```lua
//! return { build_machine { name = "b1", parallel_builds = fleet "b1", … } }
//! ```

use std::env;
use std::error::Error;
use std::process::ExitCode;

use offload::{Engine, LoadError, Query, Verdict};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let file = arguments.next().ok_or("usage: explain MACHINE-FILE [FEATURE… | DERIVATION]")?;
    let words: Vec<String> = arguments.collect();

    let engine = Engine::builder()
        .function("fleet", |name: String| Ok::<_, String>(if name.starts_with("big-") { 16 } else { 2 }))
        .build()?;
    let pool = match engine.load(&file) {
        Ok(pool) => pool,
        Err(LoadError::Missing { path }) => return Err(format!("there is no file '{}'", path.display()).into()),
        // Each has its file, line and remedy.
        Err(error) => {
            error.diagnostics().iter().for_each(|diagnostic| eprintln!("{diagnostic}"));
            return Ok(ExitCode::from(3));
        }
    };
    let query = match words.as_slice() {
        [derivation] if derivation.ends_with(".drv") => pool.query(derivation)?,
        features => features.iter().fold(Query::system("x86_64-linux"), Query::feature),
    };
    let explanation = pool.explain(&query);
    println!("{explanation}");
    Ok(match explanation.verdict {
        Verdict::NoMatch => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    })
}
