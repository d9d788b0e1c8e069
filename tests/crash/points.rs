//! The tests stop the hook at each named point of a build. There they kill the hook, cut the power of the head, or
//! collect garbage.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use offload::internals::failpoints::{self, Failpoint};
use rustix::process::{Pid, Signal, kill_process};

use crate::lab::{Drv, LONG, wait_until};
use crate::pool::{CRASH_FILE, Ended, Pool, assert_builds, build, ended, leftovers};

/// The program that all other tests run.
const PROGRAM: &str = env!("CARGO_BIN_EXE_offload");

/// Builds `offload` with failpoints, in the same target directory, so that common dependencies are not built again.
fn program_with_points() -> PathBuf {
    let profile = Path::new(PROGRAM).parent().unwrap();
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--quiet", "--locked", "--offline", "--features", "failpoints"]);
    command.args(["--example", "offload-with-failpoints", "--target-dir"]).arg(profile.parent().unwrap());
    if profile.ends_with("release") {
        command.arg("--release");
    }
    let status = command.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap();
    assert!(status.success(), "cargo build: {status}");
    profile.join("examples/offload-with-failpoints")
}

fn contains(program: &Path, text: &str) -> bool {
    let bytes = fs::read(program).unwrap();
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// A fault for a hook that has reached a failpoint.
#[derive(Clone, Copy, Debug)]
enum Blow {
    KillHook,
    PowerOff,
    /// Collects garbage, and then continues the hook.
    Collect,
}

/// Runs `client` until its hook stops at the failpoint, and then causes `blow`. Returns `None` if no hook reaches the
/// failpoint.
fn stop_at(pool: &Pool, point: Failpoint, client: impl FnOnce() -> Ended + Send, blow: Blow) -> Option<Ended> {
    let head = &pool.head;
    let reached = head.path(format!("{CRASH_FILE}.reached"));
    thread::scope(|scope| {
        let client = scope.spawn(client);
        wait_until(&format!("a build reaches {point:?}"), 2 * LONG, || {
            let is_over = client.is_finished();
            is_over || reached.exists()
        });
        if !reached.exists() {
            let ended = client.join().unwrap();
            println!("not stopped at {point:?}: status {:?}: {}", ended.status, ended.log);
            return None;
        }
        let hook = Pid::from_raw(fs::read_to_string(&reached).unwrap().parse().unwrap()).unwrap();
        fs::remove_file(&reached).unwrap();
        match blow {
            Blow::KillHook => kill_process(hook, Signal::KILL).unwrap(),
            Blow::PowerOff => {
                head.power_off();
                head.start_daemon();
            }
            Blow::Collect => {
                pool.collect(&[&pool.machines[0], head]);
                kill_process(hook, Signal::CONT).unwrap();
            }
        }
        Some(client.join().unwrap())
    })
}

/// The number of builds that may miss a failpoint.
const TRIES: usize = 10;

/// Returns a pool whose hook stops at the failpoint that [`CRASH_FILE`] names.
fn pool() -> Pool {
    let program = program_with_points();
    // Only this program has the switch for failpoints.
    let switch = "OFFLOAD_FAILPOINT_FILE";
    assert!(contains(&program, switch) && !contains(Path::new(PROGRAM), switch));
    Pool::new(|head| head.program(program).env(switch, CRASH_FILE))
}

#[test]
fn a_kill_at_any_point_leaves_a_valid_store() {
    let pool = pool();
    for &point in failpoints::ALL {
        for blow in [Blow::PowerOff, Blow::KillHook] {
            let case = format!("{blow:?} at {point:?}");
            // The hook chooses the second machine if the first replies late. Then the next build is tried.
            let stopped = (0..TRIES).find_map(|number| {
                // Each derivation is new. After a kill of the hook it is built again.
                let drv = pool.derivation(&format!("{point:?}-{blow:?}-{number}"), 1, 1);
                pool.must_probe_first();
                pool.head.write(CRASH_FILE, format!("{point:?}"));
                Some((stop_at(&pool, point, || build(&pool.head, &drv), blow)?, drv))
            });
            let (ended, drv) = stopped.unwrap_or_else(|| panic!("no build reached {point:?}"));
            // The process of guix-daemon dies if the hook ends before it has read the request.
            assert!(matches!(ended.status, None | Some(1)), "{case}: status {:?}: {}", ended.status, ended.log);
            pool.assert_quiet(&case);
            if let Blow::KillHook = blow {
                pool.head.verify_store();
                assert_builds(&case, &pool.head, &drv, 1);
            }
        }
    }
    pool.verify();
    assert!(leftovers(&pool.head).len() > failpoints::ALL.len(), "{} kills left no files", 2 * failpoints::ALL.len());
    pool.assert_all_is_collected();
}

/// The failpoints at which the collector could delete needed items: items to send, items on the machine, and outputs
/// that are built, restored, or registered.
const EXPOSED: &[Failpoint] = &[
    Failpoint::UploadSlot,
    Failpoint::InputsProtected,
    Failpoint::BuildEnded,
    Failpoint::Restored,
    Failpoint::PlaceCleared,
    Failpoint::AllPlaced,
];

/// A garbage collection during a build deletes no item that the build needs. `OFFLOAD_CAMPAIGN=1` tests all failpoints.
/// The output of `before` is on the machine, and only the next build needs it. If it were deleted, the machine's daemon
/// would build another one, with other contents.
#[test]
fn a_collection_at_any_point_removes_no_needed_item() {
    let pool = pool();
    let (head, machine) = (&pool.head, &pool.machines[0]);
    head.write_machines(&[machine.entry().set("overload_threshold", false)]);
    let points = if std::env::var_os("OFFLOAD_CAMPAIGN").is_some() { failpoints::ALL } else { EXPOSED };
    for &point in points {
        let before = Drv::new(&format!("{point:?}-before")).script("head -c 10000 /dev/urandom >$out");
        let drv = Drv::new(&format!("{point:?}")).input_output("before", &before, "out");
        let drv = drv.script("mkdir $out; ln -s $before $out/before; cp $before $out/data");
        let client = || {
            let mut client = head.direct();
            client.build(&[&before]).unwrap();
            let made = client.make(&drv);
            pool.must_probe_first();
            head.write(CRASH_FILE, format!("{point:?}"));
            let ended = ended(&mut client, &made);
            // The client still protects the output.
            let output = Path::new(made.output().as_str()).join("data");
            let input = client.make(&before).output().to_string();
            assert!(head.read(output) == head.read(input), "{point:?}: built with another input");
            ended
        };
        let ended =
            stop_at(&pool, point, client, Blow::Collect).unwrap_or_else(|| panic!("no build reached {point:?}"));
        assert_eq!(ended.status, Some(0), "{point:?}: {}", ended.log);
        assert!(!ended.log.contains("could not be built on"), "{point:?}: {}", ended.log);
        let (built, names) = (machine.built(), [before.name(), drv.name()]);
        assert!(built.ends_with(&names.map(str::to_owned)), "{point:?}: {:?}", &built[built.len().saturating_sub(3)..]);
        pool.assert_quiet(&format!("{point:?}"));
    }
    pool.verify();
}
