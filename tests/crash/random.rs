//! Kills at any instant, from the hook's start to a while after the build would have ended.
//!
//! 25 of them; `OFFLOAD_TEST_KILLS` says how many, and 500 take some ten minutes. What dies is the hook, the
//! daemon's process that started it (so that registration is hit as well), or everything on the head.

use std::hash::{BuildHasher, RandomState};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::lab::{Drv, Process};
use crate::pool::{Pool, build, build_well};

/// After so many kills garbage is collected, so that there is not ever more to verify.
const COLLECT_EVERY: u64 = 20;

/// Out of a random generator that needs no more than to be different each time.
fn random(bound: u64) -> u64 {
    RandomState::new().hash_one(0) % bound
}

#[derive(Clone, Copy, Debug)]
enum Victim {
    Hook,
    Daemon,
    Head,
}

/// Builds `drv`, and kills so long after the hook has started. The build's status.
fn kill_after(pool: &Pool, victim: Victim, time: Duration, drv: &Drv) -> Option<u32> {
    let head = &pool.head;
    // One that keeps a connection was a hook.
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
    // guix-daemon does not survive a hook that is gone before it has read what it is to build.
    assert!(matches!(ended.status, None | Some(0 | 1)), "{victim:?} after {time:?}: {:?} {}", ended.status, ended.log);
    ended.status
}

#[test]
fn kills_at_any_instant() {
    let kills = std::env::var("OFFLOAD_TEST_KILLS").map_or(25, |kills| kills.parse().unwrap());
    let pool = Pool::new(|head| head);
    let undisturbed = pool.derivation("undisturbed", 2, 3);
    let start = Instant::now();
    build_well("undisturbed", &pool.head, &undisturbed, 3);
    // Kept such that about half of the builds are cut short, however busy the machine is.
    let mut range = start.elapsed();
    let (mut cut_short, mut counts) = (0, [0; 3]);
    for number in 0..kills {
        let victim = [Victim::Hook, Victim::Daemon, Victim::Hook, Victim::Head][random(4) as usize];
        let time = Duration::from_micros(random(range.as_micros() as u64));
        let case = format!("kill {number}: {victim:?} after {time:?}");
        let drv = pool.derivation(&format!("victim-{number}"), 2, 3);
        if random(3) == 0 {
            pool.has_to_ask();
        } else {
            pool.knows_all();
        }
        let status = kill_after(&pool, victim, time, &drv);
        counts[victim as usize] += 1;
        if status == Some(0) {
            range = range * 9 / 10;
        } else {
            cut_short += 1;
            range = range * 10 / 9;
        }
        pool.assert_quiet(&case);
        pool.head.verify_store();
        build_well(&case, &pool.head, &drv, 3);
        if (number + 1) % COLLECT_EVERY == 0 || number + 1 == kills {
            pool.verify();
            pool.assert_all_is_collected();
        }
    }
    let [hooks, daemons, heads] = counts;
    eprintln!(
        "{kills} kills ({hooks} of hooks, {daemons} of daemons, {heads} of heads): {cut_short} builds were cut short, none was \
         lost"
    );
    // About half are; fewer than a tenth of 25 by chance once in a hundred thousand times.
    assert!(cut_short > kills / 10, "{cut_short} of {kills}");
}
