//! Random faults beside builds, one at a time: processes are killed or stopped, a link is cut or frozen, a byte is
//! changed, or garbage is collected.
//!
//! It is behind a switch: `cargo test --test crash random_faults -- --ignored` causes twelve faults with a fixed seed.
//! With `OFFLOAD_CAMPAIGN=1` it causes 300 with a random seed, in some twenty minutes. `OFFLOAD_TEST_FAULTS` sets the
//! number, and `OFFLOAD_TEST_SEED` the seed, which each run prints at its start. The same seed gives the same faults at
//! the same times after the start of a build. Their effect then depends on the machine.
//!
//! A fault counts if it hits: its victim exists, and the build is still running. A build may fail only if its own hook,
//! client, or daemon process on the head was killed. It succeeds at the second attempt.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::lab::{Direction, Drv, Entry, Host, LONG, Lab, Process, Proxy, wait_until};
use crate::pool::{assert_builds, build, leftovers};

/// The number of faults of a short run.
const SHORT: u64 = 12;
/// The number of faults of a campaign.
const LONG_RUN: u64 = 300;
/// The seed of the short run.
const SEED: u64 = 2026;
/// After this number of faults garbage is collected and the stores are verified.
const VERIFY_EVERY: u64 = 25;
/// The setting `stall_timeout`, in seconds: the shortest that the program uses for a link.
const STALL_TIMEOUT: i32 = 4;

/// SplitMix64, which gives the same numbers for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (value ^ (value >> 31)) % bound
    }

    fn choose<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// A process to kill or stop.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Hook,
    /// The process that owns a session.
    Owner,
    /// The SSH server's process of a connection.
    Session,
    /// A child of the machine's daemon, which serves one connection, with its builders.
    MachineDaemon,
    /// The process of the head's daemon for the client.
    HeadDaemon,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Kill(Victim),
    /// Stops the process, and continues it after this time.
    Stop(Victim, Duration),
    /// Kills the client of the head's daemon.
    Client,
    Cut,
    CutAfter(Direction, u64),
    /// The link passes no data for this time.
    Freeze(Duration),
    Flip(Direction, u64),
    /// Runs `guix gc` on the head or on a machine.
    Collect(usize),
}

impl Fault {
    fn random(random: &mut Random) -> Fault {
        let (hook, owner) = (Victim::Hook, Victim::Owner);
        let victims = [hook, owner, owner, Victim::Session, Victim::MachineDaemon];
        let time = Duration::from_millis(200 + random.below(6000));
        let direction = random.choose(&[Direction::ToTarget, Direction::FromTarget]);
        let bytes = random.below(600_000);
        match random.below(12) {
            0..=2 => {
                Fault::Kill(random.choose(&[hook, owner, Victim::Session, Victim::MachineDaemon, Victim::HeadDaemon]))
            }
            3..=5 => Fault::Stop(random.choose(&victims), time),
            6 => Fault::Client,
            7 => Fault::Cut,
            8 => Fault::CutAfter(direction, bytes),
            9 => Fault::Freeze(time),
            10 => Fault::Flip(direction, bytes),
            _ => Fault::Collect(random.below(3) as usize),
        }
    }

    /// Whether the build beside the fault may fail.
    fn ends_build(self) -> bool {
        matches!(self, Fault::Client | Fault::Kill(Victim::Hook | Victim::HeadDaemon))
    }
}

/// A head and two machines behind proxies, of which the first is preferred.
struct Field {
    _lab: Lab,
    machines: [Host; 2],
    links: [Proxy; 2],
    head: Host,
    entries: [Entry; 2],
}

fn is_hook(process: &Process) -> bool {
    process.command.contains("guix offload") && process.name != "offload-session"
}

fn is_listener(process: &Process) -> bool {
    process.name == "sshd" && (process.command.contains("[listener]") || !process.command.contains(": "))
}

