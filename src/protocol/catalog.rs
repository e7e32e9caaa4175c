//! The catalog: tables and reconcilers, as every node knows them.
//!
//! A set of versioned registers that travels whole in the gossip when it
//! changes. Promises: merging is commutative, associative and idempotent; a
//! deletion beats every change to the life that it ended; a name made again
//! begins a new life, with another table id. Not promised: that two changes to
//! one definition at once both survive; the one with the higher version and
//! then the greater digest does, on every node. Nor that a table which was
//! pointed at a reconciler while another node deleted it folds: it shows its
//! siblings with the reason, takes no values, and heals when either is set again.
//!
//! `change.rs` says what operators change and when that is refused, `history.rs`
//! remembers what was made current, when and by whom.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::id::TableId;
use super::replica::SiblingLimits;

mod change;
mod history;
#[cfg(test)]
mod tests;

pub use change::{Applied, CatalogChange, ChangeRefused, Stamp};
pub use history::{Deed, History, HistoryEntry, MAX_HISTORY};

/// How many tables a catalog holds at most: it travels whole, and each is some
/// hundred bytes.
pub const MAX_TABLES: usize = 1024;
/// How many reconcilers a catalog holds at most, for the same reason.
pub const MAX_RECONCILERS: usize = 1024;
/// How many digests of one reconciler are remembered for a rollback. One more
/// drops the oldest that is neither current, nor pinned by a table, nor built in.
pub const MAX_MODULE_VERSIONS: usize = 64;
/// The longest name of a table or reconciler, in bytes.
pub const MAX_NAME_BYTES: usize = 128;

/// How many actors a context keeps where the table does not say.
pub const DEFAULT_MAX_ACTORS: u32 = 20;

/// The SHA-256 of a module's bytes as they were uploaded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Digest(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The text is not `sha256:` and 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a digest is written sha256: and 64 hex digits")]
pub struct DigestError;

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(DigestError);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| DigestError)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| DigestError)?;
        }
        Ok(Digest(bytes))
    }
}

/// How many replicas: a number, a majority of n, or all of n.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum QuorumSize {
    Count(u32),
    Quorum,
    All,
}

impl QuorumSize {
    /// The number that is meant in a table with this `n`; none when it is 0 or
    /// more than `n`.
    pub fn resolve(self, n: u32) -> Option<u32> {
        match self {
            QuorumSize::Count(count) => (1..=n).contains(&count).then_some(count),
            QuorumSize::Quorum => Some(n / 2 + 1),
            QuorumSize::All => Some(n),
        }
    }
}

/// What an operator says about a table. Durations and sizes are plain numbers
/// here; the config file and the API write them with units.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TableDefinition {
    pub n: u32,
    pub r: QuorumSize,
    pub w: QuorumSize,
    /// The reconciler's name; none gives clients the siblings.
    pub reconciler: Option<Arc<str>>,
    /// Folds with this digest whatever the name's current one is.
    pub reconciler_digest: Option<Digest>,
    pub max_value_bytes: u64,
    /// None: 16, or 1 when the module calls itself eager.
    pub fold_above: Option<u32>,
    pub max_siblings: u32,
    pub max_actors: u32,
    /// Whether only primaries count towards quorums.
    pub strict: bool,
    /// Whether items are named by a sort key too.
    pub sort_keys: bool,
}

impl Default for TableDefinition {
    fn default() -> Self {
        TableDefinition {
            n: 3,
            r: QuorumSize::Quorum,
            w: QuorumSize::Quorum,
            reconciler: None,
            reconciler_digest: None,
            max_value_bytes: 1 << 20,
            fold_above: None,
            max_siblings: 100,
            max_actors: DEFAULT_MAX_ACTORS,
            strict: false,
            sort_keys: false,
        }
    }
}

/// What a module says it is, see `wit/reconciler.wit`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ModuleKind {
    /// Folds values that clients write.
    Reconciler,
    /// Also takes operations; clients never write values.
    DataType,
}

