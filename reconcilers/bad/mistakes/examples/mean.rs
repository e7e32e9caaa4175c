//! A rating whose siblings become their mean.
//!
//! It looks right because the mean minds no order. But the mean of a mean and a
//! third is not the mean of three, and a vote that arrives twice weighs twice.

#[forbid(unsafe_code)]
pub mod merge {
    use kinfold_mistakes::{Outcome, Sibling, drawn, parse, values, written};

    pub fn fold(siblings: &[Sibling]) -> Result<Outcome, String> {
        let mut ratings: Vec<f64> = Vec::new();
        for value in values(siblings) {
            ratings.push(parse(value, "a number")?);
        }
        if ratings.is_empty() {
            return Ok(Outcome::Deleted);
        }
        // In one order, so that at least the rounding is the same.
        ratings.sort_by(f64::total_cmp);
        Ok(written(
            &(ratings.iter().sum::<f64>() / ratings.len() as f64),
        ))
    }

    pub fn samples(seed: u64, count: u32) -> Vec<Vec<u8>> {
        drawn(seed, count, &["1.0", "2.0", "3.0", "4.0", "5.0"])
    }
}

kinfold_mistakes::mistake!("Takes the mean of ratings");
