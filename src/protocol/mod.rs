//! The protocol, pure.
pub mod id;
