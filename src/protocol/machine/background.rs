//! How much of a node's time goes to work that no client waits for.
//!
//! Rows that peers bring, rows read for peers, leaves derived, hints delivered and
//! strays handed over all spend one allowance of time. Promises: while clients are
//! served, such work is begun in small steps, one after the other, and each step is
//! paid for with a rest in proportion to what its kind took of late, so that such work
//! has its percentage of the store's time and a store which is slow because clients use it is left alone for longer; a node
//! that no client uses does not rest at all; however busy a node is, a step is begun
//! every `MAX_REST_MS` at the latest, so that repair always comes to its end.
//!
//! The idea is that of the cost delay of a vacuum in PostgreSQL, with measured time in
//! the place of counted pages.

use std::collections::VecDeque;

/// How much of the store's time such work has while clients ask all the time, when
/// nothing else is set: clients' 99th percentile grew by up to a fifth with it.
pub const DEFAULT_BACKGROUND_PERCENT: u32 = 20;
/// The longest rest for one step. With 64 rows a step, a store on its knees still
/// takes in some three hundred rows a second.
const MAX_REST_MS: u64 = 200;
/// How much time that was not used may be used later: that between two ticks, when
/// most steps begin.
const MAX_CREDIT_US: u64 = 10_000;
/// What a kind of work is thought to take before any was measured.
const FIRST_COST_US: u64 = 2_000;
/// One part in so many of what is thought of a kind's cost comes from its latest
/// step.
const COST_MEMORY: u64 = 8;
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
            cost_us: [FIRST_COST_US; KINDS],
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

    /// A step begins, and is paid for.
    pub fn begin(&mut self, chore: Chore, now_ms: u64) {
        let now_us = now_ms.saturating_mul(1_000);
        let cost_us = self.cost_us[chore as usize];
        let rest_us = cost_us * (100 - self.percent) / self.percent * self.pressure / WHOLE;
        let credit_from_us = now_us.saturating_sub(MAX_CREDIT_US);
        self.free_us = self
            .free_us
            .max(credit_from_us)
            .saturating_add(cost_us + rest_us)
            .min(now_us.saturating_add(MAX_REST_MS * 1_000));
    }

    /// A step took so long. Counts only while steps come one after the other: the time
    /// of those that are done all at once says little of any of them.
    pub fn on_done(&mut self, chore: Chore, took_ms: u64) {
        if !self.is_pressed() {
            return;
        }
        let cost_us = &mut self.cost_us[chore as usize];
        let took_us = took_ms.saturating_mul(1_000);
        *cost_us = (*cost_us * (COST_MEMORY - 1)).saturating_add(took_us) / COST_MEMORY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ticks every ten milliseconds with requests in so many of a hundred; how many steps
    /// of five milliseconds begin within ten seconds, one after the other.
    fn steps(asked_percent: u64, took_ms: u64) -> u64 {
        steps_of(DEFAULT_BACKGROUND_PERCENT, asked_percent, took_ms)
    }

    fn steps_of(percent: u32, asked_percent: u64, took_ms: u64) -> u64 {
        let mut background = Background::default();
        background.set_percent(percent);
        let mut begun = 0;
        for tick in 0..1_100 {
            let now_ms = tick * 10;
            if tick % 100 < asked_percent {
                background.on_request();
            }
            background.on_tick();
            while tick >= 100
                && background.is_pressed()
                && background.may_begin(Chore::TakingIn, now_ms)
            {
                background.begin(Chore::TakingIn, now_ms);
                background.on_done(Chore::TakingIn, took_ms);
                begun += 1;
            }
        }
        begun
    }

    #[test]
    fn clients_that_ask_all_the_time_leave_a_fifth() {
        // A step of 5 ms and a rest of 20: 400 in ten seconds.
        let begun = steps(100, 5);
        assert!((380..=440).contains(&begun), "{begun}");
        // A store that takes twice as long is asked half as often.
        let slow = steps(100, 10);
        assert!((begun * 4 / 10..=begun * 6 / 10).contains(&slow), "{slow}");
        // Half of the time is more than twice as much as a fifth, all of it five times.
        let half = steps_of(50, 100, 5);
        assert!(
            (begun * 24 / 10..=begun * 26 / 10).contains(&half),
            "{half}"
        );
        let all = steps_of(100, 100, 5);
        assert!((begun * 48 / 10..=begun * 52 / 10).contains(&all), "{all}");
    }

    #[test]
    fn work_comes_to_its_end_however_slow_the_store_is() {
        let begun = steps(100, 60_000);
        let at_least = 10_000 / (MAX_REST_MS + 10);
        assert!(begun >= at_least, "{begun}");
    }

    #[test]
    fn nobody_rests_for_clients_that_are_gone() {
        let mut background = Background::default();
        for _ in 0..100 {
            background.on_request();
            background.on_tick();
        }
        assert!(background.is_pressed());
        // What was not used pays for one step.
        background.begin(Chore::Hinting, 1_000);
        background.begin(Chore::Hinting, 1_000);
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
            background.on_done(Chore::Deriving, 2);
        }
        assert!(
            background.may_begin(Chore::Deriving, 10_010),
            "{background:?}"
        );
    }

    #[test]
    fn kinds_do_not_pay_for_one_another() {
        let mut background = Background::default();
        for _ in 0..100 {
            background.on_request();
            background.on_tick();
            background.on_done(Chore::Sweeping, 1_000);
            background.on_done(Chore::Deriving, 1);
        }
        background.begin(Chore::Deriving, 60_000);
        assert!(
            background.may_begin(Chore::Sweeping, 60_010),
            "{background:?}"
        );
        background.begin(Chore::Sweeping, 60_010);
        assert!(
            !background.may_begin(Chore::Deriving, 60_100),
            "{background:?}"
        );
    }

    #[test]
    fn no_kind_keeps_another_from_its_turn() {
        let mut background = Background::default();
        let mut turns = [0; KINDS];
        for tick in 0..1_000 {
            background.on_request();
            background.on_tick();
            // The first is asked about first, always; the last no more after a while.
            for chore in [Chore::Deriving, Chore::TakingIn, Chore::Reaping] {
                let gone = chore == Chore::Reaping && tick > 100;
                if !gone && background.may_begin(chore, tick * 10) {
                    background.begin(chore, tick * 10);
                    background.on_done(chore, 100);
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
