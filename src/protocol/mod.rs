//! The protocol, pure.
pub mod catalog;
pub mod context;
pub mod detector;
pub mod dot;
pub mod effect;
pub mod id;
pub mod layout;
pub mod membership;
pub mod message;
pub mod preference;
pub mod replica;
pub mod ring;
pub mod siblings;
