//! How far a peer's wall clock is off, for people to look at. No decision of the
//! protocol reads it.

use std::collections::VecDeque;

/// How many round trips a clock is judged by.
const CLOCK_SAMPLES: usize = 8;
/// A round trip longer than this says nothing about a clock.
const LONGEST_ROUND_TRIP_US: u64 = 10_000_000;

/// The difference to a peer's clock, from the quickest of the last round trips
/// (the clock filter of NTP, RFC 5905, section 10).
#[derive(Debug, Default)]
pub(super) struct ClockFilter {
    /// Round trip and offset.
    samples: VecDeque<(u64, i64)>,
}

impl ClockFilter {
    pub(super) fn add(&mut self, sent_us: u64, theirs_us: u64, now_us: u64) {
        let Some(trip_us) = now_us.checked_sub(sent_us) else {
            return;
        };
        if trip_us <= LONGEST_ROUND_TRIP_US {
            let middle_us = sent_us + trip_us / 2;
            // Wrapping: whatever a peer claims, this only informs people.
            let offset_us = theirs_us.wrapping_sub(middle_us) as i64;
            self.samples.push_back((trip_us, offset_us));
            if self.samples.len() > CLOCK_SAMPLES {
                self.samples.pop_front();
            }
        }
    }

    pub(super) fn offset_us(&self) -> Option<i64> {
        self.samples.iter().min().map(|&(_, offset_us)| offset_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quickest_round_trip_tells_the_clock() {
        let mut clock = ClockFilter::default();
        assert_eq!(clock.offset_us(), None);
        clock.add(1_000, 6_500, 10_000); // 9 ms there and back: off by up to 4.5 ms
        clock.add(20_000, 25_500, 21_000); // 1 ms
        clock.add(40_000, 49_000, 47_000);
        clock.add(60_000, 0, 50_000); // stepped back meanwhile
        assert_eq!(clock.offset_us(), Some(5_000));
        for sent_us in (100_000..).step_by(10_000).take(CLOCK_SAMPLES) {
            clock.add(sent_us, sent_us + 1_000 - 7_000, sent_us + 2_000);
        }
        assert_eq!(clock.offset_us(), Some(-7_000), "the past is forgotten");
    }
}
