//! Which keys the index knows, as a Bloom filter (Bloom, 1970): where it says of a key
//! that the index does not know it, nobody looks for the row of a new item in vain.
//!
//! To look for a row that is not there costs as much as to write one: each level of the
//! index is a page, and in a large store the last one comes from the system every time.
//! Stores that keep their rows in many sorted runs have such filters for their reads
//! (Bigtable, 2006); here it is the writes of new items that ask for what is not there.
//!
//! Promises: a key that the index knows is never ruled out. For that nothing is ruled out
//! until the whole index was read once, some keys after each transaction that has looked
//! in vain, and what is filed meanwhile and afterwards is added by who files it. Memory
//! is [`BYTES`] for each file and no more. Not promised: that all others are ruled out.
//! What was added stays until the store is opened again, and the fuller the filter, the
//! more often it has nothing to say: of one new key in ten thousand with a million keys
//! in a file, of one in four with ten million.
//!
//! The file's writer alone has it, and nobody else changes the index.

use std::collections::hash_map::RandomState;

use fastbloom::BloomFilter;
use rusqlite::{Connection, ffi};

use crate::protocol::id::Partition;

/// How much memory a filter takes: ten bits for each of three million keys.
pub const BYTES: usize = 4 << 20;

/// How many bits a key sets: with ten bits for each key, seven would rule out most, and
/// four nearly as many for half of the work.
const BITS_A_KEY: u32 = 4;

/// How many keys are read at once: four or five pages of the index, some tens of
/// microseconds where the system has them in memory.
const READ_TOGETHER: usize = 256;

/// How far the index was read.
enum Reading {
    /// Up to this key of this partition.
    After(i64, Vec<u8>),
    /// To its end: what is not in the filter is not in the index.
    Done,
    /// It cannot be read: nothing is ever ruled out.
    GivenUp,
}

/// What may be in the index of one file.
pub struct Filter {
    keys: BloomFilter<RandomState>,
    reading: Reading,
}

impl Default for Filter {
    fn default() -> Self {
        // Zeros that the system gives when they are touched.
        let bits = vec![0; BYTES / size_of::<u64>()];
        let keys = BloomFilter::from_vec(bits).hasher(RandomState::new());
        Filter {
            keys: keys.hashes(BITS_A_KEY),
            // No partition has an item of an empty key.
            reading: Reading::After(0, Vec::new()),
        }
    }
}

impl Filter {
    /// Whether the index knows no such key for sure.
    pub fn rules_out(&self, partition: Partition, key: &[u8]) -> bool {
        matches!(self.reading, Reading::Done) && !self.keys.contains(&(partition.0, key))
    }

    /// Whether it would rule out more if it were to read on.
    pub fn can_learn(&self) -> bool {
        matches!(self.reading, Reading::After(..))
    }

    /// The index is about to know this key; nothing is lost if it does not after all.
    pub fn add(&mut self, partition: Partition, key: &[u8]) {
        self.keys.insert(&(partition.0, key));
    }

    /// Reads some more keys of the index, in which no transaction is under way. After an
    /// error it reads no more.
    pub fn learn(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let Reading::After(partition, key) = &self.reading else {
            return Ok(());
        };
        let (partition, key) = (*partition, key.clone());
        // Unless it succeeds.
        self.reading = Reading::GivenUp;
        let mut select = connection.prepare_cached(
            "SELECT partition, key FROM places WHERE (partition, key) > (?1, ?2)
             ORDER BY partition, key LIMIT ?3",
        )?;
        let mut found = select.query((partition, &key, READ_TOGETHER as i64))?;
        let mut read = 0;
        let mut last = (partition, key);
        let mut last_but_one = last.clone();
        while let Some(columns) = found.next()? {
            let (partition, key) = (columns.get(0)?, columns.get_ref(1)?.as_blob()?);
            if (partition, key) <= (last.0, &last.1[..]) {
                return Err(out_of_order());
            }
            // What is no partition is nobody's key.
            if let Ok(partition) = u32::try_from(partition) {
                self.keys.insert(&(partition, key));
            }
            std::mem::swap(&mut last, &mut last_but_one);
            last.0 = partition;
            last.1.clear();
            last.1.extend_from_slice(key);
            read += 1;
        }
        // Not after the last key: one that has rotted, and looks larger than it is, would
        // have all others up to that passed over. Its neighbour behind it shows it.
        self.reading = match read {
            READ_TOGETHER => Reading::After(last_but_one.0, last_but_one.1),
            _ => Reading::Done,
        };
        Ok(())
    }
}

