//! The tables of a simulated cluster, and what kind of data each holds.
//!
//! Promises: every node's config says the same; the definitions differ in n, in
//! their limits and in what folds them, so that each rule of the protocol has a
//! table that needs it.

use std::collections::BTreeSet;

use crate::protocol::catalog::{
    Catalog, Digest, Lawfulness, ModuleInfo, ModuleKind, TableDefinition,
};
use crate::protocol::id::TableId;
use crate::protocol::machine::Tables;
use crate::reconcile::native::COUNTER;

/// Conflicts are shown to clients.
pub const RAW_TABLE: &str = "raw";
/// Conflicts are folded by a union of lines.
pub const UNION_TABLE: &str = "union";
/// As `raw`, with many keys that are seldom asked for: what a replica missed is
/// not mended by the next read.
const COLD_TABLE: &str = "cold";
/// As `raw`, on five nodes.
const WIDE_TABLE: &str = "wide";
/// As `raw`, on two nodes.
const PAIR_TABLE: &str = "pair";
/// As `raw`, but contexts keep few actors.
const SHORT_TABLE: &str = "short";
/// A set of lines that takes operations.
const SET_TABLE: &str = "set";
/// A counter that takes operations.
const COUNTER_TABLE: &str = "counter";

/// The native reconciler answers to any digest; this one stands for it.
const LINES: Digest = Digest([0x6b; 32]);
/// How many actors the contexts of the table `short` keep.
const SHORT_ACTORS: u32 = 2;

/// What clients do with a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Values that are written once each, with tokens, and deletions. With
    /// `forgets`, contexts are truncated, so that what was superseded may come
    /// back.
    Register { forgets: bool },
    /// Carts: clients add lines to what they read.
    Lines,
    /// Lines, added by operations.
    Set,
    /// Whole numbers, added by operations.
    Counter,
}

/// One table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SimTable {
    pub name: &'static str,
    pub n: u32,
    pub kind: Kind,
    /// How many keys clients use.
    pub keys: usize,
}

/// All of them.
pub const TABLES: [SimTable; 8] = [
    SimTable {
        name: RAW_TABLE,
        n: 3,
        kind: Kind::Register { forgets: false },
        keys: 3,
    },
    SimTable {
        name: COLD_TABLE,
        n: 3,
        kind: Kind::Register { forgets: false },
        keys: 20,
    },
    SimTable {
        name: WIDE_TABLE,
        n: 5,
        kind: Kind::Register { forgets: false },
        keys: 1,
    },
    SimTable {
        name: PAIR_TABLE,
        n: 2,
        kind: Kind::Register { forgets: false },
        keys: 1,
    },
    SimTable {
        name: SHORT_TABLE,
        n: 3,
        kind: Kind::Register { forgets: true },
        keys: 1,
    },
    SimTable {
        name: UNION_TABLE,
        n: 3,
        kind: Kind::Lines,
        keys: 1,
    },
    SimTable {
        name: SET_TABLE,
        n: 3,
        kind: Kind::Set,
        keys: 1,
    },
    SimTable {
        name: COUNTER_TABLE,
        n: 3,
        kind: Kind::Counter,
        keys: 1,
    },
];

/// Tables whose every value is written once.
pub(super) fn registers(tables: &Tables) -> BTreeSet<TableId> {
    TABLES
        .iter()
        .filter(|table| matches!(table.kind, Kind::Register { .. }))
        .filter_map(|table| Some(tables.get(table.name)?.id))
        .collect()
}

fn module(digest: Digest, kind: ModuleKind, summary: &str) -> ModuleInfo {
    ModuleInfo {
        digest,
        size_bytes: 0,
        kind,
        eager: false,
        summary: summary.into(),
        version: "1".into(),
        lawfulness: Lawfulness::NoCounterexample { cases: 0 },
        built_in: true,
    }
}

/// Every node's config.
pub(super) fn propose_tables(catalog: &mut Catalog) {
    let lines = module(LINES, ModuleKind::Reconciler, "union of lines");
    catalog.propose_reconciler("lines", lines);
    let set = module(Digest([0x73; 32]), ModuleKind::DataType, "set of lines");
    catalog.propose_reconciler("set", set);
    let counter = module(COUNTER, ModuleKind::DataType, "counter");
    catalog.propose_reconciler("counter", counter);
    for table in TABLES {
        let (reconciler, fold_above) = match table.kind {
            Kind::Register { .. } => (None, None),
            Kind::Lines => (Some("lines"), Some(2)),
            Kind::Set => (Some("set"), None),
            Kind::Counter => (Some("counter"), None),
        };
        let mut definition = TableDefinition {
            n: table.n,
            reconciler: reconciler.map(Into::into),
            fold_above,
            ..TableDefinition::default()
        };
        if table.kind == (Kind::Register { forgets: true }) {
            definition.max_actors = SHORT_ACTORS;
        }
        catalog.propose_table(table.name, definition);
    }
}
