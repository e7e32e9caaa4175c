//! The state of a cart: what is in it, and what has been seen.
//!
//! Promises: one state has one encoding, and [`State::decode`] takes any bytes
//! at all, to refuse them with a text unless they are exactly what
//! [`State::encode`] makes of some state. [`State::join`] is commutative,
//! associative and idempotent on all of these, and its result is one of them.
//!
//! # The set without tombstones
//!
//! This is the optimised OR-set (Bieniusa et al., 2012). Every addition is named
//! by the dot of its operation. The state holds the additions that live, and the
//! causal context: which dots it has seen. An addition that is seen and not held
//! was removed, so nothing else need say so. Of two states, the join keeps what
//! both hold, and what one holds and the other has not seen.
//!
//! # Why the context is a version vector
//!
//! In general a context is a set of dots, with gaps. Here it is one number for
//! each actor: its newest dot. This is enough because an actor's states grow one
//! out of the other:
//!
//! - an actor is one node's, for one item, in one epoch, and its counters only
//!   rise;
//! - that node applies an operation to its own copy of the item, and stores the
//!   result only if the copy is still the one that it read. So the state made
//!   under dot (a, 7) contains everything of the state made under (a, 5): what
//!   it lacks of that, somebody removed who had seen it;
//! - a node that has lost its copy, or may have, mints under a fresh epoch, which
//!   is another actor.
//!
//! So "I have seen (a, 7)" implies "I have seen all there is of a up to 7", the
//! sets are always prefixes, and gaps stand for nothing: counters that the store
//! spent elsewhere (on a fold, on a plain put) name no addition. A deletion of
//! the whole item leaves no state, and the actor's next operation starts from an
//! empty one, under a higher counter. What that does not hold is just what the
//! deletion saw at this node, so the implication survives.
//!
//! # Why an actor's additions to an item are a short list
//!
//! A removal elsewhere may have seen some of an actor's additions and not the
//! later ones, and must remove just these, so they are kept apart: the newest
//! [`MAX_ADDITIONS`] of each actor to each item. Older ones are summed under the
//! newer dot of the two. That errs on one side only: a removal that saw the older
//! and not the newer of two that were summed no longer removes the older. It
//! takes a removal made more than `MAX_ADDITIONS - 1` additions of one actor ago
//! that arrives only now; it never removes what it did not see. In exchange a
//! state is bounded by items × actors, however many operations made it.
//!
//! # Layout
//!
//! ```text
//! ┌─────────┬────────┬─ each actor, ascending ───┬────────┬─ each item, ascending ──┐
//! │ version │ actors │ length │ actor │ newest   │ items  │ length │ UTF-8 │ entries │
//! │ 01      │ varint │ varint │ bytes │ varint   │ varint │ varint │ name  │         │
//! └─────────┴────────┴───────────────────────────┴────────┴─────────────────────────┘
//! entries: │ count │, then for each actor that has one, ascending:
//!          │ place of the actor │ 2 × additions + (1 if there is a setting) │
//!          │ setting: dot, quantity │ additions: dot (less the one before), quantity │
//! ```
//!
//! All numbers are varints, all lists strictly ascending, no quantity is zero,
//! no entry and no item empty, and no dot above its actor's newest.

use std::collections::{BTreeMap, BTreeSet};

use kinfold_reconciler::varint::{self, Fault, Reader};

/// The additions of one actor to one item that are kept apart. Eight is more
/// than one node takes for one item of a cart while another is cut off from it,
/// but for machines gone wild; each costs three bytes or so.
pub const MAX_ADDITIONS: usize = 8;

const VERSION: u8 = 1;

/// A cart. Names and actors are borrowed from the bytes that were decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State<'a> {
    /// The causal context: the newest counter seen of each actor.
    seen: BTreeMap<&'a [u8], u64>,
    /// What lives, by item and actor. No item is without an entry.
    items: BTreeMap<&'a str, Entries<'a>>,
}

type Entries<'a> = BTreeMap<&'a [u8], Entry>;

/// What one actor did to one item and nobody removed. Never empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    /// A quantity that was set; older than all the additions, because setting
    /// replaces what it saw, and an actor sees all its own.
    set: Option<Step>,
    /// Quantities that were added since, oldest first.
    added: Vec<Step>,
}

/// A quantity under the counter of the operation that brought it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    counter: u64,
    quantity: u64,
}

