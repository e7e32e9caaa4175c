//! The omniscient observer: what a cart must be at the end of the day.
//!
//! It stands beside all devices with one counter. A write has a *start*, a tick
//! taken before its first byte leaves the device, and an *end*, a tick taken
//! after its acknowledgement has arrived; a write whose outcome is not known (no
//! answer, or a 503) has no end, and may or may not have happened. Ticks order
//! what cannot have been otherwise: a write that ended before another started was
//! before it, one that started after another ended was after it, and two that
//! overlap may have gone either way. No clock and no duration is looked at, so a
//! slow machine makes more overlaps and never another verdict.
//!
//! # `or-cart`: which outcomes causality allows
//!
//! With R + W > N an operation sees every operation that ended before it
//! started, sees none that started after it ended, and may or may not see one
//! that it overlaps. Seeing is transitive: what sees a removal has seen all that
//! the removal saw. A removal or a setting takes away the additions and settings
//! of its item that it saw, and nothing else. What nobody took away is in the
//! cart: the largest setting plus the sum of the additions. [`allowed`] goes
//! through every relation "sees" of that kind and collects what the item comes
//! to: one outcome where nothing overlapped a removal or a setting, and exactly
//! those that causality leaves open where something did. A cart deviates when an
//! item of it is none of its outcomes.
//!
//! # `cart-union`: what the paper's cart must be
//!
//! Here causality is known exactly, because the carts carry it: each PUT puts in
//! a *receipt*, an item `#7` of its own, and leaves those in that it read. The
//! receipts in a cart are then the causal past of whatever is in it. At the end:
//!
//! - the receipt of every acknowledged PUT is there (no write is lost);
//! - every read had the receipts of all PUTs that ended before it started;
//! - the cart is the union, with the larger quantity, of the PUTs that no other
//!   PUT had read: exactly, to the byte of JSON but for order.
//!
//! That is what `cart-union` promises. What its customers *meant* is what
//! `or-cart` would make of the same writes that saw each other in the same way.
//! Three differences are counted: an item that is there although each write that
//! brought it was read by one that then removed it (**the paper's anomaly: it
//! came back**); an item at another quantity (of two additions made at once the
//! larger counts, a lowered quantity goes back up); and an item that is missing
//! though nobody who saw it removed it (**a lost addition**, which must never
//! be, in either table).

use std::collections::{BTreeMap, BTreeSet};

use crate::plan::Change;

/// A cart as people see it, receipts included.
pub type Cart = BTreeMap<String, u64>;

/// A write that a device made.
#[derive(Clone, Debug)]
pub struct Write {
    pub number: u32,
    pub item: String,
    pub change: Change,
    /// When the device asked for the cart that it decided on.
    pub read_start: u64,
    pub start: u64,
    pub end: Option<u64>,
    /// The cart that was put, where carts are put.
    pub put: Option<Cart>,
}

/// What the observer has to say about a cart.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// What must not be, in words.
    pub wrong: Vec<String>,
    /// Items that more than one outcome was allowed for.
    pub open_items: u64,
    pub items: u64,
    /// Items that are there though everybody's wish was that they are not.
    pub came_back: u64,
    /// Items at another quantity than was meant.
    pub off: u64,
    /// Items that are not there though somebody added them and nobody who saw
    /// that removed them.
    pub lost: u64,
}

/// What an item comes to: a quantity, or no such item.
pub type Outcome = Option<u64>;

/// The name of a write's receipt.
pub fn receipt(number: u32) -> String {
    format!("#{number}")
}

fn receipts(cart: &Cart) -> BTreeSet<u32> {
    cart.keys()
        .filter_map(|name| name.strip_prefix('#')?.parse().ok())
        .collect()
}

