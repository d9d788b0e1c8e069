//! `offload test [FILE [REGEXP]]`: whether the build machines can be used, step by step, with a remedy for what is wrong.
//!
//! All machines are checked at the same time, and one that does not answer hides nothing of the others.

mod checks;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;

use clap::Args;
use regex_lite::Regex;
use serde::Serialize;

use super::machines::{hosts, machine_file};
use crate::engine::Engine;
use crate::exit::Status;
use crate::machine::Machine;
use checks::{Finding, Outcome};

/// Version of the JSON form. It changes when a field changes its meaning or goes; new fields may come.
const VERSION: u32 = 1;

#[derive(Debug, Args)]
pub struct Arguments {
    /// The machine file, if it is not the usual one.
    file: Option<PathBuf>,
    /// Check only the machines whose names match this regular expression.
    regexp: Option<Regex>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What was found of one machine.
#[derive(Serialize)]
struct Checked<'a> {
    name: &'a str,
    port: u16,
    usable: bool,
    findings: Vec<Finding>,
}

/// Checks the machines.
pub fn run(arguments: &Arguments, engine: &Engine) -> Status {
    let path = machine_file(arguments.file.as_deref(), &engine.directories);
    if !path.exists() {
        eprintln!("offload: error: there is no machine file '{}'", path.display());
        return Status::MachineFile;
    }
    let pool = match engine.load_pool(&path, None) {
        Ok(pool) => pool,
        Err(report) => {
            eprintln!("{report}");
            return Status::MachineFile;
        }
    };
    let machines = hosts(&pool, arguments.regexp.as_ref());
    let checked = check_all(&machines, engine);
    let printed = if arguments.json { print_json(checked.as_slice()) } else { print(&path, checked.as_slice()) };
    if let Err(error) = printed {
        eprintln!("offload: error: cannot print the findings: {error}");
        return Status::Failure;
    }
    match checked.iter().filter(|checked| checked.usable).count() {
        usable if usable == checked.len() => Status::Success,
        0 => Status::Failure,
        _ => Status::SomeMachinesFailed,
    }
}

fn check_all<'a>(machines: &[&'a Machine], engine: &Engine) -> Vec<Checked<'a>> {
    thread::scope(|scope| {
        let checks: Vec<_> = machines
            .iter()
            .map(|&machine| (machine, scope.spawn(move || checks::check(machine, &engine.directories, &engine.state))))
            .collect();
        let finished = checks.into_iter().map(|(machine, check)| {
            // A check that panics has found nothing, which is no good sign.
            let findings = check.join().unwrap_or_default();
            let usable = !findings.is_empty() && findings.iter().all(|finding| finding.outcome != Outcome::Bad);
            Checked { name: &machine.name, port: machine.port, usable, findings }
        });
        finished.collect()
    })
}

fn print_json(machines: &[Checked<'_>]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, &serde_json::json!({ "version": VERSION, "machines": machines }))?;
    writeln!(out)
}

fn print(path: &Path, machines: &[Checked<'_>]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for checked in machines {
        let verdict = if checked.usable { "can be used" } else { "cannot be used" };
        writeln!(out, "{}:{} {verdict}", checked.name, checked.port)?;
        for finding in &checked.findings {
            let mark = match finding.outcome {
                Outcome::Good => "ok",
                Outcome::Doubtful => "??",
                Outcome::Bad => "!!",
            };
            writeln!(out, "  {mark} {}: {}", finding.step.word(), finding.text)?;
            // Not indented: what stands there can be pasted, here-documents included.
            if let Some(remedy) = &finding.remedy {
                writeln!(out, "     remedy: {remedy}")?;
            }
        }
    }
    let usable = machines.iter().filter(|checked| checked.usable).count();
    writeln!(out, "{usable} of {} machines in '{}' can be used", machines.len(), path.display())
}
