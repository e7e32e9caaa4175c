//! kinfold.
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod logging;
pub mod node;
pub mod protocol;
pub mod reconcile;
pub mod store;
pub mod table_spec;
pub mod transport;
