//! Changing tables, modules and who belongs to the cluster.
//!
//! Promises: what an operator was told is done is durable on a majority of the
//! layout's nodes, modules included (`machine/publish.rs`); a definition or module
//! that is refused changed nothing; what a config file says is applied when it
//! differs from what it said last time, so that a change made over HTTP survives a
//! restart. What a config file says, and who leaves or is removed, is durable on
//! this node and on its way to the others.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{ModuleError, Node, lock};
use crate::protocol::catalog::{
    Applied, Catalog, CatalogChange, ChangeRefused, Digest, MAX_RECONCILERS, ModuleInfo,
    TableDefinition,
};
use crate::protocol::effect::{Effect, Input, RequestId, StoreError, StoreRequest};
use crate::protocol::machine::{MEMBERSHIP_RECORD, Machine, PublishRefused};
use crate::protocol::membership::{LeaveRefused, RemoveRefused};
use crate::protocol::message::Refusal;
use crate::protocol::time::Now;

/// The record of what the config file said last time.
const CONFIG_RECORD: &str = "config-tables";

/// What an upload came to.
#[derive(Clone, Debug)]
pub struct Upload {
    pub module: ModuleInfo,
    /// False when the same bytes were current already.
    pub created: bool,
}

/// Why a definition or module was not taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AdminError {
    #[error("{0}")]
    InvalidTable(String),
    #[error("{0}")]
    InvalidModule(String),
    #[error("{text}")]
    LawViolated {
        text: String,
        counterexample: serde_json::Value,
    },
    #[error("no table has this name")]
    NoSuchTable,
    #[error("no reconciler has this name or digest")]
    NoSuchReconciler,
    /// Something else of the kind is under way.
    #[error("{0}")]
    Busy(&'static str),
    /// Any other reason of the catalog's.
    #[error(transparent)]
    Change(ChangeRefused),
    #[error("{}", PublishRefused::Unmet { needed: *needed, got: *got, may_be_taken: *may_be_taken })]
    Unmet {
        needed: u32,
        got: u32,
        may_be_taken: bool,
    },
    #[error("{0}")]
    Leave(LeaveRefused),
    #[error("{0}")]
    Remove(RemoveRefused),
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl From<StoreError> for AdminError {
    fn from(error: StoreError) -> Self {
        AdminError::Refused(match error {
            StoreError::Overloaded => Refusal::Overloaded,
            error => Refusal::Storage(error),
        })
    }
}

impl From<ChangeRefused> for AdminError {
    fn from(refused: ChangeRefused) -> Self {
        match refused {
            ChangeRefused::InvalidTable(text) => AdminError::InvalidTable(text),
            ChangeRefused::InvalidModule(text) => AdminError::InvalidModule(text),
            ChangeRefused::NoSuchTable => AdminError::NoSuchTable,
            ChangeRefused::NoSuchReconciler => AdminError::NoSuchReconciler,
            other => AdminError::Change(other),
        }
    }
}

impl From<PublishRefused> for AdminError {
    fn from(refused: PublishRefused) -> Self {
        match refused {
            PublishRefused::Change(refused) => refused.into(),
            PublishRefused::Unmet {
                needed,
                got,
                may_be_taken,
            } => AdminError::Unmet {
                needed,
                got,
                may_be_taken,
            },
            PublishRefused::Overloaded => AdminError::Refused(Refusal::Overloaded),
            PublishRefused::NotReady(why) => AdminError::Refused(Refusal::NotReady(why)),
        }
    }
}

impl From<ModuleError> for AdminError {
    fn from(error: ModuleError) -> Self {
        match error {
            ModuleError::Invalid(text) => AdminError::InvalidModule(text),
            ModuleError::Unlawful {
                text,
                counterexample,
            } => AdminError::LawViolated {
                text,
                counterexample,
            },
            ModuleError::Storage(text) => {
                AdminError::Refused(Refusal::Storage(StoreError::Io(text)))
            }
        }
    }
}

/// A panic on a blocking thread, as an error.
pub(super) fn joined<T>(result: Result<T, tokio::task::JoinError>) -> Result<T, AdminError> {
    result.map_err(|error| AdminError::Refused(Refusal::Storage(StoreError::Io(error.to_string()))))
}

impl Node {
    /// Changes the catalog on this node's own account, carries out what follows, and waits until the
    /// change is durable here.
    async fn change<T>(&self, change: impl FnOnce(&mut Catalog) -> T) -> Result<T, AdminError> {
        self.decide(|machine, now| machine.change_catalog(now, change))
            .await
    }

    /// Has the machine decide something that gossip carries, carries out what
    /// follows, and waits until the decision is durable here.
    async fn decide<T>(
        &self,
        decision: impl FnOnce(&mut Machine, Now) -> (T, Vec<Effect>),
    ) -> Result<T, AdminError> {
        let (result, effects, record) = {
            let mut machine = lock(&self.machine);
            let now = self.ports.clock.now();
            let (result, effects) = decision(&mut machine, now);
            (result, effects, machine.record())
        };
        self.perform(effects);
        let request = StoreRequest::PutMeta {
            name: MEMBERSHIP_RECORD,
            bytes: record.into(),
        };
        self.ask_store(request).await?;
        Ok(result)
    }

    /// Changes tables or reconcilers, durably on a majority, within this time.
    pub async fn publish(
        &self,
        change: CatalogChange,
        timeout_ms: u64,
    ) -> Result<Applied, AdminError> {
        self.ready_to_change()?;
        let request = RequestId(self.next_request.fetch_add(1, Ordering::Relaxed));
        let (operator, outcome) = oneshot::channel();
        lock(&self.publishing).insert(request, operator);
        self.step(Input::Publish {
            request,
            change,
            timeout_ms,
        });
        match outcome.await {
            Ok(outcome) => Ok(outcome?),
            Err(_) => {
                let why = "it is shutting down".to_owned();
                Err(AdminError::Refused(Refusal::NotReady(why)))
            }
        }
    }

    /// A node outside a cluster has no catalog worth changing.
    fn ready_to_change(&self) -> Result<(), AdminError> {
        self.readiness()
            .map_err(|why| AdminError::Refused(Refusal::NotReady(why)))
    }

    /// Checks a module and makes it the current one of this name. The check takes
    /// its own time; spreading it takes at most `timeout_ms`.
    pub async fn add_reconciler(
        &self,
        name: &str,
        bytes: Bytes,
        accept_unlawful: bool,
        timeout_ms: u64,
    ) -> Result<Upload, AdminError> {
        self.ready_to_change()?;
        let digest = Digest::of(&bytes);
        let catalog = self.catalog();
        let known = catalog
            .reconciler(name)
            .filter(|known| known.current == digest)
            .and_then(|known| known.module(digest));
        let module = match known {
            // It was judged before; whether it is where it must be is asked again,
            // since whoever sent it may not have been told.
            Some(module) => module.clone(),
            None => {
                let full = catalog.reconcilers().count() >= MAX_RECONCILERS;
                if full && catalog.reconciler(name).is_none() {
                    let text = format!(
                        "there are {MAX_RECONCILERS} reconcilers already; delete one first"
                    );
                    return Err(AdminError::InvalidModule(text));
                }
                self.take_in(digest, bytes, accept_unlawful).await?
            }
        };
        let change = CatalogChange::SetReconciler {
            name: name.into(),
            module: module.clone(),
        };
        let applied = self.publish(change, timeout_ms).await?;
        Ok(Upload {
            module,
            created: applied.changed,
        })
    }

    /// Judges a module, and keeps it here.
    async fn take_in(
        &self,
        digest: Digest,
        bytes: Bytes,
        accept_unlawful: bool,
    ) -> Result<ModuleInfo, AdminError> {
        let modules = self.ports.modules.clone();
        let inspected = tokio::task::spawn_blocking(move || {
            let module = modules.inspect(&bytes, accept_unlawful)?;
            modules.keep(digest, &bytes)?;
            Ok::<_, ModuleError>(module)
        });
        let module = joined(inspected.await)??;
        self.step(Input::ModulesHeld {
            digests: vec![digest],
        });
        Ok(module)
    }

    /// This node begins to leave the cluster. Asked again, it goes on leaving.
    pub async fn leave(&self) -> Result<(), AdminError> {
        let _turn = self.changing.lock().await;
        self.ready_to_change()?;
        self.decide(Machine::leave)
            .await?
            .map_err(AdminError::Leave)?;
        tracing::info!(node = %self.name(), "leaving the cluster");
        Ok(())
    }

    /// Removes a dead member, by its name or id. Returns its name.
    pub async fn remove_member(&self, member: &str) -> Result<String, AdminError> {
        let _turn = self.changing.lock().await;
        self.ready_to_change()?;
        let found = {
            let machine = lock(&self.machine);
            let mut members = machine.membership().members();
            members
                .find(|known| *known.name == *member || known.node.to_string() == member)
                .map(|known| (known.node, known.name.to_string()))
        };
        let (node, name) = found.ok_or(AdminError::Remove(RemoveRefused::Unknown))?;
        self.decide(|machine, now| machine.remove(now, node))
            .await?
            .map_err(AdminError::Remove)?;
        tracing::info!(node = %self.name(), member = %name, "removed a member");
        Ok(name)
    }

    /// Makes the modules that are compiled into the server known, where nobody
    /// knows their names yet.
    pub async fn propose_built_ins(
        &self,
        modules: Vec<(&'static str, ModuleInfo)>,
    ) -> Result<(), AdminError> {
        let _turn = self.changing.lock().await;
        self.change(|catalog| {
            for (name, module) in modules {
                catalog.propose_reconciler(name, module);
            }
        })
        .await
    }
}

/// Applies what the config file says about tables, where it differs from what
/// the same file said last time.
///
/// A node that never read its file only proposes: what the cluster knows of a
/// table goes before what a new node's file says of it.
pub(super) async fn apply_config_tables(
    node: &Node,
    tables: BTreeMap<String, TableDefinition>,
) -> Result<(), AdminError> {
    let _turn = node.changing.lock().await;
    let last = node.ports.store.meta(CONFIG_RECORD)?;
    let last: Option<BTreeMap<String, TableDefinition>> = match last {
        None => None,
        Some(bytes) => Some(postcard::from_bytes(&bytes).map_err(|error| {
            StoreError::Corrupt(format!("the record of the config file's tables: {error}"))
        })?),
    };
    if last.as_ref() == Some(&tables) {
        return Ok(());
    }
    let catalog = node.catalog();
    for (name, definition) in &tables {
        let change = CatalogChange::SetTable {
            name: name.as_str().into(),
            definition: definition.clone(),
        };
        catalog.needs(&change).map_err(|refused| match refused {
            ChangeRefused::InvalidTable(text) => {
                AdminError::InvalidTable(format!("[tables.{name}]: {text}"))
            }
            other => other.into(),
        })?;
    }
    let file = tables.clone();
    node.change(move |catalog| {
        for (name, definition) in file {
            match &last {
                None => catalog.propose_table(&name, definition),
                Some(last) if last.get(&name) == Some(&definition) => {}
                Some(_) if catalog.table(&name) == Some(&definition) => {}
                Some(_) => catalog.set_table(&name, definition),
            }
        }
    })
    .await?;
    let bytes = postcard::to_stdvec(&tables)
        .map_err(|error| StoreError::Io(format!("tables do not encode: {error}")))?;
    let request = StoreRequest::PutMeta {
        name: CONFIG_RECORD,
        bytes: bytes.into(),
    };
    node.ask_store(request).await?;
    Ok(())
}
