//! What clients do: which operation comes next, and on which key.
//!
//! Pure and seeded: the same seed gives a client the same steps. Promises: shares
//! are those of YCSB's core workloads (Cooper et al., Benchmarking Cloud Serving
//! Systems with YCSB, SoCC 2010), which scans make E, that kinfold has no answer to;
//! and `put`, `get` and `rmw` are one kind of operation each.

use std::collections::BTreeSet;

use super::keys::{Distribution, Keys, fraction};
use crate::clock::Dice;

/// What is measured apart from everything else.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Operation {
    /// A read.
    Read,
    /// A write over what is there, with the context that this client remembers.
    Update,
    /// A write of a new item.
    Insert,
    /// A read, and a write with its context: two requests, one operation.
    ReadModifyWrite,
    /// The read that an update needs first when the client remembers no context
    /// for its key. No step is one: it comes with updates.
    ReadForContext,
}

impl Operation {
    /// All of them, in the order of reports.
    pub const ALL: [Operation; 5] = [
        Operation::Read,
        Operation::Update,
        Operation::Insert,
        Operation::ReadModifyWrite,
        Operation::ReadForContext,
    ];

    /// What it is called in reports.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Read => "read",
            Operation::Update => "update",
            Operation::Insert => "insert",
            Operation::ReadModifyWrite => "read-modify-write",
            Operation::ReadForContext => "read for context",
        }
    }

    /// What it is called in JSON.
    pub fn key(self) -> &'static str {
        match self {
            Operation::ReadModifyWrite => "read_modify_write",
            Operation::ReadForContext => "read_for_context",
            other => other.name(),
        }
    }
}

/// What clients do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Workload {
    A,
    B,
    C,
    D,
    F,
    Put,
    Get,
    ReadModifyWrite,
}

/// The shares of the operations of a workload; they add up to 1.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Mix {
    read: f64,
    update: f64,
    insert: f64,
    // The rest reads, modifies and writes.
}

impl Workload {
    /// What it is called, in flags and reports.
    pub fn name(self) -> &'static str {
        match self {
            Workload::A => "a",
            Workload::B => "b",
            Workload::C => "c",
            Workload::D => "d",
            Workload::F => "f",
            Workload::Put => "put",
            Workload::Get => "get",
            Workload::ReadModifyWrite => "rmw",
        }
    }

    /// What it does, for people.
    pub fn describe(self) -> &'static str {
        match self {
            Workload::A => "half reads, half updates",
            Workload::B => "95 % reads, 5 % updates",
            Workload::C | Workload::Get => "reads",
            Workload::D => "95 % reads, 5 % inserts",
            Workload::F => "half reads, half read-modify-writes",
            Workload::Put => "inserts",
            Workload::ReadModifyWrite => "read-modify-writes",
        }
    }

    /// How popular keys are when nobody says: as YCSB has it, and all the same
    /// for workloads of one operation.
    pub fn usual_distribution(self) -> Distribution {
        match self {
            Workload::A | Workload::B | Workload::C | Workload::F => Distribution::Zipfian,
            Workload::D => Distribution::Latest,
            Workload::Put | Workload::Get | Workload::ReadModifyWrite => Distribution::Uniform,
        }
    }

    /// Whether its updates need the contexts of earlier answers.
    pub fn remembers_contexts(self) -> bool {
        self.mix().update > 0.0
    }

    /// Whether anything in it needs items that were there before. Conflicts are
    /// with what is there.
    pub fn needs_items(self, conflicts: f64) -> bool {
        self.mix().insert < 1.0 || conflicts > 0.0
    }

    /// Whether anything in it writes.
    pub fn writes(self) -> bool {
        self.mix().read < 1.0
    }

    fn mix(self) -> Mix {
        let (read, update, insert) = match self {
            Workload::A => (0.5, 0.5, 0.0),
            Workload::B => (0.95, 0.05, 0.0),
            Workload::C | Workload::Get => (1.0, 0.0, 0.0),
            Workload::D => (0.95, 0.0, 0.05),
            Workload::F => (0.5, 0.0, 0.0),
            Workload::Put => (0.0, 0.0, 1.0),
            Workload::ReadModifyWrite => (0.0, 0.0, 0.0),
        };
        Mix {
            read,
            update,
            insert,
        }
    }
}

/// What a client does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    pub operation: Operation,
    /// Which item. An insert takes the next one that there is not.
    pub key: u64,
    /// Whether a write says nothing of what its client has seen, and so makes a
    /// sibling.
    pub is_blind: bool,
}

/// The steps of one client.
pub struct Steps {
    mix: Mix,
    conflicts: f64,
    keys: Option<Keys>,
    dice: Dice,
}

impl Steps {
    /// Steps over this many items. `conflicts` is the share of writes that are
    /// blind; inserts become blind updates.
    pub fn new(
        workload: Workload,
        distribution: Distribution,
        items: u64,
        conflicts: f64,
        seed: u64,
    ) -> Self {
        Steps {
            mix: workload.mix(),
            conflicts,
            // Nothing but inserts needs no item before.
            keys: (items > 0).then(|| Keys::new(distribution, items)),
            dice: Dice::from_seed(seed),
        }
    }