fn is_owner(process: &Process) -> bool {
    process.name == "offload-session"
}

impl Field {
    fn new() -> Field {
        let lab = Lab::new();
        let machines = ["b1", "b2"].map(|name| lab.build_machine(name).start());
        let links = [0, 1].map(|number: usize| lab.proxy(&format!("link{number}"), machines[number].ssh_address()));
        let head = lab.head().start();
        let entries = [0, 1].map(|number: usize| {
            let entry = machines[number].entry().via(&links[number]).set("speed", 1.0 + 999.0 * f64::from(number == 0));
            entry.set("keep_connection", 600).set("stall_timeout", STALL_TIMEOUT).set("compression", "none")
        });
        head.write_machines(&entries);
        Field { _lab: lab, machines, links, head, entries }
    }

    fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.machines.iter().chain([&self.head])
    }

    /// Marks both machines as healthy, so that the hook chooses the first, over its open session if there is one.
    fn forget_failures(&self) {
        self.links.iter().for_each(|link| self.head.mark_healthy(link.name()));
    }

    fn drv(&self, name: &str) -> Drv {
        let file = format!("/tmp/{name}");
        self.head.run("sh", &["-c", &format!("head -c 500000 /dev/urandom >{file}")]);
        Drv::new(name).outputs(&["out", "dev"]).file("data", &file).script(
            "echo on; test $(wc -c <$data) = 500000; sleep 0.3; mkdir $out; head -c 1048576 /dev/urandom >$out/data; \
             echo >$dev; ln -s $dev $out/dev",
        )
    }

    /// Returns the victims of a fault, with the processes that would otherwise continue without them.
    fn find(&self, victim: Victim) -> Vec<Process> {
        let child = |host: &Host| -> Vec<Process> {
            let all = host.processes();
            let daemons = || all.iter().filter(|process| process.name == "guix-daemon");
            let parents: Vec<u32> = daemons().map(|daemon| daemon.pid).collect();
            let mut found: Vec<Process> =
                daemons().filter(|daemon| parents.contains(&daemon.parent)).cloned().collect();
            found.truncate(1);
            // The daemon would not kill its builders as it kills the processes of a build user.
            loop {
                let next = all.iter().filter(|one| found.iter().any(|known| known.pid == one.parent));
                let fresh: Vec<Process> =
                    next.filter(|one| !found.iter().any(|known| known.pid == one.pid)).cloned().collect();
                if fresh.is_empty() {
                    return found;
                }
                found.extend(fresh);
            }
        };
        let on_head =
            |choose: fn(&Process) -> bool| self.head.processes().into_iter().find(choose).into_iter().collect();
        // The title of the listener is `sshd: … [listener]`.
        let is_session = |process: &Process| {
            let is_child = process.command.contains(": ") && !process.command.contains("[listener]");
            process.name.starts_with("sshd") && is_child
        };
        match victim {
            Victim::Hook => on_head(is_hook),
            Victim::Owner => on_head(is_owner),
            Victim::Session => self.machines[0].processes().into_iter().filter(is_session).collect(),
            Victim::MachineDaemon => child(&self.machines[0]),
            Victim::HeadDaemon => {
                let hook = self.head.processes().into_iter().find(is_hook);
                let processes = self.head.processes().into_iter();
                processes.filter(|process| hook.as_ref().is_some_and(|hook| hook.parent == process.pid)).collect()
            }
        }
    }

    /// Causes the fault, waits for its time, and ends it. Returns whether it hit.
    fn strike(&self, fault: Fault, build: &mut Option<crate::lab::RunningBuild>) -> bool {
        let link = &self.links[0];
        let signal = |victim, signal| {
            let victims = self.find(victim);
            victims.iter().for_each(|process: &Process| process.signal(signal));
            victims
        };
        match fault {
            Fault::Kill(victim) => !signal(victim, Signal::KILL).is_empty(),
            Fault::Stop(victim, time) => {
                let stopped = signal(victim, Signal::STOP);
                thread::sleep(time);
                stopped.iter().for_each(|process| process.signal(Signal::CONT));
                !stopped.is_empty()
            }
            Fault::Client => {
                build.take().into_iter().for_each(|build| build.interrupt(Signal::KILL));
                true
            }
            Fault::Cut => {
                link.cut();
                true
            }
            Fault::CutAfter(direction, bytes) => {
                link.cut_after(direction, bytes);
                true
            }
            Fault::Freeze(time) => {
                link.freeze();
                thread::sleep(time);
                link.thaw();
                true
            }
            Fault::Flip(direction, bytes) => {
                link.flip_after(direction, bytes);
                true
            }
            Fault::Collect(number) => {
                self.hosts().nth(number).unwrap().run("guix", &["gc"]);
                true
            }
        }
    }

    /// Waits until no build and no hook is running, and no lock is held.
    #[track_caller]
    fn assert_quiet(&self, case: &str) {
        wait_until(&format!("{case}: no build is running"), LONG, || !self.machines.iter().any(Host::is_building));
        wait_until(&format!("{case}: no hook is left"), LONG, || !self.head.processes().iter().any(is_hook));
        self.head.await_no_lock(case);
    }

    /// Verifies all stores, and asserts that garbage collection deletes everything that the builds left.
    fn verify(&self) {
        thread::scope(|scope| self.hosts().for_each(|host| drop(scope.spawn(|| host.verify_store()))));
        // An open session protects store items.
        self.end_owners();
        thread::scope(|scope| self.hosts().for_each(|host| drop(scope.spawn(|| host.run("guix", &["gc"])))));
        for host in self.hosts() {
            assert_eq!(leftovers(host), [""; 0], "on {}", host.name());
            let valid = host.valid_paths();
            assert!(
                !valid.iter().any(|path| path.to_string_lossy().contains("-struck-")),
                "{}: {valid:?}",
                host.name()
            );
        }
    }

    /// Ends all owners. Then no machine has a session. Only killed owners leave sockets, which the next hook removes.
    fn end_owners(&self) {
        let owners = || self.head.processes().into_iter().filter(is_owner);
        wait_until("the owners have ended", LONG, || {
            owners().for_each(|owner| owner.signal(Signal::TERM));
            owners().count() == 0
        });
        let left = || -> Vec<Process> {
            let of_sessions = |process: &Process| ["sshd", "guix"].iter().any(|name| process.name.starts_with(name));
            let all = self.machines.iter().flat_map(|machine| {
                let processes = machine.processes();
                let main: Vec<u32> = ["guix-daemon", "sshd"]
                    .iter()
                    .filter_map(|name| {
                        processes.iter().filter(|process| process.name == *name).map(|process| process.pid).min()
                    })
                    .collect();
                processes.into_iter().filter(move |process| !main.contains(&process.pid))
            });
            all.filter(of_sessions).collect()
        };
        let start = Instant::now();
        while !left().is_empty() {
            assert!(start.elapsed() < LONG, "sessions are left: {:#?}", left());
            thread::sleep(Duration::from_millis(20));
        }
        // A hook removes the sockets of killed owners for the machine that it chooses.
        for (number, entry) in self.entries.iter().enumerate() {
            self.head.write_machines(std::slice::from_ref(entry));
            self.forget_failures();
            assert_builds("after the owners", &self.head, &self.drv(&format!("struck-sweep-{number}")), 1);
        }
        self.head.write_machines(&self.entries);
        // A build that has just ended may be about to leave a session open.
        wait_until("each socket has its owner", LONG, || self.temporary_files().len() == owners().count());
        wait_until("the last owners have ended", LONG, || {
            owners().for_each(|owner| owner.signal(Signal::TERM));
            owners().count() == 0
        });
        assert_eq!(self.temporary_files(), [""; 0]);
    }

    /// Returns the names of sockets and of unfinished files below the state directory.
    fn temporary_files(&self) -> Vec<String> {
        let output = self.head.run("find", &["/var/guix/offload", "-type", "s", "-o", "-name", ".*", "-type", "f"]);
        output.lines().map(str::to_owned).collect()
    }
}

