//! What operators change in the catalog, and when that is refused.
//!
//! Promises: a change that is refused changed nothing; one that says what is so
//! already changes nothing and is taken, so that whoever was not told the outcome
//! may ask again. Not promised: that what was true when a change was taken is true
//! after catalogs merged; `catalog.rs` says what becomes of that.

use std::sync::Arc;

use super::history::Deed;
use super::{Catalog, Digest, MAX_RECONCILERS, MAX_TABLES, ModuleInfo, TableDefinition};
use super::{Lawfulness, MAX_MODULE_VERSIONS};

/// One thing that an operator wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CatalogChange {
    /// Makes or changes a table.
    SetTable {
        name: Arc<str>,
        definition: TableDefinition,
    },
    /// Ends a table's life.
    DeleteTable { name: Arc<str> },
    /// Makes a module the current one of a reconciler.
    SetReconciler { name: Arc<str>, module: ModuleInfo },
    /// Makes a digest that a reconciler had its current one again; without one,
    /// that before the present.
    RollBack {
        name: Arc<str>,
        digest: Option<Digest>,
    },
    /// Ends a reconciler's life.
    DeleteReconciler { name: Arc<str> },
}

/// Who makes a change, and when: for the history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stamp {
    pub at_us: u64,
    /// The node's name.
    pub by: Arc<str>,
}

/// What a change came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// Whether the name is new.
    pub created: bool,
    /// False when it was so already.
    pub changed: bool,
    /// Of a reconciler: what was current before, and is now.
    pub before: Option<Digest>,
    pub current: Option<Digest>,
}

/// Why a change is not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChangeRefused {
    #[error("{0}")]
    InvalidTable(String),
    #[error("{0}")]
    InvalidModule(String),
    #[error("no table has this name")]
    NoSuchTable,
    #[error("no reconciler has this name or digest")]
    NoSuchReconciler,
    #[error(
        "the reconciler {name:?} has no earlier version to go back to; upload the one you want"
    )]
    NothingBefore { name: Arc<str> },
    #[error(
        "the reconciler {name:?} is used by {}; give {} another reconciler, or delete {}, first",
        listed(tables),
        them(tables),
        them(tables)
    )]
    InUse {
        name: Arc<str>,
        /// By name; never empty.
        tables: Vec<Arc<str>>,
    },
    #[error(
        "the reconciler {name:?} is built in and stays; what was uploaded under its name is taken \
         back by a rollback"
    )]
    BuiltIn { name: Arc<str> },
}

/// How many tables an error names before it only counts.
const LISTED_TABLES: usize = 8;

fn listed(tables: &[Arc<str>]) -> String {
    let names: Vec<&str> = tables
        .iter()
        .take(LISTED_TABLES)
        .map(AsRef::as_ref)
        .collect();
    let noun = if tables.len() == 1 { "table" } else { "tables" };
    let more = match tables.len().saturating_sub(LISTED_TABLES) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("the {noun} {}{more}", names.join(", "))
}

fn them(tables: &[Arc<str>]) -> &'static str {
    if tables.len() == 1 { "it" } else { "them" }
}

impl Catalog {
    /// The modules that a change makes tables fold with: they must be where they
    /// are needed before it is made. Also says whether the change could be made
    /// now.
    pub fn needs(&self, change: &CatalogChange) -> Result<Vec<Digest>, ChangeRefused> {
        match change {
            CatalogChange::SetTable { name, definition } => {
                if self.table(name).is_none() && self.tables().count() >= MAX_TABLES {
                    return Err(ChangeRefused::InvalidTable(format!(
                        "there are {MAX_TABLES} tables already; delete one first"
                    )));
                }
                self.check_reconciler_of(definition)
                    .map(|digest| digest.into_iter().collect())
                    .map_err(ChangeRefused::InvalidTable)
            }
            CatalogChange::DeleteTable { name } => match self.table(name) {
                Some(_) => Ok(Vec::new()),
                None => Err(ChangeRefused::NoSuchTable),
            },
            CatalogChange::SetReconciler { name, module } => {
                let room = self.reconcilers().count() < MAX_RECONCILERS;
                if self.reconciler(name).is_none() && !room {
                    return Err(ChangeRefused::InvalidModule(format!(
                        "there are {MAX_RECONCILERS} reconcilers already; delete one first"
                    )));
                }
                Ok(vec![module.digest])
            }
            CatalogChange::RollBack { name, digest } => {
                let known = self
                    .reconciler(name)
                    .ok_or(ChangeRefused::NoSuchReconciler)?;
                let nothing = || ChangeRefused::NothingBefore { name: name.clone() };
                let digest = match digest {
                    Some(digest) => *digest,
                    None => self.previous(name).ok_or_else(nothing)?,
                };
                match known.module(digest) {
                    Some(_) => Ok(vec![digest]),
                    None => Err(ChangeRefused::NoSuchReconciler),
                }
            }
            CatalogChange::DeleteReconciler { name } => {
                let known = self
                    .reconciler(name)
                    .ok_or(ChangeRefused::NoSuchReconciler)?;
                let built_in = |module: &ModuleInfo| module.lawfulness == Lawfulness::BuiltIn;
                if known.modules.iter().any(built_in) {
                    return Err(ChangeRefused::BuiltIn { name: name.clone() });
                }
                let tables: Vec<Arc<str>> = self.tables_of(name).cloned().collect();
                if tables.is_empty() {
                    Ok(Vec::new())
                } else {
                    let name = name.clone();
                    Err(ChangeRefused::InUse { name, tables })
                }
            }
        }
    }

