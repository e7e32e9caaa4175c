//! Which request goes to which queue.
//!
//! Promises: changes, and what takes its turn among them, go to the writer of their
//! file; reads of one row and of hints to the reading threads; what reads many rows to
//! the thread that does nothing else.

use super::reading::reader::{Part, Query, Survey};
use super::writing::change::Change;
use super::writing::writer::Look;
use super::{Answer, SqliteStore, file_of};
use crate::protocol::effect::StoreRequest;
use crate::store::Done;

impl SqliteStore {
    /// Hands a request to the queue that it belongs in.
    pub(super) fn take(&self, request: StoreRequest, done: Done) {
        let files = self.changes.len();
        match request {
            StoreRequest::Read { partition, key } => self.ask(Query::Read {
                partition,
                key,
                part: Part::Whole,
                answer: Answer(Some(done)),
            }),
            StoreRequest::ReadState { partition, key } => self.ask(Query::Read {
                partition,
                key,
                part: Part::State,
                answer: Answer(Some(done)),
            }),
            StoreRequest::Update {
                partition,
                key,
                mutation,
                hints,
            } => {
                let change = Change::Update {
                    partition,
                    key,
                    mutation,
                    hints,
                };
                self.change(file_of(partition, files), change, done);
            }
            StoreRequest::AddHints {
                partition,
                key,
                hints,
            } => {
                let change = Change::AddHints {
                    partition,
                    key,
                    hints,
                };
                self.change(file_of(partition, files), change, done);
            }
            StoreRequest::Hints { target, limit } => {
                let answer = Answer(Some(done));
                self.ask(Query::Hints {
                    target,
                    limit,
                    answer,
                });
            }
            StoreRequest::DropHints { hints } => self.drop_hints(hints, done),
            StoreRequest::CountHints => {
                let answer = Answer(Some(done));
                self.ask(Query::CountHints { answer });
            }
            StoreRequest::PutMeta { name, bytes } => {
                self.change(0, Change::PutMeta { name, bytes }, done);
            }
            StoreRequest::Derive {
                partition,
                after,
                limit,
            } => {
                let look = Look::Derive {
                    partition,
                    after,
                    limit,
                };
                self.look(partition, look, done);
            }
            StoreRequest::CountHintsOf { partition } => {
                self.look(partition, Look::CountHintsOf(partition), done);
            }
            StoreRequest::Leaves {
                partition,
                buckets,
                width,
                limit,
            } => {
                let survey = Survey::Leaves {
                    buckets,
                    width,
                    limit,
                };
                self.survey(partition, survey, done);
            }
            StoreRequest::ReadMany {
                partition,
                keys,
                max_bytes,
            } => self.survey(partition, Survey::ReadMany { keys, max_bytes }, done),
            StoreRequest::Scan {
                partition,
                after,
                limit,
                max_bytes,
            } => {
                let survey = Survey::Scan {
                    after,
                    limit,
                    max_bytes,
                };
                self.survey(partition, survey, done);
            }
            StoreRequest::ForgetDamaged { partition, keys } => {
                let change = Change::ForgetDamaged { partition, keys };
                self.change(file_of(partition, files), change, done);
            }
            StoreRequest::Forget {
                partition,
                items,
                hints,
            } => {
                let change = Change::Forget {
                    partition,
                    items,
                    hints,
                };
                self.change(file_of(partition, files), change, done);
            }
        }
    }
}
