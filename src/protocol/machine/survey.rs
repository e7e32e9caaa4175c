//! Looking through a table: a page at a time of what one replica stores.
//!
//! Whoever looks (a dry run) holds the cursor and asks for page after page; each
//! is taken from one replica of the partition: this node if it is one, else a
//! live one, else any. A replica that does not answer is passed over for the next
//! one, which goes on after the same key. Promises: each item comes once, since
//! the cursor only moves on; no page holds more than an exchange's batch does;
//! at most [`MAX_SURVEYS`] are under way; nothing is written. Not promised: that
//! the replica has heard of every write (a read with R = 1 has not either), nor
//! a picture of one moment; rows that are damaged there are left out.

use std::collections::BTreeMap;

use super::super::effect::{Effect, RequestId, StoreReply, StoreRequest, SurveyAsk, SurveyPage};
use super::super::exchange::{ANSWER_TIMEOUT_MS, Answer, Ask, MAX_BATCH_BYTES, MAX_BATCH_ROWS};
use super::super::id::{ItemKey, NodeId, Partition, TableId};
use super::super::message::{Message, MessageId, Refusal};
use super::super::siblings::SiblingSet;
use super::serving::Asker;
use super::{AwaitedOf, Machine};

/// How many pages are being asked for at a time; one more is refused. A node
/// looks through one table at a time, so this only bounds pages that were given
/// up but not answered yet.
pub const MAX_SURVEYS: usize = 4;

/// How long a replica may take that seems to be down already: a dry run must not
/// wait the full time for it in every partition.
const DOUBTED_TIMEOUT_MS: u64 = 1_000;

/// A page on its way.
#[derive(Debug)]
pub(super) struct Surveying {
    request: RequestId,
    ask: SurveyAsk,
    /// The replicas that were asked; the last one may still answer.
    tried: Vec<NodeId>,
    awaited: Option<MessageId>,
    due_ms: u64,
}

/// The pages on their way, by number.
pub(super) type Surveys = BTreeMap<u64, Surveying>;

/// What of a stretch of rows is wanted, as the store is asked for it.
pub(super) fn scan(table: TableId, partition: Partition, after: Option<ItemKey>) -> StoreRequest {
    StoreRequest::Scan {
        partition,
        after: after.or_else(|| ItemKey::before_table(table)),
        limit: MAX_BATCH_ROWS,
        max_bytes: MAX_BATCH_BYTES,
    }
}

/// What of the rows that came belongs to the table and is wanted.
pub(super) fn page(table: TableId, singles: bool, reply: StoreReply) -> Answer {
    let StoreReply::Rows { mut rows, done } = reply else {
        unreachable!("rows were asked for, not {reply:?}");
    };
    let ends = done || rows.iter().any(|(key, _)| key.table() > table);
    let last = rows.last().map(|(key, _)| key.clone());
    rows.retain(|(key, _)| key.table() == table);
    let scanned = rows.len() as u64;
    rows.retain(|(_, set)| singles || set.len() > 1);
    Answer::Surveyed {
        scanned,
        rows,
        next: last.filter(|_| !ends),
    }
}

impl Machine {
    pub(super) fn on_survey(&mut self, request: RequestId, ask: SurveyAsk) {
        let refusal = if !self.tables_by_id.contains_key(&ask.table) {
            Some(Refusal::NoSuchTable)
        } else if let Err(why) = self.readiness() {
            Some(Refusal::NotReady(why))
        } else if self.exchanges.surveys.len() >= MAX_SURVEYS {
            Some(Refusal::Overloaded)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            let page = Err(refusal);
            return self.out.push(Effect::Surveyed { request, page });
        }
        let id = self.next_id();
        let surveying = Surveying {
            request,
            ask,
            tried: Vec::new(),
            awaited: None,
            due_ms: 0,
        };
        self.exchanges.surveys.insert(id, surveying);
        self.ask_next_replica(id);
    }

    /// Asks the replica that comes next, or gives up.
    fn ask_next_replica(&mut self, id: u64) {
        let Some(surveying) = self.exchanges.surveys.get(&id) else {
            return;
        };
        let ask = surveying.ask.clone();
        let owners: Vec<NodeId> = match (&self.reading_ring, self.tables_by_id.get(&ask.table)) {
            (Some(ring), Some(table)) => {
                let n = table.definition.n as usize;
                ring.primaries(ask.partition, n).to_vec()
            }
            _ => Vec::new(),
        };
        let mut untried: Vec<NodeId> = owners
            .into_iter()
            .filter(|node| !surveying.tried.contains(node))
            .collect();
        // Those that seem down come last, not never: opinions are stale.
        untried.sort_by_key(|node| (*node != self.me, !self.is_up(*node)));
        let Some(&node) = untried.first() else {
            let refusal = Refusal::QuorumUnmet {
                needed: 1,
                got: 0,
                may_be_stored: false,
            };
            return self.finish_survey(id, Err(refusal));
        };
        let timeout_ms = if node == self.me || self.is_up(node) {
            ANSWER_TIMEOUT_MS
        } else {
            DOUBTED_TIMEOUT_MS
        };
        let due_ms = self.now.monotonic_ms + timeout_ms;
        let surveying = self
            .exchanges
            .surveys
            .get_mut(&id)
            .expect("looked up above");
        surveying.tried.push(node);
        surveying.due_ms = due_ms;
        surveying.awaited = None;
        let SurveyAsk {
            table,
            partition,
            after,
            singles,
        } = ask;
        let ask = Ask::Survey {
            table,
            partition,
            after,
            singles,
        };
        if node == self.me {
            return self.serve(Asker::Survey { id }, ask);
        }
        let message = self.ask(node, AwaitedOf::Survey(id), |id| Message::Exchange {
            id,
            ask,
        });
        if let Some(surveying) = self.exchanges.surveys.get_mut(&id) {
            surveying.awaited = Some(message);
        }
    }

