//! Merges sorted lists, hand over hand, and stands still at an equal pair.
//!
//! It looks right because of two different heads the smaller goes first. But when
//! both are the same, neither list moves on.

#[forbid(unsafe_code)]
pub mod merge {
    use kinfold_mistakes::{Outcome, Sibling, drawn, parse, values, written};

    fn merge(left: &[u64], right: &[u64]) -> Vec<u64> {
        let (mut one, mut other) = (0, 0);
        let mut merged = Vec::new();
        while one < left.len() && other < right.len() {
            if left[one] < right[other] {
                merged.push(left[one]);
                one += 1;
            } else if right[other] < left[one] {
                merged.push(right[other]);
                other += 1;
            }
        }
        merged.extend(&left[one..]);
        merged.extend(&right[other..]);
        merged
    }

    pub fn fold(siblings: &[Sibling]) -> Result<Outcome, String> {
        let mut merged = Vec::new();
        for value in values(siblings) {
            let mut next: Vec<u64> = parse(value, "a list of numbers")?;
            next.sort();
            next.dedup();
            merged = merge(&merged, &next);
        }
        Ok(written(&merged))
    }

    pub fn samples(seed: u64, count: u32) -> Vec<Vec<u8>> {
        drawn(seed, count, &["[1]", "[2,3]", "[3]", "[1,4]"])
    }
}

kinfold_mistakes::mistake!("Merges sorted lists of numbers");
