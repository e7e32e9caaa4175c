//! What the guests with mistakes share: the tie to the WIT, and draws of short
//! samples that collide.
//!
//! Each file of `examples/` is one guest, and opens by saying what mistake a
//! person made there and why it looks right. Promises: nothing but the mistake
//! is wrong; natively each is an ordinary module of Rust.

use kinfold_guest::dice::Dice;
pub use kinfold_guest::{Outcome, Sibling};

/// Exports the world `checked-reconciler` from the `merge` module beside it.
#[macro_export]
macro_rules! mistake {
    ($summary:literal) => {
        #[cfg(target_arch = "wasm32")]
        mod glue {
            kinfold_guest::wit_bindgen::generate!({
                path: "../../../wit",
                world: "checked-reconciler",
                runtime_path: "kinfold_guest::wit_bindgen::rt",
            });
            kinfold_guest::export_fold!(merge, $summary, false);

            impl exports::kinfold::reconciler::samples::Guest for Guest {
                fn generate(seed: u64, count: u32) -> Vec<Vec<u8>> {
                    super::merge::samples(seed, count)
                }
            }

            export!(Guest);
        }
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
