//! What reads: whoever asks, on its own thread ([`here`]), threads that are there for it
//! ([`reader`]), and who wants many rows ([`walk`]); and the hashes of rows, which need
//! not be read ([`states`]).

pub mod here;
pub mod reader;
pub mod states;
pub mod walk;
