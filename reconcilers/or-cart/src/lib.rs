//! `or-cart`: a cart whose removals hold. See [`merge`] for what it promises.

#[forbid(unsafe_code)]
pub mod merge;

mod state;

kinfold_reconciler::export_data_type!(merge::OrCart);