fn out_of_order() -> rusqlite::Error {
    let corrupt = ffi::Error::new(ffi::SQLITE_CORRUPT);
    rusqlite::Error::SqliteFailure(corrupt, Some("the index is out of order".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An index of so many keys, and a filter that has read none of them.
    fn index(keys: u32) -> (Connection, Filter) {
        let connection = Connection::open_in_memory().expect("opens");
        connection
            .execute_batch(
                "CREATE TABLE places(partition INTEGER NOT NULL, key BLOB NOT NULL,
                 id INTEGER NOT NULL, PRIMARY KEY(partition, key)) WITHOUT ROWID",
            )
            .expect("makes");
        for number in 0..keys {
            file(&connection, number);
        }
        (connection, Filter::default())
    }

    fn place(number: u32) -> (Partition, [u8; 4]) {
        (Partition(number % 3), (number / 3).to_be_bytes())
    }

    fn file(connection: &Connection, number: u32) {
        let (partition, key) = place(number);
        connection
            .execute("INSERT INTO places VALUES(?1, ?2, 0)", (partition.0, key))
            .expect("files");
    }

    fn rules_out(filter: &Filter, number: u32) -> bool {
        let (partition, key) = place(number);
        filter.rules_out(partition, &key)
    }

    #[test]
    fn nothing_is_ruled_out_before_the_index_was_read_to_its_end() {
        for keys in [0, 1, 255, 256, 257, 2_000] {
            let (connection, mut filter) = index(keys);
            for _ in 0..=keys as usize / READ_TOGETHER {
                assert!(filter.can_learn());
                assert!(!rules_out(&filter, keys + 1));
                filter.learn(&connection).expect("reads");
            }
            assert!(!filter.can_learn(), "{keys} keys");
            assert!((0..keys).all(|number| !rules_out(&filter, number)));
            let unknown = (keys..keys + 1_000).filter(|number| rules_out(&filter, *number));
            assert!(unknown.count() > 950, "{keys} keys");
        }
    }

    #[test]
    fn what_is_filed_meanwhile_and_later_is_known_on_both_sides_of_where_it_reads() {
        let (connection, mut filter) = index(2_000);
        let mut next = 2_000;
        for _ in 0..20 {
            filter.learn(&connection).expect("reads");
            // One key in each partition.
            for _ in 0..3 {
                let (partition, key) = place(next);
                filter.add(partition, &key);
                file(&connection, next);
                next += 1;
            }
        }
        assert!(!filter.can_learn());
        assert!((0..next).all(|number| !rules_out(&filter, number)));
        assert!(rules_out(&filter, next) || rules_out(&filter, next + 1));
    }

    #[test]
    fn a_key_that_has_rotted_does_not_hide_those_behind_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("index.db");
        let key = |number: usize| [&b"key-"[..], &(number as u32).to_be_bytes()].concat();
        for rotten in READ_TOGETHER - 3..READ_TOGETHER + 3 {
            let (made, _) = index(0);
            for number in 0..1_000 {
                made.execute("INSERT INTO places VALUES(0, ?1, 0)", [key(number)])
                    .expect("files");
            }
            made.execute("VACUUM INTO ?1", [path.to_str().expect("text")])
                .expect("copies");
            let mut bytes = std::fs::read(&path).expect("reads");
            // Pages keep copies of cells that have moved, too.
            let copies = bytes.windows(8).enumerate();
            let copies = copies.filter(|(_, bytes)| *bytes == key(rotten));
            let copies: Vec<usize> = copies.map(|(at, _)| at).collect();
            copies.iter().for_each(|at| bytes[*at] = b'z');
            std::fs::write(&path, bytes).expect("writes");
            let connection = Connection::open(&path).expect("opens");
            let mut filter = Filter::default();
            let learned = (0..10).try_for_each(|_| filter.learn(&connection));
            let error = learned.expect_err("it is out of order");
            assert_eq!(
                error.sqlite_error_code(),
                Some(rusqlite::ErrorCode::DatabaseCorrupt)
            );
            let hidden = (0..1_000).find(|number| filter.rules_out(Partition(0), &key(*number)));
            assert_eq!(hidden, None);
            drop(connection);
            std::fs::remove_file(&path).expect("removes");
        }
    }

    #[test]
    fn an_index_that_cannot_be_read_rules_nothing_out() {
        let (connection, mut filter) = index(300);
        filter.learn(&connection).expect("reads");
        connection.execute_batch("DROP TABLE places").expect("gone");
        filter.learn(&connection).expect_err("there is none");
        assert!(!filter.can_learn());
        filter.learn(&connection).expect("it does not try again");
        assert!(!rules_out(&filter, 1_000));
    }
}
