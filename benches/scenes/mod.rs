//! The parts at work, each in a scene that repeats one piece of work.
//!
//! Promises: a scene does the same work each time, from the same inputs; what it
//! needs is made before it is measured and dropped afterwards. `parts` measures
//! scenes in seconds, `instructions` in instructions. Not measured: the kernel and
//! the scheduler; `load` and `kinfold bench` put load on whole nodes.

// Each bench compiles this folder and uses a part of it.
#![allow(dead_code)]

pub mod causality;
pub mod frames;
pub mod http;
pub mod node;
pub mod processor;
pub mod protocol;
pub mod storage;
pub mod world;

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use kinfold::protocol::context::Context;
use kinfold::protocol::dot::{Actor, Dot, Epoch};
use kinfold::protocol::id::{ItemKey, NodeId, TableId};
use kinfold::protocol::siblings::{SiblingSet, Version};

/// As long as the values of measures.md.
pub const SMALL_BYTES: usize = 900;
/// A value that is nothing but bytes to be moved.
pub const LARGE_BYTES: usize = 100_000;

/// Does the work that it is given, between looking at whatever it measures with.
pub type Measure<'a> = &'a mut dyn FnMut(&mut dyn FnMut());

/// One piece of work.
pub struct Scene {
    /// `part/what`.
    pub name: String,
    /// How many times it is prepared at once at most: what is made for it and
    /// what comes of it lies in memory until it was measured.
    pub batch: usize,
    /// By how many percent its instructions may differ from run to run.
    pub spread_percent: f64,
    run: Box<dyn FnMut(usize, Measure)>,
}

impl Scene {
    /// A scene that makes an input for each time and then works on it.
    pub fn new<I, O>(
        name: impl Into<String>,
        mut make: impl FnMut() -> I + 'static,
        mut work: impl FnMut(I) -> O + 'static,
    ) -> Scene {
        let run = move |times: usize, measure: Measure| {
            let mut inputs: Vec<Option<I>> = (0..times).map(|_| Some(make())).collect();
            let mut outputs = Vec::with_capacity(times);
            measure(&mut || {
                for input in inputs.iter_mut().filter_map(Option::take) {
                    outputs.push(work(black_box(input)));
                }
            });
            assert_eq!(outputs.len(), times, "the work is done once when measured");
        };
        Scene {
            name: name.into(),
            batch: 1024,
            spread_percent: 0.0,
            run: Box::new(run),
        }
    }

    /// The same, in batches of so many.
    pub fn in_batches_of(mut self, batch: usize) -> Scene {
        self.batch = batch;
        self
    }

    /// The same, known to vary: threads wake in another order, system calls take
    /// another way.
    pub fn that_varies_by(mut self, spread_percent: f64) -> Scene {
        self.spread_percent = spread_percent;
        self
    }

    /// Does the work so many times, at most `batch`.
    pub fn run(&mut self, times: usize, measure: Measure) {
        assert!(times <= self.batch, "{}: {times} at once", self.name);
        (self.run)(times, measure);
    }
}

/// The scenes whose instructions are counted: every part of a put and of a get.
pub fn counted() -> Vec<Scene> {
    let mut scenes = http::scenes();
    scenes.extend(causality::scenes());
    scenes.extend(frames::scenes());
    scenes.extend(storage::row_scenes());
    scenes.extend(storage::counted_scenes());
    scenes.extend(protocol::machine_scenes());
    scenes.extend(node::scenes());
    scenes
}

/// A usual key.
pub fn key(number: u64) -> ItemKey {
    let name = format!("user:{number:08}");
    ItemKey::new(TableId::of(world::TABLE, 1), name.as_bytes(), None)
}

/// The `counter`th write of the `node`th coordinator.
pub fn dot(node: u64, counter: u64) -> Dot {
    let name = format!("n{node}");
    let actor = Actor {
        node: NodeId::of(&name),
        epoch: Epoch(0x9e37_79b9_7f4a_7c15 ^ node),
    };
    Dot { actor, counter }
}

/// A version with a value of so many bytes.
pub fn version(size_bytes: usize) -> Version {
    Version {
        value: Some(Bytes::from(vec![b'v'; size_bytes])),
        content_type: Arc::from("application/json"),
        written_at_us: 1_700_000_000_000_000,
        stands_for: None,
    }
}

/// Siblings of writers who saw nothing: the `writes`, each by the next of three
/// coordinators.
pub fn blind(writes: std::ops::Range<u64>, size_bytes: usize) -> SiblingSet {
    let mut set = SiblingSet::new();
    for write in writes {
        let dot = dot(write % 3, write / 3 + 1);
        set.put(&Context::new(), dot, version(size_bytes));
    }
    set
}

/// What an item's state usually is: one version, and the writes of three
/// coordinators before it, all of them seen.
pub fn usual(size_bytes: usize) -> SiblingSet {
    let mut set = blind(0..9, 1);
    let seen = set.context().clone();
    set.put(&seen, dot(0, 4), version(size_bytes));
    set
}
