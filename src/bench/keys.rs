//! Which key comes next: uniformly, by Zipf's law, or the newest first.
//!
//! Pure: numbers in, numbers out. Promises: [`Zipfian`] is the generator of Gray,
//! Sundaresan, Englert, Baclawski and Weinberger (Quickly Generating
//! Billion-Record Synthetic Databases, SIGMOD 1994), with the constant, the
//! scrambling and the "latest" of YCSB (Cooper, Silberstein, Tam, Ramakrishnan and
//! Sears, Benchmarking Cloud Serving Systems with YCSB, SoCC 2010), so that
//! figures can be held against those that others took with it. Every key drawn is
//! below the number of items.

use crate::clock::Dice;

/// How uneven YCSB's popularity is: the exponent of Zipf's law.
pub const ZIPFIAN_CONSTANT: f64 = 0.99;
/// How many ranks YCSB draws from before it scatters them over the items there
/// are, so that their popularity does not depend on how many there are.
const SCRAMBLED_ITEMS: u64 = 10_000_000_000;
/// The sum that Zipf's law has over [`SCRAMBLED_ITEMS`], as YCSB writes it.
const SCRAMBLED_ZETA: f64 = 26.469_028_201_783_02;
/// Up to here zeta is summed term by term; beyond, the Euler-Maclaurin formula is
/// exact to the last digit, and a billion items cost as little as a thousand.
const EXACT_TERMS: u64 = 100_000;
/// The dice give this many bits of a fraction.
const FRACTION_BITS: u32 = 53;

/// A fraction, from 0 to 1, the latter excluded.
pub fn fraction(dice: &mut Dice) -> f64 {
    (dice.next_u64() >> (u64::BITS - FRACTION_BITS)) as f64 / (1_u64 << FRACTION_BITS) as f64
}

/// A number below `items`.
///
/// # Panics
///
/// When there are none.
pub fn below(items: u64, dice: &mut Dice) -> u64 {
    assert!(items > 0, "there is something to choose from");
    ((u128::from(dice.next_u64()) * u128::from(items)) >> u64::BITS) as u64
}

/// The sum of `1 / i^θ` over all `i` after `from` up to `to`.
fn zeta(from: u64, to: u64) -> f64 {
    let theta = ZIPFIAN_CONSTANT;
    let exact_to = to.min(from.max(EXACT_TERMS));
    let mut sum: f64 = (from + 1..=exact_to).map(|i| (i as f64).powf(-theta)).sum();
    if exact_to < to {
        let (m, n) = (exact_to as f64, to as f64);
        sum += (n.powf(1.0 - theta) - m.powf(1.0 - theta)) / (1.0 - theta);
        sum += (n.powf(-theta) - m.powf(-theta)) / 2.0;
        sum += theta / 12.0 * (m.powf(-theta - 1.0) - n.powf(-theta - 1.0));
    }
    sum
}

/// Ranks by Zipf's law: rank `k` (the first is 0) comes with a probability
/// proportional to `1 / (k + 1)^0.99`.
#[derive(Clone, Debug)]
pub struct Zipfian {
    items: u64,
    zeta: f64,
    eta: f64,
}

impl Zipfian {
    /// Ranks of this many items.
    ///
    /// # Panics
    ///
    /// When there are none.
    pub fn new(items: u64) -> Self {
        assert!(items > 0, "there is something to rank");
        Self::with_zeta(items, zeta(0, items))
    }

    fn with_zeta(items: u64, sum: f64) -> Self {
        let theta = ZIPFIAN_CONSTANT;
        let eta = (1.0 - (2.0 / items as f64).powf(1.0 - theta)) / (1.0 - zeta(0, 2) / sum);
        Zipfian {
            items,
            zeta: sum,
            eta,
        }
    }

    /// Takes in items that came since. Their number never falls.
    pub fn grow(&mut self, items: u64) {
        if items > self.items {
            *self = Self::with_zeta(items, self.zeta + zeta(self.items, items));
        }
    }

