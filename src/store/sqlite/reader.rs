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
use super::{Answer, Shared, file_of};
use crate::protocol::effect::{Hint, HintId, StoreError, StoreReply};
use crate::protocol::id::{ItemKey, NodeId, Partition};
use crate::protocol::replica::Row;
use crate::store::row;

/// How many queries share a snapshot at most, so that one never holds back a
/// checkpoint for long.
const MAX_BATCH: usize = 64;

/// What readers are asked.
pub enum Query {
    Read {
        partition: Partition,
        key: ItemKey,
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

/// One reading thread's state.
pub struct Reader {
    /// By file.
    pub connections: Vec<Connection>,
    pub queue: Arc<Queue<Query>>,
    pub shared: Arc<Shared>,
}

impl Reader {
    /// Answers queries until the queue is closed and empty.
    pub fn run(self) {
        let mut queries = VecDeque::with_capacity(MAX_BATCH);
        let mut open = vec![false; self.connections.len()];
        while self.queue.take(MAX_BATCH, &mut queries) {
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
        // A snapshot is taken at the first read after BEGIN, which is after the
        // query was submitted.
        let mut begin = |file: usize| -> Result<(), StoreError> {
            if share && !open[file] {
                self.connections[file]
                    .prepare_cached("BEGIN")
                    .and_then(|mut begin| begin.execute([]))
                    .map_err(|error| meaning(&error))?;
                open[file] = true;
            }
            Ok(())
        };
        match query {
            Query::Read {
                partition,
                key,
                answer,
            } => {
                let file = file_of(partition, self.connections.len()) as usize;
                let row = begin(file).and_then(|()| self.read(file, partition, &key));
                answer.give(row.map(StoreReply::Row));
            }
            Query::Hints {
                target,
                limit,
                answer,
            } => {
                let hints = self.hints(target, limit).map_err(|error| meaning(&error));
                answer.give(hints.map(StoreReply::Hints));
            }
            Query::CountHints { answer } => {
                let counts = self.count_hints().map_err(|error| meaning(&error));
                answer.give(counts.map(StoreReply::HintCounts));
            }
            Query::Meta { name, answer } => {
                let record = self.connections[0]
                    .query_row("SELECT bytes FROM meta WHERE name = ?1", [name], |row| {
                        row.get(0)
                    })
                    .optional()
                    .map_err(|error| meaning(&error));
                if answer.send(record).is_err() {
                    tracing::debug!("the one who asked for a record has gone");
                }
            }
        }
    }

    fn read(
        &self,
        file: usize,
        partition: Partition,
        key: &ItemKey,
    ) -> Result<Option<Row>, StoreError> {
        let connection = &self.connections[file];
        let row = read(connection, partition, key).map_err(|error| meaning(&error))?;
        row.transpose().map_err(|damage| {
            self.shared.note_damage(partition, key, &damage);
            damage.at(key)
        })
    }

    /// Takes hints from the files in turn, so that none waits for another to be
    /// emptied. A hint whose row is damaged is passed over and stays: the item
    /// is neither delivered nor forgotten.
    fn hints(&self, target: NodeId, limit: usize) -> rusqlite::Result<Vec<Hint>> {
        let mut statements = self
            .connections
            .iter()
            .map(|connection| {
                connection.prepare_cached(
                    "SELECT sequence, partition, key FROM hints
                     WHERE target = ?1 ORDER BY sequence",
                )
            })
            .collect::<rusqlite::Result<Vec<CachedStatement<'_>>>>()?;
        let mut files = statements
            .iter_mut()
            .zip(0u32..)
            .map(|(statement, file)| Ok((file, statement.query([target.0.cast_signed()])?)))
            .collect::<rusqlite::Result<VecDeque<_>>>()?;
        let mut hints = Vec::new();
        while hints.len() < limit
            && let Some((file, mut rows)) = files.pop_front()
        {
            let Some(found) = rows.next()? else { continue };
            let sequence: i64 = found.get(0)?;
            let item = item_name(found.get(1)?, found.get_ref(2)?.as_blob()?);
            if let Some((partition, key)) = item {
                // The open cursor holds the file's snapshot: the row is the one
                // of the hint's moment.
                match self.read(file as usize, partition, &key) {
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

    fn count_hints(&self) -> rusqlite::Result<Vec<(NodeId, u64)>> {
        let mut counts = BTreeMap::<NodeId, u64>::new();
        for connection in &self.connections {
            let mut statement =
                connection.prepare_cached("SELECT target, count(*) FROM hints GROUP BY target")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let target = NodeId(row.get::<_, i64>(0)?.cast_unsigned());
                *counts.entry(target).or_default() += row.get::<_, i64>(1)?.cast_unsigned();
            }
        }
        Ok(counts.into_iter().collect())
    }
}

/// The item that these columns name; none when they are damaged.
fn item_name(partition: i64, key: &[u8]) -> Option<(Partition, ItemKey)> {
    let partition = u32::try_from(partition).ok().map(Partition)?;
    Some((partition, ItemKey::decode(key)?))
}

/// Reads one row.
fn read(
    connection: &Connection,
    partition: Partition,
    key: &ItemKey,
) -> rusqlite::Result<Option<Result<Row, row::Damage>>> {
    let mut statement =
        connection.prepare_cached("SELECT row FROM items WHERE partition = ?1 AND key = ?2")?;
    let mut rows = statement.query((partition.0, key.as_bytes()))?;
    match rows.next()? {
        None => Ok(None),
        Some(found) => Ok(Some(row::decode(key, found.get_ref(0)?.as_blob()?))),
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
