//! Rows that peers bring: sessions' and those that a peer gives.
//!
//! Promises: rows are stored in the order in which they came; while clients are served
//! a few at a time, as `background.rs` allows, else all at once; the one who brought
//! them learns of each of its rows when it is durable. What waits here is bounded by
//! those who may bring: `MAX_SESSIONS` sessions and `MAX_SERVED` questions, each with
//! rows of one message.

use std::collections::VecDeque;

use super::super::effect::{StoreError, StoreReply, StoreRequest};
use super::super::exchange::bytes_of_row;
use super::super::id::{ItemKey, Partition};
use super::super::replica::Mutation;
use super::super::siblings::SiblingSet;
use super::background::{Chore, Took};
use super::exchange::{Exchanges, SessionId};
use super::{Job, Machine};

/// How many rows are stored at once while clients are served: one commit of these
/// makes clients' commits wait for a millisecond or two.
const ROWS_AT_ONCE: usize = 64;
/// How many bytes of values, about: the last row may pass it.
const BYTES_AT_ONCE: u64 = 64 << 10;

/// Who brought a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Bringer {
    Session(SessionId),
    /// A question of a peer, by its number.
    Served(u64),
}

#[derive(Debug)]
struct Brought {
    by: Bringer,
    partition: Partition,
    key: ItemKey,
    set: SiblingSet,
    since_ms: u64,
}

/// The rows that wait, and those that are being stored.
#[derive(Default)]
pub(super) struct Intake {
    waiting: VecDeque<Brought>,
    storing: usize,
    /// When those that are being stored began to be, and when the first of them came.
    begun_ms: u64,
    came_ms: u64,
    /// How many they were when they were given to the store, and of how many bytes.
    given: usize,
    given_bytes: u64,
}

impl Intake {
    /// Whether nothing waits or is being stored.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.storing == 0
    }

    /// Whether a row of this partition came that long ago and is not stored yet.
    pub fn has_since(&self, partition: Partition, came_by_ms: u64) -> bool {
        let waits = |row: &Brought| row.partition == partition && row.since_ms <= came_by_ms;
        self.waiting.iter().any(waits) || (self.storing > 0 && self.came_ms <= came_by_ms)
    }

    /// Nobody wants these any more.
    pub fn forget(&mut self, by: Bringer) {
        self.waiting.retain(|row| row.by != by);
    }
}

impl Machine {
    /// A peer brought rows.
    pub(super) fn bring(
        &mut self,
        by: Bringer,
        partition: Partition,
        rows: Vec<(ItemKey, SiblingSet)>,
    ) {
        self.counters.rows_received += rows.len() as u64;
        let since_ms = self.now.monotonic_ms;
        let brought = rows.into_iter().map(|(key, set)| Brought {
            by,
            partition,
            key,
            set,
            since_ms,
        });
        self.exchanges.intake.waiting.extend(brought);
        self.take_in_rows();
    }

    /// Stores what waits, if it is time.
    pub(super) fn take_in_rows(&mut self) {
        let now_ms = self.now.monotonic_ms;
        let pressed = self.exchanges.background.is_pressed();
        let intake = &mut self.exchanges.intake;
        let busy = pressed && intake.storing > 0;
        let Some(first) = intake.waiting.front() else {
            return;
        };
        let background = &mut self.exchanges.background;
        if busy || !background.may_begin(Chore::TakingIn, now_ms) {
            return;
        }
        background.begin(Chore::TakingIn, now_ms);
        let (mut rows_left, mut bytes_left) = if pressed {
            (ROWS_AT_ONCE, BYTES_AT_ONCE)
        } else {
            (usize::MAX, u64::MAX)
        };
        if intake.storing == 0 {
            intake.begun_ms = now_ms;
            intake.came_ms = first.since_ms;
            intake.given = 0;
            intake.given_bytes = 0;
        }
        while rows_left > 0 && bytes_left > 0 {
            let Some(row) = self.exchanges.intake.waiting.pop_front() else {
                break;
            };
            rows_left -= 1;
            let bytes = bytes_of_row(&row.key, &row.set);
            bytes_left = bytes_left.saturating_sub(bytes);
            let intake = &mut self.exchanges.intake;
            intake.storing += 1;
            intake.given += 1;
            intake.given_bytes += bytes;
            self.mend(row);
        }
    }

