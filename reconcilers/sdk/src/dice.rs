//! Dice for samples: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
//!
//! Promises: what is rolled depends on the seed alone, on every machine, for
//! ever: a counterexample of the law check is replayed by its seed. Good enough
//! for samples, and for nothing that must not be guessed.

/// A stream of numbers made from a seed.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Dice(seed)
    }

    /// The next 64 bits.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number in `0..end`; `end` is not zero. (Slightly uneven for ends that
    /// are no power of two, which samples do not mind.)
    pub fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }

    /// One of these; there is at least one.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published test vector of SplitMix64 for seed 1234567.
    #[test]
    fn is_splitmix64() {
        let mut dice = Dice::new(1_234_567);
        assert_eq!(
            [dice.roll(), dice.roll(), dice.roll()],
            [
                6457827717110365317,
                3203168211198807973,
                9817491932198370423
            ]
        );
    }
}
