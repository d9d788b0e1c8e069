//! Links that fail: every fault in every phase of a build. It ends well on the other machine, and nothing is left
//! behind.
//!
//! One offset for each phase and fault is tried; with `OFFLOAD_CAMPAIGN=1` in the environment, many.

mod lab;

use std::time::{Duration, Instant};

use lab::{Direction, Drv, Host, LONG, Lab, Proxy, SSH_PORT, wait_until};
use offload::internals::machine::{HostKey, HostKeyKind, Machine};
use offload::internals::ssh::Session;
use offload::internals::state::health::Availability;

use Direction::{FromTarget, ToTarget};

/// In seconds. For a link that is to be given up.
const SHORT_TIMEOUTS: i32 = 4;
/// For a link that is not, on a machine with much to do.
const LONG_TIMEOUTS: i32 = 30;

/// What any fault may cost beyond the build itself: a link that falls silent counts as dead after the stall timeout,
/// and asking its daemon once more takes a connect timeout. The rest is for a machine with much to do.
const LIMIT: Duration = Duration::from_secs(2 * SHORT_TIMEOUTS as u64 + 180);

/// Begins the names of inputs that the head builds itself.
const INPUT: &str = "input-of-";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Handshake,
    Probe,
    Upload,
    Build,
    Download,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Cut,
    Freeze,
    Flip,
    /// Bytes a second.
    Throttle(u64),
    /// Milliseconds one way.
    Delay(u64),
}

impl Fault {
    /// Whether the link is still fast enough: then the build stays on the machine.
    fn is_mild(self) -> bool {
        matches!(self, Fault::Throttle(FAST_ENOUGH..) | Fault::Delay(..=NEAR_ENOUGH))
    }

    /// Whether the machine has to be left. In between it may be, and the build ends well either way.
    fn is_fatal(self) -> bool {
        matches!(self, Fault::Cut | Fault::Freeze | Fault::Flip)
    }
}

const FAST_ENOUGH: u64 = 1 << 20;
const NEAR_ENOUGH: u64 = 60;

/// A machine behind a proxy, which is the better one, and a machine beside it.
struct Pool {
    _lab: Lab,
    proxy: Proxy,
    near: Host,
    far: Host,
    head: Host,
    /// What passes while the head logs in, each way.
    login: [u64; 2],
    cases: u32,
}

impl Pool {
    /// In which links may be silent for so many seconds.
    fn new(timeouts: i32) -> Pool {
        let lab = Lab::with_substitutes();
        let far = lab.build_machine("far").start();
        let near = lab.build_machine("near").start();
        let proxy = lab.proxy("link", far.ssh_address());
        let head = lab.head().start();
        let hasty = |entry: lab::Entry| {
            entry.set("connect_timeout", timeouts).set("stall_timeout", timeouts).set("keepalive_interval", 1)
        };
        head.write_machines(&[hasty(far.entry().via(&proxy)).set("speed", 1000), hasty(near.entry())]);
        let login = login(&proxy, &far, &head);
        Pool { _lab: lab, proxy, near, far, head, login, cases: 0 }
    }

    /// Returns a new derivation, with an input that no machine has.
    fn derivation(&mut self, phase: Phase, direction: Direction, input: usize, output: usize) -> Drv {
        self.cases += 1;
        let name = format!("case-{}", self.cases);
        let path = format!("/tmp/{name}");
        self.head.write(&path, noise(input, self.cases));
        let talk = if phase == Phase::Build { "for i in $(seq 15); do echo line $i; sleep 0.1; done;" } else { "" };
        let script = format!("test $(wc -c <$data) = {input}; {talk} head -c {output} /dev/urandom >$out");
        let drv = Drv::new(&name).script(&script);
        if (phase, direction) != (Phase::Upload, FromTarget) {
            return drv.file("data", &path);
        }
        // Something that was built goes over in a bundle, for each piece of which the machine's daemon asks.
        let input = Drv::new(&format!("{INPUT}{name}")).file("data", &path).script("cat $data >$out");
        self.head.client().no_offload().max_jobs(1).build(&[&input]).succeeded();
        drv.input_output("data", &input, "out")
    }

