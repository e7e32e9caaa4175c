//! Random requests, the same to both stores: the answers and the rows agree.

use bytes::Bytes;
use proptest::prelude::*;

use super::{Subject, ask, foreign_set, key, memory, read, sqlite, update, write_after};
use crate::protocol::context::Context;
use crate::protocol::effect::{HintId, StoreRequest};
use crate::protocol::id::{NodeId, Partition};
use crate::protocol::replica::{Mutation, Row};
use crate::protocol::siblings::StateHash;
use crate::store::Store;
use crate::store::memory::MemoryStore;

/// A request with what its making needs: names are drawn from a few, so that
/// requests meet.
#[derive(Clone, Debug)]
enum Step {
    Write(u32, u8, bool, Vec<u8>),
    Sync(u32, u8, u64),
    Replace(u32, u8, bool),
    Read(u32, u8),
    AddHints(u32, u8, Vec<u8>),
    Hints(u8, usize),
    /// Drops the hint of this id, wishing the row away or not.
    DropHints(u32, u8, i64, Option<bool>),
    CountHints,
    PutMeta(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let item = || (0u32..2, 0u8..3);
    let targets = || prop::collection::vec(2u8..5, 0..3);
    let step = prop_oneof![
        (item(), any::<bool>(), targets()).prop_map(|((p, k), i, t)| Step::Write(p, k, i, t)),
        (item(), 1u64..4).prop_map(|((p, k), c)| Step::Sync(p, k, c)),
        (item(), any::<bool>()).prop_map(|((p, k), fresh)| Step::Replace(p, k, fresh)),
        item().prop_map(|(p, k)| Step::Read(p, k)),
        (item(), targets()).prop_map(|((p, k), t)| Step::AddHints(p, k, t)),
        (2u8..5, 0usize..4).prop_map(|(t, limit)| Step::Hints(t, limit)),
        (item(), 1i64..12, prop::option::of(any::<bool>()))
            .prop_map(|((p, k), id, d)| Step::DropHints(p, k, id, d)),
        Just(Step::CountHints),
        any::<u8>().prop_map(Step::PutMeta),
    ];
    prop::collection::vec(step, 1..40)
}

fn name(number: u8) -> String {
    format!("item-{number}")
}

fn nodes(numbers: &[u8]) -> Vec<NodeId> {
    numbers.iter().map(|n| NodeId(u64::from(*n))).collect()
}

fn request(step: &Step, model: &MemoryStore, at: u64) -> StoreRequest {
    let state = |p: u32, k: u8| read(model, p, &name(k)).expect("reads").unwrap_or_default();
    match step {
        Step::Write(p, k, informed, targets) => {
            let client = if *informed {
                state(*p, *k).set.context().clone()
            } else {
                Context::new()
            };
            let value = format!("value {at}");
            update(
                *p,
                &name(*k),
                write_after(client, &value, at),
                nodes(targets),
            )
        }
        Step::Sync(p, k, counter) => {
            let sync = Mutation::Sync {
                set: foreign_set(*counter, "theirs"),
                max_actors: 20,
            };
            update(*p, &name(*k), sync, vec![])
        }
        Step::Replace(p, k, fresh) => {
            let expected = if *fresh {
                state(*p, *k).set.hash()
            } else {
                StateHash([1; 16])
            };
            let row = Row {
                set: foreign_set(at, "folded"),
                ..state(*p, *k)
            };
            update(*p, &name(*k), Mutation::Replace { expected, row }, vec![])
        }
        Step::Read(p, k) => StoreRequest::Read {
            partition: Partition(*p),
            key: key(&name(*k)),
        },
        Step::AddHints(p, k, targets) => StoreRequest::AddHints {
            partition: Partition(*p),
            key: key(&name(*k)),
            hints: nodes(targets),
        },
        Step::Hints(target, limit) => StoreRequest::Hints {
            target: NodeId(u64::from(*target)),
            limit: *limit,
        },
        Step::DropHints(p, k, sequence, then_drop) => StoreRequest::DropHints {
            hints: vec![(
                HintId {
                    file: 0,
                    sequence: *sequence,
                },
                Partition(*p),
                key(&name(*k)),
                then_drop.map(|same| {
                    if same {
                        state(*p, *k).set.hash()
                    } else {
                        StateHash([2; 16])
                    }
                }),
            )],
        },
        Step::CountHints => StoreRequest::CountHints,
        Step::PutMeta(byte) => StoreRequest::PutMeta {
            name: "record",
            bytes: Bytes::copy_from_slice(&[*byte]),
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Both stores give the same answers and end with the same rows.
    #[test]
    fn stores_agree(steps in steps()) {
        let (model, _) = memory();
        let (store, _dir) = sqlite(1);
        for (step, at) in steps.iter().zip(1..) {
            let request = request(step, &model, at);
            prop_assert_eq!(ask(&*store, request.clone()), ask(&*model, request));
        }
        prop_assert_eq!(store.meta("record"), model.meta("record"));
        for partition in 0..2 {
            prop_assert_eq!(store.rows_of(Partition(partition)), model.rows_of(Partition(partition)));
        }
    }
}
