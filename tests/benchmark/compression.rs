//! `compression = "auto"` against both of what it chooses from: `tests/bench compression`.
//!
//! On a near line and on a slow one, data that compress and data that do not go over as an input and as an output. What
//! counts is the second transfer of a kind: the first is what the choice rests on.

use std::time::Duration;

use crate::lab::{Host, Lab, Proxy};
use crate::site::seconds_of;
use crate::table::{median, seconds, spread};

const MODES: [&str; 3] = ["none", "zlib", "auto"];

struct Line {
    what: &'static str,
    /// The time of a round trip, and bytes in a second.
    far: Option<(Duration, u64)>,
    mebibytes: u32,
}

const LINES: [Line; 2] = [
    Line { what: "loopback", far: None, mebibytes: 128 },
    Line { what: "50 ms, 20 Mbit/s", far: Some((Duration::from_millis(50), 2_500_000)), mebibytes: 16 },
];

/// Commands that write endless data of a kind.
const DATA: [(&str, &str); 2] = [("compressible", "seq 1 100000000"), ("incompressible", "cat /dev/urandom")];

#[derive(Clone, Copy, Debug)]
enum Way {
    Input,
    Output,
}

/// Measures and prints the table.
pub fn run(rounds: usize) {
    println!("| connection | data | `none` | `zlib` | `auto` | `auto` compared with the better (least to most) |");
    println!("|---|---|---|---|---|---|");
    for line in &LINES {
        let lab = Lab::new();
        let machine = lab.build_machine("b1").start();
        let proxy = line.far.map(|(round_trip, rate)| {
            let proxy = lab.proxy("far", machine.ssh_address());
            proxy.delay(round_trip / 2);
            proxy.throttle(Some(rate));
            proxy
        });
        let head = lab.head().start();
        for (kind, make) in DATA {
            for way in [Way::Input, Way::Output] {
                let place =
                    Place { machine: &machine, proxy: proxy.as_ref(), head: &head, make, mebibytes: line.mebibytes };
                let rows: Vec<[f64; 3]> = (0..rounds).map(|round| place.round(way, kind, round)).collect();
                let column = |mode: usize| median(rows.iter().map(|row| row[mode]).collect());
                // The better one of all rounds: the better of each would be the luckier one.
                let better = if column(0) <= column(1) { 0 } else { 1 };
                let ratios: Vec<f64> = rows.iter().map(|row| row[2] / row[better]).collect();
                println!(
                    "| {} | {} MiB {way:?}, {kind} | {} | {} | {} | {} |",
                    line.what,
                    line.mebibytes,
                    seconds(column(0)),
                    seconds(column(1)),
                    seconds(column(2)),
                    spread(ratios),
                );
            }
        }
    }
}

struct Place<'a> {
    machine: &'a Host,
    proxy: Option<&'a Proxy>,
    head: &'a Host,
    make: &'a str,
    mebibytes: u32,
}

impl Place<'_> {
    /// Seconds in each mode.
    fn round(&self, way: Way, kind: &str, round: usize) -> [f64; 3] {
        let times = MODES.map(|mode| {
            let entry = self.machine.entry();
            let entry = self.proxy.map_or(entry.clone(), |proxy| entry.via(proxy));
            self.head.write_machines(&[entry.set("compression", mode)]);
            // The first transfer.
            self.transfer(way, &format!("{kind}-{way:?}-{mode}-{round}-first"));
            self.transfer(way, &format!("{kind}-{way:?}-{mode}-{round}"))
        });
        eprintln!("{kind} {way:?}: none {:.2} s, zlib {:.2} s, auto {:.2} s", times[0], times[1], times[2]);
        times
    }

    fn transfer(&self, way: Way, name: &str) -> f64 {
        let mut direct = self.head.direct();
        let script = format!("(echo $name; {}) 2>/dev/null | head -c {}", self.make, self.mebibytes << 20);
        let made = crate::lab::Drv::new(name).script(&format!("{script} >$out"));
        let drv = match way {
            Way::Output => made,
            Way::Input => {
                direct.build_locally(4);
                direct.build(&[&made]).unwrap();
                let options = direct.options();
                direct.set_options(&options);
                crate::lab::Drv::new(&format!("user-of-{name}")).input(&made)
            }
        };
        seconds_of(&mut direct, self.head, &drv)
    }
}
