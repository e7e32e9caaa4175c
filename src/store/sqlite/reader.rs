//! The threads that read.
//!
//! Promises: a query sees every change that was answered before the query was
//! submitted; each query sees each file at one moment. A reader takes what has
//! gathered since it last looked and reads it under one snapshot per file.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use rusqlite::{CachedStatement, Connection, OptionalExtension};

use super::file::meaning;
use super::queue::Queue;
use super::walk::Walk;
use super::{Answer, Shared, file_of};
use crate::protocol::effect::{Hint, HintId, StoreError, StoreReply};
use crate::protocol::id::{ItemKey, NodeId, Partition};
use crate::protocol::replica::Row;
use crate::store::row;

/// How many short queries share a snapshot at most, so that one never holds back
/// a checkpoint for long.
pub const MAX_BATCH: usize = 64;

/// What readers are asked.
pub enum Query {
    /// Many rows at once, on a thread of its own.
    Survey {
        partition: Partition,
        survey: Survey,
        answer: Answer,
    },
    Read {
        partition: Partition,
        key: ItemKey,
        part: Part,
        answer: Answer,
    },
    Hints {
        target: NodeId,
        limit: usize,
        answer: Answer,
    },
    CountHints {
        answer: Answer,
    },
    Meta {
        name: String,
        answer: SyncSender<Result<Option<Vec<u8>>, StoreError>>,
    },
}

/// How much of a row is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    Whole,
    /// The hash of its state, which is in the header.
    State,
}

/// What is asked of a partition, see `StoreRequest`.
pub enum Survey {
    Leaves {
        buckets: Vec<u32>,
        width: u32,
        limit: usize,
    },
    ReadMany {
        keys: Vec<ItemKey>,
        max_bytes: usize,
    },
    Scan {
        after: Option<ItemKey>,
        limit: usize,
        max_bytes: usize,
    },
}

/// One reading thread's state.
pub struct Reader {
    /// By file.
    pub connections: Vec<Connection>,
    pub queue: Arc<Queue<Query>>,
    pub shared: Arc<Shared>,
    /// How many queries share a snapshot at most.
    pub max_batch: usize,
}

impl Reader {
    /// Answers queries until the queue is closed and empty.
    pub fn run(self) {
        let mut queries = VecDeque::with_capacity(self.max_batch);
        let mut open = vec![false; self.connections.len()];
        while self.queue.take(self.max_batch, &mut queries) {
            let share = queries.len() > 1;
            for query in queries.drain(..) {
                self.answer(query, share, &mut open);
            }
            for (connection, open) in self.connections.iter().zip(&mut open) {
                if std::mem::take(open) {
                    let ended = connection
                        .prepare_cached("COMMIT")
                        .and_then(|mut end| end.execute([]));
                    if let Err(error) = ended {
                        tracing::error!(%error, "a snapshot did not end");
                    }
                }
            }
        }
    }

    fn answer(&self, query: Query, share: bool, open: &mut [bool]) {
        let share = share || matches!(query, Query::Survey { .. });
        // A snapshot is taken at the first read after BEGIN, which is after the
        // query was submitted.
        let mut begin = |file: usize| -> Result<(), StoreError> {
            if share && !open[file] {
                self.connections[file]
                    .prepare_cached("BEGIN")
                    .and_then(|mut begin| begin.execute([]))
                    .map_err(|error| self.shared.meaning(file as u32, &error))?;
                open[file] = true;
            }
            Ok(())
        };
        match query {
            Query::Read {
                partition,
                key,
                part,
                answer,
            } => {
                let file = file_of(partition, self.connections.len()) as usize;
                let connection = &self.connections[file];
                let reply =
                    begin(file).and_then(|()| self.shared.read(connection, partition, &key, part));
                answer.give(reply);
            }
            Query::Survey {
                partition,
                survey,
                answer,
            } => {
                let file = file_of(partition, self.connections.len()) as usize;
                let reply = begin(file).and_then(|()| self.survey(file, partition, &survey));
                answer.give(reply);
            }
            Query::Hints {
                target,
                limit,
                answer,
            } => answer.give(self.hints(target, limit).map(StoreReply::Hints)),
            Query::CountHints { answer } => {
                answer.give(self.count_hints().map(StoreReply::HintCounts));
            }
            Query::Meta { name, answer } => {
                let record = self.connections[0]
                    .query_row("SELECT bytes FROM meta WHERE name = ?1", [name], |row| {
                        row.get(0)
                    })
                    .optional()
                    .map_err(|error| self.shared.meaning(0, &error));
                if answer.send(record).is_err() {
                    tracing::debug!("the one who asked for a record has gone");
                }
            }
        }
    }

    fn survey(
        &self,
        file: usize,
        partition: Partition,
        survey: &Survey,
    ) -> Result<StoreReply, StoreError> {
        let walk = Walk::new(&self.connections[file], &self.shared, partition);
        let reply = walk.and_then(|mut walk| match survey {
            Survey::Leaves {
                buckets,
                width,
                limit,
            } => walk.leaves(buckets, *width, *limit),
            Survey::ReadMany { keys, max_bytes } => walk.read_many(keys, *max_bytes),
            Survey::Scan {
                after,
                limit,
                max_bytes,
            } => walk.scan(after.as_ref(), *limit, *max_bytes),
        });
        reply.map_err(|error| self.shared.meaning(file as u32, &error))
    }

