//! A union of words, each written as a record of fixed width.
//!
//! It looks right because records of one width are quick to search. But the width
//! is that of the longest word anybody could think of, and three words are more
//! than a table takes.

#[forbid(unsafe_code)]
pub mod merge {
    use std::collections::BTreeSet;

    use kinfold_mistakes::{Outcome, Sibling, drawn, values};

    const WIDTH: usize = 400_000;

    pub fn fold(siblings: &[Sibling]) -> Result<Outcome, String> {
        let words: BTreeSet<&[u8]> = values(siblings)
            .flat_map(|value| value.split(|byte| *byte == b' '))
            .filter(|word| !word.is_empty())
            .collect();
        let mut records = Vec::new();
        for word in words {
            records.extend_from_slice(word);
            records.resize(records.len().next_multiple_of(WIDTH), b' ');
        }
        Ok(Outcome::Merged(records))
    }

    pub fn samples(seed: u64, count: u32) -> Vec<Vec<u8>> {
        drawn(seed, count, &["apple", "pear fig", "nut", "fig"])
    }
}

kinfold_mistakes::mistake!("Unites words as fixed-width records");
