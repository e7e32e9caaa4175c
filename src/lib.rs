//! kinfold.
pub mod protocol;
