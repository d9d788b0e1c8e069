//! Inputs that the build machine fetches from a substitute server: `tests/bench substitutes [ROW...]`.
//!
//! Each row compares builds with a reference in alternating rounds: the same without substitutes, the same fetch by
//! `guix build` on a machine, or the same transfer in one way only. The server is `guix publish` on a host of its own.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use offload::internals::daemon::Client;
use offload::internals::store::path::{StoreDir, StorePath};

use crate::lab::{Direct, Direction, Drv, Entry, Host, Lab, Proxy, Release};
use crate::table::{median, seconds, spread};

const MIB: u64 = 1 << 20;
/// How many trivial builds one measurement consists of.
const TRIVIAL_BUILDS: usize = 5;

/// The rows, by the names that choose them on the command line.
const ROWS: [(&str, fn(usize)); 6] =
    [("trivial", trivial), ("fetch", fetch), ("near", near), ("half", half), ("silent", silent), ("small", small)];

/// Returns whether there is a row of this name.
pub fn is_row(name: &str) -> bool {
    ROWS.iter().any(|(row, _)| *row == name)
}

/// Measures and prints the rows, all if none is named.
pub fn run(names: &[String], rounds: usize) {
    println!("| work | compared with | that | `offload` | (least to most) | target |");
    println!("|---|---|---|---|---|---|");
    for (_, row) in ROWS.iter().filter(|(row, _)| names.is_empty() || names.iter().any(|name| name == row)) {
        row(rounds);
    }
}

/// What is asked.
enum Target {
    /// At most so many times as long.
    Ratio(f64),
    /// At most so many seconds more.
    More(f64),
}

/// Prints one row. Both lists have an element for each round.
fn print(what: &str, reference: &str, that: &[f64], offload: &[f64], target: &Target) {
    let pairs = that.iter().zip(offload);
    let (shown, is_met, limit) = match target {
        Target::Ratio(limit) => {
            let ratios: Vec<f64> = pairs.map(|(that, offload)| offload / that).collect();
            (format!("{} ×", spread(ratios.clone())), median(ratios) <= *limit, format!("{limit} ×"))
        }
        Target::More(limit) => {
            let mut more: Vec<f64> = pairs.map(|(that, offload)| offload - that).collect();
            more.sort_by(f64::total_cmp);
            let [least, most] = [more[0], more[more.len() - 1]].map(seconds);
            let middle = median(more);
            (format!("+{} ({least} to {most})", seconds(middle)), middle <= *limit, format!("+{}", seconds(*limit)))
        }
    };
    let (that, offload) = (seconds(median(that.to_vec())), seconds(median(offload.to_vec())));
    let verdict = if is_met { "yes" } else { "no" };
    println!("| {what} | {reference} | {that} | {offload} | {shown} | {limit}: {verdict} |");
}

/// A head, two build machines with substitutes on, and their server.
struct Stage {
    head: Host,
    machine: Host,
    twin: Host,
    server: Host,
    /// Between the head and the first machine, and between both machines and the server.
    link: Proxy,
    web: Proxy,
    _lab: Lab,
}

/// The outputs of one derivation.
struct Input {
    derivation: StorePath,
    ids: BTreeSet<String>,
    outputs: Vec<StorePath>,
}

impl Stage {
    fn start() -> Stage {
        let lab = Lab::new();
        let server = lab.daemon("server", Release::Sid).start();
        let web = lab.proxy("web", server.publish());
        let [machine, twin] = ["b1", "b2"].map(|name| lab.build_machine(name).substitute_server(web.address()).start());
        let link = lab.proxy("link", machine.ssh_address());
        let head = lab.head().start();
        Stage { head, machine, twin, server, link, web, _lab: lab }
    }

    /// The link of a home: 50 ms round trips, 20 Mbit/s.
    fn slow_link(&self) -> Entry {
        self.link.delay(Duration::from_millis(25));
        self.link.throttle(Some(2_500_000));
        self.machine.entry().via(&self.link)
    }

    /// Writes a machine file with this entry, and has something built: the connection is open afterwards.
    fn ready(&self, direct: &mut Direct<'_>, entry: Entry, name: &str) {
        self.head.write_machines(&[entry]);
        self.build(direct, &Drv::new(&format!("ready-{name}")));
    }

    /// Returns the seconds that a build takes.
    fn build(&self, direct: &mut Direct<'_>, drv: &Drv) -> f64 {
        crate::site::seconds_of(direct, &self.head, drv)
    }