    /// One build during which one fault happens.
    fn break_once(&mut self, phase: Phase, fault: Fault, direction: Direction, offset: u64) {
        let case = format!("{fault:?} in {phase:?}, {direction:?} + {offset}");
        eprintln!("{case}");
        let (input, output) = match phase {
            Phase::Upload => (3 << 20, 1000),
            Phase::Download => (1000, 3 << 20),
            _ => (1000, 1000),
        };
        let drv = self.derivation(phase, direction, input, output);
        let before = match phase {
            Phase::Handshake | Phase::Build => 0,
            Phase::Probe => self.login[direction as usize],
            // The bytes before those of the input or output itself.
            Phase::Upload if direction == FromTarget => self.login[direction as usize] + 3000,
            Phase::Upload | Phase::Download => self.login[direction as usize] + (10 << 10),
        };
        let strike = |offset: u64| match fault {
            Fault::Cut => self.proxy.cut_after(direction, offset),
            Fault::Freeze => self.proxy.freeze_after(direction, offset),
            Fault::Flip => self.proxy.flip_after(direction, offset),
            Fault::Throttle(rate) => self.proxy.throttle_after(direction, offset, rate),
            Fault::Delay(time) => self.proxy.delay_after(direction, offset, Duration::from_millis(time)),
        };
        if phase != Phase::Probe {
            self.head.mark_healthy(self.proxy.name());
        }
        if phase != Phase::Build {
            strike(before + offset);
        }
        // A piece of an import takes a round trip, of which some hundred may be left when the link becomes far.
        let limit = if fault.is_fatal() { LIMIT } else { LIMIT * 3 };
        let mut build = self.head.client().limit(limit).start(&[&drv]);
        if phase == Phase::Build {
            build.wait_for_log("line 1\n");
            strike(offset);
        }
        let result = build.wait();
        assert_eq!(result.status, Some(0), "{case}: {}\n{}", result.error, result.log);
        let is_there = self.far.built().contains(&drv.name().to_owned());
        if fault.is_mild() {
            assert!(!result.log.contains("could not be built"), "{case}: {}", result.log);
            // Before the reply to the request, a machine that responds sooner may be chosen.
            let is_early = matches!(phase, Phase::Handshake | Phase::Probe);
            assert!(is_there || is_early, "{case}: built elsewhere:\n{}", result.log);
        }
        let words: &[&str] = match phase {
            _ if !fault.is_fatal() => &[],
            // Met before the reply to the request. A connection cut before the first byte of the server is made again.
            Phase::Handshake => {
                let is_fresh = self.head.availability_of(self.proxy.name()) == Availability::Fresh;
                assert_eq!(is_there, is_fresh, "{case}: {}\n{}", self.head.health_of(self.proxy.name()), result.log);
                &[]
            }
            Phase::Probe => &[],
            Phase::Upload => &["sending inputs: "],
            // Little is sent during a build.
            Phase::Build if direction == ToTarget => &["building: ", "retrieving outputs: "],
            Phase::Build => &["building: "],
            Phase::Download => &["retrieving outputs: "],
        };
        if !words.is_empty() {
            let is_named = words.iter().any(|words| result.log.contains(words));
            assert!(is_named, "{case}: the phase is not named:\n{}", result.log);
            assert!(self.near.built().contains(&drv.name().to_owned()), "{case}: built elsewhere:\n{}", result.log);
        }
        self.assert_nothing_left(&case, &drv, result.output(drv.name()), output as u64);
        self.recover();
    }

    fn assert_nothing_left(&self, case: &str, drv: &Drv, output: &std::path::Path, size: u64) {
        assert!(self.head.path_info(output).is_some(), "{case}: {} is not valid", drv.name());
        assert_eq!(std::fs::metadata(self.head.path(output)).unwrap().len(), size, "{case}");
        assert!(self.head.built().iter().all(|name| name.starts_with(INPUT)), "{case}");
        assert_eq!(self.head.unfinished_outputs(), [""; 0], "{case}");
        self.head.await_no_lock(case);
    }

    /// The link works again, and the head does not know that it did not.
    fn recover(&self) {
        self.proxy.forget_faults();
        self.proxy.cut();
        wait_until("nobody builds", LONG, || !self.far.is_building());
        self.head.forget_health();
    }

