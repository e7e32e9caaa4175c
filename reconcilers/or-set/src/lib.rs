//! `or-set`: a set whose removals hold. See [`merge`] for what it promises.

#[forbid(unsafe_code)]
pub mod merge;

kinfold_guest::export_data_type! {
    merge: merge,
    summary: "A set of JSON values: a removal removes what it saw, an addition made meanwhile stays",
    eager: true,
}
