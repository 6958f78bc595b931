//! Draws that a seed makes: for jitter and for choosing somebody. No secret rests on them.

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Gives a number below `bound`, none when there is none.
    pub(super) fn below(&mut self, bound: u64) -> Option<u64> {
        self.next().checked_rem(bound)
    }

    /// Gives a number from the first to the second.
    pub(super) fn between(&mut self, (least, most): (u64, u64)) -> u64 {
        least + self.below(most.saturating_sub(least).saturating_add(1)).unwrap_or(0)
    }
}
