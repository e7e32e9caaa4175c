//! Rows that the index does not know yet.
//!
//! A new row lies at the end of the table, beside the others of its commit. Its place
//! in the index is wherever its key says: a page of its own for each row, which every
//! commit would write and sync for the sake of some forty bytes. So the index hears of
//! new rows later, many at a time and in the order of its keys (*filing*), and until
//! then memory knows where they lie. A [`Hand`] goes round through the keys, and what is
//! ahead of it is filed whenever there is more than [`Bounds`] allow: neighbours meet
//! the same pages. It is the idea of the log-structured merge tree (O'Neil and others,
//! 1996), with one small level above a B-tree, and for keys only.
//!
//! Promises: every row is known to the index or here, to exactly one of them once a
//! transaction has ended, but for the moment in which a change becomes known. After
//! the process ended in whatever way, [`load`] finds again what the index lacks, from
//! the rows themselves, and reads no more of them than a few times the bounds: the
//! number [`FILED_BELOW`] says below which id all rows are filed.
//!
//! How readers stay right: a row's place is asked for here first, and the snapshot that
//! is read is taken, or seen to be fresh, after that. The writer makes new rows known
//! here before it answers, and forgets those that were filed only when no snapshot that
//! lacks their filing counts as fresh any more (`Here::flow`). So who does not find a row here
//! finds it in the index, if it is there at all; who finds it here, and not in the
//! table, has a snapshot that is older than the row, and goes by the index.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rusqlite::Connection;

use super::files::file;
use crate::protocol::id::{ItemKey, Partition};

/// The number that says of a file: every row with a lesser id is known to the index.
pub const FILED_BELOW: &str = "filed_below";

/// How many rows of a file may be unfiled. The more there are, the more of those that
/// are filed at once share a page; each takes some 150 bytes of memory, 5 MB in all.
pub const MAX_ROWS: usize = 32 * 1024;

/// How many bytes such rows may have: an opening after a crash reads through a few times
/// as many, and is to take less than a second of it.
const MAX_BYTES: usize = 32 * 1024 * 1024;

/// Filing waits until a two hundred and fiftieth of the rows is too many, so that it
/// does not go to a page for one of them alone.
const STEPS: usize = 256;

/// How many rows of one partition are filed together although fewer are due: they are
/// found among all that the partition has unfiled, which may be all rows that there are.
const MIN_FILED: usize = 512;

/// How often, while as many rows are filed as may be unfiled, [`FILED_BELOW`] is noted.
/// An opening reads this part more than it must.
const NOTES: usize = 4;

/// How much may be unfiled.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub max_rows: usize,
}

impl Bounds {
    fn step(self) -> usize {
        (self.max_rows / STEPS).max(1)
    }

    /// How many rows are filed between two notes of [`FILED_BELOW`].
    pub fn rows_a_note(self) -> usize {
        (self.max_rows / NOTES).max(1)
    }
}

/// A row that the index does not know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub partition: Partition,
    pub key: ItemKey,
    pub id: i64,
    /// How large its row was when it was made.
    pub bytes: u32,
}

#[derive(Clone, Copy)]
struct Place {
    id: i64,
    bytes: u32,
}

/// Where filing goes on: at the rows of this partition after this key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hand {
    partition: Partition,
    after: Option<ItemKey>,
}

impl Default for Hand {
    fn default() -> Self {
        Hand {
            partition: Partition(0),
            after: None,
        }
    }
}

/// The unfiled rows of one partition.
type OfPartition = HashMap<ItemKey, Place>;

/// Those after this key, in the order of their keys, at most so many.
fn sorted<'a>(
    rows: &'a OfPartition,
    after: Option<&ItemKey>,
    limit: usize,
) -> Vec<(&'a ItemKey, Place)> {
    let rows = rows.iter().map(|(key, place)| (key, *place));
    let mut rows: Vec<_> = rows
        .filter(|(key, _)| after.is_none_or(|after| *key > after))
        .collect();
    if limit < rows.len() {
        rows.select_nth_unstable_by_key(limit, |row| row.0);
        rows.truncate(limit);
    }
    rows.sort_unstable_by_key(|row| row.0);
    rows
}

#[derive(Default)]
struct Rows {
    by_partition: BTreeMap<Partition, OfPartition>,
    count: usize,
    bytes: usize,
}

