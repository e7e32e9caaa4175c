//! The newest version wins, and deleted ones are left out first.
//!
//! It looks right because a deleted version has no value to keep. But a fold
//! carries the newest time of all its inputs, the deletion's too: an old value
//! comes out of a group as new as the deletion, and beats a newer one.

#[forbid(unsafe_code)]
pub mod merge {
    use kinfold_mistakes::{Outcome, Sibling, drawn};

    pub fn fold(siblings: &[Sibling]) -> Result<Outcome, String> {
        let live = siblings.iter().filter(|sibling| sibling.value.is_some());
        let newest = live.max_by_key(|sibling| (sibling.written_at, &sibling.dot));
        Ok(match newest.and_then(|sibling| sibling.value.clone()) {
            Some(value) => Outcome::Merged(value),
            None => Outcome::Deleted,
        })
    }

    pub fn samples(seed: u64, count: u32) -> Vec<Vec<u8>> {
        drawn(seed, count, &["red", "green", "blue"])
    }
}

kinfold_mistakes::mistake!("Last write wins, deletions aside");