/// The sum of what nobody took away.
fn outcome<'a>(left: impl Iterator<Item = &'a Write>) -> Outcome {
    let (mut set, mut added, mut any) = (0, 0, false);
    for write in left {
        match write.change {
            Change::Add(quantity) => added += quantity,
            Change::Set(quantity) => set = set.max(quantity),
            Change::Remove => continue,
        }
        any = true;
    }
    any.then_some(set + added)
}

/// All that these writes to one item can come to.
pub fn allowed(writes: &[&Write]) -> BTreeSet<Outcome> {
    let mut outcomes = BTreeSet::new();
    let unknown: u32 = mask(writes, |write| write.end.is_none());
    for happened in subsets(unknown) {
        let here = !unknown | happened;
        let there: Vec<&Write> = (0..writes.len())
            .filter(|place| here & (1 << place) != 0)
            .map(|place| writes[place])
            .collect();
        let must = |write: &Write| {
            mask(&there, |other| {
                other.end.is_some_and(|end| end < write.start)
            })
        };
        let can = |write: &Write| {
            mask(&there, |other| {
                other.number != write.number && write.end.is_none_or(|end| other.start < end)
            })
        };
        // What each is seen to see, to begin with: what it certainly saw.
        let mut sees: Vec<u32> = there.iter().map(|write| must(write)).collect();
        let takers: Vec<(usize, u32)> = (0..there.len())
            .filter(|place| there[*place].change.takes())
            .map(|place| (place, can(there[place]) & !sees[place]))
            .collect();
        choose(&there, &takers, &mut sees, &mut outcomes);
    }
    outcomes
}

fn mask(writes: &[&Write], holds: impl Fn(&Write) -> bool) -> u32 {
    let bit = |(place, write): (usize, &&Write)| u32::from(holds(write)) << place;
    writes.iter().enumerate().map(bit).sum()
}

/// Every subset of the bits of `of`, itself and none included.
fn subsets(of: u32) -> impl Iterator<Item = u32> {
    let mut next = Some(of);
    std::iter::from_fn(move || {
        let this = next?;
        next = (this != 0).then(|| (this - 1) & of);
        Some(this)
    })
}

/// Goes through what the removals and settings may have seen beyond doubt. What
/// an addition saw beyond doubt changes nothing, so it is left at that.
fn choose(
    there: &[&Write],
    takers: &[(usize, u32)],
    sees: &mut [u32],
    out: &mut BTreeSet<Outcome>,
) {
    let Some((&(place, open), rest)) = takers.split_first() else {
        if is_transitive(there, sees) {
            let taken = (0..there.len())
                .filter(|place| there[*place].change.takes())
                .fold(0, |taken, place| taken | sees[place]);
            let left = (0..there.len()).filter(|place| taken & (1 << place) == 0);
            out.insert(outcome(left.map(|place| there[place])));
        }
        return;
    };
    let certain = sees[place];
    for seen in subsets(open) {
        sees[place] = certain | seen;
        choose(there, rest, sees, out);
    }
    sees[place] = certain;
}

fn is_transitive(there: &[&Write], sees: &[u32]) -> bool {
    (0..there.len())
        .filter(|place| there[*place].change.takes())
        .all(|place| {
            let through =
                |other: usize| sees[place] & (1 << other) == 0 || sees[other] & !sees[place] == 0;
            // Nothing sees itself, so two that see each other fail here too.
            (0..there.len()).all(through)
        })
}

fn by_item(writes: &[Write]) -> BTreeMap<&str, Vec<&Write>> {
    let mut items: BTreeMap<&str, Vec<&Write>> = BTreeMap::new();
    for write in writes {
        items.entry(&write.item).or_default().push(write);
    }
    items
}

