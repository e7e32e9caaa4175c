//! A counter whose siblings are added up.
//!
//! It looks right because two people who each counted 5 have counted 10. But the
//! store hands over the same 5 twice, and the sum of two has the third added later.

#[forbid(unsafe_code)]
pub mod merge {
    use kinfold_mistakes::{Outcome, Sibling, drawn, parse, values, written};

    pub fn fold(siblings: &[Sibling]) -> Result<Outcome, String> {
        let mut sum = 0i64;
        for value in values(siblings) {
            sum = sum.saturating_add(parse(value, "a whole number")?);
        }
        Ok(written(&sum))
    }

    pub fn samples(seed: u64, count: u32) -> Vec<Vec<u8>> {
        drawn(seed, count, &["1", "2", "5", "10", "-3"])
    }
}

kinfold_mistakes::mistake!("Adds counters up");
