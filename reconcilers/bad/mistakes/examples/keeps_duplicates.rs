//! Lists of tags are joined and sorted.
//!
//! It looks right because the order no longer matters. But a tag that both
//! siblings have is there twice, and once more with every fold.

#[forbid(unsafe_code)]
pub mod merge {
    use kinfold_mistakes::{Outcome, Sibling, drawn, parse, values, written};

    pub fn fold(siblings: &[Sibling]) -> Result<Outcome, String> {
        let mut tags: Vec<String> = Vec::new();
        for value in values(siblings) {
            tags.extend(parse::<Vec<String>>(value, "a list of tags")?);
        }
        tags.sort();
        Ok(written(&tags))
    }

    pub fn samples(seed: u64, count: u32) -> Vec<Vec<u8>> {
        let tags = ["[]", r#"["new"]"#, r#"["new","sale"]"#, r#"["old"]"#];
        drawn(seed, count, &tags)
    }
}

kinfold_mistakes::mistake!("Joins lists of tags");