/// Judges a cart of operations, as it was read at each node.
pub fn judge_operations(writes: &[Write], read: &[Cart]) -> Verdict {
    let mut verdict = Verdict::default();
    let items = by_item(writes);
    for (item, writes) in &items {
        let allowed = allowed(writes);
        verdict.items += 1;
        verdict.open_items += u64::from(allowed.len() > 1);
        // Nodes that answer alike are judged once.
        let found: BTreeSet<Outcome> = read.iter().map(|cart| cart.get(*item).copied()).collect();
        for found in found {
            if allowed.contains(&found) {
                continue;
            }
            verdict.wrong.push(format!(
                "{item} is {found:?}, causality allows {allowed:?}: {writes:?}"
            ));
            verdict.lost += u64::from(found.is_none());
            let meant_gone = allowed.iter().all(Option::is_none);
            verdict.came_back += u64::from(meant_gone);
            verdict.off += u64::from(!meant_gone && found.is_some());
        }
    }
    for cart in read {
        for item in cart
            .keys()
            .filter(|item| !items.contains_key(item.as_str()))
        {
            verdict
                .wrong
                .push(format!("{item} is there, and nobody put it in"));
        }
    }
    if writes.iter().all(|write| write.end.is_some()) && read.windows(2).any(|two| two[0] != two[1])
    {
        verdict
            .wrong
            .push(format!("the nodes answer differently: {read:?}"));
    }
    verdict
}

/// Judges a cart of PUTs, as it was read at each node.
pub fn judge_union(writes: &[Write], read: &[Cart]) -> Verdict {
    let mut verdict = Verdict::default();
    let past = |write: &Write| {
        let mut past = write.put.as_ref().map(receipts).unwrap_or_default();
        past.remove(&write.number);
        past
    };
    for write in writes {
        let past = past(write);
        for other in writes {
            if other.end.is_some_and(|end| end < write.read_start) && !past.contains(&other.number)
            {
                let (one, two) = (other.number, write.number);
                verdict.wrong.push(format!(
                    "#{one} was acknowledged before #{two} read, which missed it"
                ));
            }
        }
    }
    // Nodes that answer alike are judged once.
    let distinct: BTreeSet<&Cart> = read.iter().collect();
    for (place, cart) in distinct.into_iter().enumerate() {
        let stored = receipts(cart);
        for write in writes.iter().filter(|write| write.end.is_some()) {
            if !stored.contains(&write.number) {
                verdict
                    .wrong
                    .push(format!("#{} was acknowledged and is lost", write.number));
            }
        }
        let writes: Vec<&Write> = writes
            .iter()
            .filter(|write| stored.contains(&write.number))
            .collect();
        let seen: BTreeSet<u32> = writes.iter().flat_map(|write| past(write)).collect();
        let mut union = Cart::new();
        for write in writes.iter().filter(|write| !seen.contains(&write.number)) {
            for (item, quantity) in write.put.iter().flatten() {
                let most = union.entry(item.clone()).or_default();
                *most = (*quantity).max(*most);
            }
        }
        if union != *cart {
            verdict
                .wrong
                .push(format!("the cart is {cart:?}, the union is {union:?}"));
        }
        let mut items: BTreeMap<&str, Vec<&Write>> = BTreeMap::new();
        for write in &writes {
            items.entry(&write.item).or_default().push(write);
        }
        for (item, writes) in items {
            let takers = writes.iter().filter(|write| write.change.takes());
            let taken: BTreeSet<u32> = takers.flat_map(|write| past(write)).collect();
            let left = writes
                .iter()
                .copied()
                .filter(|write| !taken.contains(&write.number));
            let (meant, found) = (outcome(left), cart.get(item).copied());
            if meant.is_some() && found.is_none() {
                verdict.lost += 1;
                verdict
                    .wrong
                    .push(format!("{item} was added and is lost: {writes:?}"));
            }
            // Once a cart, not once a node.
            if place == 0 {
                verdict.items += 1;
                verdict.came_back += u64::from(meant.is_none() && found.is_some());
                verdict.off += u64::from(meant.is_some() && found.is_some() && meant != found);
            }
        }
    }
    verdict
}

#[cfg(test)]
mod tests;
