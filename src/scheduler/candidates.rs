//! The candidates of a selection: the machines that match, and the head itself, the best first.

use super::assess::{CandidateState, rank_of};
use super::choice::{Query, Reason, Rejection};
use super::environment::Environment;
use super::ranking::Rank;

/// A machine that may take the build, or the head.
pub(super) struct Candidate<L> {
    pub rank: Rank,
    pub state: CandidateState<L>,
    /// The reason of `score` against it, based on its record.
    pub declined: Option<String>,
}

impl<L> Candidate<L> {
    fn new(rank: Rank, declined: Option<String>) -> Candidate<L> {
        Candidate { rank, state: CandidateState::Unknown { after_failure: false }, declined }
    }
}

/// Ranks the machines that match. Returns them with the rejected ones.
pub(super) fn candidates<E: Environment>(query: &Query<'_>, env: &E) -> (Vec<Candidate<E::Link>>, Vec<Rejection>) {
    let (mut candidates, mut rejections) = (Vec::new(), Vec::new());
    for (index, machine) in query.machines.iter().enumerate() {
        if query.excluded.contains(&index) {
            continue;
        }
        match rank_of(query, index, machine, env) {
            Ok(rank) => candidates.push(Candidate::new(rank, None)),
            // Its record may be outdated, or its state may change during the selection; so it stays, behind the others.
            Err(Reason::ScoreDeclined(why)) => {
                let rank = Rank { score: f64::NEG_INFINITY, occupied: 0.0, index };
                candidates.push(Candidate::new(rank, Some(why)));
            }
            Err(reason) => rejections.push(Rejection { machine: index, reason }),
        }
    }
    if let Some(score) = query.head.filter(|_| !candidates.is_empty()) {
        // The head comes after machines that are as good, because it has other work.
        let rank = Rank { score, occupied: f64::INFINITY, index: usize::MAX };
        candidates.push(Candidate { rank, state: CandidateState::Head, declined: None });
    }
    candidates.sort_by(|one, other| one.rank.order(&other.rank));
    (candidates, rejections)
}