/// What the law check said when a module was uploaded.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Lawfulness {
    /// No counterexample in this many cases.
    NoCounterexample { cases: u64 },
    /// The module accepted none of the samples.
    Unchecked,
    /// Admitted all the same; never folded eagerly. The text says which law.
    Unlawful {
        law: Arc<str>,
        counterexample: Arc<str>,
    },
    /// Compiled into the server, whose own tests check these very bytes.
    BuiltIn,
}

/// One digest of a reconciler.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ModuleInfo {
    pub digest: Digest,
    pub size_bytes: u64,
    pub kind: ModuleKind,
    /// Whether siblings may be folded as soon as they meet.
    pub eager: bool,
    pub summary: Arc<str>,
    pub version: Arc<str>,
    pub lawfulness: Lawfulness,
    /// Whether it is compiled into the server.
    pub built_in: bool,
}

impl ModuleInfo {
    /// Eager, and not known to break a law.
    pub fn folds_eagerly(&self) -> bool {
        self.eager && !matches!(self.lawfulness, Lawfulness::Unlawful { .. })
    }
}

/// A reconciler: a name and the digests that it has had, oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReconcilerDefinition {
    pub current: Digest,
    pub modules: Vec<ModuleInfo>,
}

impl ReconcilerDefinition {
    /// What is known of one of its digests.
    pub fn module(&self, digest: Digest) -> Option<&ModuleInfo> {
        self.modules.iter().find(|module| module.digest == digest)
    }
}

/// A value with what decides between two of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Register<T> {
    /// Which life of the name this is, from 1.
    pub generation: u64,
    /// Which change of this life. 0 is what a config file said at first: it
    /// yields to every change that someone made.
    pub version: u64,
    /// None: deleted.
    pub value: Option<T>,
}

impl<T: Serialize> Register<T> {
    /// The order in which one register yields to another: later lives, then
    /// deletion, then later changes, then the digest, which is the same toss of
    /// the coin everywhere.
    fn rank(&self) -> (u64, bool, u64, [u8; 32]) {
        let bytes = postcard::to_stdvec(&self.value).expect("definitions encode into memory");
        (
            self.generation,
            self.value.is_none(),
            self.version,
            Digest::of(&bytes).0,
        )
    }
}

/// Tables and reconcilers by name.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Catalog {
    tables: BTreeMap<Arc<str>, Register<TableDefinition>>,
    reconcilers: BTreeMap<Arc<str>, Register<ReconcilerDefinition>>,
    /// What was done to the reconcilers. The last field: a record from before
    /// there was one is read as one with nothing in it.
    histories: BTreeMap<Arc<str>, History>,
}

/// A table as requests use it: the definition with everything resolved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    pub id: TableId,
    pub name: Arc<str>,
    pub definition: TableDefinition,
    /// The module that folds the table's siblings, if it has one.
    pub module: Option<ModuleInfo>,
    /// Whether the reconciler that the table names was deleted.
    pub is_orphaned: bool,
}

impl Table {
    /// The limits that a write obeys. An unlawful module never folds what is
    /// stored, only what is read.
    pub fn limits(&self) -> SiblingLimits {
        let fold_above = self.module.as_ref().and_then(|module| {
            let unlawful = matches!(module.lawfulness, Lawfulness::Unlawful { .. });
            let default = if module.folds_eagerly() { 1 } else { 16 };
            let fold_above = self.definition.fold_above.unwrap_or(default);
            // A write that may be folded is never refused for its siblings.
            (!unlawful).then(|| fold_above.min(self.definition.max_siblings) as usize)
        });
        SiblingLimits {
            fold_above,
            max_siblings: self.definition.max_siblings as usize,
            max_actors: self.definition.max_actors as usize,
        }
    }

    /// Whether clients send operations instead of values.
    pub fn is_data_type(&self) -> bool {
        self.module
            .as_ref()
            .is_some_and(|module| module.kind == ModuleKind::DataType)
    }
}