    pub(super) fn on_survey_answer(
        &mut self,
        id: u64,
        from: NodeId,
        answer: Result<Answer, Refusal>,
    ) {
        let Some(surveying) = self.exchanges.surveys.get(&id) else {
            return;
        };
        if surveying.tried.last() != Some(&from) {
            // It was given up: another one is being asked.
            return;
        }
        match answer {
            Ok(Answer::Surveyed {
                scanned,
                rows,
                next,
            }) if moves_on(&surveying.ask, &rows, next.as_ref()) => {
                let page = SurveyPage {
                    from,
                    scanned,
                    rows,
                    next,
                };
                self.finish_survey(id, Ok(page));
            }
            // It cannot say, or says something else.
            _ => self.ask_next_replica(id),
        }
    }

    pub(super) fn on_survey_lost(&mut self, id: u64) {
        self.ask_next_replica(id);
    }

    /// Passes over replicas that take too long.
    pub(super) fn tick_surveys(&mut self) {
        let now_ms = self.now.monotonic_ms;
        let late: Vec<u64> = self
            .exchanges
            .surveys
            .iter()
            .filter(|(_, surveying)| now_ms >= surveying.due_ms)
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            let message = self
                .exchanges
                .surveys
                .get(&id)
                .and_then(|late| late.awaited);
            if let Some(awaited) = message.and_then(|message| self.awaited.remove(&message)) {
                // The next page is asked of another one first.
                self.membership.on_timeout(awaited.node, now_ms);
            }
            self.ask_next_replica(id);
        }
    }

    fn finish_survey(&mut self, id: u64, page: Result<SurveyPage, Refusal>) {
        if let Some(Surveying { request, .. }) = self.exchanges.surveys.remove(&id) {
            self.out.push(Effect::Surveyed { request, page });
        }
    }
}

/// Whether what a replica gave lies in the table and beyond the cursor: a peer is
/// not believed that would have a dry run go round in circles.
fn moves_on(ask: &SurveyAsk, rows: &[(ItemKey, SiblingSet)], next: Option<&ItemKey>) -> bool {
    let is_beyond = |key: &ItemKey| ask.after.as_ref().is_none_or(|after| key > after);
    let mut keys = rows.iter().map(|(key, _)| key);
    keys.all(|key| key.table() == ask.table && is_beyond(key)) && next.is_none_or(is_beyond)
}

#[cfg(test)]
mod tests {
    use super::super::super::context::Context;
    use super::super::super::dot::{Actor, Dot, Epoch};
    use super::super::super::siblings::Version;
    use super::*;

    const TABLE: TableId = TableId(7);

    fn row(table: u64, key: &str, siblings: u64) -> (ItemKey, SiblingSet) {
        let mut set = SiblingSet::new();
        for counter in 1..=siblings {
            let actor = Actor {
                node: NodeId(1),
                epoch: Epoch(1),
            };
            let version = Version {
                value: Some(bytes::Bytes::from_static(b"v")),
                content_type: "text/plain".into(),
                written_at_us: counter,
                stands_for: None,
            };
            set.put(&Context::new(), Dot { actor, counter }, version);
        }
        let key = ItemKey::new(TableId(table), key.as_bytes(), None);
        (key, set)
    }

    /// How many were gone through, the keys that are wanted, and whether more follow.
    fn told(rows: Vec<(ItemKey, SiblingSet)>, done: bool, singles: bool) -> (u64, usize, bool) {
        match page(TABLE, singles, StoreReply::Rows { rows, done }) {
            Answer::Surveyed {
                scanned,
                rows,
                next,
            } => (scanned, rows.len(), next.is_some()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_page_holds_the_tables_own_and_ends_with_it() {
        let rows = || vec![row(7, "a", 1), row(7, "b", 2), row(7, "c", 3)];
        assert_eq!(told(rows(), false, false), (3, 2, true));
        assert_eq!(told(rows(), false, true), (3, 3, true));
        assert_eq!(told(rows(), true, false), (3, 2, false));
        // The next table begins in the page: this one is through.
        let mut more = rows();
        more.push(row(8, "a", 2));
        assert_eq!(told(more, false, false), (3, 2, false));
        assert_eq!(told(vec![row(9, "a", 2)], false, true), (0, 0, false));
        assert_eq!(told(Vec::new(), true, true), (0, 0, false));
        // A page without a conflict goes on all the same.
        assert_eq!(told(vec![row(7, "a", 1)], false, false), (1, 0, true));
    }

    #[test]
    fn a_peer_cannot_turn_the_cursor_back() {
        let ask = |after: Option<&str>| SurveyAsk {
            table: TABLE,
            partition: Partition(0),
            after: after.map(|key| row(7, key, 1).0),
            singles: true,
        };
        let rows = [row(7, "c", 2)];
        let key = |key: &str| row(7, key, 1).0;
        assert!(moves_on(&ask(None), &rows, Some(&key("c"))));
        assert!(moves_on(&ask(Some("b")), &rows, None));
        assert!(!moves_on(&ask(Some("c")), &rows, None));
        assert!(!moves_on(&ask(Some("b")), &rows, Some(&key("b"))));
        assert!(!moves_on(&ask(None), &[row(8, "c", 2)], None));
    }
}
