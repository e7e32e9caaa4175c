//! `pn-counter`: a counter that goes up and down on every replica. See [`merge`]
//! for what it promises.

#[forbid(unsafe_code)]
pub mod merge;

kinfold_guest::export_data_type! {
    merge: merge,
    summary: "A counter: concurrent additions and subtractions all count, each once",
    eager: true,
}
