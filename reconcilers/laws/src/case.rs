//! What the laws are tried on: siblings of sample values, and for data types the
//! histories of a few replicas.
//!
//! Promises: cases depend on the dice and on what the module answers, on nothing
//! else; no two writes of a case share a dot, as no two writes of a cluster do;
//! tombstones, equal times, equal values and equal keys with other values are
//! always among them.

use crate::dice::Dice;
use crate::mutate::{grow, mutate};
use crate::subject::{Dot, Item, Sibling};

/// How many samples are drawn: few enough that they meet in many pairs.
pub(crate) const POOL: u32 = 64;
/// How many values that came out of folds are kept to go in again.
const MAX_GROWN: usize = 64;
/// How many replicas a history has at most.
pub(crate) const REPLICAS: usize = 4;
/// The first cases are the plain ones that most mistakes already fail at.
const PLAIN_CASES: u64 = 12;
/// One case in this many has large values.
const LARGE_ONE_IN: usize = 48;
/// How large the values of such a case are.
const LARGE_BYTES: &[usize] = &[128, 256, 512, 1024, 2048, 4096, 8192, 24 << 10];

/// One thing to try.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Case {
    Values(Values),
    History(History),
}

/// Siblings as clients wrote them, sorted by dot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Values {
    pub item: Item,
    pub siblings: Vec<Sibling>,
    /// Whether the values are large on purpose, so that a limit proves nothing.
    pub is_large: bool,
}

/// What some replicas did, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct History {
    pub item: Item,
    pub steps: Vec<Step>,
    /// How far each replica's clock is ahead.
    pub ahead_us: [u64; REPLICAS],
    /// Which of the states on the way meet those at the end, by place.
    pub recalled: Vec<usize>,
}

/// One deed of one replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Step {
    pub replica: usize,
    pub deed: Deed,
    /// How much later than the step before; often not at all.
    pub later_us: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Deed {
    /// Applies an operation.
    Apply(Vec<u8>),
    /// Takes in what that replica has.
    Merge(usize),
    /// Deletes the item.
    Delete,
}

/// The dot of the `counter`th write of one of the case's actors: sixteen bytes,
/// as the store's are.
pub(crate) fn dot(actor: usize, counter: u64) -> Dot {
    let mut bytes = vec![0; 16];
    bytes[7] = actor as u8 + 1;
    Dot {
        actor: bytes,
        counter,
    }
}

/// The media type that a value has when nothing is unusual about it.
pub(crate) fn usual_type(value: Option<&[u8]>) -> String {
    let text = match value {
        None => "",
        Some(value) if crate::text::is_json(value) => "application/json",
        Some(_) => "application/octet-stream",
    };
    text.to_owned()
}

/// An item with nothing unusual about it.
pub(crate) fn plain_item() -> Item {
    Item {
        table: "t".to_owned(),
        partition_key: b"k".to_vec(),
        sort_key: None,
    }
}

fn item(dice: &mut Dice) -> Item {
    let keys: [&[u8]; 4] = [b"k", b"alice", b"\x00\xff", b"{\"a\":1}"];
    Item {
        table: (*dice.pick(&["t", "carts"])).to_owned(),
        partition_key: dice.pick(&keys).to_vec(),
        sort_key: dice.once_in(3).then(|| dice.pick(&keys).to_vec()),
    }
}

/// Times as they come: equal, near, and in real microseconds, so that a module
/// that counts in seconds or in 32 bits meets ties.
fn times(dice: &mut Dice) -> [u64; 3] {
    const NOW_US: u64 = 1_790_000_000_000_000;
    match dice.below(6) {
        0 => [1, 1, 1],
        1 | 2 => [1, 2, 3],
        3 => [NOW_US, NOW_US, NOW_US + 1],
        4 => [NOW_US, NOW_US + 400, NOW_US + 1_700],
        _ => [NOW_US, NOW_US + 300_000, NOW_US + (1 << 32)],
    }
}

/// Draws cases.
pub(crate) struct Source {
    /// What the module takes: its own samples first, then mutated ones.
    pub pool: Vec<Vec<u8>>,
    /// What it refuses: a few, so that it refuses them in every order.
    pub refused: Vec<Vec<u8>>,
    /// What came out of folds.
    pub grown: Vec<Vec<u8>>,
    pub is_data_type: bool,
    pub max_siblings: usize,
}

impl Source {
    /// Keeps what a fold gave, to be folded with other things later.
    pub fn keep(&mut self, dice: &mut Dice, value: Vec<u8>) {
        if self.grown.len() < MAX_GROWN {
            self.grown.push(value);
        } else {
            let at = dice.below(MAX_GROWN);
            self.grown[at] = value;
        }
    }

    /// The next case.
    pub fn case(&self, dice: &mut Dice, number: u64) -> Case {
        if self.is_data_type {
            return Case::History(self.history(dice));
        }
        if number < PLAIN_CASES {
            return Case::Values(self.plain(dice, number));
        }
        if dice.once_in(LARGE_ONE_IN) {
            return Case::Values(self.large(dice));
        }
        Case::Values(self.siblings(dice))
    }

