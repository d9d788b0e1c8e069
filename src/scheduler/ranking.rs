//! In which order matching machines are tried.
//!
//! The higher score first. Between equals the one with the smaller share of its slots taken goes first, then the one
//! that stands first in the machine file. But a machine that has more of what the build needs goes before one whose
//! score is not much higher ([`prefer_locality`]): what is there need not be sent.

use std::cmp::Ordering;

/// The part of the best built-in score that is nearly as good.
pub const NEARLY_AS_GOOD: f64 = 0.8;

/// Which of some machines, whose scores come with the best first, goes first: of those whose score is at least the part
/// `nearly_as_good` of the best, the first that lacks the fewest inputs.
pub fn prefer_locality(scores: &[f64], nearly_as_good: f64, missing_inputs: impl Fn(usize) -> usize) -> Option<usize> {
    let best = *scores.first()?;
    // Scores may be negative, and then nothing is nearly as good but what is as good.
    let least = if best > 0.0 { best * nearly_as_good } else { best };
    let near: Vec<usize> = (0..scores.len()).filter(|&number| scores[number] >= least).collect();
    match near[..] {
        // Nobody has to look.
        [only] => Some(only),
        _ => near.into_iter().min_by_key(|&number| missing_inputs(number)),
    }
}

/// What decides the place of a machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Rank {
    pub score: f64,
    /// Taken slots over all slots.
    pub occupied: f64,
    /// Its place in the machine file.
    pub index: usize,
}

impl Rank {
    /// `Less` comes first.
    pub fn order(&self, other: &Rank) -> Ordering {
        other
            .score
            .total_cmp(&self.score)
            .then(self.occupied.total_cmp(&other.occupied))
            .then(self.index.cmp(&other.index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn score_then_free_share_then_place() {
        let rank = |score, occupied, index| Rank { score, occupied, index };
        let mut ranks = [rank(1.0, 0.0, 0), rank(2.0, 0.5, 1), rank(2.0, 0.0, 3), rank(2.0, 0.0, 2)];
        ranks.sort_by(Rank::order);
        assert_eq!(ranks.map(|rank| rank.index), [2, 3, 1, 0]);
    }

    #[test]
    fn what_is_there_need_not_be_sent() {
        let prefer_locality =
            |scores: &[f64], missing_inputs: &[usize]| prefer_locality(scores, 0.6, |number| missing_inputs[number]);
        assert_eq!(prefer_locality(&[], &[]), None);
        assert_eq!(prefer_locality(&[1.0, 1.0, 1.0], &[2, 2, 2]), Some(0));
        assert_eq!(prefer_locality(&[1.0, 0.9, 0.7], &[2, 1, 1]), Some(1));
        assert_eq!(prefer_locality(&[1.0, 0.9, 0.7], &[2, 1, 0]), Some(2));
        // Far behind, so that nobody looks.
        assert_eq!(prefer_locality(&[1.0, 0.5], &[]), Some(0));
        assert_eq!(prefer_locality(&[-1.0, -1.0, -1.1], &[2, 1, 0]), Some(1));
        assert_eq!(super::prefer_locality(&[1.0, 1.0, 0.9], 1.0, |number| [2, 1, 0][number]), Some(1));
    }
}