#[test]
#[ignore = "a campaign: cargo test --test crash random_faults -- --ignored"]
fn random_faults_fail_no_build() {
    let variable = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let is_long = std::env::var_os("OFFLOAD_CAMPAIGN").is_some();
    let faults = variable("OFFLOAD_TEST_FAULTS").unwrap_or(if is_long { LONG_RUN } else { SHORT });
    let own = if is_long { RandomState::new().hash_one(0) % 1_000_000 } else { SEED };
    let seed = variable("OFFLOAD_TEST_SEED").unwrap_or(own);
    eprintln!("{faults} faults; OFFLOAD_TEST_SEED={seed} repeats them");

    let field = Field::new();
    let mut random = Random(seed);
    let start = Instant::now();
    assert_builds("undisturbed", &field.head, &field.drv("struck-none"), 1);
    let mut range = start.elapsed().as_micros() as u64;
    let (mut number, mut tries, mut failed) = (0, 0, 0);
    while number < faults {
        tries += 1;
        let fault = Fault::random(&mut random);
        let time = Duration::from_micros(random.below(range));
        let case = format!("fault {number}, try {tries}: {fault:?} after {time:?}");
        let drv = field.drv(&format!("struck-{tries}"));
        field.forget_failures();
        let passed = [Direction::ToTarget, Direction::FromTarget].map(|direction| field.links[0].passed(direction));
        let (is_hit, ended) = thread::scope(|scope| {
            if fault == Fault::Client {
                let mut client = Some(field.head.client().start(&[&drv]));
                let hook = || field.head.processes().iter().any(is_hook);
                wait_until(&format!("{case}: a hook has started"), LONG, hook);
                thread::sleep(time);
                return (field.strike(fault, &mut client), None);
            }
            let client = scope.spawn(|| build(&field.head, &drv));
            wait_until(&format!("{case}: a hook has started"), LONG, || {
                client.is_finished() || field.head.processes().iter().any(is_hook)
            });
            thread::sleep(time);
            let is_hit = !client.is_finished() && field.strike(fault, &mut None);
            (is_hit, Some(client.join().unwrap()))
        });
        // These faults hit only when the link has passed enough bytes.
        let is_hit = is_hit
            && match fault {
                Fault::CutAfter(direction, bytes) | Fault::Flip(direction, bytes) => {
                    field.links[0].passed(direction) - passed[direction as usize] > bytes
                }
                _ => true,
            };
        field.links.iter().for_each(Proxy::forget_faults);
        number += u64::from(is_hit);
        // A fault misses if the build has already ended, so the range follows the duration of a build.
        range = if is_hit { range * 21 / 20 } else { range * 4 / 5 }.max(1000);
        let status = ended.as_ref().map_or(Some(0), |ended| ended.status);
        let text = ended.map(|ended| ended.log).unwrap_or_default();
        assert!(status == Some(0) || fault.ends_build(), "{case}: {status:?} {text}");
        failed += u64::from(status != Some(0));
        field.assert_quiet(&case);
        field.forget_failures();
        assert_builds(&case, &field.head, &drv, 1);
        // A fault that ended sshd for good would protect the machine from all later faults.
        assert!(field.machines.iter().all(|machine| machine.processes().iter().any(is_listener)), "{case}: no sshd");
        if number % VERIFY_EVERY == 0 && is_hit || number == faults {
            field.verify();
            eprintln!("{number} faults hit of {tries} tried, {failed} builds ended with their own hooks");
        }
    }
    assert!(fs::exists(field.head.path("/var/guix/offload")).unwrap());
}