impl<'a> State<'a> {
    /// Takes note of an operation's dot. An error if it is not a fresh one: the
    /// rest of the cluster would take what happens under it for removed.
    pub fn see(&mut self, actor: &'a [u8], counter: u64) -> Result<(), String> {
        let newest = self.seen.entry(actor).or_default();
        if counter <= *newest {
            return Err(format!(
                "an operation needs a fresh dot: {counter} is not above {newest}, \
                 which its actor has used"
            ));
        }
        *newest = counter;
        Ok(())
    }

    /// Adds `quantity` (not zero) of `item` under a dot that [`State::see`] took.
    pub fn add(
        &mut self,
        item: &'a str,
        quantity: u64,
        actor: &'a [u8],
        counter: u64,
    ) -> Result<(), String> {
        let added = &mut self
            .items
            .entry(item)
            .or_default()
            .entry(actor)
            .or_default()
            .added;
        added.push(Step { counter, quantity });
        if added.len() > MAX_ADDITIONS {
            let oldest = added.remove(0);
            added[0].quantity = added[0]
                .quantity
                .checked_add(oldest.quantity)
                .ok_or_else(|| format!("there is too much of {item} to add any more"))?;
        }
        Ok(())
    }

    /// Replaces all that is seen of `item` by `quantity` (not zero).
    pub fn set(&mut self, item: &'a str, quantity: u64, actor: &'a [u8], counter: u64) {
        let entry = Entry {
            set: Some(Step { counter, quantity }),
            added: Vec::new(),
        };
        let entries = self.items.entry(item).or_default();
        entries.clear();
        entries.insert(actor, entry);
    }

    /// Removes all that is seen of `item`.
    pub fn remove(&mut self, item: &str) {
        self.items.remove(item);
    }

    /// Item → quantity: of several settings, which nobody saw together, the
    /// largest; and all the additions on top.
    pub fn quantities(&self) -> BTreeMap<&'a str, u128> {
        let quantity = |entries: &Entries| {
            let set = entries
                .values()
                .filter_map(|entry| entry.set)
                .map(|step| step.quantity);
            let added = entries.values().flat_map(|entry| &entry.added);
            u128::from(set.max().unwrap_or(0))
                + added.map(|step| u128::from(step.quantity)).sum::<u128>()
        };
        let mut quantities = BTreeMap::new();
        quantities.extend(
            self.items
                .iter()
                .map(|(&item, entries)| (item, quantity(entries))),
        );
        quantities
    }

    /// The least state that has seen what either has.
    pub fn join(mut self, mut other: State<'a>) -> State<'a> {
        for item in either(&self.items, &other.items) {
            let ours = self.items.remove(item).unwrap_or_default();
            let theirs = other.items.remove(item).unwrap_or_default();
            let joined = self.join_entries(ours, &other, theirs);
            if !joined.is_empty() {
                self.items.insert(item, joined);
            }
        }
        for (actor, counter) in other.seen {
            let newest = self.seen.entry(actor).or_default();
            *newest = counter.max(*newest);
        }
        self
    }

    fn join_entries(
        &self,
        mut ours: Entries<'a>,
        other: &State<'a>,
        mut theirs: Entries<'a>,
    ) -> Entries<'a> {
        let mut joined = BTreeMap::new();
        for actor in either(&ours, &theirs) {
            let our_side = (ours.remove(actor).unwrap_or_default(), self.seen(actor));
            let their_side = (theirs.remove(actor).unwrap_or_default(), other.seen(actor));
            let (ahead, behind) = if our_side.1 >= their_side.1 {
                (our_side, their_side)
            } else {
                (their_side, our_side)
            };
            let entry = ahead.0.join_older(&behind.0, behind.1);
            if !entry.is_empty() {
                joined.insert(actor, entry);
            }
        }
        joined
    }

    fn seen(&self, actor: &[u8]) -> u64 {
        self.seen.get(actor).copied().unwrap_or(0)
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        varint::put(&mut out, self.seen.len() as u64);
        let mut places = BTreeMap::new();
        for ((actor, counter), place) in self.seen.iter().zip(0..) {
            varint::put_bytes(&mut out, actor);
            varint::put(&mut out, *counter);
            places.insert(*actor, place);
        }
        varint::put(&mut out, self.items.len() as u64);
        for (item, entries) in &self.items {
            varint::put_bytes(&mut out, item.as_bytes());
            varint::put(&mut out, entries.len() as u64);
            for (actor, entry) in entries {
                varint::put(&mut out, places[actor]);
                entry.encode(&mut out);
            }
        }
        out
    }

    pub fn decode(bytes: &'a [u8]) -> Result<State<'a>, String> {
        read(bytes).map_err(|fault| format!("this is not the state of an or-cart: {fault}"))
    }
}

