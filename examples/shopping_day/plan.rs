//! The day's plan: who taps what, on which device, at which node, after which
//! pause.
//!
//! Promises: the same seed gives the same plan. Of each item of a cart there are
//! at most [`MAX_WRITES`] writes and [`MAX_TAKING`] of them take something away,
//! which keeps the observer's list of possible outcomes short enough to go
//! through all of it, and under the number of additions that `or-cart` keeps
//! apart for one actor (eight).

use std::collections::BTreeMap;
use std::time::Duration;

use kinfold::clock::Dice;

/// Writes to one item of one cart.
pub const MAX_WRITES: usize = 7;
/// Removals and settings among them.
pub const MAX_TAKING: usize = 3;
/// How many different products one family looks at in a day.
const LOOKED_AT: std::ops::RangeInclusive<u64> = 3..=6;
/// How often each device taps.
const TAPS: std::ops::RangeInclusive<u64> = 3..=6;
/// A tap follows the one before by up to this, and the cart that it was
/// decided on by up to [`THINK_MS`]. Far less than people take, so that a day
/// passes in a minute, and far more than a request takes, so that devices meet.
const PAUSE_MS: u64 = 40;
const THINK_MS: u64 = 25;

const PRODUCTS: &[&str] = &[
    "apples",
    "bananas",
    "bread",
    "butter",
    "candles",
    "cheese",
    "coffee",
    "crème fraîche",
    "dates",
    "eggs",
    "figs",
    "flour",
    "garlic",
    "honey",
    "jam",
    "kale",
    "lamp",
    "lemons",
    "milk",
    "mugs",
    "nappies",
    "nuts",
    "oats",
    "olives",
    "onions",
    "pears",
    "pens",
    "rice",
    "salt",
    "soap",
    "socks",
    "tea",
    "towels",
    "umbrella",
    "vinegar",
    "wine",
];

/// What a tap does to an item.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// So many more.
    Add(u64),
    /// So many, in place of what was seen. Never zero.
    Set(u64),
    /// None of what was seen.
    Remove,
}

impl Change {
    /// Whether it takes away what it saw.
    pub fn takes(self) -> bool {
        !matches!(self, Change::Add(_))
    }
}

/// One tap: look at the cart, think, change one item.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tap {
    /// Unique within the session.
    pub number: u32,
    pub item: &'static str,
    pub change: Change,
    pub pause: Duration,
    pub think: Duration,
    /// Where to read and where to write, as numbers to be taken modulo the
    /// nodes: a load balancer stands between.
    pub nodes: [usize; 2],
}

/// The taps of one device, in order.
pub type Device = Vec<Tap>;

/// One family's day with one cart: phone, laptop, and somebody else's phone.
pub type Session = Vec<Device>;

struct Hand(Dice);

impl Hand {
    fn below(&mut self, bound: u64) -> u64 {
        self.0.next_u64() % bound
    }

    fn within(&mut self, range: std::ops::RangeInclusive<u64>) -> u64 {
        range.start() + self.below(range.end() - range.start() + 1)
    }

    fn change(&mut self) -> Change {
        match self.below(100) {
            0..=54 => Change::Add(self.within(1..=3)),
            55..=69 => Change::Set(self.within(1..=5)),
            _ => Change::Remove,
        }
    }
}

/// The day of this many sessions.
pub fn day(sessions: usize, seed: u64) -> Vec<Session> {
    let mut hand = Hand(Dice::from_seed(seed));
    (0..sessions).map(|_| session(&mut hand)).collect()
}

fn session(hand: &mut Hand) -> Session {
    let looked_at = hand.within(LOOKED_AT);
    // Two throws and the lesser: some products are bought more than others.
    let mut product = || {
        let count = PRODUCTS.len() as u64;
        PRODUCTS[hand.below(count).min(hand.below(count)) as usize]
    };
    let items: Vec<&'static str> = (0..looked_at).map(|_| product()).collect();
    let devices = match hand.below(10) {
        0 => 1,
        1..=5 => 2,
        _ => 3,
    };
    let mut written: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut number = 0;
    let mut device = || {
        let mut taps = Device::new();
        for _ in 0..hand.within(TAPS) {
            let item = items[hand.below(items.len() as u64) as usize];
            // Nobody opens an empty cart to remove things from it.
            let change = if taps.is_empty() {
                Change::Add(1)
            } else {
                hand.change()
            };
            let (writes, taking) = written.entry(item).or_default();
            if *writes == MAX_WRITES || (change.takes() && *taking == MAX_TAKING) {
                continue;
            }
            *writes += 1;
            *taking += usize::from(change.takes());
            number += 1;
            taps.push(Tap {
                number,
                item,
                change,
                pause: Duration::from_millis(hand.below(PAUSE_MS)),
                think: Duration::from_millis(hand.below(THINK_MS)),
                nodes: [hand.below(1 << 16) as usize, hand.below(1 << 16) as usize],
            });
        }
        taps
    };
    (0..devices).map(|_| device()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_is_one_day() {
        assert_eq!(day(50, 7), day(50, 7));
        assert_ne!(day(50, 7), day(50, 8));
    }

    #[test]
    fn no_item_is_written_more_often_than_the_observer_can_follow() {
        for session in day(2_000, 1) {
            let taps: Vec<&Tap> = session.iter().flatten().collect();
            for item in PRODUCTS {
                let of_item = || taps.iter().filter(|tap| tap.item == *item);
                assert!(of_item().count() <= MAX_WRITES);
                assert!(of_item().filter(|tap| tap.change.takes()).count() <= MAX_TAKING);
            }
        }
    }
}
