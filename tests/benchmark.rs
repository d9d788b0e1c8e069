//! The benchmark: `guix offload` and `offload` alternately, in the same lab, on the same work.
//!
//! Run by `tests/bench [--rounds N] [--quick] [--against PROGRAM] [WORK...]`. Prints Markdown tables on standard
//! output, and each measurement on standard error. Each work has a lab of its own: build machines, and two heads that
//! differ only in their hooks. The product's own client of the daemon requests the builds, so that no client's start
//! is measured. Before the first round each side builds once, which is not measured.

#[path = "benchmark/compression.rs"]
mod compression;
mod lab;
#[path = "benchmark/pool.rs"]
mod pool;
#[path = "benchmark/site.rs"]
mod site;
#[path = "benchmark/substitutes.rs"]
mod substitutes;
#[path = "benchmark/table.rs"]
mod table;
#[path = "benchmark/usage.rs"]
mod usage;
#[path = "benchmark/works.rs"]
mod works;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use pool::{Pool, Side};
use site::{Sample, Site};
use table::Samples;
use works::{WORKS, Work};

const ROUNDS: usize = 5;

fn main() -> ExitCode {
    if usage::is_called_as_guix() {
        return usage::run_as_guix();
    }
    let mut rounds = ROUNDS;
    let mut names = Vec::new();
    let mut against = None;
    let (mut is_compression, mut is_substitutes) = (false, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => rounds = 1,
            "--rounds" => rounds = arguments.next().and_then(|number| number.parse().ok()).expect("--rounds N"),
            "--against" => against = Some(arguments.next().map(PathBuf::from).expect("--against PROGRAM")),
            "compression" => is_compression = true,
            "substitutes" => is_substitutes = true,
            name if is_substitutes && substitutes::is_row(name) => names.push(argument),
            name if WORKS.iter().any(|work| work.name == name) => names.push(argument),
            unknown => {
                eprintln!("there is no work '{unknown}'; there are:");
                WORKS.iter().for_each(|work| eprintln!("  {:<14} {}", work.name, work.what));
                return ExitCode::FAILURE;
            }
        }
    }
    if is_compression {
        compression::run(rounds);
    } else if is_substitutes {
        substitutes::run(&names, rounds);
    } else {
        compare(&names, rounds, against.as_deref());
    }
    let count = if rounds == 1 { "one round".to_owned() } else { format!("medians of {rounds} rounds") };
    println!("\n{count}; {}", surroundings());
    ExitCode::SUCCESS
}

/// Does works, all if none is named, and prints the tables.
fn compare(names: &[String], rounds: usize, against: Option<&Path>) {
    println!("{}", table::HEADING);
    let mut bare = Vec::new();
    for work in WORKS.iter().filter(|work| names.is_empty() || names.iter().any(|name| name == work.name)) {
        let samples = measure(work, rounds, against);
        println!("{}", table::line(work, &samples));
        bare.extend(table::bare_line(work, &samples));
    }
    if !bare.is_empty() {
        println!("\n{}\n{}", table::BARE_HEADING, bare.join("\n"));
    }
}

/// Does a work `rounds` times on each side, alternately.
fn measure(work: &Work, rounds: usize, against: Option<&Path>) -> Samples {
    let pool = Pool::start(&work.shape, against);
    let mut samples = Samples::default();
    for side in [Side::Offload, Side::Upstream] {
        // A pool with machines that do not answer is for the measurement itself to discover.
        if work.shape.silent == 0 {
            let mut site = Site::new(&pool, side, false, usize::MAX);
            site.measure_drv(&site.drv("first"));
        }
    }
    for round in 0..rounds {
        if work.is_overhead {
            samples.local.push((work.run)(&mut Site::new(&pool, Side::Offload, true, round)).elapsed);
        }
        if round < work.upstream_rounds {
            let mut site = match against {
                None => Site::new(&pool, Side::Upstream, false, round),
                Some(_) => refreshed(&pool, work, Side::Upstream, round),
            };
            samples.upstream.push((work.run)(&mut site));
        }
        let mut site = refreshed(&pool, work, Side::Offload, round);
        let sample = (work.run)(&mut site);
        samples.offload.push(Sample { bare: work.bare.map(|bare| bare(&mut site)), ..sample });
        let local = samples.local.last().map(|local| format!(", local {local:.3?}")).unwrap_or_default();
        let last = |side: &[Sample]| side.last().map(|sample| sample.elapsed);
        eprintln!(
            "{}: guix offload {:.3?}, offload {:.3?}{local}",
            work.name,
            last(&samples.upstream).unwrap_or_default(),
            last(&samples.offload).unwrap_or_default(),
        );
    }
    samples
}

/// A place where what `offload` remembers of the machines is fresh, unless the work says otherwise.
fn refreshed<'a>(pool: &'a Pool, work: &Work, side: Side, round: usize) -> Site<'a> {
    let mut site = Site::new(pool, side, false, round);
    if work.shape.silent == 0 {
        site.measure_drv(&site.drv("again"));
    }
    site
}

/// The machine, and what else it does.
fn surroundings() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<&str> = load.split(' ').take(3).collect();
    format!("{cores} cores; load averages at the end {}", load.join(", "))
}
