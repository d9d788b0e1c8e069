//! Kills at random instants, from the start of the hook to some time after the usual end of the build.
//!
//! A run has 25 kills, or the number in `OFFLOAD_TEST_KILLS`; 500 take some ten minutes. The victim is the hook, the
//! daemon's process that started it (to interrupt the registration, too), or all processes of the head.

use std::hash::{BuildHasher, RandomState};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::lab::{Drv, Process};
use crate::pool::{Pool, assert_builds, build};

/// After this number of kills garbage is collected, so that the stores to verify stay small.
const COLLECT_EVERY: u64 = 20;

/// Returns a random number below `bound`, different in each run.
fn random(bound: u64) -> u64 {
    RandomState::new().hash_one(0) % bound
}

#[derive(Clone, Copy, Debug)]
enum Victim {
    Hook,
    Daemon,
    Head,
}

/// Builds `drv`, and kills the victim at this time after the start of the hook. Returns the status of the build.
fn kill_after(pool: &Pool, victim: Victim, time: Duration, drv: &Drv) -> Option<u32> {
    let head = &pool.head;
    // An owner is not a hook.
    let is_hook = |process: &Process| process.command.contains("guix offload") && process.name != "offload-session";
    let ended = thread::scope(|scope| {
        let client = scope.spawn(|| build(head, drv));
        let mut hook = None;
        while hook.is_none() && !client.is_finished() {
            hook = head.processes().into_iter().find(is_hook);
        }
        thread::sleep(time);
        match (victim, hook) {
            (Victim::Head, _) => {
                head.power_off();
                head.start_daemon();
            }
            (_, None) => {}
            (Victim::Hook, Some(hook)) => hook.signal(Signal::KILL),
            (Victim::Daemon, Some(hook)) => {
                let is_daemon = |process: &Process| process.pid == hook.parent && process.name == "guix-daemon";
                head.processes().into_iter().filter(is_daemon).for_each(|daemon| daemon.signal(Signal::KILL));
            }
        }
        client.join().unwrap()
    });
    // The process of guix-daemon dies if the hook ends before it has read the request.
    assert!(matches!(ended.status, None | Some(0 | 1)), "{victim:?} after {time:?}: {:?} {}", ended.status, ended.log);
    ended.status
}

#[test]
fn a_kill_at_any_instant_leaves_a_valid_store() {
    let kills = std::env::var("OFFLOAD_TEST_KILLS").map_or(25, |kills| kills.parse().unwrap());
    let pool = Pool::new(|head| head);
    let undisturbed = pool.derivation("undisturbed", 2, 3);
    let start = Instant::now();
    assert_builds("undisturbed", &pool.head, &undisturbed, 3);
    // The range is adjusted so that about half of the builds end early, also on a busy machine.
    let mut range = start.elapsed();
    let (mut ended_early, mut counts) = (0, [0; 3]);
    for number in 0..kills {
        let victim = [Victim::Hook, Victim::Daemon, Victim::Hook, Victim::Head][random(4) as usize];
        let time = Duration::from_micros(random(range.as_micros() as u64));
        let case = format!("kill {number}: {victim:?} after {time:?}");
        let drv = pool.derivation(&format!("victim-{number}"), 2, 3);
        if random(3) == 0 {
            pool.must_probe_first();
        } else {
            pool.mark_all_healthy();
        }
        let status = kill_after(&pool, victim, time, &drv);
        counts[victim as usize] += 1;
        if status == Some(0) {
            range = range * 9 / 10;
        } else {
            ended_early += 1;
            range = range * 10 / 9;
        }
        pool.assert_quiet(&case);
        pool.head.verify_store();
        assert_builds(&case, &pool.head, &drv, 3);
        if (number + 1) % COLLECT_EVERY == 0 || number + 1 == kills {
            pool.verify();
            pool.assert_all_is_collected();
        }
    }
    let [hooks, daemons, heads] = counts;
    eprintln!(
        "{kills} kills ({hooks} of hooks, {daemons} of daemons, {heads} of heads): {ended_early} builds ended early, none was \
         lost"
    );
    // About half end early. By chance fewer than a tenth of 25 do once in a hundred thousand runs.
    assert!(ended_early > kills / 10, "{ended_early} of {kills}");
}
