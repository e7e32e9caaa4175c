//! What clients did with each item and what they were told, as the checks need
//! it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::World;
use super::tables::{SimTable, TABLES};
use crate::protocol::id::ItemKey;
use crate::protocol::siblings::SiblingSet;

/// Writes of one item, by their numbers.
#[derive(Clone, Debug, Default)]
pub struct Seen(Vec<u64>);

impl Seen {
    pub fn insert(&mut self, number: usize) {
        let word = number / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (number % 64);
    }

    pub fn contains(&self, number: usize) -> bool {
        let word = self.0.get(number / 64);
        word.is_some_and(|word| word & (1 << (number % 64)) != 0)
    }

    pub fn join(&mut self, other: &Seen) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine |= theirs;
        }
    }
}

/// A write as its client knows it.
#[derive(Clone, Debug)]
pub struct Write {
    /// None: a deletion.
    pub value: Option<Bytes>,
    /// The writes that its client had seen of this key.
    pub seen: Seen,
    /// Whether the client was told that it is stored.
    pub acknowledged: bool,
    /// Whether it is acknowledged by so many that the plan's faults cannot have
    /// taken it away.
    pub survives: bool,
}

/// A write that primaries alone acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct Strict {
    pub write: usize,
    pub w: u32,
    pub at_ms: u64,
}

/// What happened to one item.
#[derive(Clone, Debug)]
pub struct History {
    pub table: SimTable,
    pub key: Vec<u8>,
    pub item: ItemKey,
    pub writes: Vec<Write>,
    by_value: BTreeMap<Bytes, usize>,
    pub strict: Vec<Strict>,
    pub lines_asked: BTreeSet<String>,
    pub lines_acknowledged: BTreeSet<String>,
    /// What acknowledged operations added to a counter.
    pub sum: i64,
    /// What operations of unknown outcome may have added, downwards and upwards.
    pub less: i64,
    pub more: i64,
}

impl History {
    /// One for each item that clients use.
    pub fn of_all(world: &World) -> Vec<History> {
        let mut items = Vec::new();
        for table in TABLES {
            let Some(id) = world.table_id(table.name) else {
                continue;
            };
            for number in 0..table.keys {
                let key = format!("k{number}").into_bytes();
                items.push(History {
                    table,
                    item: ItemKey::new(id, &key, None),
                    key,
                    writes: Vec::new(),
                    by_value: BTreeMap::new(),
                    strict: Vec::new(),
                    lines_asked: BTreeSet::new(),
                    lines_acknowledged: BTreeSet::new(),
                    sum: 0,
                    less: 0,
                    more: 0,
                });
            }
        }
        items
    }

    /// Its name, for people.
    pub fn name(&self) -> String {
        format!("{}/{}", self.table.name, self.key.escape_ascii())
    }

    /// Notes a write that is about to be asked for, and numbers it.
    pub fn add_write(&mut self, write: Write) -> usize {
        let number = self.writes.len();
        if let Some(value) = &write.value {
            self.by_value.insert(value.clone(), number);
        }
        self.writes.push(write);
        number
    }

    /// The write that a value came from.
    pub fn write_of(&self, value: &Bytes) -> Option<usize> {
        self.by_value.get(value).copied()
    }

    /// The writes that whoever is shown this set may claim to have seen: its
    /// context covers what these versions superseded as well, but only what
    /// their writers had seen is known here.
    pub fn seen_in(&self, set: &SiblingSet) -> Seen {
        let mut seen = Seen::default();
        for (_, version) in set.siblings() {
            let number = version
                .value
                .as_ref()
                .and_then(|value| self.write_of(value));
            if let Some(number) = number {
                seen.insert(number);
                seen.join(&self.writes[number].seen);
            }
        }
        seen
    }

    /// Primaries alone acknowledged a write.
    pub fn note_strict(&mut self, write: usize, w: u32, at_ms: u64) {
        self.strict.push(Strict { write, w, at_ms });
    }

    /// An acknowledged operation added this.
    pub fn added(&mut self, amount: i64) {
        self.sum += amount;
    }

    /// An operation that may have happened would have added this.
    pub fn unknown(&mut self, amount: i64) {
        self.less += amount.min(0);
        self.more += amount.max(0);
    }
}
