//! The works: what is prepared, and what is measured.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

use offload::internals::daemon::Client;
use offload::internals::store::path::{StoreDir, StorePath};

use crate::lab::{Drv, SYSTEM};
use crate::pool::{Link, Shape, Side};
use crate::site::{Sample, Site};

pub struct Work {
    /// Chosen by it on the command line.
    pub name: &'static str,
    /// The name in the table.
    pub what: &'static str,
    pub shape: Shape,
    /// Whether the time of a local build is measured and subtracted.
    pub is_overhead: bool,
    /// Rounds at most for `guix offload`, where it takes its time.
    pub upstream_rounds: usize,
    pub run: fn(&mut Site<'_>) -> Sample,
    /// The same bytes without a build hook.
    pub bare: Option<fn(&mut Site<'_>) -> Duration>,
    pub asked: Asked,
}

/// What is asked of `offload`.
#[derive(Clone, Copy)]
pub enum Asked {
    Nothing,
    /// To be so many times as fast as `guix offload`.
    Times(f64),
    /// To take no more than so many seconds.
    Seconds(f64),
    /// To have no more memory than this, in MiB.
    Memory(f64),
}

const ONE: Shape = Shape { slots: &[4], link: Link::Loopback, silent: 0 };
const TWO_TWO: Shape = Shape { slots: &[2, 2], ..ONE };
const TWO_THREE: Shape = Shape { slots: &[3, 3], ..ONE };
const LAN: Shape = Shape { link: Link::Far(Duration::from_millis(1), None), ..ONE };
const FAR: Shape = Shape { link: Link::Far(Duration::from_millis(50), None), ..ONE };
const SLOW: Shape = Shape { link: Link::Far(Duration::from_millis(50), Some(2_500_000)), ..ONE };
const SILENT: Shape = Shape { silent: 3, ..ONE };

const BUILD: Work = Work {
    name: "trivial",
    what: "trivial build: extra time compared with a local build",
    shape: ONE,
    is_overhead: true,
    upstream_rounds: usize::MAX,
    run: trivial,
    bare: None,
    asked: Asked::Times(20.0),
};
/// A local build is not subtracted, and nothing is asked.
const WHOLE: Work = Work { is_overhead: false, asked: Asked::Nothing, ..BUILD };

/// The ideal times of the graph of 1 s builds, four rounds on six slots and five on four, and what may be added.
const ADDED: f64 = 1.15;

#[rustfmt::skip]
pub const WORKS: &[Work] = &[
    BUILD,
    Work { name: "new", what: "the same, through a new connection", run: trivial_new, ..BUILD },
    Work { name: "pause", what: "the same, after a pause: the connection is open, the record is old", run: trivial_after_pause, ..BUILD },
    Work { name: "asked", what: "the same, the machine not probed before", run: trivial_unknown, ..BUILD },
    Work { name: "graph", what: "20 trivial builds, 5 × 4, on 2 × 2 slots", shape: TWO_TWO, run: graph, asked: Asked::Times(12.0), ..WHOLE },
    Work { name: "graph-1s-6", what: "the same of 1 s each, on 2 × 3 slots", shape: TWO_THREE, run: graph_1s, asked: Asked::Seconds(4.0 * ADDED), ..WHOLE },
    Work { name: "graph-1s-4", what: "the same of 1 s each, on 2 × 2 slots", shape: TWO_TWO, run: graph_1s, asked: Asked::Seconds(5.0 * ADDED), ..WHOLE },
    Work { name: "hundred", what: "100 independent builds on 2 × 2 slots", shape: TWO_TWO, run: hundred, asked: Asked::Times(15.0), ..WHOLE },
    Work { name: "output", what: "256 MiB output, incompressible: extra time compared with a local build", run: output, bare: Some(bare_export), asked: Asked::Times(2.0), ..BUILD },
    Work { name: "pair", what: "two builds at the same time, each with 128 MiB of output", run: output_pair, ..WHOLE },
    Work { name: "output-text", what: "256 MiB output, compressible: extra time compared with a local build", run: output_text, asked: Asked::Times(2.0), ..BUILD },
    Work { name: "input", what: "256 MiB input: extra time compared with a local build", run: input, bare: Some(bare_import), asked: Asked::Times(2.0), ..BUILD },
    Work { name: "sources", what: "1,000 sources of 4 KiB, all missing", run: sources, asked: Asked::Times(5.0), ..WHOLE },
    Work { name: "sources-there", what: "1,000 sources, all present", run: sources_there, ..WHOLE },
    Work { name: "outputs", what: "1,000 build outputs of 4 KiB, all missing", run: outputs, asked: Asked::Times(2.0), ..WHOLE },
    Work { name: "outputs-there", what: "1,000 build outputs, all present", run: outputs_there, ..WHOLE },
    Work { name: "far", what: "trivial build, 50 ms round trips: extra time compared with a local build", shape: FAR, asked: Asked::Times(4.0), ..BUILD },
    Work { name: "far-new", what: "the same, through a new connection", shape: FAR, run: trivial_new, asked: Asked::Times(4.0), ..BUILD },
    Work { name: "far-asked", what: "the same, the machine not probed before", shape: FAR, run: trivial_unknown, asked: Asked::Times(4.0), ..BUILD },
    Work { name: "far-input", what: "32 MiB input, 50 ms round trips", shape: FAR, run: small_input, asked: Asked::Times(2.5), ..WHOLE },
    Work { name: "lan-input", what: "256 MiB input, 1 ms round trips", shape: LAN, run: input, ..WHOLE },
    Work { name: "far-output", what: "32 MiB output, 50 ms round trips", shape: FAR, run: small_output, ..WHOLE },
    Work { name: "slow-input", what: "32 MiB input, 50 ms, 20 Mbit/s", shape: SLOW, run: small_input, ..WHOLE },
    Work { name: "silent", what: "trivial build, the three fastest machines silent: the first", shape: SILENT, run: trivial_unknown, upstream_rounds: 1, asked: Asked::Times(20.0), ..WHOLE },
    Work { name: "silent-next", what: "the same: a following one", shape: SILENT, run: trivial_known, upstream_rounds: 1, asked: Asked::Times(100.0), ..WHOLE },
    Work { name: "gibibyte", what: "1 GiB input", run: gibibyte, upstream_rounds: 1, asked: Asked::Memory(48.0), ..WHOLE },
    Work { name: "decline", what: "start of the hook to `# decline`, 100 machines", run: decline, ..WHOLE },
];

fn trivial(site: &mut Site<'_>) -> Sample {
    site.measure_drv(&site.drv("trivial"))
}

fn trivial_new(site: &mut Site<'_>) -> Sample {
    site.forget_connections();
    trivial(site)
}

fn trivial_unknown(site: &mut Site<'_>) -> Sample {
    site.forget_machines();
    trivial(site)
}

fn trivial_after_pause(site: &mut Site<'_>) -> Sample {
    site.pause();
    trivial(site)
}

/// After another one, so that the hook knows what it can know.
fn trivial_known(site: &mut Site<'_>) -> Sample {
    if site.side == Side::Offload {
        site.measure_drv(&site.drv("before"));
    }
    trivial(site)
}

/// Four layers of five builds, each of which needs two of the layer before it: four rounds on six slots, five on four.
fn layers(site: &mut Site<'_>, script: &str) -> Sample {
    let mut layer: Vec<Drv> = Vec::new();
    for depth in 1..=4 {
        let drvs = (0..5).map(|place| {
            let drv = site.drv(&format!("layer{depth}-{place}")).script(script);
            let below = [place, (place + 1) % 5].map(|below| layer.get(below));
            below.into_iter().flatten().fold(drv, Drv::input)
        });
        layer = drvs.collect();
    }
    let top: Vec<StorePath> = layer.iter().map(|drv| site.direct.make(drv).path).collect();
    site.measure(&top)
}

fn graph(site: &mut Site<'_>) -> Sample {
    layers(site, "echo $name >$out")
}

fn graph_1s(site: &mut Site<'_>) -> Sample {
    layers(site, "sleep 1; echo $name >$out")
}

fn hundred(site: &mut Site<'_>) -> Sample {
    let drvs: Vec<Drv> = (0..100).map(|number| site.drv(&format!("one-{number}"))).collect();
    let drvs: Vec<StorePath> = drvs.iter().map(|drv| site.direct.make(drv).path).collect();
    site.measure(&drvs)
}

/// Makes a file of so many MiB that does not compress.
fn noise(mebibytes: u32) -> String {
    format!("dd if=/dev/urandom of=$out bs=1048576 count={mebibytes} 2>/dev/null")
}

fn output(site: &mut Site<'_>) -> Sample {
    site.measure_drv(&site.drv("noise").script(&noise(256)))
}

/// Both through one session.
fn output_pair(site: &mut Site<'_>) -> Sample {
    let drvs = ["one", "two"].map(|name| site.direct.make(&site.drv(name).script(&noise(128))).path);
    site.measure(&drvs)
}

/// A bare ExportPath of what was just built, over the same link.
fn bare_export(site: &mut Site<'_>) -> Duration {
    let path = site.direct.make(&site.drv("noise").script(&noise(256))).output().clone();
    let connection = site.connect();
    let mut client = Client::connect(connection.daemon().unwrap(), StoreDir::default()).unwrap();
    let start = Instant::now();
    client.export_path(&path, true, |item| io::copy(item, &mut io::sink())).unwrap();
    start.elapsed()
}

/// An import of as much through the build machine's own socket.
fn bare_import(site: &mut Site<'_>) -> Duration {
    let input = site.drv("bare").script(&noise(256));
    site.build_here(&input);
    let path = site.direct.make(&input).output().to_string();
    site.head.run("sh", &["-c", &format!("guix archive --export {path} >/tmp/bare")]);
    let mut bundle = File::open(site.head.path("/tmp/bare")).unwrap();
    let stream = site.pool.machines()[0].connect_to_daemon();
    let mut client = Client::connect(stream, StoreDir::default()).unwrap();
    let start = Instant::now();
    client.import_paths(&mut bundle).unwrap();
    start.elapsed()
}

fn output_text(site: &mut Site<'_>) -> Sample {
    // Lines that differ, a mebibyte of them over and over.
    let script =
        "seq 1 200000 | head -c 1048576 >text; i=0; while test $i -lt 256; do cat text; i=$((i+1)); done >$out";
    site.measure_drv(&site.drv("text").script(script))
}

fn small_output(site: &mut Site<'_>) -> Sample {
    site.measure_drv(&site.drv("noise").script(&noise(32)))
}

fn input_of(site: &mut Site<'_>, mebibytes: u32) -> Sample {
    let input = site.drv("input").script(&noise(mebibytes));
    site.build_here(&input);
    site.measure_drv(&site.drv("user").input(&input))
}

fn input(site: &mut Site<'_>) -> Sample {
    input_of(site, 256)
}

fn small_input(site: &mut Site<'_>) -> Sample {
    input_of(site, 32)
}

fn gibibyte(site: &mut Site<'_>) -> Sample {
    input_of(site, 1024)
}

fn user_of_sources(site: &mut Site<'_>, name: &str, sources: &[StorePath]) -> StorePath {
    let drv = site.drv(name);
    site.direct.make_with(&drv, |recipe| recipe.input_sources.extend(sources.iter().cloned())).path
}

fn sources(site: &mut Site<'_>) -> Sample {
    let sources: Vec<StorePath> = (0..1000).map(|number| site.text(&format!("source-{number}"), 4096)).collect();
    let drv = user_of_sources(site, "user", &sources);
    site.measure(&[drv])
}

fn sources_there(site: &mut Site<'_>) -> Sample {
    let sources: Vec<StorePath> = (0..1000).map(|number| site.text(&format!("source-{number}"), 4096)).collect();
    let first = user_of_sources(site, "first", &sources);
    site.measure(&[first]);
    let drv = user_of_sources(site, "user", &sources);
    site.measure(&[drv])
}

/// A derivation, built on the head, with 1,000 outputs of 4 KiB.
fn many_outputs(site: &mut Site<'_>) -> (Drv, Vec<String>) {
    let ids: Vec<String> = (0..1000).map(|number| format!("o{number:03}")).collect();
    let script =
        "for id in $ids; do eval \"path=\\$$id\"; dd if=/dev/urandom of=$path bs=4096 count=1 2>/dev/null; done";
    let names: Vec<&str> = ids.iter().map(String::as_str).collect();
    let drv = site.drv("many").outputs(&names).env("ids", &ids.join(" ")).script(script);
    site.build_here(&drv);
    (drv, ids)
}

fn user_of_outputs(site: &mut Site<'_>, name: &str, (of, ids): &(Drv, Vec<String>)) -> StorePath {
    let of = site.direct.make(of).path;
    let drv = site.drv(name);
    let ids = ids.iter().cloned().collect();
    site.direct.make_with(&drv, |recipe| drop(recipe.input_derivations.insert(of, ids))).path
}

fn outputs(site: &mut Site<'_>) -> Sample {
    let many = many_outputs(site);
    let drv = user_of_outputs(site, "user", &many);
    site.measure(&[drv])
}

fn outputs_there(site: &mut Site<'_>) -> Sample {
    let many = many_outputs(site);
    let first = user_of_outputs(site, "first", &many);
    site.measure(&[first]);
    let drv = user_of_outputs(site, "user", &many);
    site.measure(&[drv])
}

/// The hook as the daemon starts it, with a request that no machine takes.
fn decline(site: &mut Site<'_>) -> Sample {
    let entry = site.pool.machines()[0].entry();
    let entries: Vec<_> = (0..100).map(|number| entry.clone().set("name", format!("m{number}.example.org"))).collect();
    let drv = site.direct.make(&site.drv("declined")).path;
    let file = ["/etc/guix/machines.scm", "/etc/guix/machines.lua"].map(|file| site.head.path(file));
    let kept = file.each_ref().map(|file| std::fs::read(file).ok());
    site.head.write_machines(&entries);
    let program = if site.side == Side::Upstream { "/usr/bin/guix" } else { "/opt/offload/guix" };
    let sample = site.measure_with(|head| {
        let mut command = head.command(program);
        command.args(["offload", SYSTEM, "3600", "true", "86400"]);
        let mut hook = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut requests = hook.stdin.take().unwrap();
        writeln!(requests, "1 {SYSTEM} {drv} no-machine-has-this").unwrap();
        let mut line = String::new();
        BufReader::new(hook.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "# decline\n");
        hook.kill().unwrap();
        hook.wait().unwrap();
    });
    for (file, kept) in file.iter().zip(kept) {
        if let Some(kept) = kept {
            std::fs::write(file, kept).unwrap();
        }
    }
    sample
}