    /// Has the head build something with so many outputs of so many bytes that do not compress.
    fn input(&self, direct: &mut Direct<'_>, name: &str, count: usize, bytes: u64) -> Input {
        let ids: Vec<String> = (0..count).map(|number| format!("o{number:03}")).collect();
        let names: Vec<&str> = ids.iter().map(String::as_str).collect();
        let script = format!("for id in $ids; do eval \"path=\\$$id\"; head -c {bytes} /dev/urandom >$path; done");
        direct.build_locally(4);
        let drv = Drv::new(name).outputs(&names).env("ids", &ids.join(" ")).script(&script);
        direct.build(&[&drv]).unwrap();
        let options = direct.options();
        direct.set_options(&options);
        let made = direct.make(&drv);
        let outputs = made.derivation.outputs.values().map(|output| output.path.clone()).collect();
        Input { derivation: made.path, ids: ids.into_iter().collect(), outputs }
    }

    /// Copies items to the server.
    fn serve(&self, items: &[StorePath]) {
        let [mut from, mut to] = [&self.head, &self.server]
            .map(|host| Client::connect(host.connect_to_daemon(), StoreDir::default()).unwrap());
        for item in items {
            let mut bundle = 1u64.to_le_bytes().to_vec();
            from.export_path(item, true, |reader: &mut dyn Read| io::copy(reader, &mut bundle)).unwrap();
            bundle.extend(0u64.to_le_bytes());
            to.import_paths(&mut bundle.as_slice()).unwrap();
        }
    }

    /// Returns the seconds that a build takes which needs all of an input, and how many bytes went over the link.
    fn use_input(&self, direct: &mut Direct<'_>, name: &str, input: &Input) -> (f64, u64) {
        let drv = Drv::new(name);
        let add = |recipe: &mut offload::internals::store::derivation::Recipe| {
            recipe.input_derivations.insert(input.derivation.clone(), input.ids.clone());
        };
        direct.make_with(&drv, add);
        let before = self.link.passed(Direction::ToTarget);
        let took = self.build(direct, &drv);
        (took, self.link.passed(Direction::ToTarget) - before)
    }

    /// Forgets that the servers failed.
    fn forget_servers(&self, entry_name: &str, port: u16) {
        let file = format!("/var/guix/offload/{entry_name}:{port}/substitutes.json");
        let _ = std::fs::remove_file(self.head.path(file));
    }
}

/// A machine with substitutes on whose server is far, and one with `--no-substitutes`.
fn trivial(rounds: usize) {
    let lab = Lab::new();
    let server = lab.daemon("server", Release::Sid).start();
    let web = lab.proxy("web", server.publish());
    web.delay(Duration::from_millis(50));
    let off = lab.build_machine("off").start();
    let on = lab.build_machine("on").substitute_server(web.address()).start();
    let head = lab.head().start();
    let names = ["off", "on"];
    head.write_machines(&[off.entry().set("features", ["off"]), on.entry().set("features", ["on"])]);
    let mut direct = head.direct();
    for is_new in [false, true] {
        let mut times = [Vec::new(), Vec::new()];
        for round in 0..=rounds {
            let mut builds = [Vec::new(), Vec::new()];
            for build in 0..TRIVIAL_BUILDS {
                for turn in 0..2 {
                    let side = (turn + build) % 2;
                    let name = format!("{}-{is_new}-{round}-{build}", names[side]);
                    if is_new {
                        let _ = std::fs::remove_dir_all(head.path("/var/guix/offload/persist"));
                    }
                    let drv = Drv::new(&name).features(&[names[side]]);
                    builds[side].push(crate::site::seconds_of(&mut direct, &head, &drv));
                }
            }
            // The first round makes the connections.
            for (times, builds) in times.iter_mut().zip(builds).filter(|_| round > 0) {
                times.push(median(builds));
            }
        }
        eprintln!("trivial {is_new}: {times:.3?}");
        let what = if is_new { "the same, through a new connection" } else { "trivial build, server at 100 ms" };
        print(what, "`--no-substitutes`", &times[0], &times[1], &Target::Ratio(1.1));
    }
    assert_eq!(web.connections(), 0, "a build has asked the servers");
}

fn fetch(rounds: usize) {
    let stage = Stage::start();
    let entry = stage.slow_link();
    let (mut that, mut offload, mut shares) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let mut direct = stage.head.direct();
        stage.ready(&mut direct, entry.clone(), &round.to_string());
        let input = stage.input(&mut direct, &format!("input-{round}"), 40, 256 * MIB / 40);
        stage.serve(&input.outputs);
        for turn in 0..2 {
            if (turn + round) % 2 == 0 {
                let (took, sent) = stage.use_input(&mut direct, &format!("user-{round}"), &input);
                offload.push(took);
                shares.push(100.0 * sent as f64 / (256 * MIB) as f64);
            } else {
                let start = Instant::now();
                let items: Vec<&str> = input.outputs.iter().map(StorePath::as_str).collect();
                stage.twin.run("guix", &[&["build"][..], &items].concat());
                that.push(start.elapsed().as_secs_f64());
            }
        }
        eprintln!(
            "fetch: guix build {:.2} s, offload {:.2} s, {:.2} % sent",
            that[round], offload[round], shares[round]
        );
    }
    let what = format!("256 MiB input that the server has, 50 ms, 20 Mbit/s ({:.2} % sent)", median(shares));
    print(&what, "`guix build ITEM…` on the machine", &that, &offload, &Target::Ratio(1.3));
}