impl Rows {
    fn forget(&mut self, partition: Partition, key: &ItemKey) {
        let Some(rows) = self.by_partition.get_mut(&partition) else {
            return;
        };
        if let Some(place) = rows.remove(key) {
            self.count -= 1;
            self.bytes -= place.bytes as usize;
        }
        if rows.is_empty() {
            self.by_partition.remove(&partition);
        }
    }

    fn add(&mut self, entry: Entry) {
        let place = Place {
            id: entry.id,
            bytes: entry.bytes,
        };
        let rows = self.by_partition.entry(entry.partition).or_default();
        self.count += 1;
        self.bytes += entry.bytes as usize;
        if let Some(before) = rows.insert(entry.key, place) {
            self.count -= 1;
            self.bytes -= before.bytes as usize;
        }
    }
}

/// The rows of one file that its index does not know.
///
/// The file's writer alone changes it.
pub struct Unfiled {
    bounds: Bounds,
    rows: RwLock<Rows>,
    /// How many times rows were forgotten.
    forgotten: AtomicU64,
}

impl Unfiled {
    /// None yet.
    pub fn new(bounds: Bounds) -> Self {
        Unfiled {
            bounds,
            rows: RwLock::default(),
            forgotten: AtomicU64::new(0),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Rows> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Rows> {
        self.rows.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much may be unfiled.
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// How many rows there are.
    pub fn count(&self) -> usize {
        self.read().count
    }

    /// Where the row lies, if it is unfiled. A snapshot to read it from is taken, or seen
    /// to be fresh, after this call.
    pub fn place(&self, partition: Partition, key: &ItemKey) -> Option<i64> {
        let rows = self.read();
        let place = rows.by_partition.get(&partition)?.get(key)?;
        Some(place.id)
    }

    /// The unfiled rows of a partition after this key, in the order of their keys, at most
    /// so many.
    pub fn of(
        &self,
        partition: Partition,
        after: Option<&ItemKey>,
        limit: usize,
    ) -> Vec<(ItemKey, i64)> {
        let rows = self.read();
        let Some(rows) = rows.by_partition.get(&partition) else {
            return Vec::new();
        };
        let rows = sorted(rows, after, limit).into_iter();
        rows.map(|(key, place)| (key.clone(), place.id)).collect()
    }

    /// How many times rows were forgotten; a snapshot that was taken after this call has
    /// in its index what was filed before them.
    pub fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::SeqCst)
    }

    /// What is to be filed now, in the order of partition and key from the hand on and
    /// round, and where the hand is then; mostly nothing.
    pub fn due(&self, hand: &Hand) -> Option<(Vec<Entry>, Hand)> {
        let rows = self.read();
        let max_rows = self.bounds.max_rows;
        let (rows_over, bytes_over) = (
            rows.count.saturating_sub(max_rows),
            rows.bytes.saturating_sub(MAX_BYTES),
        );
        if rows_over < self.bounds.step() && bytes_over <= MAX_BYTES / STEPS {
            return None;
        }
        // As many of the usual size as are too many bytes.
        let usual = rows.bytes.div_ceil(rows.count).max(1);
        let due = rows_over.max(bytes_over.div_ceil(usual));
        let mut entries = Vec::new();
        let mut next = hand.clone();
        let ahead = rows.by_partition.range(hand.partition..);
        let behind = rows.by_partition.range(..hand.partition);
        for (partition, of_partition) in ahead.chain(behind) {
            let partition = *partition;
            let after = match &hand.after {
                Some(after) if partition == hand.partition => Some(after),
                _ => None,
            };
            let limit = MIN_FILED.max(due - entries.len());
            let found = sorted(of_partition, after, limit);
            next = match found.last() {
                Some((last, _)) if found.len() == limit => Hand {
                    partition,
                    after: Some((*last).clone()),
                },
                _ => Hand {
                    partition: Partition(partition.0.wrapping_add(1)),
                    after: None,
                },
            };
            entries.extend(found.into_iter().map(|(key, place)| Entry {
                partition,
                key: key.clone(),
                id: place.id,
                bytes: place.bytes,
            }));
            if entries.len() >= due {
                break;
            }
        }
        Some((entries, next))
    }

    /// The least id of all unfiled rows but these.
    pub fn least_id(&self, but: &[Entry]) -> Option<i64> {
        let but: BTreeSet<i64> = but.iter().map(|entry| entry.id).collect();
        let rows = self.read();
        let ids = rows.by_partition.values().flat_map(HashMap::values);
        ids.map(|place| place.id)
            .filter(|id| !but.contains(id))
            .min()
    }

    /// These rows were made and are not filed.
    pub fn add(&self, entries: Vec<Entry>) {
        if entries.is_empty() {
            return;
        }
        let mut rows = self.write();
        entries.into_iter().for_each(|entry| rows.add(entry));
    }

    /// These rows were filed, or are gone, and nobody takes a snapshot any more that does
    /// not know it.
    pub fn forget<'a>(&self, items: impl Iterator<Item = (Partition, &'a ItemKey)>) {
        let mut items = items.peekable();
        if items.peek().is_none() {
            return;
        }
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        let mut rows = self.write();
        items.for_each(|(partition, key)| rows.forget(partition, key));
    }
}

