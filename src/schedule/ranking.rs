//! In which order matching machines are tried.
//!
//! The higher score first. Between equals the one with the smaller share of its slots taken goes first, then the one that
//! stands first in the machine file.

use std::cmp::Ordering;

/// What decides the place of a machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Rank {
    pub score: f64,
    /// Taken slots over all slots.
    pub occupied: f64,
    /// Its place in the machine file.
    pub place: usize,
}

impl Rank {
    /// `Less` comes first.
    pub fn order(&self, other: &Rank) -> Ordering {
        other
            .score
            .total_cmp(&self.score)
            .then(self.occupied.total_cmp(&other.occupied))
            .then(self.place.cmp(&other.place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn score_then_free_share_then_place() {
        let rank = |score, occupied, place| Rank { score, occupied, place };
        let mut ranks = [rank(1.0, 0.0, 0), rank(2.0, 0.5, 1), rank(2.0, 0.0, 3), rank(2.0, 0.0, 2)];
        ranks.sort_by(Rank::order);
        assert_eq!(ranks.map(|rank| rank.place), [2, 3, 1, 0]);
    }
}
