//! The order in which the builds that wait for one host get its slots: round-robin between users, then in order of
//! arrival.
//!
//! The users with a waiting build form a line. The first of them gets a slot for its oldest build, and goes to the end of
//! the line. So a user's place in the line is the later of two times: the arrival of its oldest waiting build, and its
//! last turn. The first builds of all users come before the second builds, and so on. A user that has a build waiting
//! gets a slot after at most as many builds as there are other users, no matter how many builds they have.
//!
//! Nothing is stored but the last turn of each user that waits ([`super::turns`]): a process that is killed changes the
//! order as if it had never waited. Builds of unknown users count as those of one user.

use std::collections::BTreeMap;

use crate::state::health::Time;

/// A build that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place<'a> {
    /// When it joined the queue.
    pub since: Time,
    /// The number of its ticket: of two that came at the same time, the smaller is first.
    pub number: usize,
    /// `None`: not known.
    pub user: Option<&'a str>,
}

/// Counts the builds that get a slot before `own`. `others` wait for the same host. `last_turn` is the time at which a
/// user's build last left the queue for a slot of this host.
pub fn ahead<'a>(
    own: Place<'a>,
    others: impl IntoIterator<Item = Place<'a>>,
    last_turn: impl Fn(Option<&str>) -> Option<Time>,
) -> usize {
    let mut lines: BTreeMap<Option<&str>, Vec<Place<'a>>> = BTreeMap::new();
    for place in others {
        lines.entry(place.user).or_default().push(place);
    }
    let mine = lines.remove(&own.user).unwrap_or_default();
    let round = mine.iter().filter(|other| is_before(other, &own)).count();
    let line_place = |places: &mut dyn Iterator<Item = Place<'a>>, user: Option<&str>| {
        let oldest = places.min()?;
        Some((last_turn(user).unwrap_or(0).max(oldest.since), oldest.since, oldest.number))
    };
    let my_place = line_place(&mut mine.iter().copied().chain([own]), own.user);
    let of_others = lines.into_iter().map(|(user, places)| {
        let is_earlier = line_place(&mut places.iter().copied(), user) < my_place;
        places.len().min(if is_earlier { round + 1 } else { round })
    });
    round + of_others.sum::<usize>()
}

/// Returns whether one build of a user comes before another one of the same user.
fn is_before(one: &Place<'_>, other: &Place<'_>) -> bool {
    (one.since, one.number) < (other.since, other.number)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, VecDeque};

    use proptest::prelude::*;

    use super::*;

    const USERS: [Option<&str>; 4] = [None, Some("alice"), Some("bob"), Some("ci")];

    type Turns = BTreeMap<Option<&'static str>, Time>;

    fn place(number: usize, (user, since): (usize, Time)) -> Place<'static> {
        Place { since, number, user: USERS[user] }
    }

    fn positions(places: &[Place<'static>], turns: &Turns) -> Vec<usize> {
        let others = |own: &Place<'static>| places.iter().copied().filter(|other| other != own).collect::<Vec<_>>();
        let last_turn = |user: Option<&str>| turns.iter().find(|(known, _)| **known == user).map(|(_, turn)| *turn);
        places.iter().map(|own| ahead(*own, others(own), last_turn)).collect()
    }

    /// Returns the order of service by a line of users that rotates, as the head of this file says.
    fn rotated(places: &[Place<'static>], turns: &Turns) -> Vec<usize> {
        let mut builds: BTreeMap<Option<&str>, VecDeque<Place<'static>>> = BTreeMap::new();
        let mut sorted = places.to_vec();
        sorted.sort();
        sorted.into_iter().for_each(|place| builds.entry(place.user).or_default().push_back(place));
        let mut line: Vec<Option<&str>> = builds.keys().copied().collect();
        line.sort_by_key(|user| {
            let turn = turns.iter().find(|(known, _)| *known == user).map_or(0, |(_, turn)| *turn);
            (turn.max(builds[user][0].since), builds[user][0])
        });
        let mut line = VecDeque::from(line);
        let mut served = Vec::new();
        while let Some(user) = line.pop_front() {
            if let Some(place) = builds.get_mut(&user).and_then(VecDeque::pop_front) {
                served.push(place.number);
                line.push_back(user);
            }
        }
        served
    }

    proptest! {
        #[test]
        fn the_order_is_that_of_a_rotating_line(
            given in prop::collection::vec((0..4_usize, 0..20_u64), 0..30),
            turns in prop::collection::btree_map(prop::sample::select(&USERS[..]), 0..25_u64, 0..4),
        ) {
            let places: Vec<Place> = given.into_iter().enumerate().map(|(number, one)| place(number, one)).collect();
            let mut found = vec![usize::MAX; places.len()];
            for (number, position) in positions(&places, &turns).into_iter().enumerate() {
                prop_assert!(position < found.len() && found[position] == usize::MAX, "two builds at {}", position);
                found[position] = number;
            }
            prop_assert_eq!(found, rotated(&places, &turns));
        }

        /// Of those that wait, some get a slot or are killed, and others come, with a clock that may stand still.
        #[test]
        fn no_user_waits_for_more_turns_than_there_are_users(
            events in prop::collection::vec((0..5_u8, 0..4_usize, 0..3_u64), 1..200),
        ) {
            let (mut places, mut turns, mut now) = (Vec::<Place>::new(), Turns::new(), 1_000);
            let mut passed: BTreeMap<Option<&str>, usize> = BTreeMap::new();
            for (number, (event, user, pause)) in events.into_iter().enumerate() {
                now += pause;
                match event {
                    0 | 1 => places.push(place(number, (user, now))),
                    2 if !places.is_empty() => {
                        // A user whose oldest build is killed waits since the next one came.
                        passed.remove(&places.remove(number % places.len()).user);
                    }
                    _ => {
                        let Some(first) = positions(&places, &turns).iter().position(|ahead| *ahead == 0) else { continue };
                        let served = places.remove(first);
                        now += 1;
                        turns.insert(served.user, now);
                        passed.insert(served.user, 0);
                        let waiting: BTreeSet<_> = places.iter().map(|place| place.user).collect();
                        for user in waiting.into_iter().filter(|user| *user != served.user) {
                            *passed.entry(user).or_default() += 1;
                        }
                    }
                }
                let waiting: BTreeSet<_> = places.iter().map(|place| place.user).collect();
                passed.retain(|user, _| waiting.contains(user));
                for (user, turns_of_others) in &passed {
                    prop_assert!(*turns_of_others < USERS.len(), "{:?} was passed {} times", user, turns_of_others);
                }
            }
        }
    }

    #[test]
    fn the_only_user_is_served_in_order_of_arrival() {
        let places: Vec<Place> =
            [30, 10, 20, 10].into_iter().enumerate().map(|(n, since)| place(n, (1, since))).collect();
        assert_eq!(positions(&places, &Turns::from([(Some("alice"), 25)])), [3, 0, 2, 1]);
    }

    #[test]
    fn a_thousand_builds_of_one_user_delay_another_by_one() {
        let mut places: Vec<Place> = (0..1000).map(|number| place(number, (3, number as Time))).collect();
        places.push(place(1000, (1, 5_000)));
        let position = |turns: &Turns| positions(&places, turns)[1000];
        assert_eq!(position(&Turns::new()), 1);
        // Its turn was after this one came.
        assert_eq!(position(&Turns::from([(Some("ci"), 6_000)])), 0);
    }
}
