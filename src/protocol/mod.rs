//! The protocol, pure.
pub mod id;
pub mod layout;
pub mod preference;
pub mod ring;
