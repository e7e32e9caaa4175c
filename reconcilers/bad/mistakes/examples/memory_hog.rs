//! Works through a list of links, and puts a link that it knows back, twice.
//!
//! It looks right because each link comes from the list and goes to the result.
//! But one that is there already is put back to be looked at again, and the list
//! only grows.

#[forbid(unsafe_code)]
pub mod merge {
    use kinfold_mistakes::{Outcome, Sibling, drawn, parse, values, written};

    pub fn fold(siblings: &[Sibling]) -> Result<Outcome, String> {
        let mut waiting: Vec<String> = Vec::new();
        for value in values(siblings) {
            waiting.extend(parse::<Vec<String>>(value, "a list of links")?);
        }
        let mut links: Vec<String> = Vec::new();
        while let Some(link) = waiting.pop() {
            if links.contains(&link) {
                waiting.push(link.repeat(2));
                waiting.push(link);
            } else {
                links.push(link);
            }
        }
        links.sort();
        Ok(written(&links))
    }

    pub fn samples(seed: u64, count: u32) -> Vec<Vec<u8>> {
        drawn(seed, count, &[r#"["a"]"#, r#"["b"]"#, r#"["a","c"]"#, "[]"])
    }
}

kinfold_mistakes::mistake!("Unites lists of links");
