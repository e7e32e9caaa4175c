//! The protocol, pure.
pub mod catalog;
pub mod context;
pub mod detector;
pub mod dot;
pub mod effect;
pub mod get;
pub mod hint;
pub mod id;
pub mod layout;
pub mod machine;
pub mod membership;
pub mod message;
#[cfg(test)]
mod model;
pub mod preference;
pub mod put;
pub mod replica;
pub mod ring;
pub mod siblings;
pub mod time;
