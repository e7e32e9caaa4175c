//! What a node answers when a peer exchanges with it.
//!
//! Promises: each question is answered from what is stored at that moment, or
//! refused; rows that a peer gives are durable before the answer says so; a
//! bounded number of questions is in hand, more are refused at once.

use super::super::effect::{Leaf, StoreError, StoreReply, StoreRequest};
use super::super::exchange::{self, Answer, Ask, MAX_BATCH_ROWS, MAX_LEAVES, RootVerdict};
use super::super::id::{ItemKey, NodeId, Partition, TableId};
use super::super::merkle;
use super::super::message::{Message, MessageId, Refusal};
use super::super::siblings::StateHash;
use super::super::trees::Class;
use super::background::{Chore, Took};
use super::exchange::Exchanges;
use super::intake::Bringer;
use super::{Job, Machine, survey};

/// How many questions that need the store are in hand at most, those that wait their
/// turn included. Each holds up to `MAX_BATCH_BYTES` of values, and the last row's beyond it.
pub const MAX_SERVED: usize = 32;

/// Who asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asker {
    Peer {
        node: NodeId,
        id: MessageId,
    },
    /// This node's own reaping, which asks itself like any other owner.
    Me {
        ballot: u64,
    },
    /// This node's own look through a table.
    Survey {
        id: u64,
    },
}

/// A question whose answer waits for the store.
#[derive(Debug)]
pub(super) struct Served {
    asker: Asker,
    what: What,
    begun_ms: u64,
}

#[derive(Debug)]
enum What {
    Compare {
        partition: Partition,
        class: Class,
        theirs: Vec<(ItemKey, StateHash)>,
    },
    /// The comparison is made; the rows are being read.
    Compared {
        wants: Vec<u32>,
        more: bool,
    },
    Pull {
        class: Class,
    },
    Give {
        left: usize,
        failed: Option<StoreError>,
    },
    Holds {
        items: Vec<(ItemKey, StateHash)>,
    },
    /// The hints of the partition are being counted; then its tombstones read.
    VoteHints {
        partition: Partition,
        items: Vec<(ItemKey, StateHash)>,
        is_owner: bool,
    },
    VoteLeaves {
        items: Vec<(ItemKey, StateHash)>,
    },
    Reap,
    Survey {
        table: TableId,
        singles: bool,
    },
}

impl What {
    /// What its step at the store counts for; rows that are given are counted where
    /// they are taken in, and for a survey someone waits.
    fn chore(&self) -> Option<Chore> {
        match self {
            What::Compare { .. } | What::Compared { .. } | What::Pull { .. } => {
                Some(Chore::Reading)
            }
            What::VoteHints { .. } | What::VoteLeaves { .. } | What::Reap => Some(Chore::Reaping),
            What::Give { .. } | What::Holds { .. } | What::Survey { .. } => None,
        }
    }
}

/// Which of these items are stored exactly so, by their place.
fn same(items: &[(ItemKey, StateHash)], leaves: &[Leaf]) -> Vec<u32> {
    let holds = |(key, hash): &(ItemKey, StateHash)| {
        leaves
            .binary_search_by(|leaf| leaf.key.cmp(key))
            .is_ok_and(|place| leaves[place].hash == Some(*hash))
    };
    items
        .iter()
        .zip(0u32..)
        .filter(|(item, _)| holds(item))
        .map(|(_, place)| place)
        .collect()
}

impl Machine {
    pub(super) fn on_exchange(&mut self, from: NodeId, id: MessageId, ask: Ask) {
        self.serve(Asker::Peer { node: from, id }, ask);
    }

    pub(super) fn serve(&mut self, asker: Asker, ask: Ask) {
        let trees = &self.exchanges.trees;
        match ask {
            Ask::Roots { width, roots } => {
                let verdict = |root: &exchange::Root| match trees.root(root.partition, root.class) {
                    Some(_) if trees.width() != width => RootVerdict::Unknown,
                    None => RootVerdict::Unknown,
                    Some((sum, _)) if sum == root.sum => RootVerdict::Same,
                    Some((_, items)) => RootVerdict::Differs { items },
                };
                let verdicts = roots.iter().map(verdict).collect();
                return self.reply(asker, Ok(Answer::Roots(verdicts)));
            }
            Ask::Branches {
                partition,
                class,
                level,
                nodes,
            } => {
                let differing =
                    exchange::differing_children(trees, partition, class, level, &nodes);
                let answer = differing.map(Answer::Branches).ok_or_else(|| {
                    Refusal::NotReady("its trees are being made from its rows".to_owned())
                });
                return self.reply(asker, answer);
            }
            _ => {}
        }
        if let Ask::Compare { width, .. } = &ask
            && (*width == 0 || *width != trees.width())
        {
            let why = "its trees have another width".to_owned();
            return self.reply(asker, Err(Refusal::NotReady(why)));
        }
        let in_hand = self.exchanges.serving.len() + self.exchanges.deferred.len();
        if in_hand >= MAX_SERVED && !matches!(asker, Asker::Me { .. }) {
            return self.reply(asker, Err(Refusal::Overloaded));
        }
        if matches!(ask, Ask::Compare { .. } | Ask::Pull { .. }) {
            self.exchanges.deferred.push_back((asker, ask));
            return self.serve_deferred();
        }
        self.serve_now(asker, ask);
    }

