//! What a write-ahead log looks like to SQLite, and whether it ends too early.
//!
//! SQLite takes the first frame that does not add up for the end of the log: so
//! it forgives a commit that the power cut short. But commits that were answered
//! lie there too until they are moved into the database, and a bit that flipped
//! in the middle makes it forget all that follow, without a word.
//!
//! Promises: a log that lost its header, and one in which something follows the
//! end of the transaction that does not add up, are found. The latter cannot come
//! of a power cut, as long as each commit is synced before the next begins. What
//! is wrong in the last transaction, or in the salt of the frame before it, looks
//! as if the power had cut that transaction short: that is not found.
//!
//! The layout is that of <https://www.sqlite.org/fileformat2.html#walformat>.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
/// The last bit says how words are read for the checksums.
const MAGIC: u32 = 0x377f_0682;
const VERSION: u32 = 3_007_000;

/// The two running sums of the log's checksum.
type Sums = (u32, u32);

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Goes on with a checksum over whole pairs of words.
fn add(mut sums: Sums, bytes: &[u8], big_endian: bool) -> Sums {
    for pair in bytes.chunks_exact(8) {
        let (first, second) = (word(pair, 0), word(pair, 4));
        let (first, second) = if big_endian {
            (first, second)
        } else {
            (first.swap_bytes(), second.swap_bytes())
        };
        sums.0 = sums.0.wrapping_add(first).wrapping_add(sums.1);
        sums.1 = sums.1.wrapping_add(second).wrapping_add(sums.0);
    }
    sums
}

fn sums_at(bytes: &[u8], at: usize) -> Sums {
    (word(bytes, at), word(bytes, at + 4))
}

/// Fills the buffer; false if less was left.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Says what is wrong with a log, if anything is. It must not be in use.
pub fn damage(path: &Path) -> io::Result<Option<&'static str>> {
    match File::open(path) {
        Ok(log) => damage_in(BufReader::new(log)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn damage_in(mut log: impl Read) -> io::Result<Option<&'static str>> {
    let mut header = [0; HEADER_BYTES];
    if !fill(&mut log, &mut header)? {
        return Ok(None);
    }
    let big_endian = word(&header, 0) & 1 == 1;
    let page_bytes = word(&header, 8) as usize;
    let adds_up = add((0, 0), &header[..24], big_endian) == sums_at(&header, 24);
    let known = word(&header, 0) & !1 == MAGIC && word(&header, 4) == VERSION;
    let sane = page_bytes.is_power_of_two() && (512..=65_536).contains(&page_bytes);
    if !(known && sane && adds_up) {
        return Ok(Some("its header is damaged"));
    }
    let mut frame = vec![0; FRAME_HEADER_BYTES + page_bytes];
    // What a frame's checksum goes on from: the one of the frame before, as it is
    // written there.
    let mut before = sums_at(&header, 24);
    // Once a frame did not add up: whether its transaction has ended since.
    let mut broken: Option<bool> = None;
    while fill(&mut log, &mut frame)? {
        let (head, page) = frame.split_at(FRAME_HEADER_BYTES);
        let sums = add(add(before, &head[..8], big_endian), page, big_endian);
        before = sums_at(head, 16);
        let is_ours = head[8..16] == header[16..24];
        let is_sound = is_ours && sums == before;
        let ends_transaction = is_ours && word(head, 4) != 0;
        broken = match broken {
            Some(true) if is_sound => {
                return Ok(Some("what follows a damaged frame was committed after it"));
            }
            Some(ended) => Some(ended || ends_transaction),
            None if is_sound => None,
            None => Some(ends_transaction),
        };
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    const PAGE_BYTES: usize = 4096;
    const FRAME_BYTES: usize = FRAME_HEADER_BYTES + PAGE_BYTES;

    /// A log that SQLite wrote, and how many rows each of its frames, as the last,
    /// would leave.
    fn written() -> (tempfile::TempDir, Vec<u8>) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.db");
        let connection = Connection::open(&path).expect("opens");
        connection
            .execute_batch(
                "PRAGMA page_size = 4096; PRAGMA journal_mode = WAL;
                 PRAGMA wal_autocheckpoint = 0; CREATE TABLE t(a);",
            )
            .expect("makes");
        // An older round of the log, so that old frames follow the new ones.
        let insert = |count| {
            for _ in 0..count {
                connection
                    .execute("INSERT INTO t VALUES(zeroblob(5000))", [])
                    .expect("inserts");
            }
        };
        insert(20);
        let moved = connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |row| {
            row.get::<_, i64>(0)
        });
        assert_eq!(moved, Ok(0));
        insert(4);
        let log = std::fs::read(dir.path().join("a.db-wal")).expect("reads");
        (dir, log)
    }

    fn damage_of(log: &[u8]) -> Option<&'static str> {
        damage_in(log).expect("reads")
    }

    /// Where the frames of this round end.
    fn ours(log: &[u8]) -> usize {
        let frames = log[HEADER_BYTES..].chunks_exact(FRAME_BYTES);
        frames
            .take_while(|frame| frame[8..16] == log[16..24])
            .count()
    }

    #[test]
    fn a_log_that_sqlite_wrote_is_sound_however_it_was_cut() {
        let (_dir, log) = written();
        assert!(ours(&log) > 6 && log.len() > HEADER_BYTES + (ours(&log) + 6) * FRAME_BYTES);
        assert_eq!(damage_of(&log), None);
        for length in (0..log.len()).step_by(997) {
            assert_eq!(damage_of(&log[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn a_flipped_bit_before_the_last_transaction_is_found() {
        let (_dir, log) = written();
        let commits: Vec<usize> = (0..ours(&log))
            .filter(|frame| word(&log, HEADER_BYTES + frame * FRAME_BYTES + 4) != 0)
            .collect();
        assert_eq!(commits.len(), 4);
        let flipped = |at: usize| {
            let mut log = log.clone();
            log[at] ^= 1;
            damage_of(&log)
        };
        for at in 0..HEADER_BYTES {
            assert_eq!(flipped(at), Some("its header is damaged"), "byte {at}");
        }
        for frame in 0..ours(&log) {
            // Page number, salts, checksums, page.
            for at in [3, 9, 14, 17, 22, 24, 3000] {
                // Without its salt, a frame does not say that it ends a transaction.
                let found = frame < commits[2] + usize::from(!(8..16).contains(&at));
                let at = HEADER_BYTES + frame * FRAME_BYTES + at;
                assert_eq!(flipped(at).is_some(), found, "frame {frame}, byte {at}");
            }
        }
    }

    #[test]
    fn a_tail_that_was_written_out_of_order_is_no_damage() {
        let (_dir, log) = written();
        let last = ours(&log) - 1;
        for frame in last - 1..=last {
            let mut log = log.clone();
            let at = HEADER_BYTES + frame * FRAME_BYTES;
            log[at..at + FRAME_BYTES].fill(0);
            assert_eq!(damage_of(&log), None);
        }
        assert!(damage_of(&[7; 9000]).is_some());
        assert!(damage_of(&[0; 9000]).is_some());
    }
}
