//! Random requests, the same to both stores: the answers and the rows agree.

use bytes::Bytes;
use proptest::prelude::*;

use super::{Subject, ask, foreign_set, key, memory, sqlite, update, write_after};
use crate::protocol::context::Context;
use crate::protocol::effect::{HintId, StoreError, StoreReply, StoreRequest};
use crate::protocol::id::{NodeId, Partition};
use crate::protocol::replica::{Mutation, Row};
use crate::protocol::siblings::{SiblingSet, StateHash};
use crate::store::Store;
use crate::store::memory::MemoryStore;
use crate::store::memory::file_of;

/// A request with what its making needs: names are drawn from a few, so that
/// requests meet.
#[derive(Clone, Debug)]
enum Step {
    Write(u32, u8, bool, Vec<u8>),
    Sync(u32, u8, u64),
    Replace(u32, u8, bool),
    Read(u32, u8),
    ReadState(u32, u8),
    AddHints(u32, u8, Vec<u8>),
    Hints(u8, usize),
    /// Drops the hint of this id, wishing the row away or not.
    DropHints(u32, u8, i64, Option<bool>),
    CountHints,
    CountHintsOf(u32),
    PutMeta(u8),
    /// From this item on, so many.
    Derive(u32, Option<u8>, usize),
    Leaves(u32, Vec<u32>, usize),
    ReadMany(u32, Vec<u8>, usize),
    Scan(u32, Option<u8>, usize, usize),
    /// Of the state that is, or another.
    Forget(u32, u8, bool, bool),
    Mend(u32, u8, u64),
    /// Makes the row unreadable, if there is one.
    Damage(u32, u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let item = || (0u32..2, 0u8..3);
    let targets = || prop::collection::vec(2u8..5, 0..3);
    let step = prop_oneof![
        (item(), any::<bool>(), targets()).prop_map(|((p, k), i, t)| Step::Write(p, k, i, t)),
        (item(), 1u64..4).prop_map(|((p, k), c)| Step::Sync(p, k, c)),
        (item(), any::<bool>()).prop_map(|((p, k), fresh)| Step::Replace(p, k, fresh)),
        item().prop_map(|(p, k)| Step::Read(p, k)),
        item().prop_map(|(p, k)| Step::ReadState(p, k)),
        (item(), targets()).prop_map(|((p, k), t)| Step::AddHints(p, k, t)),
        (2u8..5, 0usize..4).prop_map(|(t, limit)| Step::Hints(t, limit)),
        (item(), 1i64..12, prop::option::of(any::<bool>()))
            .prop_map(|((p, k), id, d)| Step::DropHints(p, k, id, d)),
        Just(Step::CountHints),
        (0u32..2).prop_map(Step::CountHintsOf),
        any::<u8>().prop_map(Step::PutMeta),
        (0u32..2, prop::option::of(0u8..3), 0usize..4).prop_map(|(p, k, l)| Step::Derive(p, k, l)),
        (0u32..2, prop::collection::vec(0u32..16, 0..16), 0usize..4)
            .prop_map(|(p, b, l)| Step::Leaves(p, b, l)),
        (0u32..2, prop::collection::vec(0u8..4, 0..4), 0usize..30)
            .prop_map(|(p, k, b)| Step::ReadMany(p, k, b)),
        (0u32..2, prop::option::of(0u8..3), 0usize..4, 0usize..30)
            .prop_map(|(p, k, l, b)| Step::Scan(p, k, l, b)),
        (item(), any::<bool>(), any::<bool>()).prop_map(|((p, k), s, h)| Step::Forget(p, k, s, h)),
        (item(), 0u64..4).prop_map(|((p, k), c)| Step::Mend(p, k, c)),
        item().prop_map(|(p, k)| Step::Damage(p, k)),
    ];
    prop::collection::vec(step, 1..60)
}

fn name(number: u8) -> String {
    format!("item-{number}")
}

fn nodes(numbers: &[u8]) -> Vec<NodeId> {
    numbers.iter().map(|n| NodeId(u64::from(*n))).collect()
}

/// None for what is no request.
fn request(step: &Step, model: &MemoryStore, at: u64) -> Option<StoreRequest> {
    let state = |p: u32, k: u8| {
        let row = model.row(Partition(p), &key(&name(k)));
        row.unwrap_or_default()
    };
    let after = |k: &Option<u8>| k.map(|k| key(&name(k)));
    let request = match step {
        Step::Damage(..) => return None,
        Step::CountHintsOf(p) => StoreRequest::CountHintsOf {
            partition: Partition(*p),
        },
        Step::Derive(p, k, limit) => StoreRequest::Derive {
            partition: Partition(*p),
            after: after(k),
            limit: *limit,
        },
        Step::Leaves(p, buckets, limit) => StoreRequest::Leaves {
            partition: Partition(*p),
            buckets: buckets.clone(),
            width: 16,
            limit: *limit,
        },
        Step::ReadMany(p, names, max_bytes) => StoreRequest::ReadMany {
            partition: Partition(*p),
            keys: names.iter().map(|k| key(&name(*k))).collect(),
            max_bytes: *max_bytes,
        },
        Step::Scan(p, k, limit, max_bytes) => StoreRequest::Scan {
            partition: Partition(*p),
            after: after(k),
            limit: *limit,
            max_bytes: *max_bytes,
        },
        Step::Forget(p, k, same, hints) => {
            let known = if *same {
                state(*p, *k).set.hash()
            } else {
                StateHash([3; 16])
            };
            StoreRequest::Forget {
                partition: Partition(*p),
                items: vec![(key(&name(*k)), known)],
                hints: *hints,
            }
        }
        Step::Mend(p, k, counter) => {
            let set = match counter {
                0 => SiblingSet::new(),
                counter => foreign_set(*counter, "theirs"),
            };
            let mend = Mutation::Mend {
                set,
                max_actors: 20,
            };
            update(*p, &name(*k), mend, vec![])
        }
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
        Step::ReadState(p, k) => StoreRequest::ReadState {
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
                    file: file_of(Partition(*p)),
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
    };
    Some(request)
}

/// The texts of damage are the stores' own, and so is which file a hint lies in.
fn alike(reply: Result<StoreReply, StoreError>) -> Result<StoreReply, StoreError> {
    match reply {
        Err(StoreError::Corrupt(_)) => Err(StoreError::Corrupt(String::new())),
        Ok(StoreReply::Hints(mut hints)) => {
            for hint in &mut hints {
                hint.id.file = 0;
            }
            Ok(StoreReply::Hints(hints))
        }
        other => other,
    }
}

/// The request as one for a store with a single file.
fn in_one_file(mut request: StoreRequest) -> StoreRequest {
    if let StoreRequest::DropHints { hints, .. } = &mut request {
        for (id, ..) in hints {
            id.file = 0;
        }
    }
    request
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Both stores give the same answers and end with the same rows.
    #[test]
    fn stores_agree(steps in steps()) {
        let (model, _) = memory();
        let (store, _dir) = sqlite(1);
        for (step, at) in steps.iter().zip(1..) {
            match (request(step, &model, at), step) {
                (Some(request), _) => {
                    let reply = alike(ask(&*store, in_one_file(request.clone())));
                    prop_assert_eq!(reply, alike(ask(&*model, request)));
                }
                (None, Step::Damage(p, k)) => {
                    // A bit that flips twice would be as it was.
                    let item = (Partition(*p), key(&name(*k)));
                    if model.row(item.0, &item.1).is_some() {
                        Subject::damage(&*model, item.0, &item.1);
                        store.damage(item.0, &item.1);
                    }
                }
                (None, other) => unreachable!("{:?} makes a request", other),
            }
        }
        prop_assert_eq!(store.meta("record"), model.meta("record"));
        prop_assert_eq!(store.figures().damaged_rows, model.figures().damaged_rows);
        for partition in 0..2 {
            let all = StoreRequest::Scan {
                partition: Partition(partition),
                after: None,
                limit: usize::MAX,
                max_bytes: usize::MAX,
            };
            prop_assert_eq!(ask(&*store, all.clone()), ask(&*model, all));
        }
    }
}
