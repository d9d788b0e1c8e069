//! The queue: its bounds, its order, and the turns of users.

use super::*;

fn queue(directory: &tempfile::TempDir) -> Queue {
    Queue::of(&StateDirectory::new(directory.path())).unwrap()
}

/// A build of this user; an empty name is no user.
fn of(user: &str) -> WaitingBuild {
    WaitingBuild { user: Some(user.to_owned()).filter(|user| !user.is_empty()), ..WaitingBuild::default() }
}

fn hosts(names: &str) -> Vec<String> {
    names.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn places_are_bounded_and_given_back() {
    let directory = tempfile::tempdir().unwrap();
    let queue = queue(&directory);
    let first = queue.try_join(&hosts("a"), &of(""), 2, 1).unwrap().unwrap();
    let _second = queue.try_join(&hosts("a b"), &of(""), 2, 1).unwrap().unwrap();
    assert!(queue.try_join(&hosts("a"), &of(""), 2, 1).unwrap().is_none());
    // Another queue.
    let _third = queue.try_join(&hosts("c"), &of(""), 2, 1).unwrap().unwrap();
    let _fourth = queue.try_join(&hosts("b"), &of(""), 2, 1).unwrap().unwrap();
    assert!(queue.try_join(&hosts("c b"), &of(""), 3, 1).unwrap().is_none());
    drop(first);
    assert!(queue.try_join(&hosts("a"), &of(""), 2, 1).unwrap().is_some());
    assert!(queue.try_join(&hosts("a"), &of(""), 0, 1).unwrap().is_none());
}

#[test]
fn each_that_waits_counts_once_whatever_it_waits_for() {
    let directory = tempfile::tempdir().unwrap();
    let queue = queue(&directory);
    let _waiting = ["a", "b", "a b", "c"].map(|names| queue.try_join(&hosts(names), &of(""), 9, 1).unwrap().unwrap());
    for (names, expected) in [("a", 2), ("b", 2), ("a b", 3), ("c", 1), ("a b c", 4), ("d", 0), ("", 0)] {
        assert_eq!(queue.waiting(&hosts(names), None).unwrap(), expected, "{names}");
        assert!(queue.try_join(&hosts(names), &of(""), expected, 1).unwrap().is_none(), "{names}");
        assert!(queue.try_join(&hosts(names), &of(""), expected + 1, 1).unwrap().is_some(), "{names}");
    }
}

#[test]
fn builds_that_joined_first_are_ahead() {
    let directory = tempfile::tempdir().unwrap();
    let queue = queue(&directory);
    let late = queue.try_join(&hosts("a b"), &of(""), 9, 20).unwrap().unwrap();
    let early = queue.try_join(&hosts("a"), &of(""), 9, 10).unwrap().unwrap();
    let both = hosts("a b");
    assert_eq!(queue.ahead(&both, None, None, 20).unwrap(), [2, 1]);
    assert_eq!(queue.ahead(&both, Some(&late), None, 20).unwrap(), [1, 0]);
    assert_eq!(queue.ahead(&both, Some(&early), None, 20).unwrap(), [0, 0]);
    queue.renew(&early, &hosts("b"), 20).unwrap();
    assert_eq!(queue.ahead(&both, Some(&late), None, 20).unwrap(), [0, 1]);
    drop(early);
    assert_eq!(queue.ahead(&both, Some(&late), None, 20).unwrap(), [0, 0]);
}

#[test]
fn a_stopped_process_blocks_no_build() {
    let directory = tempfile::tempdir().unwrap();
    let queue = queue(&directory);
    let stopped = queue.try_join(&hosts("a"), &of(""), 9, 1_000).unwrap().unwrap();
    assert_eq!(queue.ahead(&hosts("a"), None, None, 5_999).unwrap(), [1]);
    assert_eq!(queue.ahead(&hosts("a"), None, None, 6_000).unwrap(), [0]);
    queue.renew(&stopped, &hosts("a"), 6_000).unwrap();
    assert_eq!(queue.ahead(&hosts("a"), None, None, 6_000).unwrap(), [1]);
}

/// Two entries of the machine file may be the same machine.
#[test]
fn a_build_that_names_a_machine_twice_is_ahead_once() {
    let directory = tempfile::tempdir().unwrap();
    let queue = queue(&directory);
    let _waiting = queue.try_join(&hosts("a a b"), &of(""), 9, 1).unwrap().unwrap();
    assert_eq!(queue.ahead(&hosts("a b a"), None, None, 1).unwrap(), [1, 1, 1]);
}

#[test]
fn users_take_turns_at_each_host() {
    let directory = tempfile::tempdir().unwrap();
    let queue = queue(&directory);
    let both = hosts("a b");
    std::fs::create_dir(directory.path().join("b")).unwrap();
    let mut ci: Vec<QueueTicket> =
        (0..4).map(|at| queue.try_join(&both, &of("ci"), 9, 10 + at).unwrap().unwrap()).collect();
    let alice = queue.try_join(&both, &of("alice"), 9, 20).unwrap().unwrap();
    let ahead = |ticket: Option<&QueueTicket>, user: Option<&str>| queue.ahead(&both, ticket, user, 50).unwrap();
    assert_eq!(ahead(Some(&alice), None), [1, 1]);
    assert_eq!(ahead(Some(&ci[1]), None), [2, 2]);
    // Of those that come now: another user, and one that waits already.
    assert_eq!((ahead(None, Some("bob")), ahead(None, Some("alice"))), ([2, 2].into(), [3, 3].into()));
    queue.take_turn(ci.remove(0), "b", 30).unwrap();
    assert_eq!(ahead(Some(&alice), None), [1, 0]);
    assert_eq!((ahead(Some(&ci[0]), None), ahead(Some(&ci[1]), None)), ([0, 1].into(), [2, 2].into()));
    // A turn in the future does not count.
    assert_eq!(queue.ahead(&both, Some(&alice), None, 29).unwrap(), [1, 1]);
    // The last build of a user leaves no record, and other entries go with their users.
    queue.take_turn(alice, "b", 40).unwrap();
    let record = || std::fs::read_to_string(directory.path().join("b/turns.json")).unwrap();
    assert_eq!(record(), r#"{"ci":30}"#);
    ci.drain(1..);
    queue.take_turn(ci.remove(0), "b", 45).unwrap();
    assert_eq!(record(), "{}");
}

#[test]
fn the_limit_is_that_of_each_user() {
    let directory = tempfile::tempdir().unwrap();
    let queue = queue(&directory);
    let _ci = [(); 2].map(|()| queue.try_join(&hosts("a"), &of("ci"), 2, 1).unwrap().unwrap());
    assert!(queue.try_join(&hosts("a"), &of("ci"), 2, 1).unwrap().is_none());
    let _alice = queue.try_join(&hosts("a"), &of("alice"), 2, 1).unwrap().unwrap();
    let _unknown = queue.try_join(&hosts("a"), &of(""), 2, 1).unwrap().unwrap();
    assert_eq!([Some("ci"), Some("alice"), None].map(|user| queue.waiting(&hosts("a"), user).unwrap()), [2, 1, 1]);
}
