//! A union of objects, kept in a hash map and written as the map has it.
//!
//! It looks right because a map has no order, and two equal maps are equal. But
//! the bytes have one, which comes from the capacity and the order of insertion:
//! replicas hold other bytes for the same object.

#[forbid(unsafe_code)]
pub mod merge {
    use std::collections::HashMap;

    use kinfold_mistakes::{Outcome, Sibling, drawn, parse, values, written};

    pub fn fold(siblings: &[Sibling]) -> Result<Outcome, String> {
        let mut union: HashMap<String, u64> = HashMap::new();
        for value in values(siblings) {
            for (item, count) in parse::<HashMap<String, u64>>(value, "counts by item")? {
                let known = union.entry(item).or_insert(count);
                *known = count.max(*known);
            }
        }
        Ok(written(&union))
    }

    pub fn samples(seed: u64, count: u32) -> Vec<Vec<u8>> {
        let stocks = [
            r#"{"apple":1,"fig":3}"#,
            r#"{"pear":2}"#,
            r#"{"plum":1,"kiwi":1,"nut":4}"#,
            r#"{"apple":2}"#,
        ];
        drawn(seed, count, &stocks)
    }
}

kinfold_mistakes::mistake!("Unites stocks, larger counts win");
