//! A node of one replica: real sibling sets in a map, changed by the very code
//! that the stores run, and modules of plain Rust.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use serde_json::json;

use crate::api::service::Service;
use crate::metrics::Metrics;
use crate::node::dry_run::{Plan, Running};
use crate::node::{
    AdminError, ClusterView, MemberView, ModuleFigures, PreferenceView, RingView, Tables,
    TransferView, Trouble, Upload,
};
use crate::protocol::catalog::{
    Applied, Catalog, CatalogChange, Digest, Lawfulness, ModuleInfo, ModuleKind, QuorumSize, Stamp,
    Table, TableDefinition,
};
use crate::protocol::context::Context;
use crate::protocol::dot::Epoch;
use crate::protocol::id::{ItemKey, NodeId, Partition, Position};
use crate::protocol::membership::{LeaveRefused, RemoveRefused};
use crate::protocol::message::{
    Ask, Explanation, ItemRequest, Refusal, Response, Saw, ValueResponse, Witness,
};
use crate::protocol::replica::{
    Draft, Minting, Mutation, Outcome, Row, apply, plan_event, plan_fold, plan_operation,
    plan_write,
};
use crate::protocol::siblings::SiblingSet;

pub struct World {
    pub metrics: Arc<Metrics>,
    pub ready: AtomicBool,
    /// How many of the three replicas are there.
    pub alive: AtomicU32,
    /// What `item` answers next instead of what is true.
    pub refuse: Mutex<Option<Refusal>>,
    /// What `item` was asked last.
    pub asked: Mutex<Option<ItemRequest>>,
    catalog: Mutex<Catalog>,
    rows: Mutex<BTreeMap<ItemKey, Row>>,
    modules: Mutex<BTreeMap<Digest, Bytes>>,
    ticks: AtomicU64,
}

pub fn module(bytes: &[u8], kind: ModuleKind) -> ModuleInfo {
    ModuleInfo {
        digest: Digest::of(bytes),
        size_bytes: bytes.len() as u64,
        kind,
        eager: false,
        summary: "greatest bytes win".into(),
        version: "1.0.0".into(),
        lawfulness: Lawfulness::NoCounterexample { cases: 100 },
        built_in: false,
    }
}

/// The greatest value, unless one of them is poison. Fails on purpose then.
fn fold(set: &SiblingSet) -> Result<Option<Bytes>, String> {
    let values = || set.siblings().map(|(_, version)| version.value.clone());
    if values().flatten().any(|value| value.starts_with(b"poison")) {
        return Err("trap: unreachable\nat café".into());
    }
    if values()
        .flatten()
        .any(|value| value.starts_with(b"delete us"))
    {
        return Ok(None);
    }
    Ok(values().max().flatten())
}

impl World {
    pub fn new() -> Self {
        let mut catalog = Catalog::default();
        catalog.set_reconciler("greatest", module(b"greatest", ModuleKind::Reconciler));
        catalog.set_reconciler("sum", module(b"sum", ModuleKind::DataType));
        let plain = || TableDefinition {
            r: QuorumSize::Count(2),
            max_value_bytes: 1000,
            ..TableDefinition::default()
        };
        let with = |reconciler: &str| TableDefinition {
            reconciler: Some(reconciler.into()),
            ..plain()
        };
        catalog.set_table("raw", plain());
        catalog.set_table("folded", with("greatest"));
        catalog.set_table("counters", with("sum"));
        let sorted = TableDefinition {
            sort_keys: true,
            ..plain()
        };
        catalog.set_table("sorted", sorted);
        let few = TableDefinition {
            max_siblings: 2,
            ..plain()
        };
        catalog.set_table("few", few);
        World {
            metrics: Arc::new(Metrics::new()),
            ready: AtomicBool::new(true),
            alive: AtomicU32::new(3),
            refuse: Mutex::new(None),
            asked: Mutex::new(None),
            catalog: Mutex::new(catalog),
            rows: Mutex::new(BTreeMap::new()),
            modules: Mutex::new(BTreeMap::from([(
                Digest::of(b"greatest"),
                Bytes::from("greatest"),
            )])),
            ticks: AtomicU64::new(1),
        }
    }

