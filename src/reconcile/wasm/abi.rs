//! `wit/reconciler.wit` in Rust: the records that cross into a guest and back,
//! and the functions that take them.
//!
//! Promises: shapes only. What is lowered into a guest borrows the host's bytes,
//! so that a value is copied once, into the guest's memory.

use wasmtime::component::{ComponentType, Lift, Lower};

use crate::protocol::effect::GuestSibling;

/// The interface that every module exports.
pub const RECONCILE: &str = "kinfold:reconciler/reconcile@1.0.0";
/// The optional interface with sample values.
pub const SAMPLES: &str = "kinfold:reconciler/samples@1.0.0";
/// The optional interface that makes a module a data type.
pub const DATA_TYPE: &str = "kinfold:reconciler/data-type@1.0.0";

/// The name of one write.
#[derive(ComponentType, Lower, Clone, Copy)]
#[component(record)]
pub struct Dot<'a> {
    pub actor: &'a [u8],
    pub counter: u64,
}

/// The item whose siblings are folded.
#[derive(ComponentType, Lower, Clone, Copy)]
#[component(record)]
pub struct Item<'a> {
    pub table: &'a str,
    #[component(name = "partition-key")]
    pub partition_key: &'a [u8],
    #[component(name = "sort-key")]
    pub sort_key: Option<&'a [u8]>,
}

/// One of several concurrent versions of an item.
#[derive(ComponentType, Lower, Clone, Copy)]
#[component(record)]
pub struct Sibling<'a> {
    pub value: Option<&'a [u8]>,
    #[component(name = "content-type")]
    pub content_type: &'a str,
    #[component(name = "written-at")]
    pub written_at: u64,
    pub dot: Dot<'a>,
}

impl<'a> Sibling<'a> {
    /// The sibling as a guest sees it; `actor` is its dot's, in bytes.
    pub fn of(sibling: &'a GuestSibling, actor: &'a [u8]) -> Self {
        Sibling {
            value: sibling.version.value.as_deref(),
            content_type: &sibling.version.content_type,
            written_at: sibling.version.written_at_us,
            dot: Dot {
                actor,
                counter: sibling.dot.counter,
            },
        }
    }
}

/// Where an operation happens.
#[derive(ComponentType, Lower, Clone, Copy)]
#[component(record)]
pub struct Event<'a> {
    pub dot: Dot<'a>,
    #[component(name = "written-at")]
    pub written_at: u64,
}

/// What siblings become.
#[derive(ComponentType, Lift, Clone, PartialEq, Eq, Debug)]
#[component(variant)]
pub enum Outcome {
    #[component(name = "merged")]
    Merged(Vec<u8>),
    #[component(name = "deleted")]
    Deleted,
    #[component(name = "unresolved")]
    Unresolved,
}

/// What a module says of itself.
#[derive(ComponentType, Lift, Clone, PartialEq, Eq, Debug)]
#[component(record)]
pub struct Description {
    /// One line for people.
    pub summary: String,
    /// The module's own version.
    pub version: String,
    /// Siblings may be folded as soon as they meet.
    pub eager: bool,
}

/// What a client sees of a state.
#[derive(ComponentType, Lift, Clone, PartialEq, Eq, Debug)]
#[component(record)]
pub struct View {
    pub body: Vec<u8>,
    #[component(name = "content-type")]
    pub content_type: String,
}

pub type DescribeParams = ();
pub type DescribeResult = (Description,);
pub type FoldParams<'a> = (Item<'a>, &'a [Sibling<'a>]);
pub type FoldResult = (Result<Outcome, String>,);
pub type GenerateParams = (u64, u32);
pub type GenerateResult = (Vec<Vec<u8>>,);
pub type ApplyParams<'a> = (Item<'a>, Option<&'a [u8]>, &'a [u8], Event<'a>);
pub type ApplyResult = (Result<Vec<u8>, String>,);
pub type RenderParams<'a> = (&'a [u8],);
pub type RenderResult = (Result<View, String>,);