fn near(rounds: usize) {
    let stage = Stage::start();
    let modes = ["never", "always", "auto"];
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..rounds {
        for turn in 0..modes.len() {
            let mode = (turn + round) % modes.len();
            let name = format!("{}-{round}", modes[mode]);
            let mut direct = stage.head.direct();
            stage.ready(&mut direct, stage.machine.entry().set("substitutes", modes[mode]), &name);
            let input = stage.input(&mut direct, &format!("input-{name}"), 40, 256 * MIB / 40);
            stage.serve(&input.outputs);
            times[mode].push(stage.use_input(&mut direct, &format!("user-{name}"), &input).0);
        }
        let [never, always, auto] = times.each_ref().map(|times| times[round]);
        eprintln!("near: never {never:.2} s, always {always:.2} s, auto {auto:.2} s");
    }
    let [never, always, auto] = times;
    // The better one of all rounds: the better of each would be the luckier one.
    let (better, that) = if median(never.clone()) <= median(always.clone()) {
        ("`\"never\"`", &never)
    } else {
        ("`\"always\"`", &always)
    };
    let what = "the same on loopback, `\"auto\"`";
    print(what, &format!("the better: {better}"), that, &auto, &Target::Ratio(1.1));
    println!(
        "| the same on loopback, `\"always\"` | `\"never\"` | {} | {} | | |",
        seconds(median(never)),
        seconds(median(always))
    );
}

fn half(rounds: usize) {
    let stage = Stage::start();
    let entry = stage.slow_link();
    // Four downloads at the same time.
    stage.web.throttle(Some(2_500_000 / 4));
    let (mut that, mut offload) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let one = |kind: &str, count: usize, served: usize| {
            let mut direct = stage.head.direct();
            let name = format!("{kind}-{round}");
            stage.ready(
                &mut direct,
                entry.clone().set("substitutes", if served == 0 { "never" } else { "always" }),
                &name,
            );
            let input = stage.input(&mut direct, &format!("input-{name}"), count, MIB);
            stage.serve(&input.outputs[..served]);
            stage.use_input(&mut direct, &format!("user-{name}"), &input).0
        };
        let (both, fetched, sent) = (one("both", 32, 16), one("fetched", 16, 16), one("sent", 16, 0));
        eprintln!("half: both {both:.2} s, fetched {fetched:.2} s, sent {sent:.2} s");
        that.push(fetched.max(sent));
        offload.push(both);
    }
    let what = "32 MiB input, half of the items on the server, both ways at 20 Mbit/s";
    print(what, "the slower half alone", &that, &offload, &Target::Ratio(1.2));
}

fn silent(rounds: usize) {
    let stage = Stage::start();
    stage.web.say_nothing();
    let (mut never, mut first, mut next) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let one = |kind: &str, mode: &str| {
            let mut direct = stage.head.direct();
            let entry = stage.machine.entry().set("substitutes", mode).set("substitute_timeout", 5);
            stage.ready(&mut direct, entry, &format!("{kind}-{round}"));
            let input = stage.input(&mut direct, &format!("{kind}-input-{round}"), 16, MIB);
            stage.use_input(&mut direct, &format!("{kind}-user-{round}"), &input).0
        };
        never.push(one("never", "never"));
        stage.forget_servers("b1", crate::lab::SSH_PORT);
        first.push(one("first", "always"));
        next.push(one("next", "always"));
        eprintln!("silent: never {:.2} s, first {:.2} s, next {:.2} s", never[round], first[round], next[round]);
    }
    let what = "16 MiB input, the server silent, `substitute_timeout = 5`: the first build";
    print(what, "`\"never\"`", &never, &first, &Target::More(5.0));
    print("the same: a following one", "`\"never\"`", &never, &next, &Target::Ratio(1.1));
}

fn small(rounds: usize) {
    let stage = Stage::start();
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        for turn in 0..2 {
            let side = (turn + round) % 2;
            let mode = ["never", "always"][side];
            let mut direct = stage.head.direct();
            stage.ready(&mut direct, stage.machine.entry().set("substitutes", mode), &format!("{mode}-{round}"));
            let input = stage.input(&mut direct, &format!("{mode}-input-{round}"), 1000, 4096);
            times[side].push(stage.use_input(&mut direct, &format!("{mode}-user-{round}"), &input).0);
        }
        eprintln!("small: never {:.2} s, always {:.2} s", times[0][round], times[1][round]);
    }
    assert_eq!(stage.web.connections(), 0, "the servers were asked");
    let what = "1,000 outputs of 4 KiB, none on the server, `\"always\"`";
    print(what, "`\"never\"`", &times[0], &times[1], &Target::More(0.05));
}