    pub fn definition(&self, table: &str) -> Option<TableDefinition> {
        self.catalog.lock().unwrap().table(table).cloned()
    }

    /// Puts another data type in the place of one.
    pub fn upload(&self, name: &str, bytes: &[u8]) {
        let mut catalog = self.catalog.lock().unwrap();
        catalog.set_reconciler(name, module(bytes, ModuleKind::DataType));
    }

    fn minting(&self) -> Minting {
        let tick = self.ticks.fetch_add(1, Ordering::Relaxed);
        Minting {
            node: NodeId(1),
            incarnation: 1,
            now_us: 1_700_000_000_000_000 + tick,
            fresh_epoch: Epoch(tick),
        }
    }

    fn view(&self, table: &Table, set: &SiblingSet, raw: bool) -> Response {
        if set.is_empty() {
            return Response::Absent { context: None };
        }
        let shown = |reason| Response::Siblings {
            set: set.clone(),
            reason,
            raw,
        };
        if raw || (set.len() > 1 && table.module.is_none()) {
            return shown(None);
        }
        let value = match fold(set) {
            Ok(value) => value,
            Err(reason) => return shown(Some(reason)),
        };
        let context = set.context().clone();
        let Some(value) = value else {
            return Response::Absent {
                context: Some(context),
            };
        };
        let (_, first) = set.siblings().next().expect("not empty");
        let content_type = if table.is_data_type() {
            "application/json".into()
        } else {
            first.content_type.clone()
        };
        let module = table.module.as_ref().filter(|_| set.len() > 1);
        Response::Value(ValueResponse {
            value,
            content_type,
            context,
            siblings: set.len() as u32,
            hash: set.hash(),
            folded_by: module.map(|module| {
                let name = table.definition.reconciler.clone();
                (name.expect("a module has a name"), module.digest)
            }),
        })
    }

    /// A plain read, and one replica that holds all.
    fn explain(&self, table: &Table, set: SiblingSet) -> Response {
        let saw = if set.is_empty() {
            Saw::Nothing
        } else {
            Saw::State {
                hash: set.hash(),
                siblings: set.siblings().map(|(dot, _)| dot).collect(),
            }
        };
        let module = table.module.as_ref().map(|module| module.digest);
        Response::Explained(Box::new(Explanation {
            told: self.view(table, &set, false),
            set,
            witnesses: vec![Witness {
                node: NodeId::of("a"),
                primary: true,
                saw,
            }],
            module: table.definition.reconciler.clone().zip(module),
            fold: None,
        }))
    }

    fn store(&self, table: &Table, key: &ItemKey, draft: Draft) -> Result<Context, Refusal> {
        let mut rows = self.rows.lock().unwrap();
        let minting = self.minting();
        let limits = table.limits();
        let mutation = Mutation::Write {
            draft: draft.clone(),
            minting,
            limits,
        };
        match apply(rows.get(key).cloned(), mutation) {
            (Some(row), Outcome::Written(written)) => {
                rows.insert(key.clone(), row);
                Ok(written.delta.context().clone())
            }
            (_, Outcome::WantsFold(row)) => {
                let (row, written) = plan_write(row, &draft, &minting);
                let value = fold(&row.set).map_err(Refusal::ReconcileFailed)?;
                let (row, _) = plan_fold(row, value, "text/plain".into(), &minting, 20);
                rows.insert(key.clone(), row);
                Ok(written.delta.context().clone())
            }
            (_, Outcome::TooManySiblings(siblings)) => Err(Refusal::TooManySiblings {
                siblings: siblings as u32,
            }),
            other => unreachable!("{other:?}"),
        }
    }

