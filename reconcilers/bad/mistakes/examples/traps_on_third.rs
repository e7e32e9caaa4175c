//! Merges a version with another one, and never with two.
//!
//! It looks right because two replicas make two siblings, and every test has two.
//! But five replicas make five, and one replica makes as many as there are blind
//! writes.

#[forbid(unsafe_code)]
pub mod merge {
    use std::collections::BTreeSet;

    use kinfold_mistakes::{Outcome, Sibling, drawn, parse, values, written};

    pub fn fold(siblings: &[Sibling]) -> Result<Outcome, String> {
        let mut sets: Vec<BTreeSet<String>> = Vec::new();
        for value in values(siblings) {
            sets.push(parse(value, "a set of names")?);
        }
        Ok(match &sets[..] {
            [] => Outcome::Deleted,
            [only] => written(only),
            [left, right] => written(&left.union(right).collect::<BTreeSet<_>>()),
            _ => unreachable!("two sides of a conflict"),
        })
    }

    pub fn samples(seed: u64, count: u32) -> Vec<Vec<u8>> {
        drawn(
            seed,
            count,
            &[r#"["ann"]"#, r#"["bob"]"#, r#"["ann","cem"]"#, "[]"],
        )
    }
}

kinfold_mistakes::mistake!("Unites two sets");