    /// Takes hints from the files in turn, so that none waits for another to be
    /// emptied. A hint whose row is damaged is passed over and stays: the item
    /// is neither delivered nor forgotten.
    fn hints(&self, target: NodeId, limit: usize) -> Result<Vec<Hint>, StoreError> {
        let in_file = |file| move |error| self.shared.meaning(file, &error);
        let mut statements = self
            .connections
            .iter()
            .zip(0..)
            .map(|(connection, file)| {
                let hints = connection.prepare_cached(
                    "SELECT sequence, partition, key FROM hints
                     WHERE target = ?1 ORDER BY sequence",
                );
                hints.map_err(in_file(file))
            })
            .collect::<Result<Vec<CachedStatement<'_>>, StoreError>>()?;
        let mut files = statements
            .iter_mut()
            .zip(0u32..)
            .map(|(statement, file)| {
                let rows = statement.query([target.0.cast_signed()]);
                Ok((file, rows.map_err(in_file(file))?))
            })
            .collect::<Result<VecDeque<_>, StoreError>>()?;
        let mut hints = Vec::new();
        while hints.len() < limit
            && let Some((file, mut rows)) = files.pop_front()
        {
            let Some(found) = rows.next().map_err(in_file(file))? else {
                continue;
            };
            let (sequence, item) = named(found).map_err(in_file(file))?;
            if let Some((partition, key)) = item {
                // The open cursor holds the file's snapshot: the row is the one
                // of the hint's moment.
                let connection = &self.connections[file as usize];
                match self
                    .shared
                    .read_row(connection, partition, &key, row::decode)
                {
                    Ok(row) => hints.push(Hint {
                        id: HintId { file, sequence },
                        partition,
                        key,
                        row,
                    }),
                    Err(error) => {
                        tracing::error!(%error, ?target, sequence, "a hint is passed over");
                    }
                }
            } else {
                self.shared.count_damage();
                tracing::error!(file, sequence, "a hint names no item; it is passed over");
            }
            files.push_back((file, rows));
        }
        Ok(hints)
    }

    fn count_hints(&self) -> Result<Vec<(NodeId, u64)>, StoreError> {
        let mut counts = BTreeMap::<NodeId, u64>::new();
        for (connection, file) in self.connections.iter().zip(0..) {
            count_hints(connection, &mut counts)
                .map_err(|error| self.shared.meaning(file, &error))?;
        }
        Ok(counts.into_iter().collect())
    }
}

fn count_hints(
    connection: &Connection,
    counts: &mut BTreeMap<NodeId, u64>,
) -> rusqlite::Result<()> {
    let mut statement =
        connection.prepare_cached("SELECT target, count(*) FROM hints GROUP BY target")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let target = NodeId(row.get::<_, i64>(0)?.cast_unsigned());
        *counts.entry(target).or_default() += row.get::<_, i64>(1)?.cast_unsigned();
    }
    Ok(())
}

/// A hint's sequence and the item that it names; none when that is damaged.
fn named(found: &rusqlite::Row<'_>) -> rusqlite::Result<(i64, Option<(Partition, ItemKey)>)> {
    let partition = u32::try_from(found.get::<_, i64>(1)?).ok().map(Partition);
    let key = ItemKey::decode(found.get_ref(2)?.as_blob()?);
    Ok((found.get(0)?, partition.zip(key)))
}

impl Shared {
    /// Answers a read of one row.
    pub(super) fn read(
        &self,
        connection: &Connection,
        partition: Partition,
        key: &ItemKey,
        part: Part,
    ) -> Result<StoreReply, StoreError> {
        match part {
            Part::Whole => self
                .read_row(connection, partition, key, row::decode_with_state)
                .map(StoreReply::Row),
            Part::State => self
                .read_row(connection, partition, key, row::state)
                .map(StoreReply::State),
        }
    }

    /// What `decode` makes of a row's bytes.
    pub(super) fn read_row<T>(
        &self,
        connection: &Connection,
        partition: Partition,
        key: &ItemKey,
        decode: impl Fn(&ItemKey, &[u8]) -> Result<T, row::Damage>,
    ) -> Result<Option<T>, StoreError> {
        let read = || -> rusqlite::Result<Option<Result<T, row::Damage>>> {
            let mut statement = connection
                .prepare_cached("SELECT row FROM items WHERE partition = ?1 AND key = ?2")?;
            let mut rows = statement.query((partition.0, key.as_bytes()))?;
            match rows.next()? {
                None => Ok(None),
                Some(found) => Ok(Some(decode(key, found.get_ref(0)?.as_blob()?))),
            }
        };
        let row = read().map_err(|error| {
            let file = file_of(partition, self.files as usize);
            self.meaning(file, &error)
        })?;
        row.transpose().map_err(|damage| {
            self.note_damage(partition, key, &damage);
            damage.at(key)
        })
    }
}

/// All rows of a partition in the order of their keys, damage included.
pub fn scan(
    connection: &Connection,
    partition: Partition,
) -> Result<Vec<(ItemKey, Row)>, StoreError> {
    let scan = || -> rusqlite::Result<Result<Vec<(ItemKey, Row)>, StoreError>> {
        let mut statement = connection
            .prepare_cached("SELECT key, row FROM items WHERE partition = ?1 ORDER BY key")?;
        let mut rows = statement.query([partition.0])?;
        let mut found = Vec::new();
        while let Some(columns) = rows.next()? {
            let key = columns.get_ref(0)?.as_blob()?;
            let Some(key) = ItemKey::decode(key) else {
                let name = key.escape_ascii();
                return Ok(Err(StoreError::Corrupt(format!("{name}: no item's key"))));
            };
            match row::decode(&key, columns.get_ref(1)?.as_blob()?) {
                Ok(row) => found.push((key, row)),
                Err(damage) => return Ok(Err(damage.at(&key))),
            }
        }
        Ok(Ok(found))
    };
    scan().unwrap_or_else(|error| Err(meaning(&error)))
}