    fn operate(&self, table: &Table, key: &ItemKey, operation: &[u8]) -> Result<Response, Refusal> {
        let refused = || Refusal::BadOperation("an operation is {\"add\": number}".into());
        let operation: serde_json::Value =
            serde_json::from_slice(operation).map_err(|_| refused())?;
        let by = operation["add"].as_i64().ok_or_else(refused)?;
        let mut rows = self.rows.lock().unwrap();
        let row = rows.get(key).cloned().unwrap_or_default();
        let state = fold(&row.set).map_err(Refusal::ReconcileFailed)?;
        let before: i64 = state.map_or(0, |state| {
            String::from_utf8_lossy(&state).parse().expect("a number")
        });
        let (row, dot, time) = plan_event(row, &self.minting());
        let after = Bytes::from((before + by).to_string());
        let row = plan_operation(row, (dot, time), after, "".into(), 20);
        let answer = self.view(table, &row.set, false);
        rows.insert(key.clone(), row);
        Ok(answer)
    }

    fn carry_out(&self, item: ItemRequest) -> Result<Response, Refusal> {
        let tables = self.tables();
        let table = tables
            .values()
            .find(|table| table.id == item.table)
            .ok_or(Refusal::NoSuchTable)?;
        let current = || {
            let rows = self.rows.lock().unwrap();
            rows.get(&item.key)
                .map(|row| row.set.clone())
                .unwrap_or_default()
        };
        let needed = match &item.ask {
            Ask::Get { .. } | Ask::Explain => item.r,
            _ => item.w,
        };
        let got = self.alive.load(Ordering::Relaxed);
        if needed > got {
            return Err(Refusal::QuorumUnmet {
                needed,
                got,
                may_be_stored: !item.ask.is_read(),
            });
        }
        let draft = |client, value, content_type| Draft {
            client,
            value,
            content_type,
        };
        match item.ask {
            Ask::Get { raw } => Ok(self.view(table, &current(), raw)),
            Ask::Explain => Ok(self.explain(table, current())),
            Ask::Put {
                client,
                value,
                content_type,
                representation,
            } => {
                let draft = draft(client, Some(value), content_type);
                let context = self.store(table, &item.key, draft)?;
                Ok(if representation {
                    self.view(table, &current(), false)
                } else {
                    Response::Written { context }
                })
            }
            Ask::Delete { client } => {
                let set = current();
                if client.is_none() && set.is_absent() {
                    return Ok(Response::Absent { context: None });
                }
                let client = client.unwrap_or_else(|| set.context().clone());
                let context = self.store(table, &item.key, draft(client, None, "".into()))?;
                Ok(Response::Written { context })
            }
            Ask::Operate { operation } => self.operate(table, &item.key, &operation),
        }
    }
}

impl Service for World {
    fn name(&self) -> &str {
        "a"
    }

    fn tables(&self) -> Arc<Tables> {
        Arc::new(self.catalog.lock().unwrap().resolve())
    }

    fn catalog(&self) -> Arc<Catalog> {
        Arc::new(self.catalog.lock().unwrap().clone())
    }

    fn partition(&self, table: &str, partition_key: &[u8]) -> Partition {
        Position::of(table, partition_key).partition(256)
    }

    async fn item(&self, item: ItemRequest) -> Response {
        *self.asked.lock().unwrap() = Some(item.clone());
        if let Some(refusal) = self.refuse.lock().unwrap().take() {
            return Response::Refused(refusal);
        }
        self.carry_out(item).unwrap_or_else(Response::Refused)
    }

    fn readiness(&self) -> Result<(), String> {
        let ready = self.ready.load(Ordering::Relaxed);
        ready
            .then_some(())
            .ok_or_else(|| "waiting for the first gossip round".into())
    }