    fn verify(&self) {
        for host in [&self.head, &self.near, &self.far] {
            host.verify_store();
        }
    }
}

/// Returns the bytes that pass through the proxy while the head logs in.
fn login(proxy: &Proxy, far: &Host, head: &Host) -> [u64; 2] {
    let key = HostKey::parse(&far.host_key(HostKeyKind::Ed25519)).unwrap();
    let mut machine = Machine::new(&proxy.address().ip().to_string(), "root", vec![lab::SYSTEM.into()], vec![key]);
    machine.port = SSH_PORT;
    machine.private_key = Some(head.path(lab::USER_KEYS).join("ed25519"));
    let session = Session::connect(&machine).unwrap();
    let login = [ToTarget, FromTarget].map(|direction| proxy.passed(direction));
    drop(session);
    // Its last messages have passed, too.
    wait_until("the session ends", LONG, || far.sshd_log().contains("Disconnected from user root"));
    login
}

/// Bytes that cannot be compressed and are the same for nobody else.
fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = u64::from(seed) << 32 | u64::from(std::process::id()) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn is_campaign() -> bool {
    std::env::var_os("OFFLOAD_CAMPAIGN").is_some()
}

/// Where in a phase something happens: bytes of one direction since it began.
fn offsets(phase: Phase, login: [u64; 2]) -> Vec<(Direction, u64)> {
    let [to, from] = login;
    if !is_campaign() {
        return vec![match phase {
            Phase::Handshake => (FromTarget, 700),
            Phase::Probe => (FromTarget, 60),
            Phase::Upload => (ToTarget, 1 << 20),
            Phase::Build => (FromTarget, 10),
            Phase::Download => (FromTarget, 1 << 20),
        }];
    }
    let both = |to: &[u64], from: &[u64]| {
        let to = to.iter().map(|&offset| (ToTarget, offset));
        to.chain(from.iter().map(|&offset| (FromTarget, offset))).collect()
    };
    match phase {
        Phase::Handshake => {
            both(&[0, 10, 500, 1500, to - 200, to - 20], &[0, 10, 700, 1200, 1700, from - 60, from - 1])
        }
        Phase::Probe => both(&[0, 40, 900], &[0, 30, 100, 400, 700]),
        Phase::Upload => both(&[0, 1000, 100_000, 1 << 20, 3_000_000], &[0, 1000, 2500]),
        Phase::Build => both(&[0, 30], &[0, 10, 100, 500]),
        Phase::Download => both(&[], &[0, 1000, 100_000, 1 << 20, 3_000_000]),
    }
}

fn every_offset(faults: &[Fault]) {
    let is_mild = faults.iter().all(|fault| !fault.is_fatal());
    let mut pool = Pool::new(if is_mild { LONG_TIMEOUTS } else { SHORT_TIMEOUTS });
    let start = Instant::now();
    for fault in faults {
        for phase in [Phase::Handshake, Phase::Probe, Phase::Upload, Phase::Build, Phase::Download] {
            for (direction, offset) in offsets(phase, pool.login) {
                pool.break_once(phase, *fault, direction, offset);
            }
        }
    }
    eprintln!(
        "{faults:?}: {} cases in {:.0?}; {} were built elsewhere",
        pool.cases,
        start.elapsed(),
        pool.near.built().len()
    );
    pool.verify();
}

#[test]
fn a_link_cut_anywhere_fails_no_build() {
    every_offset(&[Fault::Cut]);
}

#[test]
fn a_link_that_freezes_anywhere_fails_no_build() {
    every_offset(&[Fault::Freeze]);
}

#[test]
fn a_changed_byte_anywhere_fails_no_build() {
    every_offset(&[Fault::Flip]);
}

#[test]
fn a_link_that_becomes_slow_anywhere_fails_no_build() {
    let rates = [Fault::Throttle(FAST_ENOUGH), Fault::Throttle(100 << 10)];
    every_offset(if is_campaign() { &rates } else { &rates[..1] });
}

#[test]
fn a_latency_that_grows_anywhere_fails_no_build() {
    let delays = [Fault::Delay(NEAR_ENOUGH), Fault::Delay(400)];
    every_offset(if is_campaign() { &delays } else { &delays[..1] });
}
