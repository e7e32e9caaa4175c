//! Reaping, as the protocol page has it, cut into steps.
//!
//! 1. **Begin.** A primary that holds nothing but tombstones, older than
//!    `reap_after`, proposes to forget that state.
//! 2. **First round.** Every member says that it has no write of the item under
//!    way.
//! 3. **Second round**, when all have: every primary says that it holds this very
//!    state, and every member that it holds no hint for the item, and no copy that
//!    no primary should have.
//! 4. **Agree.** When all have said so, and no message is left that was sent by
//!    somebody who had not heard of the tombstone yet, each primary is told.
//! 5. **Drop.** Each forgets the item if it is still that state.
//!
//! Nothing holds still meanwhile: writes, hints and crashes go on between any two
//! steps, and an answer may be out of date when the next one comes.
//!
//! Two rounds, because a coordinator may hand a write that it still has under way
//! to a fallback that has already said that it holds no hint. The wait in step 4,
//! because a message that is older than the tombstone would be news to a primary
//! that has forgotten it.

use super::ghost::Known;
use super::node::{FALLBACK, NODES, PRIMARIES};
use super::state::{Message, State};
use super::{Broken, Model};
use crate::protocol::siblings::StateHash;

/// A proposal on its way through the members.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Reaping {
    pub expected: StateHash,
    /// The writes that the state tells of.
    pub known: Known,
    /// In which order the members are asked.
    pub order: [usize; NODES],
    /// How many said yes, in both rounds.
    pub said: usize,
}

impl Model {
    /// Whether the node may propose to reap what it holds.
    pub(super) fn may_begin_reap(&self, state: &State, at: usize) -> bool {
        let set = state.nodes[at].set();
        at < PRIMARIES
            && state.reaping.is_none()
            && state.reaps_left > 0
            && !set.is_empty()
            && set.is_absent()
    }

    /// Whether the member who is asked next says yes.
    pub(super) fn may_say_yes(&self, state: &State) -> bool {
        let Some(reaping) = &state.reaping else {
            return false;
        };
        let (round, place) = (reaping.said / NODES, reaping.said % NODES);
        if round > 1 {
            return false;
        }
        let node = reaping.order[place];
        let is_primary = node < PRIMARIES;
        let same = !is_primary || state.nodes[node].held.hash == reaping.expected;
        let idle = !state.puts.iter().any(|put| put.at == node)
            && !state.folds.iter().any(|fold| fold.at == node);
        let unhinted = state.nodes[node].hints.is_empty()
            && (is_primary || state.nodes[FALLBACK].row.is_none());
        match self.broken {
            Broken::ReapByTimeAlone => true,
            Broken::ReapIgnoresHints => same,
            Broken::ReapInOneRound => round == 1 || (same && idle && unhinted),
            _ if round == 0 => idle,
            _ => same && unhinted,
        }
    }

    /// Whether a message was sent by somebody who knew what the tombstone deletes
    /// and not the tombstone.
    pub(super) fn is_late(reaping: &Reaping, message: &Message) -> bool {
        match message {
            Message::Store { carries, .. } => {
                carries.meets(reaping.known) && carries.0 & reaping.known.0 != reaping.known.0
            }
            Message::HintAck { .. } | Message::Reap { .. } => false,
        }
    }

    /// Whether all said yes, and nothing old is under way.
    pub(super) fn may_agree(&self, state: &State) -> bool {
        let Some(reaping) = &state.reaping else {
            return false;
        };
        let unheard = |message: &Message| Self::is_late(reaping, message);
        let waits = state.network.iter().any(unheard);
        reaping.said == 2 * NODES && (!waits || self.is(Broken::ReapAmongLateMessages))
    }

    /// Tells every primary.
    pub(super) fn agree(&self, state: &mut State) -> Option<()> {
        let reaping = state.reaping.take()?;
        for (place, write) in state.ghost.writes.iter_mut().enumerate() {
            write.reaped |= reaping.known.has(place) && write.deletes;
        }
        let drops = (0..PRIMARIES).map(|to| Message::Reap {
            to,
            expected: reaping.expected,
        });
        state.network.extend(drops);
        Some(())
    }
}
