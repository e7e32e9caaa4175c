//! What a node takes in hand at most.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::protocol::catalog::{Digest, Lawfulness, ModuleInfo, ModuleKind};
use crate::protocol::catalog::{QuorumSize, TableDefinition};
use crate::protocol::context::Context;
use crate::protocol::dot::{Actor, Dot, Epoch};
use crate::protocol::effect::{
    Effect, GuestCost, GuestReply, GuestRequest, Input, JobId, RequestId,
};
use crate::protocol::id::{ItemKey, Partition};
use crate::protocol::membership::{Identity, Pace};
use crate::protocol::replica::Row;
use crate::protocol::siblings::Version;
use crate::protocol::time::Now;

/// A node alone whose store keeps everything in hand until it is told.
pub(in crate::protocol::machine) struct Alone {
    pub machine: Machine,
    pub now: Now,
    /// Writes that the store has not done yet.
    pub stored_later: VecDeque<(JobId, StoreRequest)>,
    answers: Vec<(RequestId, Response)>,
    /// What every read finds.
    row: Option<Row>,
    /// Guests that were asked and have not answered.
    guests: VecDeque<(JobId, GuestRequest)>,
}

impl Alone {
    pub fn new() -> Self {
        let identity = Identity {
            name: "a".into(),
            node: NodeId::of("a"),
            address: "a:1".into(),
            weight_milli: 1000,
            zone: "z".into(),
            wire_version: 1,
            seeds: vec!["a:1".into()],
            partitions: 8,
            replicas: 1,
        };
        let now = Now::default();
        let mut number = 0;
        let dice = Box::new(move || {
            number += 1;
            number
        });
        let (machine, effects) = Machine::new(identity, Pace::new(100), None, 1, now, dice);
        let mut alone = Alone {
            machine,
            now,
            stored_later: VecDeque::new(),
            answers: Vec::new(),
            row: None,
            guests: VecDeque::new(),
        };
        alone.carry_out(effects);
        let definition = TableDefinition {
            n: 1,
            r: QuorumSize::Count(1),
            w: QuorumSize::Count(1),
            ..TableDefinition::default()
        };
        let (_, effects) = alone
            .machine
            .change_catalog(alone.now, |catalog| catalog.set_table("t", definition));
        alone.carry_out(effects);
        while alone.machine.readiness().is_err() {
            assert!(alone.now.monotonic_ms < 60_000, "it never gets ready");
            alone.now.monotonic_ms += 100;
            alone.now.wall_us += 100_000;
            alone.step(Input::Tick);
        }
        alone
    }

    pub fn step(&mut self, input: Input) {
        let effects = self.machine.step(self.now, input);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Store { job, request } => match request {
                    StoreRequest::Update { .. } => self.stored_later.push_back((job, request)),
                    StoreRequest::Read { .. } => {
                        let reply = Ok(StoreReply::Row(self.row.clone().map(|row| {
                            let hash = row.set.hash();
                            (row, hash)
                        })));
                        self.step(Input::Stored { job, reply });
                    }
                    StoreRequest::ReadState { .. } => {
                        let state = self.row.as_ref().map(|row| row.set.hash());
                        let reply = Ok(StoreReply::State(state));
                        self.step(Input::Stored { job, reply });
                    }
                    // This one takes for ever.
                    StoreRequest::Scan { .. } => {}
                    StoreRequest::CountHints => {
                        let reply = Ok(StoreReply::HintCounts(Vec::new()));
                        self.step(Input::Stored { job, reply });
                    }
                    StoreRequest::Derive { .. } => {
                        let reply = Ok(StoreReply::Leaves {
                            leaves: Vec::new(),
                            done: true,
                        });
                        self.step(Input::Stored { job, reply });
                    }
                    _ => {
                        let reply = Ok(StoreReply::Done);
                        self.step(Input::Stored { job, reply });
                    }
                },
                Effect::Respond { request, response } => self.answers.push((request, response)),
                Effect::Guest { job, request } => self.guests.push_back((job, request)),
                _ => {}
            }
        }
    }

    pub fn put(&mut self, request: u64, bytes: usize) {
        let table = self.machine.tables()["t"].id;
        let item = ItemRequest {
            table,
            partition: Partition(0),
            key: ItemKey::new(table, format!("k{request}").as_bytes(), None),
            ask: Ask::Put {
                client: Context::default(),
                value: Bytes::from(vec![0; bytes]),
                content_type: Arc::from("a/b"),
                representation: false,
            },
            r: 1,
            w: 1,
            strict: false,
            timeout_ms: 1_000,
        };
        let request = RequestId(request);
        self.step(Input::Client { request, item });
    }

    /// The store fails what it was given first.
    fn fail_one(&mut self) {
        let (job, _) = self.stored_later.pop_front().expect("a write waits");
        let reply = Err(StoreError::Full);
        self.step(Input::Stored { job, reply });
    }
}

