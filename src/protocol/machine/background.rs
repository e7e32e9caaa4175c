//! How much of a node's time goes to work that no client waits for.
//!
//! Rows that peers bring, rows read for peers, leaves derived, hints delivered and
//! strays handed over all spend one allowance of time. Promises: while clients are
//! served, such work is begun in small steps, one after the other, and each step is
//! paid for with a rest in proportion to what it cost, so that such work has its
//! percentage of time; a store which is slow, for clients or otherwise, is left alone for
//! longer, up to `MOST_TIMES` as long; a node that no client uses does not rest at all;
//! however busy a node is, a step is begun every `MAX_REST_MS` at the latest, so that
//! repair always comes to its end.
//!
//! The idea is that of the cost delay of a vacuum in PostgreSQL, with measured time in
//! the place of counted pages.

use std::collections::VecDeque;

/// How much of the store's time such work has while clients ask all the time, when
/// nothing else is set. The aim is a 99th percentile of clients at most a fifth longer;
/// how far it is reached is in docs/performance.md.
pub const DEFAULT_BACKGROUND_PERCENT: u32 = 20;
/// The longest rest for one step. With 64 rows a step, a store on its knees still
/// takes in some three hundred rows a second.
const MAX_REST_MS: u64 = 200;
/// How much time that was not used may be used later: that between two ticks, when
/// most steps begin.
const MAX_CREDIT_US: u64 = 10_000;
/// One part in so many of what is thought of a kind's cost comes from its latest
/// step.
const COST_MEMORY: u64 = 8;
/// What a step costs a store that has nothing else to do, besides what it is about:
/// it is woken, and a transaction begins and ends.
const STEP_US: u64 = 100;
/// How many bytes of values a store reads or writes in a microsecond, about.
const BYTES_PER_US: u64 = 100;
/// A step that took longer than so many times what it costs has been waiting for most
/// of the time, and mostly for clients' commits: that is no work to rest from, and to
/// rest for it would starve steps that are about a row or two.
const MOST_TIMES: u64 = 4;
/// One part in so many of the pressure comes from the latest tick: a pause of clients
/// is believed after a tenth of a second or two.
const PRESSURE_MEMORY: u64 = 16;
/// The whole of the pressure: clients asked something between any two ticks.
const WHOLE: u64 = 1_000;

/// Kinds of work, each with a cost of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Chore {
    /// Rows that peers brought are stored.
    TakingIn,
    /// Rows are read for a peer.
    Reading,
    /// Leaves are derived from rows.
    Deriving,
    /// A batch of hints goes to its target.
    Hinting,
    /// A batch of strays is offered to its owners.
    Sweeping,
    /// Tombstones are put to the vote.
    Reaping,
}

const KINDS: usize = Chore::Reaping as usize + 1;

/// What one item costs a store that has nothing else to do, by kind. Rows stored and
/// leaves derived are as profiles of whole nodes show them on one core of today; the
/// others are estimated from those. An error here is bounded: what a step took counts
/// from one to `MOST_TIMES` the price.
const ITEM_US: [u64; KINDS] = [25, 10, 5, 40, 10, 5];

/// What a step of this kind costs a store that has nothing else to do.
fn price_us(chore: Chore, items: usize, bytes: u64) -> u64 {
    let items_us = (items as u64).saturating_mul(ITEM_US[chore as usize]);
    (STEP_US + bytes / BYTES_PER_US).saturating_add(items_us)
}

/// From when to when a step took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Took {
    pub begun_ms: u64,
    pub now_ms: u64,
}

/// The allowance of one node.
#[derive(Debug)]
pub(super) struct Background {
    /// Whether a client's request came, or a coordinator's, since the last tick.
    asked: bool,
    /// The share of the latest ticks before which one came, in parts of `WHOLE`.
    pressure: u64,
    /// The share of time while clients ask all the time.
    percent: u64,
    /// When the next step may begin.
    free_us: u64,
    /// What a step of each kind takes.
    cost_us: [u64; KINDS],
    /// Kinds that wait for their turn, each once.
    line: VecDeque<Chore>,
    /// Which have asked since the last tick.
    asks: [bool; KINDS],
}

impl Default for Background {
    fn default() -> Self {
        Background {
            asked: false,
            pressure: 0,
            percent: DEFAULT_BACKGROUND_PERCENT.into(),
            free_us: 0,
            cost_us: [STEP_US; KINDS],
            line: VecDeque::new(),
            asks: [false; KINDS],
        }
    }
}

impl Background {
    /// Sets the share of time, from 1 to 100.
    pub fn set_percent(&mut self, percent: u32) {
        assert!((1..=100).contains(&percent), "work that never ends");
        self.percent = percent.into();
    }

    /// A client wants something of this node, or another node for a client.
    pub fn on_request(&mut self) {
        self.asked = true;
    }

