//! kinfold: a Dynamo-style store whose conflicts are folded by WebAssembly.
pub mod api;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod logging;
pub mod metrics;
pub mod node;
pub mod protocol;
pub mod reconcile;
pub mod server;
pub mod simulation;
pub mod store;
pub mod table_spec;
pub mod transport;