    /// Syncs a whole row that a peer gave, also in the place of a damaged one.
    fn mend(&mut self, row: Brought) {
        let Brought {
            by,
            partition,
            key,
            set,
            ..
        } = row;
        let mutation = Mutation::Mend {
            set,
            max_actors: self.max_actors(&key),
        };
        let request = StoreRequest::Update {
            partition,
            key,
            mutation,
            hints: Vec::new(),
        };
        self.store(Job::Mend(by), request);
    }

    pub(super) fn on_mended(&mut self, by: Bringer, reply: Result<StoreReply, StoreError>) {
        let now_ms = self.now.monotonic_ms;
        let Exchanges {
            intake, background, ..
        } = &mut self.exchanges;
        debug_assert!(intake.storing > 0, "every row is told of once");
        intake.storing = intake.storing.saturating_sub(1);
        if intake.storing == 0 {
            let took = Took {
                begun_ms: intake.begun_ms,
                now_ms,
            };
            let Intake {
                given, given_bytes, ..
            } = *intake;
            background.on_done(Chore::TakingIn, given, given_bytes, took);
        }
        match by {
            Bringer::Session(id) => self.on_session_row(id, reply.is_ok()),
            Bringer::Served(serve) => self.on_served(serve, reply),
        }
        self.take_in_rows();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::client::tests::Alone;
    use super::super::serving::MAX_SERVED;
    use super::*;
    use crate::protocol::context::Context;
    use crate::protocol::dot::{Actor, Dot, Epoch};
    use crate::protocol::effect::Input;
    use crate::protocol::exchange::Ask;
    use crate::protocol::id::NodeId;
    use crate::protocol::message::{Message, MessageId};
    use crate::protocol::siblings::Version;
    use crate::protocol::trees::NO_CLASS;

    const ROWS: usize = 3 * ROWS_AT_ONCE;

    fn rows(value_bytes: usize) -> Vec<(ItemKey, SiblingSet)> {
        let row = |number: usize| {
            let key = format!("brought{number}");
            let node = NodeId::of("b");
            let epoch = Epoch(7);
            let dot = Dot {
                actor: Actor { node, epoch },
                counter: number as u64 + 1,
            };
            let version = Version {
                value: Some(Bytes::from(vec![0; value_bytes])),
                content_type: "a/b".into(),
                written_at_us: 1,
                stands_for: None,
            };
            let table = crate::protocol::id::TableId(1);
            let set = SiblingSet::delta(&Context::new(), dot, version);
            (ItemKey::new(table, key.as_bytes(), None), set)
        };
        (0..ROWS).map(row).collect()
    }

    fn ask(alone: &mut Alone, id: u64, ask: Ask) {
        let from = NodeId::of("b");
        let id = MessageId(id);
        let message = Message::Exchange { id, ask };
        alone.step(Input::Peer { from, message });
    }

    fn give(alone: &mut Alone, rows: Vec<(ItemKey, SiblingSet)>) {
        let partition = Partition(1);
        ask(alone, 1, Ask::Give { partition, rows });
    }

    fn tick(alone: &mut Alone, ms: u64) {
        alone.now.monotonic_ms += ms;
        alone.now.wall_us += ms * 1_000;
        alone.step(Input::Tick);
    }

    /// Clients ask at every tick for a second.
    fn press(alone: &mut Alone) {
        for number in 0..100 {
            // The store never answers; that it was asked is enough.
            alone.put(1_000 + number, 10);
            alone.stored_later.clear();
            tick(alone, 10);
        }
    }

    /// The store does all that it was given.
    fn store_all(alone: &mut Alone) -> usize {
        let given: Vec<_> = alone.stored_later.drain(..).collect();
        for (job, _) in &given {
            let reply = Err(StoreError::Full);
            alone.step(Input::Stored { job: *job, reply });
        }
        given.len()
    }

    #[test]
    fn without_clients_rows_are_stored_as_they_come() {
        let mut alone = Alone::new();
        give(&mut alone, rows(10));
        assert_eq!(alone.stored_later.len(), ROWS);
        assert!(!alone.machine.is_at_rest());
        assert_eq!(store_all(&mut alone), ROWS);
        assert!(alone.machine.is_at_rest());
    }

    #[test]
    fn beside_clients_rows_are_stored_a_few_at_a_time_and_all_of_them() {
        let mut alone = Alone::new();
        press(&mut alone);
        let background = &mut alone.machine.exchanges.background;
        background.set_percent(5);
        give(&mut alone, rows(10));
        let began_ms = alone.now.monotonic_ms;
        let mut steps = Vec::new();
        while !alone.machine.is_at_rest() {
            assert!(alone.now.monotonic_ms < began_ms + 10_000, "it never ends");
            assert!(alone.stored_later.len() <= ROWS_AT_ONCE);
            alone.machine.exchanges.background.on_request();
            tick(&mut alone, 5);
            let stored = store_all(&mut alone);
            steps.extend((stored > 0).then_some(stored));
        }
        assert_eq!(steps, [ROWS_AT_ONCE; 3]);
        // Fifteen is what it takes without rests; two of three steps were rested from.
        let took_ms = alone.now.monotonic_ms - began_ms;
        assert!(took_ms >= 100, "{took_ms}");
    }

    #[test]
    fn beside_clients_large_rows_come_fewer_at_a_time() {
        let mut alone = Alone::new();
        press(&mut alone);
        give(&mut alone, rows(BYTES_AT_ONCE as usize / 4));
        assert_eq!(alone.stored_later.len(), 4);
    }

    #[test]
    fn what_waits_too_long_keeps_a_partition_from_being_reaped() {
        let mut alone = Alone::new();
        press(&mut alone);
        let came_ms = alone.now.monotonic_ms;
        give(&mut alone, rows(10));
        let intake = |alone: &Alone, partition, ms| {
            let intake = &alone.machine.exchanges.intake;
            intake.has_since(Partition(partition), ms)
        };
        assert!(intake(&alone, 1, came_ms));
        assert!(!intake(&alone, 1, came_ms - 1));
        // Those that wait are told apart, those that are being stored are not.
        assert!(intake(&alone, 2, came_ms));
        alone.machine.exchanges.intake.storing = 0;
        assert!(intake(&alone, 1, came_ms));
        assert!(!intake(&alone, 2, came_ms));
    }

    #[test]
    fn what_a_session_brought_is_forgotten_with_it() {
        let mut alone = Alone::new();
        press(&mut alone);
        let (over, other) = (
            Bringer::Session(SessionId(1)),
            Bringer::Session(SessionId(2)),
        );
        alone.machine.bring(other, Partition(1), rows(10));
        alone.machine.bring(over, Partition(1), rows(10));
        alone.machine.exchanges.intake.forget(over);
        let waiting = &alone.machine.exchanges.intake.waiting;
        assert_eq!(waiting.len(), ROWS - ROWS_AT_ONCE);
        assert!(waiting.iter().all(|row| row.by == other));
    }

    #[test]
    fn questions_that_wait_are_bounded_with_those_being_answered() {
        let mut alone = Alone::new();
        press(&mut alone);
        for id in 0..2 * MAX_SERVED as u64 {
            let pull = Ask::Pull {
                partition: Partition(1),
                class: NO_CLASS,
                after: None,
            };
            ask(&mut alone, id, pull);
        }
        let exchanges = &alone.machine.exchanges;
        assert_eq!(
            exchanges.serving.len() + exchanges.deferred.len(),
            MAX_SERVED
        );
        assert!(!exchanges.deferred.is_empty());
    }
}
