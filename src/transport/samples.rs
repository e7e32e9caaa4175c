//! Messages for tests: one of every kind, with every field in use.

use std::sync::Arc;

use bytes::Bytes;

use crate::protocol::catalog::{Catalog, Digest};
use crate::protocol::context::Context;
use crate::protocol::dot::{Actor, Dot, Epoch};
use crate::protocol::effect::{GuestCost, StoreError};
use crate::protocol::exchange;
use crate::protocol::id::{ClusterId, ItemKey, NodeId, Partition, TableId};
use crate::protocol::membership::{Answered, Member, News, Pulse, Status, Summary, Wants};
use crate::protocol::merkle::Sum;
use crate::protocol::message::{
    Ask, Explanation, FoldOutcome, FoldReport, ItemRequest, Message, MessageId, ReadAnswer,
    Refusal, Response, Saw, ValueResponse, Witness,
};
use crate::protocol::siblings::{SiblingSet, StateHash, Version};

fn dot(counter: u64) -> Dot {
    let actor = Actor {
        node: NodeId::of("a"),
        epoch: Epoch(0xfeed_beef),
    };
    Dot { actor, counter }
}

fn key() -> ItemKey {
    ItemKey::new(TableId::of("carts", 1), b"alice\0", Some(b"\xff"))
}

fn context() -> Context {
    let mut context = Context::new();
    context.add(dot(1), 10);
    context.add(dot(7), 20);
    context
}

fn set(value: &[u8]) -> SiblingSet {
    let version = Version {
        value: Some(Bytes::copy_from_slice(value)),
        content_type: Arc::from("text/plain"),
        written_at_us: 30,
        stands_for: Some(dot(7)),
    };
    SiblingSet::delta(&context(), dot(9), version)
}

/// A write of this value.
pub fn write(value: &[u8]) -> Message {
    Message::Write {
        id: MessageId(u64::MAX),
        partition: Partition(255),
        key: key(),
        set: set(value),
        hint_for: Some(NodeId::of("b")),
    }
}

/// A module of so many bytes.
pub fn module(size_bytes: usize) -> Message {
    Message::Module {
        digest: Digest::of(b"module"),
        bytes: Some(Bytes::from(vec![0x61; size_bytes])),
    }
}

/// A probe with this id, to tell many messages apart.
pub fn probe(id: u64) -> Message {
    Message::Probe { id: MessageId(id) }
}

fn forward(id: u64, ask: Ask) -> Message {
    Message::Forward {
        id: MessageId(id),
        item: Box::new(ItemRequest {
            table: TableId::of("carts", 1),
            partition: Partition(3),
            key: key(),
            ask,
            r: 2,
            w: 1,
            strict: true,
            timeout_ms: 5000,
        }),
    }
}

fn forwarded(id: u64, response: Response) -> Message {
    Message::ForwardAnswer {
        id: MessageId(id),
        response: Box::new(response),
    }
}

fn pulse() -> Pulse {
    Pulse {
        node: NodeId::of("a"),
        born: 3,
        incarnation: u64::MAX,
        status: Status::Up,
        heartbeat: 4,
        layout_seen: 3,
        layout_synced: 2,
        synced_tag: u32::MAX,
        layout_read: 1,
    }
}

fn summary() -> Summary {
    Summary {
        round: 9,
        cluster: Some(ClusterId(5)),
        address: Arc::from("127.0.0.1:8101"),
        wall_us: 1_000_000,
        may_found: true,
        members: vec![pulse()],
        layout: (1, u128::MAX),
        catalog: 3,
    }
}

/// Every question and answer of an exchange.
fn exchanges() -> Vec<Message> {
    let partition = Partition(7);
    let items = vec![(key(), StateHash([3; 16]))];
    let rows = vec![(key(), set(b"value"))];
    let asks = vec![
        exchange::Ask::Roots {
            width: 4096,
            roots: vec![exchange::Root {
                partition,
                class: 3,
                sum: Sum(u128::MAX),
            }],
        },
        exchange::Ask::Branches {
            partition,
            class: 3,
            level: 1,
            nodes: vec![(5, vec![Sum(1); 16])],
        },
        exchange::Ask::Compare {
            partition,
            class: 3,
            width: 4096,
            buckets: vec![0, 4095],
            leaves: items.clone(),
        },
        exchange::Ask::Pull {
            partition,
            class: 3,
            after: Some(key()),
        },
        exchange::Ask::Give {
            partition,
            rows: rows.clone(),
        },
        exchange::Ask::Holds {
            partition,
            items: items.clone(),
        },
        exchange::Ask::Vote {
            partition,
            class: 3,
            layout: 9,
            aged_ms: 3_600_000,
            items: items.clone(),
        },
        exchange::Ask::Reap { partition, items },
        exchange::Ask::Survey {
            table: key().table(),
            partition,
            after: Some(key()),
            singles: true,
        },
    ];
    let answers = vec![
        Ok(exchange::Answer::Roots(vec![
            exchange::RootVerdict::Same,
            exchange::RootVerdict::Differs { items: 1 },
            exchange::RootVerdict::Unknown,
        ])),
        Ok(exchange::Answer::Branches(vec![1, 255])),
        Ok(exchange::Answer::Compared {
            wants: vec![0],
            rows: rows.clone(),
            more: true,
        }),
        Ok(exchange::Answer::Pulled {
            rows: rows.clone(),
            next: Some(key()),
        }),
        Ok(exchange::Answer::Given),
        Ok(exchange::Answer::Lacking(vec![0])),
        Ok(exchange::Answer::Vote {
            clean: true,
            same: vec![0],
        }),
        Ok(exchange::Answer::Reaped),
        Ok(exchange::Answer::Surveyed {
            scanned: 3,
            rows,
            next: Some(key()),
        }),
        Err(Refusal::Overloaded),
    ];
    let id = MessageId(77);
    let asks = asks.into_iter().map(|ask| Message::Exchange { id, ask });
    let answers = answers
        .into_iter()
        .map(|answer| Message::ExchangeAnswer { id, answer });
    asks.chain(answers).collect()
}

