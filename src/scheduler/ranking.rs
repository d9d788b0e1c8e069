//! The order in which matching machines are tried.
//!
//! The higher score comes first, then the smaller share of taken slots, then the order of the machine file. But a
//! machine that has more of the inputs comes before one whose score is not much higher ([`prefer_locality`]), because
//! those inputs need not be sent.

use std::cmp::Ordering;

/// Two built-in scores are similar if the lower one is at least this part of the higher one.
pub const SIMILAR_SCORE_RATIO: f64 = 0.8;

/// Returns the index of the machine to try first. `scores` has the best first. Of the machines whose score is at least
/// `nearly_as_good` times the best, it takes the first that lacks the fewest inputs.
pub fn prefer_locality(scores: &[f64], nearly_as_good: f64, missing_inputs: impl Fn(usize) -> usize) -> Option<usize> {
    let best = *scores.first()?;
    // Scores may be negative; then only an equal score is nearly as good.
    let least = if best > 0.0 { best * nearly_as_good } else { best };
    let near: Vec<usize> = (0..scores.len()).filter(|&number| scores[number] >= least).collect();
    match near[..] {
        // No comparison is needed.
        [only] => Some(only),
        _ => near.into_iter().min_by_key(|&number| missing_inputs(number)),
    }
}

/// The values that order a machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Rank {
    pub score: f64,
    /// Taken slots over all slots.
    pub occupied: f64,
    /// Its index in the machine file.
    pub index: usize,
}

impl Rank {
    /// Compares two ranks; `Less` comes first.
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
    fn the_score_decides_before_the_free_share_and_that_before_the_order() {
        let rank = |score, occupied, index| Rank { score, occupied, index };
        let mut ranks = [rank(1.0, 0.0, 0), rank(2.0, 0.5, 1), rank(2.0, 0.0, 3), rank(2.0, 0.0, 2)];
        ranks.sort_by(Rank::order);
        assert_eq!(ranks.map(|rank| rank.index), [2, 3, 1, 0]);
    }

    #[test]
    fn a_machine_with_more_inputs_goes_first() {
        let prefer_locality =
            |scores: &[f64], missing_inputs: &[usize]| prefer_locality(scores, 0.6, |number| missing_inputs[number]);
        assert_eq!(prefer_locality(&[], &[]), None);
        assert_eq!(prefer_locality(&[1.0, 1.0, 1.0], &[2, 2, 2]), Some(0));
        assert_eq!(prefer_locality(&[1.0, 0.9, 0.7], &[2, 1, 1]), Some(1));
        assert_eq!(prefer_locality(&[1.0, 0.9, 0.7], &[2, 1, 0]), Some(2));
        // The second score is too low, so no inputs are counted.
        assert_eq!(prefer_locality(&[1.0, 0.5], &[]), Some(0));
        assert_eq!(prefer_locality(&[-1.0, -1.0, -1.1], &[2, 1, 0]), Some(1));
        assert_eq!(super::prefer_locality(&[1.0, 1.0, 0.9], 1.0, |number| [2, 1, 0][number]), Some(1));
    }
}