    /// The next step, where the keys below `items` are there.
    pub fn next(&mut self, items: u64) -> Step {
        let drawn = fraction(&mut self.dice);
        let mix = self.mix;
        let mut operation = if drawn < mix.read {
            Operation::Read
        } else if drawn < mix.read + mix.update {
            Operation::Update
        } else if drawn < mix.read + mix.update + mix.insert {
            Operation::Insert
        } else {
            Operation::ReadModifyWrite
        };
        let is_blind =
            operation != Operation::Read && fraction(&mut self.dice) < self.conflicts && items > 0;
        if is_blind && operation == Operation::Insert {
            operation = Operation::Update;
        }
        let key = match (&mut self.keys, operation) {
            (Some(keys), operation) if operation != Operation::Insert => {
                keys.draw(items, &mut self.dice)
            }
            _ => 0,
        };
        Step {
            operation,
            key,
            is_blind,
        }
    }
}

/// The inserts that have been answered: readers of the newest must not run ahead
/// of the writes. Bounded by how many inserts are on their way at once.
#[derive(Debug, Default)]
pub struct Answered {
    /// All below have been.
    below: u64,
    /// Those beyond the first that has not.
    beyond: BTreeSet<u64>,
}

impl Answered {
    /// All keys below this one are there.
    pub fn from(below: u64) -> Self {
        Answered {
            below,
            beyond: BTreeSet::new(),
        }
    }

    /// One more has been answered: below what all have been now.
    pub fn take(&mut self, key: u64) -> u64 {
        if key >= self.below {
            self.beyond.insert(key);
        }
        while self.beyond.remove(&self.below) {
            self.below += 1;
        }
        self.below
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const EVERY: [Workload; 8] = [
        Workload::A,
        Workload::B,
        Workload::C,
        Workload::D,
        Workload::F,
        Workload::Put,
        Workload::Get,
        Workload::ReadModifyWrite,
    ];

    fn shares(workload: Workload, conflicts: f64) -> (BTreeMap<Operation, f64>, f64) {
        const STEPS: u32 = 100_000;
        let mut steps = Steps::new(
            workload,
            workload.usual_distribution(),
            1_000,
            conflicts,
            11,
        );
        let (mut counts, mut writes, mut blind) = (BTreeMap::new(), 0_u32, 0_u32);
        for _ in 0..STEPS {
            let step = steps.next(1_000);
            *counts.entry(step.operation).or_insert(0_u32) += 1;
            if step.operation == Operation::Read {
                assert!(!step.is_blind, "reads need no context");
            } else {
                writes += 1;
                blind += u32::from(step.is_blind);
            }
        }
        let share = |count: u32| f64::from(count) / f64::from(STEPS);
        let counts = counts.iter().map(|(op, count)| (*op, share(*count)));
        (
            counts.collect(),
            f64::from(blind) / f64::from(writes.max(1)),
        )
    }

    #[test]
    fn shares_are_those_of_ycsb() {
        use Operation::{Insert, Read, ReadModifyWrite, Update};
        for (workload, expected) in [
            (Workload::A, &[(Read, 0.5), (Update, 0.5)][..]),
            (Workload::B, &[(Read, 0.95), (Update, 0.05)]),
            (Workload::C, &[(Read, 1.0)]),
            (Workload::D, &[(Read, 0.95), (Insert, 0.05)]),
            (Workload::F, &[(Read, 0.5), (ReadModifyWrite, 0.5)]),
            (Workload::Put, &[(Insert, 1.0)]),
            (Workload::Get, &[(Read, 1.0)]),
            (Workload::ReadModifyWrite, &[(ReadModifyWrite, 1.0)]),
        ] {
            let (seen, blind) = shares(workload, 0.0);
            assert_eq!(seen.len(), expected.len(), "{workload:?}: {seen:?}");
            for (operation, share) in expected {
                let seen = seen[operation];
                assert!(
                    (seen - share).abs() < 0.01,
                    "{workload:?} {operation:?} {seen}"
                );
            }
            assert_eq!(blind, 0.0);
        }
    }

    #[test]
    fn as_many_writes_are_blind_as_were_asked_for() {
        for workload in EVERY.into_iter().filter(|workload| workload.writes()) {
            let (_, blind) = shares(workload, 0.2);
            assert!((blind - 0.2).abs() < 0.02, "{workload:?}: {blind}");
        }
        let (seen, _) = shares(Workload::Put, 0.2);
        assert!(
            (seen[&Operation::Update] - 0.2).abs() < 0.02,
            "a blind insert is no conflict"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn a_seed_gives_the_same_steps(seed: u64, other: u64, which in 0..EVERY.len()) {
            let workload = EVERY[which];
            let steps = |seed| {
                let mut steps = Steps::new(workload, Distribution::Uniform, 1 << 40, 0.3, seed);
                (0..50).map(|_| steps.next(1 << 40)).collect::<Vec<_>>()
            };
            prop_assert_eq!(steps(seed), steps(seed));
            if seed != other && workload != Workload::Put {
                prop_assert_ne!(steps(seed), steps(other));
            }
        }

        #[test]
        fn what_is_answered_has_no_gap(order in Just((10_u64..60).collect::<Vec<_>>()).prop_shuffle()) {
            let mut answered = Answered::from(10);
            let mut seen = BTreeSet::new();
            for key in order {
                let below = answered.take(key);
                seen.insert(key);
                let first_gap = (10..).find(|key| !seen.contains(key)).unwrap();
                prop_assert_eq!(below, first_gap);
            }
            prop_assert!(answered.beyond.is_empty());
        }
    }
}
