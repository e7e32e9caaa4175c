//! The files of a store: what one holds and how it is opened ([`file`]), the layers
//! between SQLite and the system ([`vfs`]), how many files make a store and whether
//! they are all there ([`open`]), what is done about those that are damaged
//! ([`repair`], [`log`]), and how the store notes, while it runs, that one may be
//! ([`suspicion`]).

pub mod file;
pub mod log;
pub mod open;
pub mod repair;
pub mod suspicion;
pub mod vfs;