    /// Time passed, some milliseconds since the last call.
    pub fn on_tick(&mut self) {
        let latest = if std::mem::take(&mut self.asked) {
            WHOLE
        } else {
            0
        };
        let asks = std::mem::take(&mut self.asks);
        self.line.retain(|chore| asks[*chore as usize]);
        // Rounded down, so that pressure that is gone is gone altogether.
        self.pressure = (self.pressure * (PRESSURE_MEMORY - 1) + latest) / PRESSURE_MEMORY;
    }

    /// Whether clients use this node, so that work comes in small steps.
    pub fn is_pressed(&self) -> bool {
        self.pressure > 0
    }

    /// Of these two sizes of a step the one that is right now.
    pub fn step_size(&self, alone: usize, pressed: usize) -> usize {
        if self.is_pressed() { pressed } else { alone }
    }

    /// Whether a step of this kind may begin. A kind that may not has its turn before
    /// those that ask after it, for as long as it asks at every tick.
    pub fn may_begin(&mut self, chore: Chore, now_ms: u64) -> bool {
        if !self.is_pressed() {
            return true;
        }
        self.asks[chore as usize] = true;
        let is_time = now_ms.saturating_mul(1_000) >= self.free_us;
        let first = self.line.front().copied();
        if is_time && first.is_none_or(|first| first == chore) {
            self.line.pop_front();
            return true;
        }
        if !self.line.contains(&chore) {
            self.line.push_back(chore);
        }
        false
    }

    /// A step begins, and is paid for as steps of its kind cost of late.
    pub fn begin(&mut self, chore: Chore, now_ms: u64) {
        let now_us = now_ms.saturating_mul(1_000);
        let rest_us = self.with_rest(self.cost_us[chore as usize]);
        let credit_from_us = now_us.saturating_sub(MAX_CREDIT_US);
        self.free_us = self
            .free_us
            .max(credit_from_us)
            .saturating_add(rest_us)
            .min(now_us.saturating_add(MAX_REST_MS * 1_000));
    }

    /// A step is done, and was about so much: what it cost more than was thought is
    /// paid for, what it cost less is given back. Counts only while steps come one after
    /// the other: the time of those that are done all at once says little of any of them.
    pub fn on_done(&mut self, chore: Chore, items: usize, bytes: u64, took: Took) {
        if !self.is_pressed() {
            return;
        }
        let price_us = price_us(chore, items, bytes);
        let most_us = price_us.saturating_mul(MOST_TIMES);
        let took_us = took.now_ms.saturating_sub(took.begun_ms) * 1_000;
        let cost_us = took_us.clamp(price_us, most_us);
        let thought_us = self.cost_us[chore as usize];
        let most_free_us = (took.now_ms + MAX_REST_MS).saturating_mul(1_000);
        self.free_us = (self.free_us + self.with_rest(cost_us))
            .saturating_sub(self.with_rest(thought_us))
            .min(most_free_us);
        self.cost_us[chore as usize] =
            (thought_us * (COST_MEMORY - 1)).saturating_add(cost_us) / COST_MEMORY;
    }

