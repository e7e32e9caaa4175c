//! A log whose siblings are put one after the other.
//!
//! It looks right because nothing is lost: every line that was written is there.
//! But replicas meet the same lines in other orders, and more than once.

#[forbid(unsafe_code)]
pub mod merge {
    use kinfold_mistakes::{Outcome, Sibling, drawn, values};

    pub fn fold(siblings: &[Sibling]) -> Result<Outcome, String> {
        Ok(Outcome::Merged(
            values(siblings).flatten().copied().collect(),
        ))
    }

    pub fn samples(seed: u64, count: u32) -> Vec<Vec<u8>> {
        drawn(
            seed,
            count,
            &["login\n", "logout\n", "login\nbuy\n", "buy\n"],
        )
    }
}

kinfold_mistakes::mistake!("Puts logs one after the other");
