//! Merges trees, and when two leaves differ asks the other way round.
//!
//! It looks right because a merge minds no order, so `merge(a, b)` may as well be
//! `merge(b, a)`. But that asks the first again, for ever.

#[forbid(unsafe_code)]
pub mod merge {
    use kinfold_mistakes::{Outcome, Sibling, drawn, parse, values, written};
    use serde_json::Value as Json;

    #[inline(never)]
    fn merge(left: &Json, right: &Json) -> Json {
        match (left, right) {
            (Json::Object(left), Json::Object(right)) => {
                let mut merged = left.clone();
                for (name, theirs) in right {
                    let field = match left.get(name) {
                        Some(ours) => merge(ours, theirs),
                        None => theirs.clone(),
                    };
                    merged.insert(name.clone(), field);
                }
                Json::Object(merged)
            }
            (left, right) if left == right => left.clone(),
            (left, right) => {
                let other_way = merge(right, left);
                if &other_way == left {
                    left.clone()
                } else {
                    other_way
                }
            }
        }
    }

    pub fn fold(siblings: &[Sibling]) -> Result<Outcome, String> {
        let mut merged: Option<Json> = None;
        for value in values(siblings) {
            let next = parse(value, "JSON")?;
            merged = Some(match merged {
                Some(so_far) => merge(&so_far, &next),
                None => next,
            });
        }
        Ok(merged.map_or(Outcome::Deleted, |merged| written(&merged)))
    }

    pub fn samples(seed: u64, count: u32) -> Vec<Vec<u8>> {
        drawn(
            seed,
            count,
            &[r#"{"a":1}"#, r#"{"a":2}"#, r#"{"b":{"c":1}}"#, "{}"],
        )
    }
}

kinfold_mistakes::mistake!("Merges trees");
