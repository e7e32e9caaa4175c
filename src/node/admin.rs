//! Changing tables, modules and who belongs to the cluster.
//!
//! Promises: what was answered is durable on this node and on its way to the
//! others; a definition or module that is refused changed nothing; what a config
//! file says is applied when it differs from what it said last time, so that a
//! change made over HTTP survives a restart.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{ModuleError, Node, lock};
use crate::protocol::catalog::{
    Catalog, Digest, MAX_RECONCILERS, MAX_TABLES, ModuleInfo, TableDefinition,
};
use crate::protocol::effect::Effect;
use crate::protocol::effect::{Input, StoreError, StoreRequest};
use crate::protocol::machine::MEMBERSHIP_RECORD;
use crate::protocol::machine::Machine;
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
    /// Changes the catalog, carries out what follows, and waits until the
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
        self.carry_out(effects);
        let request = StoreRequest::PutMeta {
            name: MEMBERSHIP_RECORD,
            bytes: record.into(),
        };
        self.ask_store(request).await?;
        Ok(result)
    }

    /// Whether the catalog has what a definition names.
    fn validate(&self, name: &str, definition: &TableDefinition) -> Result<(), AdminError> {
        let catalog = self.catalog();
        if catalog.table(name).is_none() && catalog.tables().count() >= MAX_TABLES {
            let text = format!("there are {MAX_TABLES} tables already; delete one first");
            return Err(AdminError::InvalidTable(text));
        }
        let Some(reconciler) = &definition.reconciler else {
            return Ok(());
        };
        let Some(known) = catalog.reconciler(reconciler) else {
            let text = format!(
                "no reconciler is named {reconciler:?}; PUT /v1/reconcilers/{reconciler} uploads \
                 one, GET /v1/reconcilers lists those there are"
            );
            return Err(AdminError::InvalidTable(text));
        };
        match definition.reconciler_digest {
            Some(digest) if known.module(digest).is_none() => Err(AdminError::InvalidTable(
                format!("the reconciler {reconciler:?} never had the digest {digest}"),
            )),
            _ => Ok(()),
        }
    }

    /// Makes or changes a table. True when it is new.
    pub async fn set_table(
        &self,
        name: &str,
        definition: TableDefinition,
    ) -> Result<bool, AdminError> {
        let _turn = self.changing.lock().await;
        self.ready_to_change()?;
        self.validate(name, &definition)?;
        self.change(|catalog| {
            let created = catalog.table(name).is_none();
            if catalog.table(name) != Some(&definition) {
                catalog.set_table(name, definition);
            }
            created
        })
        .await
    }

    /// Ends a table. Its items are out of reach at once; a table made again
    /// under the name shares nothing with it.
    pub async fn delete_table(&self, name: &str) -> Result<(), AdminError> {
        let _turn = self.changing.lock().await;
        self.ready_to_change()?;
        let existed = self.change(|catalog| catalog.delete_table(name)).await?;
        if existed {
            Ok(())
        } else {
            Err(AdminError::NoSuchTable)
        }
    }

    /// A node outside a cluster has no catalog worth changing.
    fn ready_to_change(&self) -> Result<(), AdminError> {
        self.readiness()
            .map_err(|why| AdminError::Refused(Refusal::NotReady(why)))
    }

    /// Checks a module and makes it the current one of this name.
    pub async fn add_reconciler(
        &self,
        name: &str,
        bytes: Bytes,
        accept_unlawful: bool,
    ) -> Result<Upload, AdminError> {
        self.ready_to_change()?;
        let digest = Digest::of(&bytes);
        if let Some(known) = self.catalog().reconciler(name)
            && known.current == digest
            && let Some(module) = known.module(digest)
        {
            return Ok(Upload {
                module: module.clone(),
                created: false,
            });
        }
        if self.catalog().reconciler(name).is_none()
            && self.catalog().reconcilers().count() >= MAX_RECONCILERS
        {
            let text = format!("there are {MAX_RECONCILERS} reconcilers already");
            return Err(AdminError::InvalidModule(text));
        }
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
        let _turn = self.changing.lock().await;
        let added = module.clone();
        self.change(|catalog| catalog.set_reconciler(name, added))
            .await?;
        Ok(Upload {
            module,
            created: true,
        })
    }

    /// Makes an older digest of a reconciler its current one again.
    pub async fn roll_back_reconciler(&self, name: &str, digest: Digest) -> Result<(), AdminError> {
        let _turn = self.changing.lock().await;
        self.ready_to_change()?;
        let done = self
            .change(|catalog| catalog.roll_back_reconciler(name, digest))
            .await?;
        if done {
            Ok(())
        } else {
            Err(AdminError::NoSuchReconciler)
        }
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
    for (name, definition) in &tables {
        node.validate(name, definition)
            .map_err(|error| match error {
                AdminError::InvalidTable(text) => {
                    AdminError::InvalidTable(format!("[tables.{name}]: {text}"))
                }
                other => other,
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
