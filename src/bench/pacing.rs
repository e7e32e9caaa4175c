//! When requests of an open loop are due.
//!
//! Pure and seeded. Promises: due times never run backwards and do not depend on
//! when anything was answered; over time there are as many as the rate says. So
//! a store that stalls is asked all the same, and what waits meanwhile waits in
//! the figures too (Schroeder, Wierman and Harchol-Balter, Open Versus Closed: A
//! Cautionary Tale, NSDI 2006).

use super::keys::fraction;
use crate::clock::Dice;

const NS_PER_SECOND: f64 = 1e9;

/// How requests come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrivals {
    /// As from many clients that do not know of each other: a Poisson process.
    Poisson,
    /// Evenly, as from a clock.
    Even,
}

impl Arrivals {
    /// What it is called, in flags and reports.
    pub fn name(self) -> &'static str {
        match self {
            Arrivals::Poisson => "poisson",
            Arrivals::Even => "even",
        }
    }
}

/// The due times of an open loop.
pub struct Schedule {
    arrivals: Arrivals,
    per_second: f64,
    dice: Dice,
    /// How many there were.
    count: u64,
    /// When the last one was, in seconds.
    at_s: f64,
}

impl Schedule {
    /// So many a second.
    ///
    /// # Panics
    ///
    /// When the rate is not above zero.
    pub fn new(arrivals: Arrivals, per_second: f64, seed: u64) -> Self {
        assert!(per_second > 0.0, "a rate is above zero");
        Schedule {
            arrivals,
            per_second,
            dice: Dice::from_seed(seed),
            count: 0,
            at_s: 0.0,
        }
    }

    /// When the next request is due, in nanoseconds after the beginning.
    pub fn next_ns(&mut self) -> u64 {
        self.count += 1;
        self.at_s = match self.arrivals {
            // From the count, so that rounding does not add up.
            Arrivals::Even => self.count as f64 / self.per_second,
            // A fraction is below 1, so its complement has a logarithm.
            Arrivals::Poisson => {
                self.at_s - (1.0 - fraction(&mut self.dice)).ln() / self.per_second
            }
        };
        (self.at_s * NS_PER_SECOND) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn due(arrivals: Arrivals, per_second: f64, seed: u64, count: usize) -> Vec<u64> {
        let mut schedule = Schedule::new(arrivals, per_second, seed);
        (0..count).map(|_| schedule.next_ns()).collect()
    }

    #[test]
    fn even_ones_come_like_a_clock() {
        let at_ns = due(Arrivals::Even, 4.0, 1, 4);
        assert_eq!(
            at_ns,
            [250_000_000, 500_000_000, 750_000_000, 1_000_000_000]
        );
        // A day later it still is where it should be.
        let mut schedule = Schedule::new(Arrivals::Even, 3.0, 1);
        schedule.count = 3 * 86_400 - 1;
        assert_eq!(schedule.next_ns(), 86_400_000_000_000);
    }

    /// Gaps of a Poisson process have a standard deviation as large as their mean.
    #[test]
    fn poisson_ones_come_as_they_like() {
        let at_ns = due(Arrivals::Poisson, 1_000.0, 5, 100_000);
        let gaps: Vec<f64> = at_ns
            .windows(2)
            .map(|two| (two[1] - two[0]) as f64)
            .collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean / 1e6 - 1.0).abs() < 0.02, "{mean}");
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.02, "{variance}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn time_goes_one_way_and_the_rate_is_kept(
            per_second in 10.0..1e6_f64,
            seed: u64,
            even: bool,
        ) {
            let arrivals = if even { Arrivals::Even } else { Arrivals::Poisson };
            let at_ns = due(arrivals, per_second, seed, 5_000);
            prop_assert!(at_ns.is_sorted());
            let rate = 5_000.0 / (at_ns[4_999] as f64 / 1e9);
            prop_assert!((rate / per_second - 1.0).abs() < 0.1, "{}", rate);
            prop_assert_eq!(at_ns, due(arrivals, per_second, seed, 5_000));
        }
    }
}