    /// Answers those that wait with rows, if it is time.
    pub(super) fn serve_deferred(&mut self) {
        let now_ms = self.now.monotonic_ms;
        let Exchanges {
            deferred,
            background,
            ..
        } = &mut self.exchanges;
        let mut begun = Vec::new();
        while !deferred.is_empty() && background.may_begin(Chore::Reading, now_ms) {
            background.begin(Chore::Reading, now_ms);
            begun.extend(deferred.pop_front());
        }
        for (asker, ask) in begun {
            self.serve_now(asker, ask);
        }
    }

    fn served(&self, asker: Asker, what: What) -> Served {
        Served {
            asker,
            what,
            begun_ms: self.now.monotonic_ms,
        }
    }

    fn serve_now(&mut self, asker: Asker, ask: Ask) {
        match ask {
            Ask::Roots { .. } | Ask::Branches { .. } => unreachable!("answered above"),
            Ask::Compare {
                partition,
                class,
                width,
                buckets,
                leaves,
            } => {
                let request = StoreRequest::Leaves {
                    partition,
                    buckets,
                    width,
                    limit: MAX_LEAVES,
                };
                let what = What::Compare {
                    partition,
                    class,
                    theirs: leaves,
                };
                self.look_up(asker, what, request);
            }
            Ask::Pull {
                partition,
                class,
                after,
            } => {
                let request = StoreRequest::Scan {
                    partition,
                    after,
                    limit: MAX_BATCH_ROWS,
                    max_bytes: self.exchanges.batch_bytes(),
                };
                self.look_up(asker, What::Pull { class }, request);
            }
            Ask::Give { partition, rows } => {
                if rows.is_empty() {
                    return self.reply(asker, Ok(Answer::Given));
                }
                let serve = self.next_id();
                let what = What::Give {
                    left: rows.len(),
                    failed: None,
                };
                let served = self.served(asker, what);
                self.exchanges.serving.insert(serve, served);
                self.bring(Bringer::Served(serve), partition, rows);
            }
            Ask::Holds { partition, items } => {
                let request = self.leaves_of(partition, &items);
                self.look_up(asker, What::Holds { items }, request);
            }
            Ask::Vote {
                partition,
                class,
                layout,
                aged_ms,
                items,
            } => match self.could_vote(partition, class, layout, aged_ms) {
                Some(is_owner) => {
                    let what = What::VoteHints {
                        partition,
                        items,
                        is_owner,
                    };
                    self.look_up(asker, what, StoreRequest::CountHintsOf { partition });
                }
                None => self.reply(asker, Ok(unclean())),
            },
            Ask::Reap { partition, items } => {
                let request = StoreRequest::Forget {
                    partition,
                    items,
                    hints: false,
                };
                self.look_up(asker, What::Reap, request);
            }
            // What is lacking here would pass for absent.
            Ask::Survey { partition, .. } if !self.is_filled(partition) => {
                let why = "it does not hold its data yet".to_owned();
                self.reply(asker, Err(Refusal::NotReady(why)));
            }
            Ask::Survey {
                table,
                partition,
                after,
                singles,
            } => {
                let request = survey::scan(table, partition, after);
                self.look_up(asker, What::Survey { table, singles }, request);
            }
        }
    }

    /// The leaves of at least these items.
    fn leaves_of(&self, partition: Partition, items: &[(ItemKey, StateHash)]) -> StoreRequest {
        let width = self.exchanges.trees.width().max(merkle::MIN_WIDTH);
        let mut buckets: Vec<u32> = items
            .iter()
            .map(|(key, _)| merkle::bucket_of(key, width))
            .collect();
        buckets.sort_unstable();
        buckets.dedup();
        StoreRequest::Leaves {
            partition,
            buckets,
            width,
            // Others lie in the same buckets. Whatever does not fit is taken for
            // lacking, and costs a repetition.
            limit: 8 * MAX_LEAVES,
        }
    }

    fn look_up(&mut self, asker: Asker, what: What, request: StoreRequest) {
        let serve = self.next_id();
        if what.chore() == Some(Chore::Reaping) {
            let now_ms = self.now.monotonic_ms;
            self.exchanges.background.begin(Chore::Reaping, now_ms);
        }
        let served = self.served(asker, what);
        self.exchanges.serving.insert(serve, served);
        self.store(Job::Serve(serve), request);
    }

