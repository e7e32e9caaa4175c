//! `lww-map`: an object of fields, each written on its own. See [`merge`] for
//! what it promises.

#[forbid(unsafe_code)]
pub mod merge;

kinfold_reconciler::export_data_type!(merge::LwwMap);
