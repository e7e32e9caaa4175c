//! `pn-counter`: a counter that goes up and down on every replica. See [`merge`]
//! for what it promises.

#[forbid(unsafe_code)]
pub mod merge;

kinfold_reconciler::export_data_type!(merge::PnCounter);
