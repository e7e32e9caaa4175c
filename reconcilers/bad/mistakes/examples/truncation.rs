//! A set of lines that is cut at 16 bytes, because a column is that wide.
//!
//! It looks right because the set is sorted, without duplicates, and cut the same
//! way everywhere. But half a line that was left over is a line of its own at the
//! next fold.

#[forbid(unsafe_code)]
pub mod merge {
    use std::collections::BTreeSet;

    use kinfold_mistakes::{Outcome, Sibling, drawn, values};

    const WIDTH: usize = 16;

    pub fn fold(siblings: &[Sibling]) -> Result<Outcome, String> {
        let lines: BTreeSet<&[u8]> = values(siblings)
            .flat_map(|value| value.split(|byte| *byte == b'\n'))
            .filter(|line| !line.is_empty())
            .collect();
        let mut joined = lines.into_iter().collect::<Vec<_>>().join(&b'\n');
        joined.truncate(WIDTH);
        Ok(Outcome::Merged(joined))
    }

    pub fn samples(seed: u64, count: u32) -> Vec<Vec<u8>> {
        drawn(
            seed,
            count,
            &["apricot\nbanana", "cherry", "banana\ndate", "elderberry"],
        )
    }
}

kinfold_mistakes::mistake!("Unites lines, 16 bytes at most");
