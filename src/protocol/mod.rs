//! The protocol, pure: Dynamo as this store means it.
//!
//! Nothing here does I/O, asks for the time, throws dice or starts threads. A
//! [`machine::Machine`] is a whole node: it takes inputs and returns effects, and
//! whoever runs it carries those out. The sources are *Dynamo* (DeCandia et al.,
//! SOSP 2007), dotted version vectors (Preguiça, Baquero, Almeida, Fonte,
//! Gonçalves, 2010) and delta-state CRDTs (Almeida, Shoker, Baquero, 2016).
//!
//! # In prose
//!
//! The hash of its table and partition key puts an item into one of a fixed number
//! of partitions ([`id`], [`ring`]). A [`layout`] says which nodes hold each of them;
//! the [`preference`] list goes on from there around the ring, so that there is
//! somebody to stand in for a node that is away. The first n of the list are an
//! item's *primaries*.
//!
//! Every write gets a name that is never given again, its [`dot`]. What a client, a
//! replica or a write has seen is a causal [`context`]. An item is a set of
//! [`siblings`] with the context of all that was ever seen of it. Two replicas of it
//! are joined by keeping what both hold, and what one holds and the other has not
//! seen: that needs no order and no clock, and may be repeated.
//!
//! A client's token is such a context. Its write replaces what the token covers and
//! nothing else. So a write that did not see another becomes its sibling, and a
//! deletion is a version like any other, a tombstone.
//!
//! A write ([`put`]) is answered when w nodes have stored it durably. A read ([`get`])
//! is answered when r nodes are known, and then mends the primaries that differ. When
//! a primary is away, another node stores the write with a [`hint`] and brings it
//! back. Who is away is each node's own opinion ([`detector`]).
//!
//! [`membership`] spreads members, layout and the [`catalog`] of tables and modules by
//! gossip.
//!
//! # Promises
//!
//! The nine invariants that tests hold the code against:
//!
//! 1. A write that was acknowledged is in the state that replicas converge to, or
//!    some write or fold that had seen it has replaced it.
//! 2. When faults are over and work has drained, the n replicas of an item are equal
//!    byte for byte, and no hint is left. (Today that takes hints or a read of the
//!    item; see below.)
//! 3. What was replaced or deleted does not come back, except through truncation
//!    (`max_actors`).
//! 4. No value appears that no client wrote and no module made.
//! 5. No dot is minted twice, whatever crashes, is restored, or has a wrong clock.
//! 6. Reading what has converged writes nothing.
//! 7. What a node acknowledged survives `kill -9`, and power loss under the default
//!    durability.
//! 8. A node that cannot do its work says so. It never takes data that it failed to
//!    read for absent.
//! 9. The same inputs and the same seed give the same run in the simulation.
//!
//! # Not promised
//!
//! - Consistency beyond that: no order between items, no compare-and-set, no
//!   transaction. Two clients may both succeed.
//! - That a read sees the newest write when r + w ≤ n, or when a sloppy quorum was
//!   made of other nodes.
//! - That a write that was refused for its quorum is not stored.
//! - Repair of what nobody reads. Hints bring back what a node missed while others
//!   noted it. A lost disk, the hints on a lost disk, and a coordinator that ended
//!   between its answer and its last acknowledgement are mended by read repair only,
//!   until replicas compare themselves (exchange, by Merkle trees), which is not
//!   built yet.
//! - Data that follows the layout. When nodes join, leave or are removed, reads and
//!   writes go by the layouts as `membership/history.rs` says, but nothing is moved
//!   yet: a node calls itself synced as soon as it may begin to be.
//! - An end to tombstones. They are not reaped yet.
//! - Protection from peers that lie.
//!
//! # Which file holds what
//!
//! | | |
//! | --- | --- |
//! | causality | [`id`], [`dot`], [`context`], [`siblings`], [`replica`] |
//! | placement | [`ring`], [`layout`], [`preference`] |
//! | coordination | [`put`], [`get`], [`hint`] |
//! | who is there | [`membership`], [`detector`], [`catalog`] |
//! | what is said | [`message`] between nodes, [`effect`] between machine and shell, [`time`] |
//! | maps of few entries, and of what is in hand | [`sorted`], [`pending`] |
//! | all of it, as one node | [`machine`]: `client.rs` a request's way, `fold.rs` modules at work, `serve.rs` what peers ask, `upkeep.rs` what nobody asks for |
//! | what it would be like broken | [`sabotage`], for tests that must notice |
//! | the naive model | `model.rs`, in tests: sets of siblings against full histories |

pub mod catalog;
pub mod context;
pub mod detector;
pub mod dot;
pub mod effect;
pub mod exchange;
pub mod get;
pub mod hint;
pub mod id;
pub mod layout;
pub mod machine;
pub mod membership;
pub mod merkle;
pub mod message;
#[cfg(test)]
mod model;
pub mod pending;
pub mod preference;
pub mod put;
pub mod replica;
pub mod ring;
#[cfg(test)]
mod rows;
pub mod sabotage;
pub mod siblings;
pub mod sorted;
pub mod time;
pub mod trees;
