//! The first sibling wins.
//!
//! It looks right because the contract says that siblings come sorted by dot, so
//! the first is the same everywhere. But the laws are asked of any order, and a
//! fold of the last two carries another dot than either group.

#[forbid(unsafe_code)]
pub mod merge {
    use kinfold_mistakes::{Outcome, Sibling, drawn};

    pub fn fold(siblings: &[Sibling]) -> Result<Outcome, String> {
        let first = siblings.first().ok_or("nothing to fold")?;
        Ok(match &first.value {
            Some(value) => Outcome::Merged(value.clone()),
            None => Outcome::Deleted,
        })
    }

    pub fn samples(seed: u64, count: u32) -> Vec<Vec<u8>> {
        drawn(seed, count, &["red", "green", "blue"])
    }
}

kinfold_mistakes::mistake!("Keeps the first");
