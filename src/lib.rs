//! kinfold.
pub mod clock;
//pub mod node;
pub mod protocol;
pub mod reconcile;
pub mod store;
pub mod transport;
