//! The threads that read.
//!
//! Promises: a query sees every change that was answered before the query was
//! submitted; each query sees each file at one moment. A reader takes what has
//! gathered since it last looked and reads it under one snapshot per file.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use rusqlite::{CachedStatement, Connection, OptionalExtension};

use super::walk::Walk;
use crate::protocol::effect::{Hint, HintId, StoreError, StoreReply};
use crate::protocol::id::{ItemKey, NodeId, Partition};
use crate::protocol::replica::Row;
use crate::store::row;
use crate::store::sqlite::files::file::meaning;
use crate::store::sqlite::queue::Queue;
use crate::store::sqlite::{Answer, Shared, file_of};

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

/// A hint, without the row that it is for.
struct Noted {
    id: HintId,
    partition: Partition,
    key: ItemKey,
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
        // By file, while a snapshot is open: what `Unfiled::forgotten` said before it.
        let mut open = vec![None; self.connections.len()];
        while self.queue.take(self.max_batch, &mut queries) {
            let share = queries.len() > 1;
            for query in queries.drain(..) {
                self.answer(query, share, &mut open);
            }
            for (connection, open) in self.connections.iter().zip(&mut open) {
                end_snapshot(connection, open);
            }
        }
    }

    fn answer(&self, query: Query, share: bool, open: &mut [Option<u64>]) {
        // A snapshot is taken at the first read after BEGIN, which is after the
        // query was submitted, and after its row was looked for among those that are
        // not filed (unfiled.rs).
        let mut begin = |file: usize| -> Result<(), StoreError> {
            let (connection, open) = (&self.connections[file], &mut open[file]);
            let forgotten = self.shared.unfiled[file].forgotten();
            if open.is_some_and(|before| before != forgotten) {
                end_snapshot(connection, open);
            }
            if share && open.is_none() {
                connection
                    .prepare_cached("BEGIN")
                    .and_then(|mut begin| begin.execute([]))
                    .map_err(|error| self.shared.meaning(file as u32, &error))?;
                *open = Some(forgotten);
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
                let place = self.shared.unfiled[file].place(partition, &key);
                let item = (partition, &key, place);
                let reply = begin(file).and_then(|()| self.shared.read(connection, item, part));
                answer.give(reply);
            }
            Query::Survey {
                partition,
                survey,
                answer,
            } => {
                let file = file_of(partition, self.connections.len()) as usize;
                answer.give(self.survey(file, partition, &survey));
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
        let connection = &self.connections[file];
        let walk = || -> rusqlite::Result<StoreReply> {
            let mut walk = Walk::new(connection, &self.shared, partition)?;
            match survey {
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
            }
        };
        walk().map_err(|error| self.shared.meaning(file as u32, &error))
    }

    /// Takes hints from the files in turn, so that none waits for another to be
    /// emptied. A hint whose row is damaged is passed over and stays: the item
    /// is neither delivered nor forgotten.
    fn hints(&self, target: NodeId, limit: usize) -> Result<Vec<Hint>, StoreError> {
        let mut hints = Vec::new();
        let mut after = vec![0; self.connections.len()];
        loop {
            let wanted = limit - hints.len();
            let noted = self.noted(target, &mut after, wanted)?;
            let is_last = noted.len() < wanted;
            hints.extend(noted.into_iter().filter_map(|noted| self.with_row(noted)));
            if is_last || hints.len() >= limit {
                return Ok(hints);
            }
        }
    }

    /// The hint; none when its row cannot be read.
    fn with_row(&self, noted: Noted) -> Option<Hint> {
        let Noted { id, partition, key } = noted;
        let file = id.file as usize;
        // A snapshot for each, taken after this.
        let place = self.shared.unfiled[file].place(partition, &key);
        let item = (partition, &key, place);
        let read = self
            .shared
            .read_row(&self.connections[file], item, row::decode);
        match read {
            Ok(row) => Some(Hint {
                id,
                partition,
                key,
                row,
            }),
            Err(error) => {
                tracing::error!(%error, ?id, "a hint is passed over");
                None
            }
        }
    }

    /// Hints without their rows, after these sequences by file, which it moves on.
    fn noted(
        &self,
        target: NodeId,
        after: &mut [i64],
        limit: usize,
    ) -> Result<Vec<Noted>, StoreError> {
        let in_file = |file| move |error| self.shared.meaning(file, &error);
        let mut statements = self
            .connections
            .iter()
            .zip(0..)
            .map(|(connection, file)| {
                let hints = connection.prepare_cached(
                    "SELECT sequence, partition, key FROM hints
                     WHERE target = ?1 AND sequence > ?2 ORDER BY sequence",
                );
                hints.map_err(in_file(file))
            })
            .collect::<Result<Vec<CachedStatement<'_>>, StoreError>>()?;
        let mut files = statements
            .iter_mut()
            .zip(0u32..)
            .map(|(statement, file)| {
                let rows = statement.query((target.0.cast_signed(), after[file as usize]));
                Ok((file, rows.map_err(in_file(file))?))
            })
            .collect::<Result<VecDeque<_>, StoreError>>()?;
        let mut noted = Vec::new();
        while noted.len() < limit
            && let Some((file, mut rows)) = files.pop_front()
        {
            let Some(found) = rows.next().map_err(in_file(file))? else {
                continue;
            };
            let (sequence, item) = named(found).map_err(in_file(file))?;
            after[file as usize] = sequence;
            if let Some((partition, key)) = item {
                noted.push(Noted {
                    id: HintId { file, sequence },
                    partition,
                    key,
                });
            } else {
                self.shared.count_damage();
                tracing::error!(file, sequence, "a hint names no item; it is passed over");
            }
            files.push_back((file, rows));
        }
        Ok(noted)
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
    /// Answers a read of one row. `place` is what `Unfiled::place` said of it before the
    /// connection's snapshot was taken, or seen to be fresh.
    pub fn read(
        &self,
        connection: &Connection,
        item: (Partition, &ItemKey, Option<i64>),
        part: Part,
    ) -> Result<StoreReply, StoreError> {
        match part {
            Part::Whole => self
                .read_row(connection, item, row::decode_with_state)
                .map(StoreReply::Row),
            Part::State => self
                .read_row(connection, item, row::state)
                .map(StoreReply::State),
        }
    }

    /// What `decode` makes of a row's bytes. For the item see [`Shared::read`].
    pub fn read_row<T>(
        &self,
        connection: &Connection,
        (partition, key, place): (Partition, &ItemKey, Option<i64>),
        decode: impl Fn(&ItemKey, &[u8]) -> Result<T, row::Damage>,
    ) -> Result<Option<T>, StoreError> {
        let file = file_of(partition, self.files as usize);
        let read = || -> rusqlite::Result<Option<Result<T, row::Damage>>> {
            if let Some(id) = place {
                let mut statement =
                    connection.prepare_cached("SELECT row FROM items WHERE id = ?1")?;
                let mut rows = statement.query([id])?;
                if let Some(found) = rows.next()? {
                    return Ok(Some(decode(key, found.get_ref(0)?.as_blob()?)));
                }
                // The snapshot is older than the row, or younger than its end.
            }
            let mut statement = connection.prepare_cached(
                "SELECT i.row FROM places p LEFT JOIN items i ON i.id = p.id
                 WHERE p.partition = ?1 AND p.key = ?2",
            )?;
            let mut rows = statement.query((partition.0, key.as_bytes()))?;
            match rows.next()? {
                None => Ok(None),
                Some(found) => Ok(Some(match found.get_ref(0)?.as_blob_or_null()? {
                    Some(bytes) => decode(key, bytes),
                    None => Err(row::Damage::Gone),
                })),
            }
        };
        let row = read().map_err(|error| self.meaning(file, &error))?;
        row.transpose().map_err(|damage| {
            if matches!(damage, row::Damage::Gone) {
                self.suspect_text(file, "the index leads to a row that is not in the table");
            }
            self.note_damage(partition, key, &damage);
            damage.at(key)
        })
    }
}

/// Ends a reading thread's snapshot, if one is open.
fn end_snapshot(connection: &Connection, open: &mut Option<u64>) {
    if open.take().is_some() {
        let ended = connection
            .prepare_cached("COMMIT")
            .and_then(|mut end| end.execute([]));
        if let Err(error) = ended {
            tracing::error!(%error, "a snapshot did not end");
        }
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
