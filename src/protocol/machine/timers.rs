//! When requests are looked at again: to hedge, and when their time is over.
//!
//! Nearly every request has ended long before its first look is due, so that one must
//! cost next to nothing to set and nothing to forget. All reads wait equally long for
//! it, and all writes: two lines, in which those that ended are passed over once
//! they have come to the front.
//!
//! Promises: looks are due in the order of their times, and of their requests' numbers
//! where these are equal, whichever line they stand in. A line holds the requests in
//! hand and those that began, and ended, after the one at its front: what a node does
//! in [`WRITE_HEDGE_MS`] at most.
//!
//! [`WRITE_HEDGE_MS`]: super::WRITE_HEDGE_MS

use std::collections::{BTreeSet, VecDeque};

use super::SlotId;

/// What a request's first look waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Line {
    ReadHedge,
    WriteHedge,
}

/// A time on the monotonic clock, and whose it is.
type Look = (u64, SlotId);

/// The looks that are to come.
#[derive(Default)]
pub(super) struct Timers {
    lines: [VecDeque<Look>; 2],
    /// Those of requests that were hedged, or have less time than a hedge takes.
    others: BTreeSet<Look>,
}

impl Timers {
    /// A request's first look. In each line they are set in the order in which they
    /// are due. `has_ended` says it of a request.
    pub fn stand(&mut self, line: Line, look: Look, has_ended: impl Fn(SlotId) -> bool) {
        let line = &mut self.lines[line as usize];
        while line.front().is_some_and(|&(_, slot)| has_ended(slot)) {
            line.pop_front();
        }
        debug_assert!(
            line.back().is_none_or(|last| *last < look),
            "time went back"
        );
        line.push_back(look);
    }

    /// Any other look.
    pub fn set(&mut self, look: Look) {
        self.others.insert(look);
    }

    /// The request has ended, whose look this is.
    pub fn forget(&mut self, look: Look) {
        if !self.others.is_empty() {
            self.others.remove(&look);
        }
    }

    /// Takes the first look, if it is due. Its request may have ended.
    pub fn take_due(&mut self, now_ms: u64) -> Option<SlotId> {
        let [reads, writes] = &self.lines;
        let firsts = [reads.front(), writes.front(), self.others.first()];
        let first = *firsts.into_iter().flatten().min()?;
        if first.0 > now_ms {
            return None;
        }
        match self
            .lines
            .iter_mut()
            .find(|line| line.front() == Some(&first))
        {
            Some(line) => line.pop_front(),
            None => self.others.pop_first(),
        };
        Some(first.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(timers: &mut Timers, now_ms: u64) -> Vec<u64> {
        std::iter::from_fn(|| timers.take_due(now_ms))
            .map(|slot| slot.0)
            .collect()
    }

    #[test]
    fn looks_are_due_in_the_order_of_their_times_whatever_line_they_stand_in() {
        let mut timers = Timers::default();
        let lives = |_| false;
        timers.stand(Line::WriteHedge, (200, SlotId(1)), lives);
        timers.stand(Line::ReadHedge, (51, SlotId(2)), lives);
        timers.set((51, SlotId(9)));
        timers.set((199, SlotId(8)));
        timers.stand(Line::ReadHedge, (51, SlotId(3)), lives);
        timers.stand(Line::ReadHedge, (200, SlotId(4)), lives);
        assert!(due(&mut timers, 50).is_empty());
        assert_eq!(due(&mut timers, 51), [2, 3, 9]);
        assert_eq!(due(&mut timers, 300), [8, 1, 4]);
        assert!(due(&mut timers, u64::MAX).is_empty());
    }

    #[test]
    fn what_has_ended_leaves_its_line_when_it_comes_to_the_front() {
        let mut timers = Timers::default();
        let lives = |_| false;
        for slot in 1..=3 {
            timers.stand(Line::ReadHedge, (50, SlotId(slot)), lives);
        }
        // The first one lives: nobody behind it is looked at.
        timers.stand(Line::ReadHedge, (51, SlotId(4)), |slot| slot != SlotId(1));
        assert_eq!(timers.lines[0].len(), 4);
        timers.stand(Line::ReadHedge, (52, SlotId(5)), |slot| slot < SlotId(4));
        assert_eq!(timers.lines[0].len(), 2);
        timers.set((53, SlotId(6)));
        timers.forget((53, SlotId(6)));
        assert_eq!(due(&mut timers, 60), [4, 5]);
    }
}
