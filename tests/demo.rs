//! The demonstration: a head and two build machines with two slots each; a single build, then a graph of 20.
//!
//! Run by `tests/demo`. With the argument `upstream`, Guix's own hook does the same work.

mod lab;

use std::time::Instant;

use lab::{BuildRecord, BuildResult, Drv, Hook, Host, Lab, max_concurrency};

const SLOTS: u32 = 2;
const LAYERS: usize = 5;
const WIDTH: usize = 4;

fn main() {
    let upstream = std::env::args().any(|argument| argument == "upstream");
    let hook = if upstream { Hook::Upstream } else { Hook::Offload };

    let start = Instant::now();
    let lab = Lab::new();
    let machines = ["b1", "b2"].map(|name| lab.build_machine(name).max_jobs(SLOTS).start());
    let head = lab.head().hook(hook).start();
    head.write_machines(&[machines[0].entry(), machines[1].entry()]);
    title("A pool on this machine");
    println!("head: Guix {}, builds nothing itself; its hook is {}", version(&head), hook_name(upstream));
    for machine in &machines {
        println!("{}: Guix {}, {SLOTS} slots, {}", machine.name(), version(machine), machine.ssh_address());
    }
    println!("up in {:.2} s", start.elapsed().as_secs_f64());

    title("One build");
    let local = machines[0].build(&[&Drv::new("nothing-here")]).succeeded();
    let result = head.build(&[&Drv::new("nothing")]).succeeded();
    account(&machines, &["nothing".to_owned()]);
    println!("{}", result.output("nothing").display());
    let (local, offloaded) = (local.elapsed.as_secs_f64(), result.elapsed.as_secs_f64());
    println!("took {offloaded:.2} s; the same without a hook {local:.2} s");
    println!("built again: {:.2} s", again(&head, &machines, || head.build(&[&Drv::new("nothing")])));

    title(&format!("{} builds, {LAYERS} layers of {WIDTH}, each needs the whole layer before it", LAYERS * WIDTH));
    let (top, names) = graph();
    let tops: Vec<&Drv> = top.iter().collect();
    let result = head.build(&tops).succeeded();
    account(&machines, &names);
    println!("took {:.2} s", result.elapsed.as_secs_f64());
    println!("built again: {:.2} s", again(&head, &machines, || head.build(&tops)));

    title("The stores");
    for path in result.outputs() {
        let info = head.path_info(path).expect("an output is not valid on the head");
        let same = machines.iter().any(|machine| machine.path_info(path).as_ref() == Some(&info));
        assert!(same, "{} is not what a build machine has", path.display());
    }
    println!("hash, references and deriver of all outputs are those on the build machines");
    head.verify_store();
    println!("guix gc --verify=contents on the head: nothing to complain of");
}

fn title(text: &str) {
    println!("\n{text}\n{}", "=".repeat(text.chars().count()));
}

fn hook_name(upstream: bool) -> &'static str {
    if upstream { "Guix's own `guix offload`" } else { "`offload`" }
}

fn version(host: &Host) -> String {
    let said = host.run("guix", &["--version"]);
    said.lines().next().unwrap().rsplit(' ').next().unwrap().to_owned()
}

/// The graph's last layer, and the names of all its derivations.
fn graph() -> (Vec<Drv>, Vec<String>) {
    let (mut layer, mut names): (Vec<Drv>, _) = (Vec::new(), Vec::new());
    for depth in 1..=LAYERS {
        let next = (1..=WIDTH).map(|place| {
            let name = format!("layer{depth}-{place}");
            let drv = layer.iter().fold(Drv::new(&name).script("sleep 0.2; echo $name >$out"), Drv::input);
            names.push(name);
            drv
        });
        layer = next.collect();
    }
    (layer, names)
}

/// Prints which of the builds named ran where and when, and checks that each ran once and no machine was overfilled.
fn account(machines: &[Host], names: &[String]) {
    let mut all: Vec<(&str, BuildRecord)> = Vec::new();
    for machine in machines {
        let builds: Vec<_> = machine.builds().into_iter().filter(|build| names.contains(&build.name)).collect();
        let most = max_concurrency(&builds);
        println!("{}: {} builds, at most {most} at a time", machine.name(), builds.len());
        assert!(most <= SLOTS as usize, "{} has {SLOTS} slots", machine.name());
        all.extend(builds.into_iter().map(|build| (machine.name(), build)));
    }
    assert_eq!(all.len(), names.len(), "not each build ran exactly once");
    all.sort_by(|(_, one), (_, other)| one.start.total_cmp(&other.start));
    let first = all[0].1.start;
    for (machine, build) in &all {
        let (from, to) = (build.start - first, build.end.unwrap() - first);
        println!("  {:<12} on {machine}  from {from:6.2} s to {to:6.2} s", build.name);
    }
}

/// Does what was done before; returns the seconds it took. No build machine may build anything.
fn again(head: &Host, machines: &[Host], build: impl Fn() -> BuildResult) -> f64 {
    let count = || head.builds().len() + machines.iter().map(|machine| machine.builds().len()).sum::<usize>();
    let before = count();
    let result = build().succeeded();
    assert_eq!(count(), before, "something was built again");
    result.elapsed.as_secs_f64()
}
