//! `lww`: last write wins. See [`merge`] for what it promises.

#[forbid(unsafe_code)]
pub mod merge;

kinfold_reconciler::export!(merge::Lww);
