//! Scenes of the protocol: rings, and whole puts and gets on three machines.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use kinfold::protocol::context::Context;
use kinfold::protocol::id::{ItemKey, NodeId, Partition, Position, TableId};
use kinfold::protocol::layout::{Candidate, Layout};
use kinfold::protocol::message::{Ask, ItemRequest, Response};
use kinfold::protocol::ring::Ring;

use super::world::{TABLE, World};
use super::{SMALL_BYTES, Scene};

/// Into how many partitions the machines' ring is cut: as usual.
const PARTITIONS: u32 = 256;
/// How many items are written and read in turn.
const ITEMS: u64 = 64;

/// Three machines, and what a client knows of their items.
struct Shop {
    world: World,
    contexts: Vec<Context>,
    turn: u64,
    value: Bytes,
}

impl Shop {
    fn new() -> Shop {
        let mut shop = Shop {
            world: World::of_three(PARTITIONS),
            contexts: vec![Context::new(); ITEMS as usize],
            turn: 0,
            value: Bytes::from(vec![b'v'; SMALL_BYTES]),
        };
        for _ in 0..ITEMS {
            let put = shop.next_put();
            shop.put(put);
        }
        shop
    }

    fn item(&mut self) -> u64 {
        self.turn += 1;
        self.turn % ITEMS
    }

    fn request(&self, number: u64, ask: Ask) -> ItemRequest {
        let name = format!("user:{number:08}");
        ItemRequest {
            table: TableId::of(TABLE, 1),
            partition: Position::of(TABLE, name.as_bytes()).partition(PARTITIONS),
            key: ItemKey::new(TableId::of(TABLE, 1), name.as_bytes(), None),
            ask,
            r: 2,
            w: 2,
            strict: false,
            timeout_ms: 5_000,
        }
    }

    /// A put by a client that has read, or written, the item before.
    fn next_put(&mut self) -> (u64, ItemRequest) {
        let number = self.item();
        let ask = Ask::Put {
            client: self.contexts[number as usize].clone(),
            value: self.value.clone(),
            content_type: Arc::from("application/json"),
            representation: false,
        };
        (number, self.request(number, ask))
    }

    fn put(&mut self, (number, request): (u64, ItemRequest)) {
        match self.world.ask(0, request) {
            Response::Written { context } => self.contexts[number as usize] = context,
            other => panic!("not written: {other:?}"),
        }
    }

    fn next_get(&mut self) -> ItemRequest {
        let number = self.item();
        self.request(number, Ask::Get { raw: false })
    }

    fn get(&mut self, request: ItemRequest) -> Response {
        let response = self.world.ask(0, request);
        assert!(matches!(response, Response::Value(_)), "{response:?}");
        response
    }
}

/// A whole put and a whole get with n = 3, r = w = 2, on three machines: what the
/// protocol costs on all three together, stores in memory included.
pub fn machine_scenes() -> Vec<Scene> {
    let shop = Rc::new(RefCell::new(Shop::new()));
    let (maker, puts, asks, gets) = (shop.clone(), shop.clone(), shop.clone(), shop);
    vec![
        // An item is put once a batch: each put needs what the last one told.
        Scene::new(
            "machine/put on three",
            move || maker.borrow_mut().next_put(),
            move |put| puts.borrow_mut().put(put),
        )
        .in_batches_of(ITEMS as usize),
        Scene::new(
            "machine/get on three",
            move || asks.borrow_mut().next_get(),
            move |request| gets.borrow_mut().get(request),
        ),
    ]
}

/// So many nodes in five zones, of three weights.
pub fn candidates(nodes: usize) -> Vec<Candidate> {
    (0..nodes)
        .map(|number| Candidate {
            node: NodeId::of(&format!("n{number}")),
            weight_milli: 1000 + 500 * (number as u32 % 3),
            zone: Arc::from(format!("z{}", number % 5)),
        })
        .collect()
}

/// A layout for so many nodes.
pub fn layout(nodes: usize, partitions: u32) -> Layout {
    let members = candidates(nodes);
    Layout::founding(partitions, 3, members[0].clone()).next(&members)
}

/// The ring of 1,000 nodes and 65,536 partitions: built, and asked.
pub fn ring_scenes() -> Vec<Scene> {
    let layout = Arc::new(layout(1_000, 65_536));
    let ring = Ring::new(layout.clone());
    let mut partition = 0;
    vec![
        Scene::new(
            "ring/build, 1,000 nodes, 65,536 partitions",
            move || layout.clone(),
            Ring::new,
        )
        .in_batches_of(4),
        Scene::new(
            "ring/preference list, 1,000 nodes, 65,536 partitions",
            || (),
            move |()| {
                // A step that visits every partition, far from the last one.
                partition = (partition + 40_503) % 65_536;
                ring.preference(Partition(partition)).len()
            },
        ),
    ]
}
