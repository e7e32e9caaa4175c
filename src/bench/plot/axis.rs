//! Scales and their ticks.
//!
//! Pure. Promises: every value of an axis' range falls into the panel; ticks are
//! round numbers, few enough to be read, and there are at least two.

/// From values to places on the page.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    low: f64,
    high: f64,
    is_log: bool,
    /// Where `low` and `high` are drawn.
    from: f64,
    to: f64,
}

impl Axis {
    /// From nothing to a round number that is not below `high`.
    pub fn linear(high: f64, from: f64, to: f64) -> Self {
        let step = round_step(high.max(1e-9), 4.0);
        Axis {
            low: 0.0,
            high: (high.max(1e-9) / step).ceil() * step,
            is_log: false,
            from,
            to,
        }
    }

    /// From nothing to exactly `high`.
    pub fn exact(high: f64, from: f64, to: f64) -> Self {
        Axis {
            low: 0.0,
            high: high.max(1e-9),
            is_log: false,
            from,
            to,
        }
    }

    /// Logarithmic, over all of `low` to `high` and a little more.
    pub fn log(low: f64, high: f64, from: f64, to: f64) -> Self {
        let low = low.max(1e-9);
        let high = high.max(low * 1.01);
        let fits = |value: &f64| *value <= low;
        let floor = marks(low / 10.0, low)
            .into_iter()
            .rfind(fits)
            .unwrap_or(low);
        let fits = |value: &f64| *value >= high;
        let ceiling = marks(high, high * 10.0).into_iter().find(fits);
        Axis {
            low: floor,
            high: ceiling.unwrap_or(high),
            is_log: true,
            from,
            to,
        }
    }

    /// Logarithmic, over exactly `low` to `high`.
    pub fn exact_log(low: f64, high: f64, from: f64, to: f64) -> Self {
        Axis {
            low,
            high: high.max(low * 1.01),
            is_log: true,
            from,
            to,
        }
    }

    /// Where a value is drawn; what is beyond an end, at that end.
    pub fn place(&self, value: f64) -> f64 {
        let share = if self.is_log {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// Round values to draw lines at.
    pub fn ticks(&self) -> Vec<f64> {
        if self.is_log {
            let all = marks(self.low, self.high);
            let decades: Vec<f64> = all.iter().copied().filter(|at| is_decade(*at)).collect();
            return if decades.len() >= 3 { decades } else { all };
        }
        let step = round_step(self.high, if self.from < self.to { 10.0 } else { 4.0 });
        let count = (self.high / step + 1e-9) as u32;
        (0..=count).map(|tick| f64::from(tick) * step).collect()
    }
}

/// 1, 2 or 5 and zeros: the smallest with which `high` has at most so many steps.
fn round_step(high: f64, steps: f64) -> f64 {
    let rough = high / steps;
    let decade = 10_f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|digit| digit * decade)
        .find(|step| *step >= rough * (1.0 - 1e-9))
        .unwrap_or(decade * 10.0)
}

/// All of 1, 2 and 5 with zeros in a range.
fn marks(low: f64, high: f64) -> Vec<f64> {
    let first = low.log10().floor() as i32;
    let last = high.log10().ceil() as i32;
    (first..=last)
        .flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(power)))
        .filter(|at| (low * (1.0 - 1e-9)..=high * (1.0 + 1e-9)).contains(at))
        .collect()
}

fn is_decade(value: f64) -> bool {
    (value.log10() - value.log10().round()).abs() < 1e-9
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ticks_are_round() {
        assert_eq!(
            Axis::linear(41_000.0, 100.0, 0.0).ticks(),
            [0.0, 20_000.0, 40_000.0, 60_000.0]
        );
        assert_eq!(
            Axis::exact(30.0, 0.0, 100.0).ticks(),
            [0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0]
        );
        assert_eq!(
            Axis::log(300.0, 4_000.0, 0.0, 1.0).ticks(),
            [200.0, 500.0, 1_000.0, 2_000.0, 5_000.0]
        );
        assert_eq!(
            Axis::log(3.0, 40_000.0, 0.0, 1.0).ticks(),
            [10.0, 100.0, 1_000.0, 10_000.0]
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn values_are_drawn_inside_and_in_order(low in 1.0..1e6_f64, more in 1.0..1e5_f64, part in 0.0..1.0) {
            let high = low * more;
            let value = low + (high - low) * part;
            for axis in [Axis::log(low, high, 10.0, 90.0), Axis::linear(high, 10.0, 90.0), Axis::exact(high, 10.0, 90.0)] {
                let [first, middle, last] = [low, value, high].map(|at| axis.place(at));
                prop_assert!(10.0 <= first && first <= middle && middle <= last && last <= 90.0);
                let ticks = axis.ticks();
                prop_assert!((2..=12).contains(&ticks.len()), "{:?} {:?}", axis, ticks);
                prop_assert!(ticks.is_sorted());
            }
        }
    }
}