    fn cluster_view(&self) -> ClusterView {
        let member = |name: &str, status| MemberView {
            node: name.into(),
            address: format!("{name}:8101").into(),
            status,
            up: true,
            zone: "z1".into(),
            weight: 1.5,
            partitions: 256,
            hints: 2,
            clock_offset_us: (name != "a").then_some(-7),
        };
        ClusterView {
            node: "a".into(),
            cluster: Some("c".into()),
            layout_version: 4,
            layout_read: 3,
            members: vec![
                member("a", "up"),
                member("b", "up"),
                member("c", "joining"),
                member("d", "removed"),
            ],
            under_replicated: 1,
            strays: 2,
            transfers: vec![TransferView {
                from: "a".into(),
                to: "b".into(),
                partitions_done: 3,
                partitions: 4,
            }],
        }
    }

    fn ring_view(&self, table: &str, partition_key: &[u8]) -> Option<RingView> {
        let position = Position::of(table, partition_key);
        Some(RingView {
            position,
            partition: position.partition(256),
            preference: vec![PreferenceView {
                node: "a".into(),
                address: "a:8101".into(),
                up: true,
                primary: true,
            }],
        })
    }

    async fn publish(
        &self,
        change: CatalogChange,
        _timeout_ms: u64,
    ) -> Result<Applied, AdminError> {
        let tick = self.ticks.fetch_add(1, Ordering::Relaxed);
        let stamp = Stamp {
            at_us: 1_700_000_000_000_000 + tick,
            by: "a".into(),
        };
        let mut catalog = self.catalog.lock().unwrap();
        Ok(catalog.apply(&change, &stamp)?)
    }

    async fn add_reconciler(
        &self,
        name: &str,
        bytes: Bytes,
        accept_unlawful: bool,
        timeout_ms: u64,
    ) -> Result<Upload, AdminError> {
        if !bytes.starts_with(b"\0asm") {
            return Err(AdminError::InvalidModule(
                "it does not begin with \\0asm".into(),
            ));
        }
        let mut info = module(&bytes, ModuleKind::Reconciler);
        if bytes.ends_with(b"unlawful") {
            if !accept_unlawful {
                return Err(AdminError::LawViolated {
                    text: "the module is not order-free".into(),
                    counterexample: json!({"law": "order-free", "inputs": ["a", "b"]}),
                });
            }
            info.lawfulness = Lawfulness::Unlawful {
                law: "order-free".into(),
                counterexample: "a, b".into(),
            };
        }
        self.modules.lock().unwrap().insert(info.digest, bytes);
        let change = CatalogChange::SetReconciler {
            name: name.into(),
            module: info.clone(),
        };
        let applied = self.publish(change, timeout_ms).await?;
        Ok(Upload {
            module: info,
            created: applied.changed,
        })
    }

    async fn dry_run(&self, _plan: Plan) -> Result<Running, AdminError> {
        Err(AdminError::Busy("this world tries nothing"))
    }

    async fn leave(&self) -> Result<(), AdminError> {
        match self.alive.load(Ordering::Relaxed) {
            0 | 1 => Err(AdminError::Leave(LeaveRefused::LastMember)),
            _ => Ok(()),
        }
    }

    async fn remove_member(&self, member: &str) -> Result<String, AdminError> {
        match member {
            "a" | "b" => Err(AdminError::Remove(RemoveRefused::IsUp {
                name: member.into(),
            })),
            "c" => Ok("c".into()),
            _ => Err(AdminError::Remove(RemoveRefused::Unknown)),
        }
    }

    fn module_bytes(&self, digest: Digest) -> Option<Bytes> {
        self.modules.lock().unwrap().get(&digest).cloned()
    }

    fn module_health(&self, _digest: Digest) -> ModuleFigures {
        ModuleFigures {
            folds: 9,
            failures: 3,
            fuel: 0,
        }
    }

    fn troubles(&self) -> BTreeMap<Digest, Trouble> {
        BTreeMap::new()
    }

    fn metrics_text(&self) -> String {
        self.metrics.text(&[])
    }
}
