//! The state hashes of rows that were written or read lately, in memory.
//!
//! Two of the three replicas that a get asks are asked for no more than the hash of
//! what they hold, and looking that up takes SQLite as long as reading the row.
//! Promises: what is told is the state that the last answered change or a later one
//! left; memory is [`BYTES`] for each store and no more. It may forget anything at
//! any time, and then the row is read.
//!
//! An item is known here by a hash of 64 bits of its place and key. Should two items
//! share it, one is told the other's state; nobody holds that as the state of this
//! item, so that the coordinator finds a difference where there is none and asks for
//! the whole row. Not promised: that rot on the disk is noticed where a state was
//! told from memory. Those who read the rows notice it, and the walk over them.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::protocol::id::{ItemKey, Partition};
use crate::protocol::siblings::StateHash;

/// How much memory the states may take: 24 bytes for each of a million items.
pub const BYTES: usize = 32 << 20;
/// How many places an item may lie in; the one that was there longest goes.
const WAYS: usize = 4;
/// How many parts are locked apart.
const SHARDS: usize = 64;

/// The item, or zero where nothing lies, and its state. Numbers, because the system
/// gives zeroed memory that costs nothing until it is touched.
type Entry = [u64; 3];

const NOTHING: Entry = [0; 3];

fn entry(item: u64, state: StateHash) -> Entry {
    let state = u128::from_be_bytes(state.0);
    [item, (state >> 64) as u64, state as u64]
}

fn state_of([_, high, low]: Entry) -> StateHash {
    StateHash((u128::from(high) << 64 | u128::from(low)).to_be_bytes())
}

struct Shard {
    sets: Vec<[Entry; WAYS]>,
    /// How many changes were told here.
    changes: u64,
}

/// The states.
pub struct States {
    hasher: RandomState,
    shards: Vec<Mutex<Shard>>,
}

/// A question that had no answer here; see [`States::learn`].
pub struct Unknown {
    item: u64,
    /// How many changes the item's shard had been told.
    changes: u64,
}

impl Default for States {
    fn default() -> Self {
        let sets = (BYTES / SHARDS / size_of::<[Entry; WAYS]>()).next_power_of_two() / 2;
        let shard = |_| {
            let sets = vec![[NOTHING; WAYS]; sets];
            Mutex::new(Shard { sets, changes: 0 })
        };
        States {
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(shard).collect(),
        }
    }
}

impl Shard {
    fn set(&mut self, item: u64) -> &mut [Entry; WAYS] {
        let set = (item >> 32) as usize & (self.sets.len() - 1);
        &mut self.sets[set]
    }

    fn keep(&mut self, item: u64, state: StateHash) {
        let set = self.set(item);
        let place = set.iter().position(|entry| entry[0] == item);
        let place = place.unwrap_or_else(|| {
            set.rotate_right(1);
            0
        });
        set[place] = entry(item, state);
    }
}

impl States {
    fn item(&self, partition: Partition, key: &ItemKey) -> u64 {
        self.hasher.hash_one((partition, key.as_bytes())).max(1)
    }

    fn shard(&self, item: u64) -> MutexGuard<'_, Shard> {
        let shard = &self.shards[item as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The item's state, as far as it is known here. Whoever reads it elsewhere
    /// then takes the snapshot for it after this call.
    pub fn get(&self, partition: Partition, key: &ItemKey) -> Result<StateHash, Unknown> {
        let item = self.item(partition, key);
        let mut shard = self.shard(item);
        match shard.set(item).iter().find(|entry| entry[0] == item) {
            Some(entry) => Ok(state_of(*entry)),
            None => Err(Unknown {
                item,
                changes: shard.changes,
            }),
        }
    }

    /// Takes the answer that was found elsewhere, unless it may be out of date: the
    /// writer tells of a change after readers take no snapshot any more that lacks it,
    /// so that an older state comes either before that, and is replaced, or too late.
    pub fn learn(&self, unknown: &Unknown, state: StateHash) {
        let mut shard = self.shard(unknown.item);
        if shard.changes == unknown.changes {
            shard.keep(unknown.item, state);
        }
    }

    /// This is the item's state now; none when its row went or cannot be read.
    pub fn set(&self, partition: Partition, key: &ItemKey, state: Option<StateHash>) {
        let item = self.item(partition, key);
        let mut shard = self.shard(item);
        shard.changes += 1;
        match state {
            Some(state) => shard.keep(item, state),
            None => {
                let set = shard.set(item);
                if let Some(entry) = set.iter_mut().find(|entry| entry[0] == item) {
                    *entry = NOTHING;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::id::TableId;

    fn key(number: u64) -> ItemKey {
        ItemKey::new(TableId(1), &number.to_be_bytes(), None)
    }

    fn state(number: u64) -> StateHash {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        StateHash(bytes)
    }

    #[test]
    fn it_tells_the_last_state_or_nothing_and_forgets_the_oldest() {
        let states = States::default();
        let partition = Partition(7);
        let entries = BYTES / size_of::<Entry>();
        for number in 0..2 * entries as u64 {
            states.set(partition, &key(number), Some(state(0)));
            states.set(partition, &key(number), Some(state(number)));
        }
        let held = (0..2 * entries as u64)
            .filter(|number| match states.get(partition, &key(*number)) {
                Ok(found) => {
                    assert_eq!(found, state(*number));
                    true
                }
                Err(_) => false,
            })
            .count();
        assert!(
            (entries / 4..=entries).contains(&held),
            "{held} of {entries}"
        );
        let last = 2 * entries as u64 - 1;
        assert!(states.get(Partition(8), &key(last)).is_err());
        states.set(partition, &key(last), None);
        assert!(states.get(partition, &key(last)).is_err());
    }

    #[test]
    fn what_was_read_before_a_change_is_not_learned_after_it() {
        let states = States::default();
        let partition = Partition(7);
        let asked = |number| states.get(partition, &key(number)).expect_err("unknown");
        let unknown = asked(1);
        states.learn(&unknown, state(1));
        assert_eq!(states.get(partition, &key(1)).ok(), Some(state(1)));
        let unknown = asked(2);
        states.set(partition, &key(2), Some(state(20)));
        states.learn(&unknown, state(2));
        assert_eq!(states.get(partition, &key(2)).ok(), Some(state(20)));
        // Its row went: the old state must not come back.
        states.set(partition, &key(2), None);
        states.learn(&unknown, state(20));
        assert!(states.get(partition, &key(2)).is_err());
    }
}
