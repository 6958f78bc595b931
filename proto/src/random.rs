//! Chance from a seed: for jitter, for choosing somebody, and for worlds that a seed makes. The same seed gives the
//! same draws on every computer and in every version, which no crate promises. No secret rests on them.

/// SplitMix64 (Steele, Lea, Flood 2014: "Fast splittable pseudorandom number generators").
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// Draws 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Draws from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1)).unwrap_or(0)
    }

    /// Draws a number below `bound`, none when there is none.
    pub fn below(&mut self, bound: u64) -> Option<u64> {
        self.draw().checked_rem(bound)
    }

    /// Says yes in so many of a hundred cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.draw() % 100 < percent
    }

    /// Draws one of these.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let at = self.draw() % u64::try_from(from.len().max(1)).unwrap_or(u64::MAX);
        from.get(usize::try_from(at).ok()?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_draws_for_ever_and_each_stays_in_its_bounds() {
        let mut random = Random::new(0);
        // As the authors of the algorithm publish them.
        assert_eq!([random.draw(), random.draw()], [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4]);
        let drawn: Vec<u64> = (0..100).map(|_| random.between(3, 5)).collect();
        assert!((3..=5).all(|number| drawn.contains(&number)) && drawn.iter().all(|n| (3..=5).contains(n)));
        assert_eq!((random.below(0), random.pick::<u8>(&[])), (None, None));
        assert_eq!((random.between(7, 7), random.chance(0), random.chance(100)), (7, false, true));
    }
}
