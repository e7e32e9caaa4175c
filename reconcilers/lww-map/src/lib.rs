//! `lww-map`: an object of fields, each written on its own. See [`merge`] for
//! what it promises.

#[forbid(unsafe_code)]
pub mod merge;

kinfold_guest::export_data_type! {
    merge: merge,
    summary: "A JSON object, last write wins field by field; an unset removes what it saw",
    eager: true,
}
