//! At each named point of a build the hook is killed, and the head loses power.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use offload::crash::{self, Point};
use rustix::process::{Pid, Signal, kill_process};

use crate::lab::{Drv, wait_until};
use crate::pool::{CRASH_FILE, Ended, Pool, build, build_well, leftovers};

/// The program that all other tests run.
const PROGRAM: &str = env!("CARGO_BIN_EXE_offload");

/// `offload` with points to stop at, built beside it. What they have in common is not built again.
fn program_with_points() -> PathBuf {
    let profile = Path::new(PROGRAM).parent().unwrap();
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--quiet", "--locked", "--offline", "--features", "crash-points"]);
    command.args(["--example", "offload-with-crash-points", "--target-dir"]).arg(profile.parent().unwrap());
    if profile.ends_with("release") {
        command.arg("--release");
    }
    let status = command.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap();
    assert!(status.success(), "cargo build: {status}");
    profile.join("examples/offload-with-crash-points")
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
}

/// Builds `drv` up to the point, and no further.
fn stop_at(pool: &Pool, point: Point, drv: &Drv, blow: Blow) -> Ended {
    let head = &pool.head;
    let reached = head.path(format!("{CRASH_FILE}.reached"));
    head.write(CRASH_FILE, format!("{point:?}"));
    thread::scope(|scope| {
        let client = scope.spawn(|| build(head, drv));
        wait_until(&format!("a build comes to {point:?}"), Duration::from_secs(60), || {
            let is_over = client.is_finished();
            assert!(reached.exists() || !is_over, "the build never came to {point:?}");
            reached.exists()
        });
        let hook = fs::read_to_string(&reached).unwrap().parse().unwrap();
        fs::remove_file(&reached).unwrap();
        match blow {
            Blow::KillHook => kill_process(Pid::from_raw(hook).unwrap(), Signal::KILL).unwrap(),
            Blow::PowerOff => {
                head.power_off();
                head.start_daemon();
            }
        }
        client.join().unwrap()
    })
}

#[test]
fn a_kill_at_each_point() {
    let program = program_with_points();
    // What turns it on is known to this program alone.
    let switch = "OFFLOAD_CRASH_FILE";
    assert!(contains(&program, switch) && !contains(Path::new(PROGRAM), switch));
    let pool = Pool::new(|head| head.program(program).env(switch, CRASH_FILE));
    for &point in crash::ALL {
        let start = std::time::Instant::now();
        for blow in [Blow::PowerOff, Blow::KillHook] {
            let case = format!("{blow:?} at {point:?}");
            // One that is never built again, and one that is.
            let drv = pool.derivation(&format!("{point:?}-{blow:?}"), 1, 1);
            pool.has_to_ask();
            let ended = stop_at(&pool, point, &drv, blow);
            // guix-daemon does not survive a hook that is gone before it has read what it is to build.
            assert!(matches!(ended.status, None | Some(1)), "{case}: status {:?}: {}", ended.status, ended.log);
            pool.assert_quiet(&case);
            if let Blow::KillHook = blow {
                pool.head.verify_store();
                build_well(&case, &pool.head, &drv, 1);
            }
        }
        eprintln!("{point:?}: {:.1?}", start.elapsed());
    }
    pool.verify();
    assert!(leftovers(&pool.head).len() > crash::ALL.len(), "nothing was left over by {} kills", 2 * crash::ALL.len());
    pool.assert_all_is_collected();
}
