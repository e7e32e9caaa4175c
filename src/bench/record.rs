//! What became of requests: counts and latencies, by operation and outcome.
//!
//! Promises: a latency is never mixed with that of another outcome, and every
//! operation that was begun is counted once. Latencies have three digits; those
//! over [`HIGHEST_US`] count as that. Bounded: a histogram for each operation and
//! outcome that occurred, of 150 KB.

use hdrhistogram::Histogram;

use super::workload::Operation;

/// The longest latency that is told apart: more than any request may take.
pub const HIGHEST_US: u64 = 120_000_000;
/// How many digits of a latency are kept.
const DIGITS: u8 = 3;

/// How an operation ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Outcome {
    /// Carried out.
    Ok,
    /// A read that met siblings which nobody folded (300); a read-modify-write
    /// then wrote over them.
    Siblings,
    /// A read of an item that is not there (404).
    Absent,
    /// 503 `overloaded`: the node has as much in hand as it can carry out.
    Overloaded,
    /// 503 `quorum_unmet`: too few replicas answered.
    QuorumUnmet,
    /// 429 `throttled`: the table's rate is spent.
    Throttled,
    /// 409 `too_many_siblings`.
    TooManySiblings,
    /// Any other refusal.
    Refused,
    /// No answer in time, or the connection broke, or there was none.
    NoAnswer,
}

impl Outcome {
    /// All of them, in the order of reports.
    pub const ALL: [Outcome; 9] = [
        Outcome::Ok,
        Outcome::Siblings,
        Outcome::Absent,
        Outcome::Overloaded,
        Outcome::QuorumUnmet,
        Outcome::Throttled,
        Outcome::TooManySiblings,
        Outcome::Refused,
        Outcome::NoAnswer,
    ];

    /// What it is called in reports.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Siblings => "siblings (300)",
            Outcome::Absent => "absent (404)",
            Outcome::Overloaded => "overloaded (503)",
            Outcome::QuorumUnmet => "quorum unmet (503)",
            Outcome::Throttled => "throttled (429)",
            Outcome::TooManySiblings => "too many siblings (409)",
            Outcome::Refused => "refused",
            Outcome::NoAnswer => "no answer",
        }
    }

    /// What it is called in JSON.
    pub fn key(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Siblings => "siblings",
            Outcome::Absent => "absent",
            Outcome::Overloaded => "overloaded",
            Outcome::QuorumUnmet => "quorum_unmet",
            Outcome::Throttled => "throttled",
            Outcome::TooManySiblings => "too_many_siblings",
            Outcome::Refused => "refused",
            Outcome::NoAnswer => "no_answer",
        }
    }

    /// Whether the client got what it asked for: siblings are an answer, and so
    /// is that there is nothing.
    pub fn is_answer(self) -> bool {
        matches!(self, Outcome::Ok | Outcome::Siblings | Outcome::Absent)
    }
}

/// A histogram of latencies.
///
/// # Panics
///
/// Never: the bounds are sound, and a test makes one.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, HIGHEST_US, DIGITS).expect("sound bounds")
}

type ByOutcome = [Option<Box<Histogram<u64>>>; Outcome::ALL.len()];

/// What became of the requests of a while.
#[derive(Clone, Default)]
pub struct Record {
    latencies_us: [ByOutcome; Operation::ALL.len()],
    /// How long requests of an open loop waited to be sent once they were due.
    late_us: Option<Box<Histogram<u64>>>,
    /// The most that a refusal said to wait, in seconds.
    pub retry_after_s: u64,
    /// What the first failure said.
    pub first_failure: Option<String>,
}

impl Record {
    /// Counts an operation.
    pub fn count(&mut self, operation: Operation, outcome: Outcome, latency_us: u64) {
        self.latencies_us[operation as usize][outcome as usize]
            .get_or_insert_with(|| Box::new(histogram()))
            .saturating_record(latency_us);
    }

    /// Counts how late a request was sent.
    pub fn count_late(&mut self, late_us: u64) {
        self.late_us
            .get_or_insert_with(|| Box::new(histogram()))
            .saturating_record(late_us);
    }

    /// Remembers what a failure said, if it is the first.
    pub fn note_failure(&mut self, tell: impl FnOnce() -> String) {
        if self.first_failure.is_none() {
            self.first_failure = Some(tell());
        }
    }