    /// Siblings of these values, at these times, each by another actor.
    fn written(values: Vec<(Option<Vec<u8>>, u64)>) -> Vec<Sibling> {
        values
            .into_iter()
            .enumerate()
            .map(|(actor, (value, written_at_us))| Sibling {
                content_type: usual_type(value.as_deref()),
                value,
                written_at_us,
                dot: dot(actor, 1),
            })
            .collect()
    }

    /// The plain cases: a pair, a pair at one time, the same twice, a deletion
    /// before, between and after, and three of them.
    fn plain(&self, dice: &mut Dice, number: u64) -> Values {
        let [x, y, z] = [(), (), ()].map(|()| Some(dice.pick(&self.pool).clone()));
        let values = match number {
            0 => vec![(x, 1)],
            1 => vec![(x, 1), (y, 2)],
            2 => vec![(x, 2), (y, 1)],
            3 => vec![(x, 1), (y, 1)],
            4 => vec![(x.clone(), 1), (x, 1)],
            5 => vec![(x, 1), (None, 2)],
            6 => vec![(None, 1), (x, 2), (y, 2)],
            7 => vec![(None, 1), (None, 1)],
            8 => vec![(x, 1), (None, 3), (y, 2)],
            9 => vec![(x.clone(), 1), (x, 2), (y, 3)],
            10 => vec![(x, 1), (y, 1), (z, 1)],
            _ => vec![(x, 3), (y, 1), (z, 2)],
        };
        Values {
            item: plain_item(),
            siblings: Self::written(values),
            is_large: false,
        }
    }

    fn value(&self, dice: &mut Dice, so_far: &[Sibling]) -> Option<Vec<u8>> {
        match dice.below(16) {
            0 | 1 => None,
            2 | 3 if !so_far.is_empty() => dice.pick(so_far).value.clone(),
            // Equal keys, other values.
            4 | 5 if !so_far.is_empty() => {
                let near = dice.pick(so_far).value.clone();
                near.map(|near| mutate(dice, &near, &self.pool))
            }
            6 | 7 if !self.grown.is_empty() => Some(dice.pick(&self.grown).clone()),
            8 if !self.refused.is_empty() && dice.once_in(4) => {
                Some(dice.pick(&self.refused).clone())
            }
            _ => Some(dice.pick(&self.pool).clone()),
        }
    }

    fn siblings(&self, dice: &mut Dice) -> Values {
        const TYPES: &[&str] = &[
            "",
            "application/json",
            "text/plain",
            "text/plain; charset=utf-8",
            "application/octet-stream",
            "application/vnd.example+json",
        ];
        // Mostly two or three: small cases find most of what there is to find,
        // and five siblings have 120 orders.
        let counts = [1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 4, 4, 5];
        let count = (*dice.pick(&counts)).min(self.max_siblings);
        let times = times(dice);
        let mixes_types = dice.once_in(4);
        let mut siblings: Vec<Sibling> = Vec::new();
        for counter in 1..=count {
            let value = self.value(dice, &siblings);
            let content_type = if mixes_types && value.is_some() {
                (*dice.pick(TYPES)).to_owned()
            } else {
                usual_type(value.as_deref())
            };
            siblings.push(Sibling {
                value,
                content_type,
                written_at_us: *dice.pick(&times),
                dot: dot(dice.below(3), counter as u64),
            });
        }
        siblings.sort_by(|one, other| one.dot.cmp(&other.dot));
        Values {
            item: item(dice),
            siblings,
            is_large: false,
        }
    }

    fn large(&self, dice: &mut Dice) -> Values {
        let bytes = *dice.pick(LARGE_BYTES);
        let count = 2 + dice.below(2);
        let values = (0..count)
            .map(|_| {
                let value = dice.pick(&self.pool).clone();
                (Some(grow(dice, &value, bytes)), 1 + dice.below(2) as u64)
            })
            .collect();
        Values {
            item: item(dice),
            siblings: Self::written(values),
            is_large: true,
        }
    }

    fn history(&self, dice: &mut Dice) -> History {
        let replicas = 2 + dice.below(REPLICAS - 1);
        let count = 2 + dice.below(4 * replicas);
        // Some histories use few operations, so that they collide.
        let few = 1 + dice.below(self.pool.len());
        let step = |dice: &mut Dice| {
            let replica = dice.below(replicas);
            let other = (replica + 1 + dice.below(replicas - 1)) % replicas;
            let deed = match dice.below(16) {
                0 => Deed::Delete,
                1..=4 => Deed::Merge(other),
                _ => {
                    let operation = &self.pool[dice.below(few)];
                    let operation = match dice.below(16) {
                        0 => mutate(dice, operation, &self.pool),
                        _ => operation.clone(),
                    };
                    Deed::Apply(operation)
                }
            };
            Step {
                replica,
                deed,
                later_us: dice.below(2) as u64,
            }
        };
        let steps = (0..count).map(|_| step(dice)).collect();
        let mut ahead_us = [0; REPLICAS];
        if dice.once_in(2) {
            for ahead in &mut ahead_us {
                *ahead = dice.below(6) as u64;
            }
        }
        History {
            item: item(dice),
            steps,
            ahead_us,
            recalled: (0..dice.below(3)).map(|_| dice.below(1 << 16)).collect(),
        }
    }
}