fn merge<T: Serialize + Clone + PartialEq>(
    mine: &mut BTreeMap<Arc<str>, Register<T>>,
    theirs: &BTreeMap<Arc<str>, Register<T>>,
) -> bool {
    let mut changed = false;
    for (name, register) in theirs {
        let yields = mine
            .get(name)
            .is_none_or(|known| known.rank() < register.rank());
        if yields {
            mine.insert(name.clone(), register.clone());
            changed = true;
        }
    }
    changed
}

/// Sets a value: a new life for a deleted or unknown name, else the next version.
fn set<T>(registers: &mut BTreeMap<Arc<str>, Register<T>>, name: &str, value: T) {
    let (generation, version) = match registers.get(name) {
        None => (1, 1),
        Some(Register {
            generation,
            value: None,
            ..
        }) => (generation + 1, 1),
        Some(Register {
            generation,
            version,
            ..
        }) => (*generation, version + 1),
    };
    registers.insert(
        name.into(),
        Register {
            generation,
            version,
            value: Some(value),
        },
    );
}

/// Ends a life. Returns whether there was one.
fn delete<T>(registers: &mut BTreeMap<Arc<str>, Register<T>>, name: &str) -> bool {
    match registers.get_mut(name) {
        Some(register) if register.value.is_some() => {
            register.value = None;
            register.version += 1;
            true
        }
        _ => false,
    }
}

impl Catalog {
    /// Takes over what the other knows better. Returns whether anything changed.
    pub fn merge(&mut self, other: &Catalog) -> bool {
        let tables = merge(&mut self.tables, &other.tables);
        let reconcilers = merge(&mut self.reconcilers, &other.reconcilers);
        let histories = self.merge_histories(other);
        tables || reconcilers || histories
    }

    /// A hash of the whole, for "do we know the same?".
    pub fn digest(&self) -> u64 {
        let bytes = postcard::to_stdvec(self).expect("a catalog encodes into memory");
        let mut first = [0; 8];
        first.copy_from_slice(&Digest::of(&bytes).0[..8]);
        u64::from_be_bytes(first)
    }

    /// The definition of a table that exists.
    pub fn table(&self, name: &str) -> Option<&TableDefinition> {
        self.tables.get(name)?.value.as_ref()
    }

    /// The definition of a reconciler that exists.
    pub fn reconciler(&self, name: &str) -> Option<&ReconcilerDefinition> {
        self.reconcilers.get(name)?.value.as_ref()
    }

    /// The tables that exist, by name.
    pub fn tables(&self) -> impl Iterator<Item = (&Arc<str>, &TableDefinition)> {
        self.tables
            .iter()
            .filter_map(|(name, entry)| Some((name, entry.value.as_ref()?)))
    }

    /// The reconcilers that exist, by name.
    pub fn reconcilers(&self) -> impl Iterator<Item = (&Arc<str>, &ReconcilerDefinition)> {
        self.reconcilers
            .iter()
            .filter_map(|(name, entry)| Some((name, entry.value.as_ref()?)))
    }

    /// Makes or changes a table; it counts as the newest change.
    pub fn set_table(&mut self, name: &str, definition: TableDefinition) {
        set(&mut self.tables, name, definition);
    }

    /// Makes a table that a config file names for the first time. It yields to
    /// whatever anyone else knows of that name.
    pub fn propose_table(&mut self, name: &str, definition: TableDefinition) {
        let first = Register {
            generation: 1,
            version: 0,
            value: Some(definition),
        };
        self.tables.entry(name.into()).or_insert(first);
    }

    /// Ends a table's life. Returns whether it had one.
    pub fn delete_table(&mut self, name: &str) -> bool {
        delete(&mut self.tables, name)
    }