/// One message of every kind, and of every kind within those.
pub fn one_of_each() -> Vec<Message> {
    let id = MessageId(128);
    let member = Member {
        node: NodeId::of("b"),
        name: Arc::from("b"),
        born: 1,
        incarnation: 2,
        status: Status::Leaving,
        address: Arc::from("127.0.0.1:8102"),
        weight_milli: 1000,
        zone: Arc::from("z1"),
        wire_version: 1,
        heartbeat: 99,
        layout_seen: 1,
        layout_synced: 1,
        synced_tag: 7,
        layout_read: 1,
    };
    let mut all = vec![
        Message::Read {
            id,
            partition: Partition(0),
            key: key(),
            hash_only: true,
        },
        Message::ReadAnswer {
            id,
            answer: Ok(ReadAnswer::State(set(b"value"))),
        },
        Message::ReadAnswer {
            id,
            answer: Ok(ReadAnswer::Hash {
                hash: StateHash([7; 16]),
                is_empty: false,
            }),
        },
        Message::ReadAnswer {
            id,
            answer: Err(Refusal::Storage(StoreError::Corrupt("row 3".into()))),
        },
        write(b"\0\xff"),
        Message::WriteAnswer { id, answer: Ok(()) },
        Message::WriteAnswer {
            id,
            answer: Err(Refusal::Overloaded),
        },
        forward(1, Ask::Get { raw: true }),
        forward(
            2,
            Ask::Put {
                client: context(),
                value: Bytes::from_static(b"value"),
                content_type: Arc::from("text/plain"),
                representation: true,
            },
        ),
        forward(
            3,
            Ask::Delete {
                client: Some(context()),
            },
        ),
        forward(
            4,
            Ask::Operate {
                operation: Bytes::from_static(b"{}"),
            },
        ),
        forwarded(
            5,
            Response::Value(ValueResponse {
                value: Bytes::from_static(b"value"),
                content_type: Arc::from("text/plain"),
                context: context(),
                siblings: 2,
                hash: StateHash([9; 16]),
                folded_by: Some((Arc::from("cart-union"), Digest::of(b"module"))),
            }),
        ),
        forwarded(
            6,
            Response::Siblings {
                set: set(b"value"),
                reason: Some("trap".into()),
                raw: false,
            },
        ),
        forwarded(
            7,
            Response::Absent {
                context: Some(context()),
            },
        ),
        forwarded(8, Response::Written { context: context() }),
        forwarded(
            9,
            Response::Refused(Refusal::QuorumUnmet {
                needed: 2,
                got: 1,
                may_be_stored: true,
            }),
        ),
        forward(10, Ask::Explain),
        forwarded(
            11,
            Response::Explained(Box::new(Explanation {
                told: Response::Absent {
                    context: Some(context()),
                },
                set: set(b"value"),
                witnesses: vec![Witness {
                    node: NodeId::of("b"),
                    primary: true,
                    saw: Saw::State {
                        hash: StateHash([9; 16]),
                        siblings: vec![dot(9)],
                    },
                }],
                module: Some((Arc::from("cart-union"), Digest::of(b"module"))),
                fold: Some(FoldReport {
                    outcome: FoldOutcome::Deleted,
                    cost: GuestCost {
                        fuel: 7,
                        time_us: 8,
                    },
                }),
            })),
        ),
        probe(10),
        Message::ProbeAnswer { id },
        Message::GossipSummary(Box::new(summary())),
        Message::GossipNews(Box::new(News {
            cluster: Some(ClusterId(5)),
            address: Arc::from("127.0.0.1:8102"),
            wall_us: 2_000_000,
            may_found: false,
            answers: Some(Answered {
                round: 9,
                wall_us: 1_000_000,
            }),
            members: vec![member],
            pulses: vec![pulse()],
            layouts: Vec::new(),
            catalog: Some(Catalog::default()),
            wants: Wants {
                members: vec![NodeId::of("c")],
                layouts: true,
                catalog: false,
            },
        })),
        Message::FetchModule {
            digest: Digest::of(b"module"),
        },
        module(3),
        Message::Module {
            digest: Digest::of(b"module"),
            bytes: None,
        },
    ];
    all.extend([
        Message::Offer {
            id,
            digests: vec![Digest::of(b"module")],
        },
        Message::Adopt {
            id,
            catalog: Box::default(),
        },
        Message::Accepted { id },
    ]);
    all.extend(exchanges());
    all
}
