//! A fold with nothing around it: wasmtime alone, and no WebAssembly at all.
//!
//! Promises: the calls do what the sandbox's do, with the same settings of the
//! engine, so that the difference is what the sandbox adds.

use kinfold::protocol::effect::GuestSibling;
use kinfold_cart_union::merge::CartUnion;
use kinfold_lww::merge::Lww;
use kinfold_reconciler::{Outcome, Reconciler, testing};
use wasmtime::component::{
    Component, ComponentExportIndex, ComponentType, InstancePre, Lift, Linker, Lower,
};
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, Store,
};

/// Far more than any fold here takes.
const FUEL: u64 = 4_000_000_000;

#[derive(ComponentType, Lower)]
#[component(record)]
struct Item<'a> {
    table: &'a str,
    #[component(name = "partition-key")]
    partition_key: &'a [u8],
    #[component(name = "sort-key")]
    sort_key: Option<&'a [u8]>,
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct WitDot<'a> {
    actor: &'a [u8],
    counter: u64,
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct WitSibling<'a> {
    value: Option<&'a [u8]>,
    #[component(name = "content-type")]
    content_type: &'a str,
    #[component(name = "written-at")]
    written_at: u64,
    dot: WitDot<'a>,
}

#[derive(ComponentType, Lift)]
#[component(variant)]
enum WitOutcome {
    #[component(name = "merged")]
    Merged(Vec<u8>),
    #[component(name = "deleted")]
    Deleted,
    #[component(name = "unresolved")]
    Unresolved,
}

/// A module in bare wasmtime.
pub struct Bare {
    engine: Engine,
    pre: InstancePre<()>,
    fold: ComponentExportIndex,
}

impl Bare {
    /// Compiles a component.
    pub fn new(module: &[u8]) -> Bare {
        let mut pool = PoolingAllocationConfig::new();
        pool.max_memory_size(16 << 20);
        let mut config = Config::new();
        config
            .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
            .memory_init_cow(true)
            .cranelift_opt_level(OptLevel::Speed)
            .cranelift_nan_canonicalization(true)
            .wasm_relaxed_simd(false)
            .consume_fuel(true)
            .epoch_interruption(true)
            .wasm_backtrace_max_frames(None);
        let engine = Engine::new(&config).expect("an engine");
        let component = Component::new(&engine, module).expect("a component");
        let interface = component
            .get_export_index(None, "kinfold:reconciler/reconcile@1.0.0")
            .expect("the interface");
        let fold = component
            .get_export_index(Some(&interface), "fold")
            .expect("fold");
        let pre = Linker::new(&engine)
            .instantiate_pre(&component)
            .expect("no imports");
        Bare { engine, pre, fold }
    }

    /// One fold in a fresh instance.
    pub fn fold(&self, siblings: &[GuestSibling]) -> Vec<u8> {
        let mut store = Store::new(&self.engine, ());
        store.set_fuel(FUEL).expect("fuel is counted");
        store.set_epoch_deadline(1_000);
        let instance = self.pre.instantiate(&mut store).expect("an instance");
        let fold = instance
            .get_typed_func::<(Item<'_>, Vec<WitSibling<'_>>), (Result<WitOutcome, String>,)>(
                &mut store, self.fold,
            )
            .expect("its type");
        let actors: Vec<[u8; 16]> = siblings
            .iter()
            .map(|sibling| sibling.dot.actor.to_bytes())
            .collect();
        let lowered = siblings
            .iter()
            .zip(&actors)
            .map(|(sibling, actor)| WitSibling {
                value: sibling.version.value.as_deref(),
                content_type: &sibling.version.content_type,
                written_at: sibling.version.written_at_us,
                dot: WitDot {
                    actor,
                    counter: sibling.dot.counter,
                },
            });
        let item = Item {
            table: "carts",
            partition_key: b"alice",
            sort_key: None,
        };
        let (outcome,) = fold
            .call(&mut store, (item, lowered.collect()))
            .expect("it returns");
        match outcome.expect("it folds") {
            WitOutcome::Merged(value) => value,
            WitOutcome::Deleted | WitOutcome::Unresolved => panic!("there are values"),
        }
    }
}

/// Siblings as the merges in plain Rust take them.
pub fn plain(siblings: &[GuestSibling]) -> Vec<kinfold_reconciler::Sibling> {
    let plain = siblings.iter().map(|sibling| kinfold_reconciler::Sibling {
        value: sibling.version.value.as_deref().map(<[u8]>::to_vec),
        content_type: sibling.version.content_type.to_string(),
        written_at: sibling.version.written_at_us,
        dot: kinfold_reconciler::Dot {
            actor: sibling.dot.actor.to_bytes().to_vec(),
            counter: sibling.dot.counter,
        },
    });
    plain.collect()
}

/// The same merge, compiled for this machine.
pub fn native(name: &str, siblings: &[kinfold_reconciler::Sibling]) -> Vec<u8> {
    let item = testing::item();
    let folded = match name {
        "lww" => Lww::fold(&item, siblings),
        _ => CartUnion::fold(&item, siblings),
    };
    match folded.expect("it folds") {
        Outcome::Merged(value) => value,
        Outcome::Deleted | Outcome::Unresolved => panic!("there are values"),
    }
}
