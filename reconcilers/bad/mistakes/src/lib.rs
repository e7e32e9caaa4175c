//! What the guests with mistakes share: the tie to the SDK, and draws of short
//! samples that collide.
//!
//! Each file of `examples/` is one guest, and opens by saying what mistake a
//! person made there and why it looks right. Promises: nothing but the mistake
//! is wrong; natively each is an ordinary module of Rust.

use kinfold_reconciler::Dice;
pub use kinfold_reconciler::{Item, Outcome, Reconciler, Sibling};

/// Makes a module of the `merge` module beside it.
#[macro_export]
macro_rules! mistake {
    ($summary:literal) => {
        /// What the module is made of.
        pub struct Mistake;

        impl $crate::Reconciler for Mistake {
            const SUMMARY: &str = $summary;

            fn fold(
                _: &$crate::Item,
                siblings: &[$crate::Sibling],
            ) -> Result<$crate::Outcome, String> {
                merge::fold(siblings)
            }

            fn samples(seed: u64, count: u32) -> Vec<Vec<u8>> {
                merge::samples(seed, count)
            }
        }

        kinfold_reconciler::export!(Mistake);
    };
}

/// The values that are there, in the order of the siblings.
pub fn values(siblings: &[Sibling]) -> impl Iterator<Item = &[u8]> {
    siblings
        .iter()
        .filter_map(|sibling| sibling.value.as_deref())
}

/// Samples drawn from these.
pub fn drawn(seed: u64, count: u32, from: &[&str]) -> Vec<Vec<u8>> {
    let mut dice = Dice::new(seed);
    (0..count)
        .map(|_| dice.pick(from).as_bytes().to_vec())
        .collect()
}

/// JSON, or why it is none.
pub fn parse<T: serde::de::DeserializeOwned>(value: &[u8], what: &str) -> Result<T, String> {
    serde_json::from_slice(value).map_err(|error| format!("expected {what}: {error}"))
}

/// As JSON.
pub fn written<T: serde::Serialize>(value: &T) -> Outcome {
    Outcome::Merged(serde_json::to_vec(value).expect("JSON"))
}