    pub(super) fn on_served(&mut self, serve: u64, reply: Result<StoreReply, StoreError>) {
        let Some(Served {
            asker,
            what,
            begun_ms,
        }) = self.exchanges.serving.remove(&serve)
        else {
            return;
        };
        if let Some(chore) = what.chore() {
            let took = Took {
                begun_ms,
                now_ms: self.now.monotonic_ms,
            };
            let (items, bytes) = match &reply {
                Ok(StoreReply::Leaves { leaves, .. }) => (leaves.len(), 0),
                Ok(StoreReply::Rows { rows, .. }) => (rows.len(), exchange::bytes_of(rows)),
                Ok(StoreReply::Dropped(dropped)) => (dropped.len(), 0),
                _ => (0, 0),
            };
            self.exchanges.background.on_done(chore, items, bytes, took);
        }
        let reply = match (what, reply) {
            (What::Give { left, failed }, reply) => {
                let failed = failed.or(reply.err());
                if left > 1 {
                    let what = What::Give {
                        left: left - 1,
                        failed,
                    };
                    let served = Served {
                        asker,
                        what,
                        begun_ms,
                    };
                    self.exchanges.serving.insert(serve, served);
                    return;
                }
                let answer = failed.map_or(Ok(Answer::Given), |error| Err(refusal(error)));
                return self.reply(asker, answer);
            }
            (_, Err(error)) => return self.reply(asker, Err(refusal(error))),
            (what, Ok(reply)) => (what, reply),
        };
        match reply {
            (
                What::Compare {
                    partition,
                    class,
                    theirs,
                },
                StoreReply::Leaves { leaves, done },
            ) => {
                let mine: Vec<(ItemKey, StateHash)> = leaves
                    .into_iter()
                    .filter(|leaf| self.exchanges.class_of(&leaf.key) == class)
                    .filter_map(|leaf| leaf.hash.map(|hash| (leaf.key, hash)))
                    .collect();
                let (wants, gives) = exchange::compare(&mine, &theirs);
                let more = !done;
                if gives.is_empty() {
                    let answer = Answer::Compared {
                        wants,
                        rows: Vec::new(),
                        more,
                    };
                    return self.reply(asker, Ok(answer));
                }
                let request = StoreRequest::ReadMany {
                    partition,
                    keys: gives,
                    max_bytes: self.exchanges.batch_bytes(),
                };
                self.look_up(asker, What::Compared { wants, more }, request);
            }
            (What::Compared { wants, more }, StoreReply::Rows { rows, done }) => {
                self.counters.rows_given += rows.len() as u64;
                let more = more || !done;
                self.reply(asker, Ok(Answer::Compared { wants, rows, more }));
            }
            (What::Pull { class }, StoreReply::Rows { mut rows, done }) => {
                let last = rows.last().map(|(key, _)| key.clone());
                rows.retain(|(key, _)| self.exchanges.class_of(key) == class);
                self.counters.rows_given += rows.len() as u64;
                let next = last.filter(|_| !done);
                self.reply(asker, Ok(Answer::Pulled { rows, next }));
            }
            (What::Holds { items }, StoreReply::Leaves { leaves, .. }) => {
                let held = same(&items, &leaves);
                let lacking = (0..items.len() as u32)
                    .filter(|place| held.binary_search(place).is_err())
                    .collect();
                self.reply(asker, Ok(Answer::Lacking(lacking)));
            }
            (
                What::VoteHints {
                    partition,
                    items,
                    is_owner,
                },
                StoreReply::Count(hints),
            ) => {
                if hints > 0 {
                    self.reply(asker, Ok(unclean()));
                } else if is_owner {
                    let request = self.leaves_of(partition, &items);
                    self.look_up(asker, What::VoteLeaves { items }, request);
                } else {
                    let answer = Answer::Vote {
                        clean: true,
                        same: Vec::new(),
                    };
                    self.reply(asker, Ok(answer));
                }
            }
            (What::VoteLeaves { items }, StoreReply::Leaves { leaves, .. }) => {
                let answer = Answer::Vote {
                    clean: true,
                    same: same(&items, &leaves),
                };
                self.reply(asker, Ok(answer));
            }
            (What::Reap, StoreReply::Dropped(changes)) => {
                self.counters.tombstones_reaped += changes.len() as u64;
                self.reply(asker, Ok(Answer::Reaped));
            }
            (What::Survey { table, singles }, reply) => {
                self.reply(asker, Ok(survey::page(table, singles, reply)));
            }
            (what, reply) => unreachable!("{reply:?} does not answer {what:?}"),
        }
    }

    fn reply(&mut self, asker: Asker, answer: Result<Answer, Refusal>) {
        match asker {
            Asker::Peer { node, id } => {
                self.send(node, Message::ExchangeAnswer { id, answer });
            }
            Asker::Me { ballot } => self.on_reaping_answer(ballot, self.me, answer),
            Asker::Survey { id } => self.on_survey_answer(id, self.me, answer),
        }
    }
}

fn unclean() -> Answer {
    Answer::Vote {
        clean: false,
        same: Vec::new(),
    }
}

fn refusal(error: StoreError) -> Refusal {
    match error {
        StoreError::Overloaded => Refusal::Overloaded,
        error => Refusal::Storage(error),
    }
}
