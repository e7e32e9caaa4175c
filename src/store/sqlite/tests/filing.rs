//! A store that files each row at once and one that files none do the same, and answer the
//! same: over random transactions, rot, and files that are opened again.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::protocol::context::Context;
use crate::protocol::dot::Epoch;
use crate::protocol::replica::{Draft, Minting, Mutation, SiblingLimits};
use crate::protocol::siblings::StateHash;
use crate::store::row;
use crate::store::sqlite::reading::walk::Walk;
use crate::store::sqlite::unfiled::{self, Bounds};
use crate::store::sqlite::writing::batch::Batch;
use crate::store::sqlite::writing::filter::Filter;
use crate::store::sqlite::writing::tools::Tools;
use crate::store::suite::rows;

const PARTITION: Partition = Partition(3);

#[derive(Clone, Debug)]
enum Step {
    Update(u8, Mutation, Vec<NodeId>),
    AddHint(u8, NodeId),
    /// The row at the state that it has before the transaction, or another's.
    Forget(u8, bool),
    DropHint(u8, i64, bool),
    ForgetDamaged(u8),
    /// Before the next transaction, a bit of the row flips.
    Rot(u8),
}

fn mutations() -> impl Strategy<Value = Mutation> {
    let limits = prop_oneof![Just((None, 100)), Just((Some(2), 100)), Just((None, 2))];
    prop_oneof![
        4 => (rows(), any::<bool>(), any::<u64>(), limits).prop_map(
            |(seen, informed, epoch, (fold_above, max_siblings))| Mutation::Write {
                draft: Draft {
                    client: if informed {
                        seen.set.context().clone()
                    } else {
                        Context::new()
                    },
                    value: Some(Bytes::from_static(b"value")),
                    content_type: "text/plain".into(),
                },
                minting: Minting {
                    node: NodeId(1),
                    incarnation: 7,
                    now_us: 1_000,
                    fresh_epoch: Epoch(epoch),
                },
                limits: SiblingLimits { fold_above, max_siblings, max_actors: 20 },
            }
        ),
        2 => rows().prop_map(|row| Mutation::Sync { set: row.set, max_actors: 20 }),
        1 => rows().prop_map(|row| Mutation::Mend { set: row.set, max_actors: 20 }),
        1 => (rows(), rows()).prop_map(|(was, row)| Mutation::Replace {
            expected: was.set.hash(),
            row,
        }),
        1 => (rows(), rows()).prop_map(|(was, made)| Mutation::Join {
            minted: was.minted,
            made,
            max_actors: 20,
        }),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let target = || (2u64..4).prop_map(NodeId);
    let step = prop_oneof![
        6 => (0u8..4, mutations(), prop::collection::vec(target(), 0..2))
            .prop_map(|(k, mutation, hints)| Step::Update(k, mutation, hints)),
        1 => (0u8..4, target()).prop_map(|(k, target)| Step::AddHint(k, target)),
        1 => (0u8..4, any::<bool>()).prop_map(|(k, same)| Step::Forget(k, same)),
        1 => (0u8..4, 1i64..9, any::<bool>()).prop_map(|(k, id, same)| Step::DropHint(k, id, same)),
        1 => (0u8..4).prop_map(Step::ForgetDamaged),
        1 => (0u8..4).prop_map(Step::Rot),
    ];
    prop::collection::vec(step, 1..9)
}

fn item(number: u8) -> ItemKey {
    key(&format!("item-{number}"))
}

/// One file and what its writer knows.
struct Place {
    connection: Connection,
    shared: Shared,
    next_id: i64,
    filter: Filter,
    _dir: TempDir,
}

impl Place {
    fn new(max_rows: usize) -> Place {
        let dir = dir();
        let opened = file::open_writer(&file::path(dir.path(), 0), None);
        let (connection, _) = opened.expect("opens");
        file::create(&connection, &[]).expect("makes");
        Place {
            connection,
            shared: Shared {
                files: 1,
                incarnation: AtomicU64::new(7),
                commits: AtomicU64::new(0),
                changes: AtomicU64::new(0),
                damaged: AtomicU64::new(0),
                batch_sizes: Default::default(),
                on_failed_commit: None,
                suspicion: Suspicion::new(dir.path(), 1),
                states: States::default(),
                unfiled: vec![Unfiled::new(Bounds { max_rows })],
                replaced: AtomicBool::new(false),
                lock: Mutex::new(None),
            },
            next_id: 1,
            filter: Filter::default(),
            _dir: dir,
        }
    }

    fn unfiled(&self) -> &Unfiled {
        &self.shared.unfiled[0]
    }

    /// Forgets all but what the file says.
    fn reopen(&mut self) {
        let bounds = self.unfiled().bounds();
        let loaded = unfiled::load(&self.connection, bounds).expect("reads");
        let loaded = loaded.expect("its rows name items");
        self.shared.unfiled = vec![loaded.unfiled];
        self.next_id = loaded.next_id;
        self.filter = Filter::default();
    }

    /// The bytes of all rows and hints, as they lie there.
    fn content(&self) -> Vec<(i64, Vec<u8>, Vec<u8>)> {
        let sql = "SELECT 0, key, row FROM items
                   UNION ALL SELECT sequence, key, CAST(target AS BLOB) FROM hints
                   ORDER BY 1, 2";
        let mut statement = self.connection.prepare(sql).expect("prepares");
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        rows.expect("reads")
            .map(|row| row.expect("reads"))
            .collect()
    }

    /// The keys that the index knows, and those that it does not; every row is in one of
    /// them.
    fn known(&self) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let keys = |sql| -> Vec<Vec<u8>> {
            let mut statement = self.connection.prepare(sql).expect("prepares");
            let rows = statement.query_map([], |row| row.get(0)).expect("reads");
            rows.map(|row| row.expect("reads")).collect()
        };
        let filed = keys("SELECT key FROM places ORDER BY key");
        let unfiled = self.unfiled().of(PARTITION, None, usize::MAX);
        let unfiled: Vec<_> = unfiled
            .iter()
            .map(|row| row.0.as_bytes().to_vec())
            .collect();
        let mut all = [&filed[..], &unfiled[..]].concat();
        all.sort();
        assert_eq!(all, keys("SELECT key FROM items ORDER BY key"));
        (filed, unfiled)
    }

    fn leaves(&self) -> StoreReply {
        let mut walk = Walk::new(&self.connection, &self.shared, PARTITION).expect("walks");
        walk.derive(None, 99).expect("derives")
    }

    fn state(&self, key: &ItemKey) -> Option<StateHash> {
        let place = self.unfiled().place(PARTITION, key);
        let item = (PARTITION, key, place);
        let read = self.shared.read_row(&self.connection, item, row::state);
        read.ok().flatten()
    }

    fn change(&self, step: &Step) -> Option<Change> {
        let partition = PARTITION;
        let known = |key: &ItemKey, same: bool| {
            let state = self.state(key).filter(|_| same);
            state.unwrap_or(StateHash([2; 16]))
        };
        let change = match step.clone() {
            Step::Update(k, mutation, hints) => Change::Update {
                partition,
                key: item(k),
                mutation,
                hints,
            },
            Step::AddHint(k, target) => Change::AddHints {
                partition,
                key: item(k),
                hints: vec![target],
            },
            Step::Forget(k, same) => Change::Forget {
                partition,
                items: vec![(item(k), known(&item(k), same))],
                hints: same,
            },
            Step::DropHint(k, sequence, same) => {
                let id = crate::protocol::effect::HintId { file: 0, sequence };
                let then_drop = Some(known(&item(k), same));
                Change::DropHints(vec![(id, partition, item(k), then_drop)])
            }
            Step::ForgetDamaged(k) => Change::ForgetDamaged {
                partition,
                keys: vec![item(k)],
            },
            Step::Rot(_) => return None,
        };
        Some(change)
    }

    /// Makes these changes in one transaction; what was answered.
    fn transact(&mut self, changes: &[Change]) -> Vec<Result<StoreReply, StoreError>> {
        let mut tools = Tools::new(&self.connection, self.next_id);
        std::mem::swap(&mut tools.filter, &mut self.filter);
        self.connection
            .execute_batch("BEGIN IMMEDIATE")
            .expect("begins");
        let mut batch = Batch::new(&mut tools, &self.shared.unfiled[0]);
        let replies = changes
            .iter()
            .map(|change| batch.make(change, &self.shared).expect("SQLite works"))
            .collect();
        let written = batch.write(&self.shared).expect("writes");
        self.connection.execute_batch("COMMIT").expect("commits");
        self.next_id = tools.next_id;
        std::mem::swap(&mut tools.filter, &mut self.filter);
        if written.asked_in_vain {
            self.filter.learn(&self.connection).expect("reads");
        }
        written.tell(self.unfiled(), || {});
        replies
    }

    fn rot(&self, key: &ItemKey) {
        let damaged = "UPDATE items SET row = CAST(substr(row, 1, length(row) - 1) AS BLOB)
                       WHERE partition = ?1 AND key = ?2 AND length(row) > 0";
        let item = (PARTITION.0, key.as_bytes());
        self.connection.execute(damaged, item).expect("changes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn what_is_filed_and_what_is_not_are_the_same_to_whoever_asks(
        transactions in prop::collection::vec((steps(), any::<bool>()), 1..8),
    ) {
        let (mut filing, mut keeping) = (Place::new(0), Place::new(99));
        for (steps, reopened) in &transactions {
            let changes: Vec<Change> =
                steps.iter().filter_map(|step| keeping.change(step)).collect();
            prop_assert_eq!(filing.transact(&changes), keeping.transact(&changes));
            prop_assert_eq!(filing.content(), keeping.content());
            prop_assert_eq!(filing.leaves(), keeping.leaves());
            prop_assert_eq!(keeping.known().0, Vec::<Vec<u8>>::new());
            // What was made in the last transaction is filed in the next, be it an empty
            // one or one that does away with it.
            if !*reopened {
                filing.transact(&[]);
                prop_assert_eq!(filing.known().1, Vec::<Vec<u8>>::new());
            }
            prop_assert_eq!(filing.leaves(), keeping.leaves());
            for k in 0..4 {
                prop_assert_eq!(filing.state(&item(k)), keeping.state(&item(k)));
            }
            for step in steps {
                if let Step::Rot(k) = step {
                    filing.rot(&item(*k));
                    keeping.rot(&item(*k));
                }
            }
            if *reopened {
                let known = (filing.known(), keeping.known());
                filing.reopen();
                keeping.reopen();
                prop_assert_eq!((filing.known(), keeping.known()), known);
            }
        }
    }
}
