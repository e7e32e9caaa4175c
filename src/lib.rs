//! kinfold: a Dynamo-style store whose conflicts are folded by WebAssembly.
//!
//! One idea carries the house: **machines decide, shells act.** All of the
//! protocol is pure state machines: no I/O, no clock, no dice, no threads. Two
//! shells run the very same ones: the server ([`node`] over SQLite, wasmtime and
//! TCP) and the seeded [`simulation`]. What the protocol promises, and what it
//! does not, is told in [`protocol`].
//!
//! ```text
//! main → cli → server → api → node → store, reconcile, transport → protocol
//! ```
//!
//! Only [`server`] and [`simulation`] name the adapters behind those three
//! traits. Nothing points back; `tests/tidy.rs` keeps it so. [`mod@bench`] stands
//! outside: it knows of a node what its clients know.
//!
//! # The life of a PUT
//!
//! 1. [`server`] accepts the connection, [`api`] finds the resource and gives the
//!    request an id. `api/items.rs` checks table, key, quorum and body, and reads
//!    the token (`api/token.rs`). What comes out is an
//!    [`ItemRequest`](protocol::message::ItemRequest).
//! 2. [`node::Node::item`] hands it to its [machine](protocol::machine) as an
//!    [`Input`](protocol::effect::Input). The machine answers with
//!    [`Effect`](protocol::effect::Effect)s, which the node carries out: messages
//!    to send, requests to the store, runs of a module, answers to clients.
//!    Whatever comes of them is an input again.
//! 3. `machine/client.rs`: if this node is not one of the item's first n reachable
//!    nodes ([`protocol::preference`]), the request is forwarded to one that is.
//! 4. The coordinator asks its [`store`] to mint and write in one transaction.
//!    [`protocol::replica`] says what becomes of the row: a new dot, the siblings
//!    that the client had seen dropped. `store/sqlite/writing/writer.rs` gathers what
//!    waits into one commit and one fsync.
//! 5. If the row would have more siblings than the table wants, the store says so
//!    instead. `machine/fold.rs` has the module fold them ([`reconcile`]), and the
//!    result is stored if the row is still the one that was folded.
//! 6. [`protocol::put`] decides who gets the write, who stands in for whom, and
//!    when w nodes have it. The others store it in `machine/serve.rs`, those that
//!    stand in with a hint. [`transport`] carries the messages.
//! 7. At the w-th durable acknowledgement the client gets 204 and a token that
//!    covers what it had seen and its own write. The rest goes on without it:
//!    whoever did not acknowledge is named by a hint, and [`protocol::hint`] says
//!    when hints go out.
//!
//! # The life of a GET
//!
//! 1. As above up to the machine. Any node coordinates.
//! 2. [`protocol::get`] asks n nodes: one for the whole state, itself if it can,
//!    the others for a hash. One that holds something else is asked again.
//! 3. With r of them known, their states are joined
//!    ([`protocol::siblings::SiblingSet::sync`]).
//! 4. One version is the answer. Several go to the table's module
//!    (`machine/fold.rs`, then `reconcile/wasm/run.rs` on a thread of its own).
//!    Nothing of that is stored: a merge is a view.
//! 5. `api/items.rs` answers 200, or 300 with the siblings when nobody folded
//!    them.
//! 6. Late replies are awaited, and each primary that differs is sent the join.
//!
//! # The life of a table or a module
//!
//! Definitions and digests are registers of [`protocol::catalog`], which travels
//! in the gossip of [`protocol::membership`]. The bytes of a module are fetched by
//! digest (`machine/upkeep.rs`) and kept by [`reconcile::registry`].

pub mod api;
pub mod bench;
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