    /// Takes in another's counts.
    pub fn absorb(&mut self, other: &Record) {
        for (mine, others) in self.latencies_us.iter_mut().zip(&other.latencies_us) {
            for (mine, other) in mine.iter_mut().zip(others) {
                absorb(mine, other);
            }
        }
        absorb(&mut self.late_us, &other.late_us);
        self.retry_after_s = self.retry_after_s.max(other.retry_after_s);
        if let Some(failure) = &other.first_failure {
            self.note_failure(|| failure.clone());
        }
    }

    /// Forgets everything, but keeps its room.
    pub fn clear(&mut self) {
        let every = self.latencies_us.iter_mut().flatten();
        for kept in every.chain([&mut self.late_us]).flatten() {
            kept.reset();
        }
        self.retry_after_s = 0;
        self.first_failure = None;
    }

    /// The latencies of an operation that ended so; none when none did.
    pub fn latencies_us(&self, operation: Operation, outcome: Outcome) -> Option<&Histogram<u64>> {
        self.latencies_us[operation as usize][outcome as usize]
            .as_deref()
            .filter(|latencies| !latencies.is_empty())
    }

    /// How late requests of an open loop were sent.
    pub fn late_us(&self) -> Option<&Histogram<u64>> {
        self.late_us.as_deref().filter(|late| !late.is_empty())
    }

    /// How many of an operation ended so.
    pub fn ended(&self, operation: Operation, outcome: Outcome) -> u64 {
        let latencies = self.latencies_us(operation, outcome);
        latencies.map_or(0, Histogram::len)
    }

    /// How many operations ended in a way that `wanted` says: steps only, and not
    /// the reads that updates need.
    pub fn steps(&self, wanted: impl Fn(Outcome) -> bool) -> u64 {
        Operation::ALL
            .into_iter()
            .filter(|operation| *operation != Operation::ReadForContext)
            .flat_map(|operation| Outcome::ALL.map(|outcome| (operation, outcome)))
            .filter(|(_, outcome)| wanted(*outcome))
            .map(|(operation, outcome)| self.ended(operation, outcome))
            .sum()
    }
}

fn absorb(mine: &mut Option<Box<Histogram<u64>>>, other: &Option<Box<Histogram<u64>>>) {
    let Some(other) = other.as_deref().filter(|other| !other.is_empty()) else {
        return;
    };
    mine.get_or_insert_with(|| Box::new(histogram()))
        .add(other)
        .expect("all have the same bounds");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_not_mixed() {
        let mut record = Record::default();
        for latency_us in 1..=100 {
            record.count(Operation::Read, Outcome::Ok, latency_us);
        }
        record.count(Operation::Read, Outcome::Overloaded, 1_000_000);
        record.count(Operation::Update, Outcome::Ok, 5_000);
        let reads = record.latencies_us(Operation::Read, Outcome::Ok).unwrap();
        assert_eq!((reads.len(), reads.max()), (100, 100));
        assert_eq!(reads.value_at_quantile(0.5), 50);
        assert_eq!(record.steps(|_| true), 102);
        assert_eq!(record.steps(Outcome::is_answer), 101);
        assert!(
            record
                .latencies_us(Operation::Insert, Outcome::Ok)
                .is_none()
        );
    }

    #[test]
    fn what_is_absorbed_adds_up_and_what_is_cleared_is_gone() {
        let mut whole = Record::default();
        let mut part = Record::default();
        for round in 1..=3 {
            part.count(Operation::Insert, Outcome::NoAnswer, HIGHEST_US * 2);
            part.count(Operation::ReadForContext, Outcome::Ok, 10);
            part.count_late(7);
            part.retry_after_s = round;
            part.note_failure(|| format!("failure {round}"));
            whole.absorb(&part);
            part.clear();
            assert_eq!(part.steps(|_| true), 0);
            assert!(part.late_us().is_none());
        }
        assert_eq!(whole.steps(|_| true), 3, "a read for a context is no step");
        assert_eq!(whole.ended(Operation::ReadForContext, Outcome::Ok), 3);
        assert_eq!(whole.late_us().map(Histogram::len), Some(3));
        assert_eq!(whole.retry_after_s, 3);
        assert_eq!(whole.first_failure.as_deref(), Some("failure 1"));
    }

    #[test]
    fn names_are_in_order() {
        for (place, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, place);
        }
        for (place, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, place);
        }
    }
}
