//! The contract's worlds as Rust, each generated. The unsafe code of every guest
//! is here, and none of it is written by hand.

#[rustfmt::skip]
pub mod data_type;
#[rustfmt::skip]
pub mod reconciler;