    /// The rank at this fraction.
    fn rank(&self, fraction: f64) -> u64 {
        let scaled = fraction * self.zeta;
        if scaled < 1.0 || self.items == 1 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(ZIPFIAN_CONSTANT) || self.items == 2 {
            return 1;
        }
        let spread = (self.eta * fraction - self.eta + 1.0).powf(1.0 / (1.0 - ZIPFIAN_CONSTANT));
        ((self.items as f64 * spread) as u64).min(self.items - 1)
    }

    /// The next rank.
    pub fn draw(&self, dice: &mut Dice) -> u64 {
        self.rank(fraction(dice))
    }
}

/// YCSB's scattering of ranks: FNV-1a over the eight bytes, low ones first, and
/// the sign dropped as Java drops it.
fn scatter(rank: u64) -> u64 {
    let hash = rank
        .to_le_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(1_099_511_628_211)
        });
    hash.cast_signed().unsigned_abs()
}

/// How popular keys are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Distribution {
    /// Some far more than others, scattered over all.
    Zipfian,
    /// All the same.
    Uniform,
    /// The newer the more.
    Latest,
}

impl Distribution {
    /// What it is called, in flags and reports.
    pub fn name(self) -> &'static str {
        match self {
            Distribution::Zipfian => "zipfian",
            Distribution::Uniform => "uniform",
            Distribution::Latest => "latest",
        }
    }
}

/// Draws keys.
#[derive(Clone, Debug)]
pub enum Keys {
    /// Popular ones among those that were there at first.
    Zipfian { ranks: Zipfian, items: u64 },
    /// Any.
    Uniform,
    /// New ones first.
    Latest(Zipfian),
}

impl Keys {
    /// Draws from this many items at first.
    ///
    /// # Panics
    ///
    /// When there are none.
    pub fn new(distribution: Distribution, items: u64) -> Self {
        assert!(items > 0, "there is something to choose from");
        match distribution {
            Distribution::Zipfian => Keys::Zipfian {
                ranks: Zipfian::with_zeta(SCRAMBLED_ITEMS, SCRAMBLED_ZETA),
                items,
            },
            Distribution::Uniform => Keys::Uniform,
            Distribution::Latest => Keys::Latest(Zipfian::new(items)),
        }
    }