/// What was found in a file as it was opened.
pub struct Loaded {
    pub unfiled: Unfiled,
    /// The id of the next row that is made: no row had it, and none that is filed is
    /// above it.
    pub next_id: i64,
}

impl Loaded {
    /// Of a file that was just made.
    pub fn nothing(bounds: Bounds) -> Self {
        Loaded {
            unfiled: Unfiled::new(bounds),
            next_id: 1,
        }
    }
}

/// Finds the rows that the index lacks. The inner error says what makes the file one
/// that cannot be served from.
pub fn load(connection: &Connection, bounds: Bounds) -> rusqlite::Result<Result<Loaded, String>> {
    let filed_below = file::number(connection, FILED_BELOW)?.unwrap_or(1);
    let last: Option<i64> =
        connection.query_row("SELECT max(id) FROM items", [], |row| row.get(0))?;
    let filed_below = filed_below.cast_signed();
    let next_id = last.map_or(filed_below, |last| filed_below.max(last + 1));
    let unfiled = Unfiled::new(bounds);
    let mut select = connection.prepare(
        "SELECT i.id, i.partition, i.key, length(i.row), p.id
         FROM items i LEFT JOIN places p ON p.partition = i.partition AND p.key = i.key
         WHERE i.id >= ?1 ORDER BY i.id",
    )?;
    let mut found = select.query([filed_below])?;
    let mut rows = unfiled.write();
    while let Some(columns) = found.next()? {
        let id = columns.get(0)?;
        let filed: Option<i64> = columns.get(4)?;
        // An index that led astray once may know an older row of the key: the newer one
        // is what was told to whoever asked since.
        if filed.is_some_and(|filed| filed >= id) {
            continue;
        }
        let partition = u32::try_from(columns.get::<_, i64>(1)?).ok().map(Partition);
        let key = ItemKey::decode(columns.get_ref(2)?.as_blob()?);
        let (Some(partition), Some(key)) = (partition, key) else {
            return Ok(Err(format!("row {id} names no item")));
        };
        rows.add(Entry {
            partition,
            key,
            id,
            bytes: u32::try_from(columns.get::<_, i64>(3)?).unwrap_or(u32::MAX),
        });
    }
    drop(rows);
    Ok(Ok(Loaded { unfiled, next_id }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::id::TableId;

    fn entry(partition: u32, name: u32, bytes: u32) -> Entry {
        Entry {
            partition: Partition(partition),
            key: ItemKey::new(TableId(1), format!("{name:04}").as_bytes(), None),
            id: i64::from(partition * 10_000 + name),
            bytes,
        }
    }

    fn items(entries: &[Entry]) -> impl Iterator<Item = (Partition, &ItemKey)> {
        entries.iter().map(|entry| (entry.partition, &entry.key))
    }

    fn ids(entries: &[Entry]) -> Vec<i64> {
        entries.iter().map(|entry| entry.id).collect()
    }

    #[test]
    fn what_is_too_much_is_filed_in_the_order_of_keys_and_round() {
        let unfiled = Unfiled::new(Bounds { max_rows: 3 });
        unfiled.add(vec![entry(2, 1, 9), entry(0, 5, 9), entry(0, 3, 9)]);
        assert_eq!(unfiled.due(&Hand::default()), None);
        unfiled.add(vec![entry(1, 7, 9), entry(2, 0, 9)]);
        // Whole partitions, where they are small.
        let (due, hand) = unfiled.due(&Hand::default()).expect("too many");
        assert_eq!(ids(&due), [3, 5]);
        unfiled.add(vec![entry(0, 4, 9)]);
        let (due, hand) = unfiled.due(&hand).expect("too many");
        assert_eq!(ids(&due), [10_007, 20_000, 20_001]);
        unfiled.add(vec![entry(2, 4, 9)]);
        let (round, _) = unfiled.due(&hand).expect("too many");
        assert_eq!(ids(&round), [3, 4, 5, 10_007]);
        assert_eq!(unfiled.least_id(&[]), Some(3));
        assert_eq!(unfiled.least_id(&round), Some(20_000));
        unfiled.forget(items(&round));
        assert_eq!(unfiled.due(&hand), None);
        assert_eq!(unfiled.place(Partition(0), &entry(0, 3, 0).key), None);
        let left = unfiled.place(Partition(2), &entry(2, 1, 0).key);
        assert_eq!(left, Some(20_001));
    }

    #[test]
    fn a_large_partition_is_filed_in_parts_and_none_of_its_rows_is_passed_over() {
        let many = 4 * MIN_FILED as u32;
        let unfiled = Unfiled::new(Bounds { max_rows: 0 });
        unfiled.add((0..many).map(|name| entry(3, 2 * name, 1)).collect());
        let (first, _) = unfiled.due(&Hand::default()).expect("too many");
        assert_eq!(first.len(), many as usize, "all that is due");
        let unfiled = Unfiled::new(Bounds {
            max_rows: many as usize - 9,
        });
        unfiled.add(first);
        let mut hand = Hand::default();
        let mut filed = Vec::new();
        // New rows come at both sides of the hand.
        for round in 0..3 {
            let (part, next) = unfiled.due(&hand).expect("too many");
            assert_eq!(part.len(), MIN_FILED);
            unfiled.forget(items(&part));
            filed.extend(ids(&part));
            let new = (0..MIN_FILED as u32).map(|name| entry(3, 8 * name + 1 + 2 * round, 1));
            unfiled.add(new.collect());
            hand = next;
        }
        let mut in_order = filed.clone();
        in_order.sort();
        assert_eq!(filed, in_order);
    }

    #[test]
    fn it_waits_until_there_is_a_step_to_file() {
        let max_rows = 2 * STEPS;
        let unfiled = Unfiled::new(Bounds { max_rows });
        unfiled.add(
            (0..=max_rows as u32)
                .map(|name| entry(name, 0, 1))
                .collect(),
        );
        assert_eq!(unfiled.due(&Hand::default()), None);
        unfiled.add(vec![entry(max_rows as u32 + 1, 0, 1)]);
        let (due, _) = unfiled.due(&Hand::default()).expect("too many");
        assert_eq!(due.len(), 2);
    }

    #[test]
    fn large_rows_are_filed_by_their_bytes() {
        let unfiled = Unfiled::new(Bounds { max_rows: MAX_ROWS });
        let large = MAX_BYTES as u32 / 4;
        unfiled.add((0..4).map(|name| entry(name, 0, large)).collect());
        assert_eq!(unfiled.due(&Hand::default()), None);
        unfiled.add(vec![entry(4, 0, large), entry(5, 0, large)]);
        let (due, hand) = unfiled.due(&Hand::default()).expect("too many");
        assert_eq!(ids(&due), [0, 10_000]);
        unfiled.forget(items(&due));
        assert_eq!(unfiled.due(&hand), None);
    }

    #[test]
    fn a_row_that_is_made_again_counts_once() {
        let unfiled = Unfiled::new(Bounds { max_rows: 1 });
        unfiled.add(vec![entry(0, 1, 10)]);
        let again = Entry {
            id: 77,
            ..entry(0, 1, 20)
        };
        unfiled.add(vec![again]);
        assert_eq!(unfiled.place(Partition(0), &entry(0, 1, 0).key), Some(77));
        let rows = unfiled.read();
        assert_eq!((rows.count, rows.bytes), (1, 20));
    }

    #[test]
    fn a_partition_s_rows_come_in_the_order_of_their_keys() {
        let unfiled = Unfiled::new(Bounds { max_rows: 99 });
        unfiled.add([4, 1, 3, 2].map(|name| entry(5, name, 1)).into());
        unfiled.add(vec![entry(4, 9, 1), entry(6, 0, 1)]);
        let of = |after: Option<u32>, limit| -> Vec<i64> {
            let after = after.map(|name| entry(5, name, 0).key);
            let rows = unfiled.of(Partition(5), after.as_ref(), limit);
            rows.into_iter().map(|(_, id)| id - 50_000).collect()
        };
        assert_eq!(of(None, 9), [1, 2, 3, 4]);
        assert_eq!(of(Some(2), 9), [3, 4]);
        assert_eq!(of(Some(1), 2), [2, 3]);
        assert_eq!(unfiled.of(Partition(9), None, 9), []);
    }
}