    /// Makes a digest the current one of a reconciler, adding it to those it has
    /// had. False when there is no room for one more, because every one it has is
    /// pinned by a table.
    pub fn set_reconciler(&mut self, name: &str, module: ModuleInfo) -> bool {
        let mut modules = self
            .reconciler(name)
            .map_or_else(Vec::new, |r| r.modules.clone());
        let current = module.digest;
        let known = modules.iter().position(|known| known.digest == current);
        match known.map(|place| modules.remove(place)) {
            // What is compiled in stays known as that, whoever sends it again.
            Some(known) if known.lawfulness == Lawfulness::BuiltIn => modules.push(known),
            _ => modules.push(module),
        }
        while modules.len() > MAX_MODULE_VERSIONS {
            let is_wanted = |module: &ModuleInfo| {
                module.digest == current
                    || module.lawfulness == Lawfulness::BuiltIn
                    || self.is_pinned(name, module.digest)
            };
            match modules.iter().position(|module| !is_wanted(module)) {
                Some(oldest) => modules.remove(oldest),
                None => return false,
            };
        }
        set(
            &mut self.reconcilers,
            name,
            ReconcilerDefinition { current, modules },
        );
        true
    }

    /// Ends a reconciler's life. Returns whether it had one.
    pub fn delete_reconciler(&mut self, name: &str) -> bool {
        delete(&mut self.reconcilers, name)
    }

    /// Whether a table folds with this digest of the reconciler whatever is current.
    fn is_pinned(&self, name: &str, digest: Digest) -> bool {
        self.tables().any(|(_, table)| {
            table.reconciler.as_deref() == Some(name) && table.reconciler_digest == Some(digest)
        })
    }

    /// The tables that name a reconciler.
    pub fn tables_of(&self, reconciler: &str) -> impl Iterator<Item = &Arc<str>> {
        self.tables()
            .filter(move |(_, table)| table.reconciler.as_deref() == Some(reconciler))
            .map(|(name, _)| name)
    }

    /// Makes a reconciler that is compiled into the server known, as a proposal
    /// that yields to every upload under its name.
    pub fn propose_reconciler(&mut self, name: &str, module: ModuleInfo) {
        let definition = ReconcilerDefinition {
            current: module.digest,
            modules: vec![module],
        };
        let first = Register {
            generation: 1,
            version: 0,
            value: Some(definition),
        };
        self.reconcilers.entry(name.into()).or_insert(first);
    }

    /// Makes an older digest of a reconciler its current one again. Returns
    /// whether the reconciler has that digest.
    pub fn roll_back_reconciler(&mut self, name: &str, digest: Digest) -> bool {
        let Some(definition) = self.reconciler(name) else {
            return false;
        };
        if definition.module(digest).is_none() {
            return false;
        }
        let modules = definition.modules.clone();
        set(
            &mut self.reconcilers,
            name,
            ReconcilerDefinition {
                current: digest,
                modules,
            },
        );
        true
    }

    /// Every table with its id and module, as requests use them.
    pub fn resolve(&self) -> BTreeMap<Arc<str>, Arc<Table>> {
        let mut resolved = BTreeMap::new();
        for (name, register) in &self.tables {
            let Some(definition) = &register.value else {
                continue;
            };
            let module = definition.reconciler.as_ref().and_then(|reconciler| {
                let known = self.reconciler(reconciler)?;
                known
                    .module(definition.reconciler_digest.unwrap_or(known.current))
                    .cloned()
            });
            let table = Table {
                id: TableId::of(name, register.generation),
                name: name.clone(),
                is_orphaned: definition.reconciler.as_ref().is_some_and(|reconciler| {
                    let register = self.reconcilers.get(reconciler);
                    register.is_some_and(|register| register.value.is_none())
                }),
                definition: definition.clone(),
                module,
            };
            resolved.insert(name.clone(), Arc::new(table));
        }
        resolved
    }

    /// The digests that some table folds with: those a node must hold.
    pub fn digests_in_use(&self) -> Vec<Digest> {
        let mut digests: Vec<Digest> = self
            .resolve()
            .values()
            .filter_map(|table| table.module.as_ref().map(|module| module.digest))
            .collect();
        digests.sort_unstable();
        digests.dedup();
        digests
    }

    /// Every digest that some reconciler has or had: those worth keeping.
    pub fn digests(&self) -> Vec<Digest> {
        let mut digests: Vec<Digest> = self
            .reconcilers()
            .flat_map(|(_, definition)| definition.modules.iter().map(|module| module.digest))
            .collect();
        digests.sort_unstable();
        digests.dedup();
        digests
    }
}