    /// What a definition would fold with, or why it cannot.
    fn check_reconciler_of(&self, definition: &TableDefinition) -> Result<Option<Digest>, String> {
        let Some(reconciler) = &definition.reconciler else {
            return Ok(None);
        };
        let Some(known) = self.reconciler(reconciler) else {
            return Err(format!(
                "no reconciler is named {reconciler:?}; PUT /v1/reconcilers/{reconciler} uploads \
                 one, GET /v1/reconcilers lists those there are"
            ));
        };
        let digest = definition.reconciler_digest.unwrap_or(known.current);
        match known.module(digest) {
            Some(_) => Ok(Some(digest)),
            None => Err(format!(
                "the reconciler {reconciler:?} does not have the digest {digest}; GET \
                 /v1/reconcilers/{reconciler} lists those it has"
            )),
        }
    }

    /// Makes a change.
    pub fn apply(
        &mut self,
        change: &CatalogChange,
        stamp: &Stamp,
    ) -> Result<Applied, ChangeRefused> {
        let needed = self.needs(change)?;
        let mut applied = Applied::default();
        match change {
            CatalogChange::SetTable { name, definition } => {
                applied.created = self.table(name).is_none();
                applied.changed = self.table(name) != Some(definition);
                if applied.changed {
                    self.set_table(name, definition.clone());
                }
            }
            CatalogChange::DeleteTable { name } => applied.changed = self.delete_table(name),
            CatalogChange::SetReconciler { name, module } => {
                applied.before = self.reconciler(name).map(|known| known.current);
                applied.created = applied.before.is_none();
                applied.current = Some(module.digest);
                applied.changed = applied.before != applied.current;
                if applied.changed {
                    if !self.set_reconciler(name, module.clone()) {
                        return Err(ChangeRefused::InvalidModule(format!(
                            "{name:?} has {MAX_MODULE_VERSIONS} versions, and tables pin them all; \
                             unpin one, or upload under another name"
                        )));
                    }
                    self.note(name, stamp.at_us, &stamp.by, Deed::Uploaded);
                }
            }
            CatalogChange::RollBack { name, .. } => {
                applied.before = self.reconciler(name).map(|known| known.current);
                applied.current = needed.first().copied();
                applied.changed = applied.before != applied.current;
                if let Some(digest) = applied.current.filter(|_| applied.changed) {
                    self.roll_back_reconciler(name, digest);
                    self.note(name, stamp.at_us, &stamp.by, Deed::RolledBack);
                }
            }
            CatalogChange::DeleteReconciler { name } => {
                applied.before = self.reconciler(name).map(|known| known.current);
                applied.changed = self.delete_reconciler(name);
                self.merge_histories(&Catalog::default());
            }
        }
        Ok(applied)
    }

    /// What others must know for a change to be durable: all that is known of the
    /// names in it.
    pub fn excerpt(&self, change: &CatalogChange) -> Catalog {
        let mut excerpt = Catalog::default();
        let reconciler = match change {
            CatalogChange::SetTable { name, .. } | CatalogChange::DeleteTable { name } => {
                let table = self.tables.get(name);
                excerpt
                    .tables
                    .extend(table.map(|table| (name.clone(), table.clone())));
                table
                    .and_then(|table| table.value.as_ref())
                    .and_then(|definition| definition.reconciler.clone())
            }
            CatalogChange::SetReconciler { name, .. }
            | CatalogChange::RollBack { name, .. }
            | CatalogChange::DeleteReconciler { name } => Some(name.clone()),
        };
        if let Some(name) = reconciler {
            let register = self.reconcilers.get(&name).cloned();
            let history = self.histories.get(&name).cloned();
            excerpt
                .reconcilers
                .extend(register.map(|register| (name.clone(), register)));
            excerpt
                .histories
                .extend(history.map(|history| (name, history)));
        }
        excerpt
    }
}
