//! At each named point of a build the hook is killed, and the head loses power; and at each garbage is collected, while
//! the hook waits there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use offload::failpoints::{self, Failpoint};
use rustix::process::{Pid, Signal, kill_process};

use crate::lab::{Drv, LONG, wait_until};
use crate::pool::{CRASH_FILE, Ended, Pool, build, build_well, ended, leftovers};

/// The program that all other tests run.
const PROGRAM: &str = env!("CARGO_BIN_EXE_offload");

/// `offload` with points to stop at, built beside it. What they have in common is not built again.
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

/// What is done to a process that has come to a point.
#[derive(Clone, Copy, Debug)]
enum Blow {
    KillHook,
    PowerOff,
    /// It goes on afterwards.
    Collect,
}

/// Has `client` build up to the point; then the hook, which has stopped there, is dealt with. `None` if it does not
/// come there.
fn stop_at(pool: &Pool, point: Failpoint, client: impl FnOnce() -> Ended + Send, blow: Blow) -> Option<Ended> {
    let head = &pool.head;
    let reached = head.path(format!("{CRASH_FILE}.reached"));
    thread::scope(|scope| {
        let client = scope.spawn(client);
        wait_until(&format!("a build comes to {point:?}"), 2 * LONG, || {
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

/// How many builds may pass by a point.
const TRIES: usize = 10;

/// A pool whose hook stops where it is told to.
fn pool() -> Pool {
    let program = program_with_points();
    // What turns it on is known to this program alone.
    let switch = "OFFLOAD_FAILPOINT_FILE";
    assert!(contains(&program, switch) && !contains(Path::new(PROGRAM), switch));
    Pool::new(|head| head.program(program).env(switch, CRASH_FILE))
}

#[test]
fn a_kill_at_each_point() {
    let pool = pool();
    for &point in failpoints::ALL {
        for blow in [Blow::PowerOff, Blow::KillHook] {
            let case = format!("{blow:?} at {point:?}");
            // The second machine is taken before the first has answered, when that takes long.
            let stopped = (0..TRIES).find_map(|number| {
                // One that is never built again, and one that is.
                let drv = pool.derivation(&format!("{point:?}-{blow:?}-{number}"), 1, 1);
                pool.has_to_ask();
                pool.head.write(CRASH_FILE, format!("{point:?}"));
                Some((stop_at(&pool, point, || build(&pool.head, &drv), blow)?, drv))
            });
            let (ended, drv) = stopped.unwrap_or_else(|| panic!("no build ever came to {point:?}"));
            // guix-daemon does not survive a hook that is gone before it has read what it is to build.
            assert!(matches!(ended.status, None | Some(1)), "{case}: status {:?}: {}", ended.status, ended.log);
            pool.assert_quiet(&case);
            if let Blow::KillHook = blow {
                pool.head.verify_store();
                build_well(&case, &pool.head, &drv, 1);
            }
        }
    }
    pool.verify();
    assert!(
        leftovers(&pool.head).len() > failpoints::ALL.len(),
        "nothing was left over by {} kills",
        2 * failpoints::ALL.len()
    );
    pool.assert_all_is_collected();
}

/// Where a collector might take what is needed: what is about to be sent, found there, built, restored, registered.
const EXPOSED: &[Failpoint] = &[
    Failpoint::UploadSlot,
    Failpoint::InputsProtected,
    Failpoint::BuildEnded,
    Failpoint::Restored,
    Failpoint::PlaceCleared,
    Failpoint::AllPlaced,
];

/// What a build needs is not collected under it, wherever it stands; with `OFFLOAD_CAMPAIGN=1`, at all points. The
/// output of `before` is on the machine, and nothing there needs it but the build to come; were it collected, the
/// machine's daemon would make another one.
#[test]
fn a_collection_at_each_point() {
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
            pool.has_to_ask();
            head.write(CRASH_FILE, format!("{point:?}"));
            let ended = ended(&mut client, &made);
            // While the client protects it.
            let output = Path::new(made.output().as_str()).join("data");
            let input = client.make(&before).output().to_string();
            assert!(head.read(output) == head.read(input), "{point:?}: built with another input");
            ended
        };
        let ended =
            stop_at(&pool, point, client, Blow::Collect).unwrap_or_else(|| panic!("it never came to {point:?}"));
        assert_eq!(ended.status, Some(0), "{point:?}: {}", ended.log);
        assert!(!ended.log.contains("could not be built on"), "{point:?}: {}", ended.log);
        let (built, names) = (machine.built(), [before.name(), drv.name()]);
        assert!(built.ends_with(&names.map(str::to_owned)), "{point:?}: {:?}", &built[built.len().saturating_sub(3)..]);
        pool.assert_quiet(&format!("{point:?}"));
    }
    pool.verify();
}
