//! Reads `item=count` lines and writes `item: count`, which is nicer to read.
//!
//! It looks right because clients like the result. But what a fold gives is a
//! sibling of the next fold, and that one reads only `item=count`.

#[forbid(unsafe_code)]
pub mod merge {
    use std::collections::BTreeMap;

    use kinfold_mistakes::{Outcome, Sibling, drawn, values};

    pub fn fold(siblings: &[Sibling]) -> Result<Outcome, String> {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for value in values(siblings) {
            let text = std::str::from_utf8(value).map_err(|error| error.to_string())?;
            for line in text.lines() {
                let read = line.split_once('=');
                let read = read.and_then(|(item, count)| Some((item, count.parse().ok()?)));
                let (item, count) = read.ok_or(format!("expected item=count, not {line:?}"))?;
                let known = counts.entry(item.to_owned()).or_insert(count);
                *known = count.max(*known);
            }
        }
        let lines = counts
            .iter()
            .map(|(item, count)| format!("{item}: {count}\n"));
        Ok(Outcome::Merged(lines.collect::<String>().into_bytes()))
    }

    pub fn samples(seed: u64, count: u32) -> Vec<Vec<u8>> {
        drawn(seed, count, &["apple=1\n", "apple=2\npear=1\n", "fig=3\n"])
    }
}

kinfold_mistakes::mistake!("Unites lines of item=count");
