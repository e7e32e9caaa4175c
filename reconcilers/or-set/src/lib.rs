//! `or-set`: a set whose removals hold. See [`merge`] for what it promises.

#[forbid(unsafe_code)]
pub mod merge;

kinfold_reconciler::export_data_type!(merge::OrSet);
