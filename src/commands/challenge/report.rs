//! The result of a challenge, for people and as JSON.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use crate::commands::build::error::message;
use crate::commands::terminal::write_json;
use crate::embed::{BuildError, Challenged, CopyDifference, CopySource, DifferenceKind, FileDifference, OutputCopy};
use crate::store::path::StorePath;

/// The version of the JSON form. It changes when a field is removed or changes its meaning; new fields may appear.
const JSON_VERSION: u32 = 1;

/// The limit of files that are listed for people.
const MAX_LISTED: usize = 20;

#[derive(Serialize)]
struct Whole {
    version: u32,
    derivations: Vec<Report>,
}

/// The result for one derivation in the form of `--json`.
#[derive(Serialize)]
pub struct Report {
    derivation: String,
    result: &'static str,
    error: Option<String>,
    hint: Option<String>,
    #[serde(flatten)]
    comparison: Option<ComparisonReport>,
}

#[derive(Serialize)]
struct ComparisonReport {
    reproducible: bool,
    copies: Vec<CopyReport>,
    outputs: BTreeMap<String, OutputReport>,
}

#[derive(Serialize)]
struct CopyReport {
    source: &'static str,
    machine: Option<String>,
    round: Option<u32>,
}

#[derive(Serialize)]
struct OutputReport {
    path: String,
    hashes: Vec<Option<String>>,
    differences: Vec<DifferenceReport>,
}

#[derive(Serialize)]
struct DifferenceReport {
    first: usize,
    second: usize,
    files: Vec<FileReport>,
    omitted: usize,
}

#[derive(Default, Serialize)]
struct FileReport {
    path: String,
    difference: &'static str,
    at: Option<u64>,
    sizes: Option<[u64; 2]>,
    values: Option<[String; 2]>,
    only_in: Option<&'static str>,
}

impl Report {
    pub fn of(challenged: &Challenged) -> Report {
        let output = |path: &StorePath, differences: &[CopyDifference]| OutputReport {
            path: path.to_string(),
            hashes: challenged.copies.iter().map(|copy| copy.nar_hash(path)).collect(),
            differences: differences.iter().map(difference).collect(),
        };
        let outputs = challenged.outputs.iter();
        let reproducible = challenged.is_reproducible();
        let comparison = ComparisonReport {
            reproducible,
            copies: challenged.copies.iter().map(copy).collect(),
            outputs: outputs.map(|(id, one)| (id.clone(), output(&one.path, &one.differences))).collect(),
        };
        Report {
            derivation: challenged.derivation.to_string(),
            result: if reproducible { "same" } else { "different" },
            error: None,
            hint: None,
            comparison: Some(comparison),
        }
    }

    pub fn of_failure(derivation: &StorePath, error: &BuildError) -> Report {
        let result = match error {
            BuildError::Cancelled => "cancelled",
            BuildError::Failed { .. } => "failed",
            BuildError::TimedOut { .. } => "timed out",
            BuildError::NoMachine { .. } => "no machine",
            BuildError::Inputs { .. } => "inputs failed",
            BuildError::Derivation { .. } | BuildError::ThisMachine { .. } => "this machine failed",
        };
        let hint = error.hint().map(str::to_owned);
        Report { derivation: derivation.to_string(), result, error: Some(message(error)), hint, comparison: None }
    }
}

fn copy(copy: &OutputCopy) -> CopyReport {
    let (source, machine, round) = match &copy.source {
        CopySource::ThisMachine => ("this machine", None, None),
        CopySource::Machine { name, round } => ("machine", Some(name.clone()), Some(*round)),
    };
    CopyReport { source, machine, round }
}

fn difference(difference: &CopyDifference) -> DifferenceReport {
    let &CopyDifference { first, second, ref files, omitted } = difference;
    DifferenceReport { first, second, files: files.iter().map(file).collect(), omitted }
}

fn file(file: &FileDifference) -> FileReport {
    let which = |is_first: bool| Some(if is_first { "first" } else { "second" });
    let report = FileReport { path: file.path.clone(), ..FileReport::default() };
    match &file.kind {
        &DifferenceKind::Contents { at, sizes } => {
            FileReport { difference: "contents", at: Some(at), sizes: Some(sizes), ..report }
        }
        &DifferenceKind::Executable(is_first) => {
            FileReport { difference: "executable", only_in: which(is_first), ..report }
        }
        DifferenceKind::Target(targets) => FileReport { difference: "target", values: Some(targets.clone()), ..report },
        DifferenceKind::Type(types) => FileReport { difference: "type", values: Some(types.clone()), ..report },
        &DifferenceKind::Missing(is_first) => FileReport { difference: "missing", only_in: which(is_first), ..report },
    }
}

/// Prints all results as JSON.
pub fn print(derivations: Vec<Report>) -> io::Result<()> {
    write_json(&Whole { version: JSON_VERSION, derivations }, true, &mut io::stdout().lock())
}

/// Writes the result for people.
pub fn write(challenged: &Challenged, out: &mut dyn Write) -> io::Result<()> {
    let verdict = if challenged.is_reproducible() { "the outputs are the same" } else { "the outputs differ" };
    writeln!(out, "{}: {verdict}", challenged.derivation)?;
    for (id, output) in &challenged.outputs {
        writeln!(out, "  {id}: {}", output.path)?;
        for copy in &challenged.copies {
            let hash = copy.nar_hash(&output.path).unwrap_or_default();
            writeln!(out, "    {hash}  {}", copy.source)?;
        }
        for difference in &output.differences {
            write_difference(challenged, difference, out)?;
        }
    }
    Ok(())
}

fn write_difference(challenged: &Challenged, difference: &CopyDifference, out: &mut dyn Write) -> io::Result<()> {
    let source = |index: usize| challenged.copies.get(index).map(|copy| copy.source.to_string()).unwrap_or_default();
    let (first, second) = (source(difference.first), source(difference.second));
    writeln!(out, "    first: {first}; second: {second}")?;
    for file in difference.files.iter().take(MAX_LISTED) {
        writeln!(out, "      {file}")?;
    }
    match difference.files.len().saturating_sub(MAX_LISTED) + difference.omitted {
        0 => Ok(()),
        more => writeln!(out, "      and {more} more; `--json` lists a thousand"),
    }
}
