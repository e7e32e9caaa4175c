//! kinfold.
pub mod api;
pub mod clock;
pub mod metrics;
pub mod node;
pub mod protocol;
pub mod reconcile;
pub mod store;
pub mod table_spec;
pub mod transport;