#[test]
fn bytes_in_hand_are_bounded_and_given_back() {
    let mut alone = Alone::new();
    alone.put(1, MAX_REQUEST_BYTES - 10);
    alone.put(2, 11);
    let refused = Response::Refused(Refusal::Overloaded);
    assert_eq!(alone.answers, [(RequestId(2), refused)]);
    alone.put(3, 10);
    assert_eq!((alone.answers.len(), alone.stored_later.len()), (1, 2));
    alone.fail_one();
    alone.put(4, MAX_REQUEST_BYTES - 10);
    alone.fail_one();
    alone.fail_one();
    assert_eq!(alone.machine.request_bytes, 0);
    // Alone, one of any size is taken.
    alone.put(5, MAX_REQUEST_BYTES + 1);
    assert_eq!((alone.answers.len(), alone.stored_later.len()), (4, 1));
}

fn module(text: &str) -> ModuleInfo {
    ModuleInfo {
        digest: Digest::of(text.as_bytes()),
        size_bytes: 1,
        kind: ModuleKind::Reconciler,
        eager: false,
        summary: "".into(),
        version: text.into(),
        lawfulness: Lawfulness::Unchecked,
        built_in: false,
    }
}

/// Two siblings.
fn conflict() -> Row {
    let sibling = |counter| {
        let actor = Actor {
            node: NodeId::of("a"),
            epoch: Epoch(counter),
        };
        let version = Version {
            value: Some(Bytes::from(counter.to_string())),
            content_type: "a/b".into(),
            written_at_us: 1,
            stands_for: None,
        };
        SiblingSet::delta(&Context::new(), Dot { actor, counter: 1 }, version)
    };
    let mut set = sibling(1);
    set.sync(&sibling(2));
    let minted = None;
    Row { minted, set }
}

#[test]
fn a_request_folds_with_the_digest_that_its_table_had_when_it_began() {
    let mut alone = Alone::new();
    let change = |alone: &mut Alone, text: &str| {
        let module = module(text);
        let (_, effects) = alone.machine.change_catalog(alone.now, |catalog| {
            catalog.set_reconciler("mine", module);
            let definition = TableDefinition {
                reconciler: Some("mine".into()),
                ..catalog.table("t").cloned().unwrap_or_default()
            };
            catalog.set_table("t", definition);
        });
        alone.carry_out(effects);
    };
    change(&mut alone, "first");
    alone.row = Some(conflict());
    let table = alone.machine.tables()["t"].id;
    let get = |alone: &mut Alone, request: u64| {
        let item = ItemRequest {
            table,
            partition: Partition(0),
            key: ItemKey::new(table, b"k", None),
            ask: Ask::Get { raw: false },
            r: 1,
            w: 1,
            strict: false,
            timeout_ms: 1_000,
        };
        let request = RequestId(request);
        alone.step(Input::Client { request, item });
    };
    get(&mut alone, 1);
    change(&mut alone, "second");
    get(&mut alone, 2);
    for text in ["first", "second"] {
        let (job, request) = alone.guests.pop_front().expect("it folds");
        assert_eq!(request.digest, Digest::of(text.as_bytes()));
        let reply = GuestReply::Done {
            value: Some(Bytes::from_static(b"folded")),
            view: None,
        };
        let cost = GuestCost::default();
        alone.step(Input::Guest { job, reply, cost });
        let Some((_, Response::Value(answer))) = alone.answers.pop() else {
            panic!("no value");
        };
        let by = answer.folded_by.expect("a module");
        assert_eq!(by.1, Digest::of(text.as_bytes()));
    }
}

#[test]
fn a_record_from_before_histories_is_read() {
    let mut alone = Alone::new();
    let (_, effects) = alone.machine.change_catalog(alone.now, |catalog| {
        catalog.set_reconciler("mine", module("first"));
    });
    alone.carry_out(effects);
    let mut record = alone.machine.record();
    assert_eq!((record[0], record.pop()), (3, Some(0)), "no history yet");
    record[0] = 2;
    let read = Machine::read_record(&record).expect("it is read");
    assert_eq!(read.catalog, *alone.machine.catalog());
    record.pop();
    assert!(Machine::read_record(&record).is_err(), "damaged");
}
