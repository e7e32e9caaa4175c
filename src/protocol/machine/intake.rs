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
use super::background::Chore;
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
        }
        while rows_left > 0 && bytes_left > 0 {
            let Some(row) = self.exchanges.intake.waiting.pop_front() else {
                break;
            };
            rows_left -= 1;
            bytes_left = bytes_left.saturating_sub(bytes_of_row(&row.key, &row.set));
            self.exchanges.intake.storing += 1;
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
            background.on_done(Chore::TakingIn, now_ms.saturating_sub(intake.begun_ms));
        }
        match by {
            Bringer::Session(id) => self.on_session_row(id, reply.is_ok()),
            Bringer::Served(serve) => self.on_served(serve, reply),
        }
        self.take_in_rows();
    }
}