impl Entry {
    fn is_empty(&self) -> bool {
        self.set.is_none() && self.added.is_empty()
    }

    /// Joins with what a state that has seen no more of the actor holds, namely
    /// up to `seen`. All that this other holds, `self` has seen too, so the
    /// join keeps a part of `self`, and is as well formed.
    fn join_older(&self, older: &Entry, seen: u64) -> Entry {
        let join = |ours: &[Step], theirs: &[Step]| -> Vec<Step> {
            ours.iter()
                .filter_map(|step| {
                    let theirs = theirs.iter().find(|their| their.counter == step.counter);
                    match theirs {
                        // Additions were summed under this dot here, not there.
                        Some(their) => Some(Step {
                            quantity: step.quantity.max(their.quantity),
                            ..*step
                        }),
                        None => (step.counter > seen).then_some(*step),
                    }
                })
                .collect()
        };
        Entry {
            set: join(self.set.as_slice(), older.set.as_slice()).pop(),
            added: join(&self.added, &older.added),
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        varint::put(
            out,
            (self.added.len() as u64) << 1 | u64::from(self.set.is_some()),
        );
        let mut before = 0;
        for step in self.set.iter().chain(&self.added) {
            varint::put(out, step.counter - before);
            varint::put(out, step.quantity);
            before = step.counter;
        }
    }

    /// Reads an entry of an actor whose newest dot is `newest`.
    fn decode(reader: &mut Reader, newest: u64) -> Result<Entry, Fault> {
        let shape = reader.number()?;
        if shape == 0 {
            return Err("an entry is empty");
        }
        if shape >> 1 > MAX_ADDITIONS as u64 {
            return Err("an entry has too many additions");
        }
        let mut before = 0;
        let mut step = |reader: &mut Reader| {
            let gap = reader.number()?;
            let counter = u64::checked_add(before, gap).filter(|counter| *counter <= newest);
            let counter = counter.ok_or("a dot is above its actor's newest")?;
            let quantity = reader.number()?;
            if gap == 0 {
                return Err("dots are not in order");
            }
            if quantity == 0 {
                return Err("a quantity is zero");
            }
            before = counter;
            Ok(Step { counter, quantity })
        };
        let set = if shape & 1 == 1 {
            Some(step(reader)?)
        } else {
            None
        };
        let added = (0..shape >> 1)
            .map(|_| step(reader))
            .collect::<Result<_, _>>()?;
        Ok(Entry { set, added })
    }
}

/// The keys of both maps, each once.
fn either<K: Ord + Copy, V>(one: &BTreeMap<K, V>, other: &BTreeMap<K, V>) -> BTreeSet<K> {
    // Not `collect`, which sorts first: a sort is kilobytes of module.
    let mut keys = BTreeSet::new();
    keys.extend(one.keys().chain(other.keys()));
    keys
}

/// Whether `next` comes after all the keys that are there.
fn ascends<K: Ord, V>(map: &BTreeMap<K, V>, next: &K) -> bool {
    map.last_key_value().is_none_or(|(last, _)| last < next)
}

fn read(bytes: &[u8]) -> Result<State<'_>, Fault> {
    let mut reader = Reader::new(bytes);
    if reader.byte()? != VERSION {
        return Err("its first byte names no version that this module knows");
    }
    let mut state = State::default();
    let mut actors = Vec::new();
    for _ in 0..reader.number()? {
        let actor = reader.bytes()?;
        let newest = reader.number()?;
        if newest == 0 || !ascends(&state.seen, &actor) {
            return Err("actors are not in order");
        }
        state.seen.insert(actor, newest);
        actors.push((actor, newest));
    }
    for _ in 0..reader.number()? {
        let item = str::from_utf8(reader.bytes()?).map_err(|_| "a name is not UTF-8")?;
        let mut entries = BTreeMap::new();
        for _ in 0..reader.number()? {
            let place = reader.number()?;
            let (actor, newest) = *usize::try_from(place)
                .ok()
                .and_then(|place| actors.get(place))
                .ok_or("an entry names no actor")?;
            if !ascends(&entries, &actor) {
                return Err("entries are not in order");
            }
            entries.insert(actor, Entry::decode(&mut reader, newest)?);
        }
        if entries.is_empty() || !ascends(&state.items, &item) {
            return Err("items are not in order");
        }
        state.items.insert(item, entries);
    }
    reader.end()?;
    Ok(state)
}