    /// The next key, of `items` that are there now.
    pub fn draw(&mut self, items: u64, dice: &mut Dice) -> u64 {
        match self {
            // Over the first ones only: who is popular must not change with each
            // item that comes.
            Keys::Zipfian { ranks, items } => scatter(ranks.draw(dice)) % *items,
            Keys::Uniform => below(items, dice),
            Keys::Latest(ranks) => {
                ranks.grow(items);
                // Fewer than before are no case that happens, and no key beyond
                // the newest is drawn should it.
                items - 1 - ranks.draw(dice).min(items - 1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn zeta_is_the_sum_however_it_is_computed() {
        let term = |i: u64| (i as f64).powf(-ZIPFIAN_CONSTANT);
        let exact: f64 = (1..=1_000_000).map(term).sum();
        assert!((zeta(0, 1_000_000) - exact).abs() < 1e-9);
        // In parts too, as the newest items come one by one.
        let parts = zeta(0, 10) + zeta(10, 150_000) + zeta(150_000, 1_000_000);
        assert!((parts - exact).abs() < 1e-9, "{parts} is not {exact}");
        // The constant in YCSB's source, found without it.
        assert!((zeta(0, SCRAMBLED_ITEMS) - SCRAMBLED_ZETA).abs() < 1e-6);
    }

    /// Frequencies over many draws against the formula. The generator is exact for
    /// the two first ranks, and an approximation (the paper's) for the others.
    #[test]
    fn ranks_come_as_often_as_zipf_says() {
        const ITEMS: u64 = 1_000;
        const DRAWS: u32 = 1_000_000;
        let ranks = Zipfian::new(ITEMS);
        let mut dice = Dice::from_seed(7);
        let mut counts = vec![0_u32; ITEMS as usize];
        for _ in 0..DRAWS {
            counts[ranks.draw(&mut dice) as usize] += 1;
        }
        let sum = zeta(0, ITEMS);
        let expected = |rank: usize| (rank as f64 + 1.0).powf(-ZIPFIAN_CONSTANT) / sum;
        let seen = |rank: usize| f64::from(counts[rank]) / f64::from(DRAWS);
        for rank in [0, 1] {
            assert!(
                (seen(rank) / expected(rank) - 1.0).abs() < 0.02,
                "rank {rank}"
            );
        }
        // Whole reaches of ranks, where the approximation evens out.
        for reach in [0..10, 10..100, 100..1_000] {
            let (mut wanted, mut got) = (0.0, 0.0);
            for rank in reach.clone() {
                wanted += expected(rank);
                got += seen(rank);
            }
            assert!(
                (got / wanted - 1.0).abs() < 0.05,
                "{reach:?}: {got} for {wanted}"
            );
        }
    }

    #[test]
    fn popular_keys_are_scattered_and_stay_popular() {
        let mut keys = Keys::new(Distribution::Zipfian, 10_000);
        let mut dice = Dice::from_seed(1);
        let mut counts = vec![0_u32; 10_000];
        for draw in 0..200_000_u64 {
            // That more items come changes nothing.
            counts[keys.draw(10_000 + draw, &mut dice) as usize] += 1;
        }
        let hottest = (0..counts.len()).max_by_key(|key| counts[*key]).unwrap();
        assert_eq!(hottest as u64, scatter(0) % 10_000);
        let share = f64::from(counts[hottest]) / 200_000.0;
        let expected = 1.0 / SCRAMBLED_ZETA;
        assert!((share / expected - 1.0).abs() < 0.05, "{share}");
        let low: u32 = counts[..5_000].iter().sum();
        assert!((60_000..140_000).contains(&low), "{low} of 200,000 below");
    }

    /// YCSB's own `Utils.fnvhash64`.
    #[test]
    fn scattering_is_that_of_ycsb() {
        assert_eq!(scatter(0), 6_284_781_860_667_377_211);
        assert_eq!(scatter(1), 8_517_097_267_634_966_620);
    }

    #[test]
    fn the_latest_are_the_newest() {
        let mut keys = Keys::new(Distribution::Latest, 1_000);
        let mut dice = Dice::from_seed(3);
        let mut newest = [0_u32; 2];
        for (place, items) in [(0, 1_000), (1, 5_000)] {
            for _ in 0..100_000 {
                newest[place] += u32::from(keys.draw(items, &mut dice) == items - 1);
            }
            let expected = 1.0 / zeta(0, items);
            let share = f64::from(newest[place]) / 100_000.0;
            assert!(
                (share / expected - 1.0).abs() < 0.05,
                "{items} items: {share}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn keys_are_below_the_number_of_items(
            first in 1_u64..1_000_000,
            more in proptest::collection::vec(0_u64..1_000, 1..20),
            seed: u64,
            kind in 0_usize..3,
        ) {
            let kinds = [Distribution::Zipfian, Distribution::Uniform, Distribution::Latest];
            let mut keys = Keys::new(kinds[kind], first);
            let mut dice = Dice::from_seed(seed);
            let mut items = first;
            for more in more {
                items += more;
                for _ in 0..20 {
                    prop_assert!(keys.draw(items, &mut dice) < items);
                }
            }
        }

        #[test]
        fn ranks_are_below_the_number_of_items(items in 1_u64..=u64::from(u32::MAX), at in 0.0..1.0) {
            let ranks = Zipfian::new(items);
            prop_assert!(ranks.rank(at) < items);
            prop_assert!(ranks.rank(1.0 - f64::EPSILON) < items);
            prop_assert_eq!(ranks.rank(0.0), 0);
        }
    }
}
