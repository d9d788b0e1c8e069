use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;
use std::thread;

use super::*;
use crate::state::lock::try_lock;

/// Returns the number of processes that the kernel has waiting for the lock of a file.
pub fn waiting(file: &std::path::Path) -> usize {
    let Ok(inode) = fs::metadata(file).map(|metadata| metadata.ino()) else { return 0 };
    let locks = fs::read_to_string("/proc/locks").unwrap();
    locks.lines().filter(|line| line.contains("->") && line.contains(&format!(":{inode} "))).count()
}

#[test]
fn waiting_processes_take_turns_in_order_of_arrival() {
    let directory = tempfile::tempdir().unwrap();
    let [slot, queue] = ["0", "turn"].map(|name| directory.path().join(name));
    let held = try_lock(&slot).unwrap().unwrap();
    let order = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for number in 0..4 {
            let (slot, queue, order) = (&slot, &queue, &order);
            scope.spawn(move || {
                let mut turn = Turn::new(queue.clone());
                let far = Instant::now() + Duration::from_secs(600);
                let _slot = loop {
                    if let Some(slot) = try_lock(slot).unwrap() {
                        break slot;
                    }
                    turn.wait(Duration::from_millis(1), far).unwrap();
                };
                order.lock().unwrap().push(number);
            });
            // The first has the turn, and the others wait for it.
            let is_first_in = || try_lock(queue).unwrap().is_none();
            let start = Instant::now();
            while !(is_first_in() && waiting(queue) == number) {
                assert!(start.elapsed() < Duration::from_secs(60), "{number} does not wait in the kernel");
                thread::sleep(Duration::from_millis(1));
            }
        }
        drop(held);
    });
    assert_eq!(order.into_inner().unwrap(), [0, 1, 2, 3]);
}

#[test]
fn a_process_that_passes_keeps_a_place_and_gives_up_the_turn() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("turn");
    let soon = || Instant::now() + Duration::from_millis(20);
    let first = try_lock(&path).unwrap().unwrap();
    let mut turn = Turn::new(path.clone());
    turn.wait(Duration::ZERO, soon()).unwrap();
    turn.pass().unwrap();
    assert_eq!(waiting(&path), 1);
    drop(first);
    // It gets the turn, whether it looks before it passes or not.
    for looks in [true, false] {
        let start = Instant::now();
        turn.wait(Duration::ZERO, if looks { start + Duration::from_secs(60) } else { start }).unwrap();
        let is_free = || {
            turn.pass().unwrap();
            try_lock(&path).unwrap().is_some()
        };
        assert!(std::iter::repeat_with(is_free).any(|is_free| is_free || start.elapsed().as_secs() > 60));
        assert!(start.elapsed() < Duration::from_secs(60));
    }
}

#[test]
fn a_stopped_process_with_the_turn_does_not_end_the_checks_of_others() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("turn");
    let _stopped = try_lock(&path).unwrap().unwrap();
    let mut turn = Turn::new(path);
    let far = Instant::now() + Duration::from_secs(60);
    for _ in 0..2 {
        turn.wait(Duration::from_millis(1), far).unwrap();
    }
    assert!(Instant::now() < far);
}