    /// So much work, and the rest that belongs to it.
    fn with_rest(&self, work_us: u64) -> u64 {
        let rest_us = work_us.saturating_mul(100 - self.percent) / self.percent;
        work_us.saturating_add(rest_us * self.pressure / WHOLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn took(now_ms: u64, ms: u64) -> Took {
        Took {
            begun_ms: now_ms - ms,
            now_ms,
        }
    }

    /// One under whose eyes clients ask all the time.
    fn pressed(percent: u32) -> Background {
        let mut background = Background::default();
        background.set_percent(percent);
        for _ in 0..200 {
            background.on_request();
            background.on_tick();
        }
        background
    }

    /// How many steps about so many rows, each of which takes so long, begin within ten
    /// seconds of clients, one after the other.
    fn steps(percent: u32, rows: usize, took_ms: u64) -> u64 {
        let mut background = pressed(percent);
        let mut begun = 0;
        let mut under_way_since = None;
        for now_ms in 100_000..110_000 {
            if now_ms % 10 == 0 {
                background.on_request();
                background.on_tick();
            }
            if let Some(begun_ms) = under_way_since
                && now_ms >= begun_ms + took_ms
            {
                let took = Took { begun_ms, now_ms };
                background.on_done(Chore::TakingIn, rows, 0, took);
                under_way_since = None;
            }
            if under_way_since.is_none() && background.may_begin(Chore::TakingIn, now_ms) {
                background.begin(Chore::TakingIn, now_ms);
                under_way_since = Some(now_ms);
                begun += 1;
            }
        }
        begun
    }

    #[test]
    fn clients_that_ask_all_the_time_leave_a_share_of_time() {
        // A step of 5 ms and a rest of 20: 400 in ten seconds.
        let begun = steps(20, 100, 5);
        assert!((380..=440).contains(&begun), "{begun}");
        // A store that takes twice as long is asked half as often.
        let slow = steps(20, 100, 10);
        assert!((190..=220).contains(&slow), "{slow}");
        // Half of the time, and all of it.
        let half = steps(50, 100, 5);
        assert!((950..=1_050).contains(&half), "{half}");
        let all = steps(100, 100, 5);
        assert!((1_900..=2_000).contains(&all), "{all}");
    }

    #[test]
    fn who_waits_does_not_work() {
        // Two rows cost 150 us; that they took 10 ms is the doing of clients. As work
        // that would be a step in 50 ms.
        let begun = steps(20, 2, 10);
        assert!(begun >= 900, "{begun}");
        // Many rows that took no time at all by the clock were work nevertheless.
        let quick = steps(20, 400, 0);
        assert!(quick <= 220, "{quick}");
    }

    #[test]
    fn bytes_are_work() {
        let mut background = pressed(20);
        background.begin(Chore::Reading, 60_000);
        let megabyte = took(60_010, 10);
        background.on_done(Chore::Reading, 1, 1 << 20, megabyte);
        assert!(!background.may_begin(Chore::Reading, 60_030));
        assert!(background.may_begin(Chore::Reading, 60_060));
    }

    #[test]
    fn work_comes_to_its_end_however_slow_the_store_is() {
        let begun = {
            let mut background = pressed(1);
            let mut begun = 0;
            for now_ms in 100_000..110_000 {
                background.on_request();
                if background.may_begin(Chore::TakingIn, now_ms) {
                    background.begin(Chore::TakingIn, now_ms);
                    let long = took(now_ms, 60_000);
                    background.on_done(Chore::TakingIn, 1_000_000, 1 << 40, long);
                    begun += 1;
                }
            }
            begun
        };
        assert!(begun >= 10_000 / (MAX_REST_MS + 1), "{begun}");
    }

    #[test]
    fn nobody_rests_for_clients_that_are_gone() {
        let mut background = pressed(20);
        background.begin(Chore::Hinting, 1_000);
        background.on_done(Chore::Hinting, 1_000, 0, took(1_000, 100));
        assert!(!background.may_begin(Chore::Hinting, 1_000));
        for _ in 0..100 {
            background.on_tick();
        }
        assert!(!background.is_pressed());
        assert!(background.may_begin(Chore::Hinting, 1_000));
        assert_eq!(background.step_size(512, 64), 512);
    }

    #[test]
    fn few_requests_hold_up_little() {
        let mut background = Background::default();
        // One request a second.
        for tick in 0..1_000 {
            if tick % 100 == 0 {
                background.on_request();
            }
            background.on_tick();
        }
        for _ in 0..8 {
            background.begin(Chore::Deriving, 10_000);
            background.on_done(Chore::Deriving, 256, 0, took(10_000, 1));
        }
        assert!(
            background.may_begin(Chore::Deriving, 10_010),
            "{background:?}"
        );
    }

    #[test]
    fn kinds_do_not_pay_for_one_another() {
        let mut background = pressed(20);
        for now_ms in 1..100 {
            background.on_done(Chore::Sweeping, 100_000, 0, took(now_ms * 10_000, 1_000));
            background.on_done(Chore::Deriving, 1, 0, took(now_ms * 10_000, 1));
        }
        background.begin(Chore::Deriving, 2_000_000);
        assert!(
            background.may_begin(Chore::Sweeping, 2_000_010),
            "{background:?}"
        );
        background.begin(Chore::Sweeping, 2_000_010);
        assert!(
            !background.may_begin(Chore::Deriving, 2_000_100),
            "{background:?}"
        );
    }

    #[test]
    fn no_kind_keeps_another_from_its_turn() {
        let mut background = pressed(20);
        let mut turns = [0; KINDS];
        for tick in 0..1_000 {
            let now_ms = 100_000 + tick * 10;
            background.on_request();
            background.on_tick();
            // The first is asked about first, always; the last no more after a while.
            for chore in [Chore::Deriving, Chore::TakingIn, Chore::Reaping] {
                let gone = chore == Chore::Reaping && tick > 100;
                if !gone && background.may_begin(chore, now_ms) {
                    background.begin(chore, now_ms);
                    background.on_done(chore, 10_000, 0, took(now_ms, 100));
                    turns[chore as usize] += 1;
                }
            }
        }
        let [taking_in, deriving] =
            [Chore::TakingIn, Chore::Deriving].map(|chore| turns[chore as usize]);
        assert!(taking_in >= 20 && deriving >= 20, "{turns:?}");
        assert!(deriving <= taking_in + 2, "{turns:?}");
    }
}
