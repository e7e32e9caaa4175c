//! `or-cart`: a cart whose removals hold. See [`merge`] for what it promises.

#[forbid(unsafe_code)]
pub mod merge;

mod state;

kinfold_guest::export_data_type! {
    merge: merge,
    summary: "A cart: concurrent additions add up, a removal removes what it saw and nothing else",
    eager: true,
}
