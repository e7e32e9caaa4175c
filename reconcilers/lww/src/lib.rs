//! `lww`: last write wins. See [`merge`] for what it promises.

#[forbid(unsafe_code)]
pub mod merge;

kinfold_guest::export_reconciler! {
    merge: merge,
    summary: "Last write wins: the newest written-at, then the greatest dot; a delete is a version like any other",
    eager: true,
}
