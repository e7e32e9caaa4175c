//! What a fold costs: two siblings of about 1 KiB with each built-in, beside an
//! instance and a call that do nothing.
//!
//! Run with `cargo bench --bench fold`. Prints the median of batches, in
//! microseconds a call, on one thread. Not measured: queueing and wake-up.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use kinfold::clock::{Clock, SystemClock};
use kinfold::protocol::dot::{Actor, Dot, Epoch};
use kinfold::protocol::effect::{GuestSibling, Operation};
use kinfold::protocol::id::{ItemKey, NodeId, TableId};
use kinfold::protocol::siblings::Version;
use kinfold::reconcile::laws::{self, Samples, Settings, Verdict};
use kinfold::reconcile::registry::built_ins;
use kinfold::reconcile::wasm::{Call, Loaded, Sandbox, SandboxLimits};

const BATCHES: usize = 50;
const CALLS: u32 = 200;
const VALUE_BYTES: usize = 1024;

fn main() {
    let sandbox = Sandbox::new(SandboxLimits::default(), None).expect("a sandbox");
    let clock = SystemClock::new();
    println!(
        "{:<28} {:>9} {:>12} {:>9}",
        "what", "median µs", "fuel a call", "bytes"
    );
    for (name, bytes) in built_ins() {
        let before = clock.now().wall_us;
        let loaded = sandbox.load(bytes).expect("a built-in");
        let compiled_us = clock.now().wall_us.saturating_sub(before);
        println!("{:<28} {compiled_us:>9}", format!("{name}: compile"));
        measure(&clock, &loaded, &format!("{name}: bare call"), 0, || {
            sandbox.describe(&loaded).expect("a description");
        });
        let siblings = siblings(&sandbox, &loaded, name);
        let size = siblings
            .iter()
            .map(|one| one.version.value.as_ref().map_or(0, Bytes::len))
            .sum();
        let call = call();
        measure(
            &clock,
            &loaded,
            &format!("{name}: fold of two"),
            size,
            || {
                sandbox.fold(&loaded, &call, &siblings).expect("a fold");
            },
        );
        let before = clock.now().wall_us;
        let report = laws::check(
            &sandbox,
            &loaded,
            &Samples::Module,
            Settings::new(1, laws::DEFAULT_CASES),
            &mut |_| ControlFlow::Continue(()),
        );
        let took_ms = clock.now().wall_us.saturating_sub(before) / 1000;
        let Verdict::NoCounterexample { .. } = report.verdict else {
            panic!("{name}: {:?}", report.verdict);
        };
        let each_second = report.tried * 1000 / took_ms.max(1);
        println!(
            "{:<28} {took_ms:>6} ms for {} cases, {} calls: {each_second} cases a second",
            format!("{name}: law check"),
            report.tried,
            report.calls,
        );
    }
    extremes(&clock);
}

/// The two things that the fuel limit lies between: the largest fold that a
/// table usually allows, and a loop without end.
fn extremes(clock: &SystemClock) {
    let limits = SandboxLimits {
        fuel: 20_000_000_000,
        deadline_ms: 60_000,
        ..SandboxLimits::default()
    };
    let sandbox = Sandbox::new(limits, None).expect("a sandbox");
    let once = |what: &str, module: &[u8], values: [Bytes; 2]| {
        let loaded = sandbox.load(module).expect("a module");
        let fuel_before = loaded.figures().fuel;
        let version = |value| Version {
            value: Some(value),
            content_type: Arc::from("application/json"),
            written_at_us: 1,
            stands_for: None,
        };
        let mut siblings = vec![];
        for (node, value) in (1..).zip(values) {
            siblings.push(GuestSibling {
                dot: dot(node, 1),
                version: version(value),
            });
        }
        let size: usize = siblings
            .iter()
            .map(|one| one.version.value.as_ref().map_or(0, Bytes::len))
            .sum();
        let start = clock.now().wall_us;
        let result = sandbox.fold(
            &loaded,
            &Call::new("carts", &ItemKey::new(TableId(1), b"alice", None), 4 << 20),
            &siblings,
        );
        let took_us = clock.now().wall_us.saturating_sub(start);
        let fuel = loaded.figures().fuel - fuel_before;
        let came_to = result
            .err()
            .map_or_else(|| "folded".to_owned(), |failure| failure.to_string());
        println!("{what:<28} {took_us:>9} {fuel:>12} {size:>9}  {came_to}");
    };
    let cart = |node: u64| -> Bytes {
        let item = |index: u64| format!("\"item-{:06}\":{}", index * node, index % 7 + 1);
        let items: Vec<String> = (1..=65_000).map(item).collect();
        format!("{{{}}}", items.join(",")).into()
    };
    for (name, bytes) in built_ins() {
        match *name {
            "cart-union" => once("cart-union: two of 1 MB", bytes, [cart(1), cart(2)]),
            "lww" => once(
                "lww: two of 1 MiB",
                bytes,
                [vec![1; 1 << 20].into(), vec![2; 1 << 20].into()],
            ),
            _ => {}
        }
    }
    let misbehave = include_bytes!("../reconcilers/prebuilt/test/misbehave.wasm");
    let spin = Bytes::from_static(b"spin");
    once("a loop without end", misbehave, [spin.clone(), spin]);
}

fn measure(clock: &SystemClock, loaded: &Loaded, what: &str, size: usize, mut call: impl FnMut()) {
    (0..CALLS).for_each(|_| call());
    let fuel_before = loaded.figures().fuel;
    let mut batches: Vec<u64> = (0..BATCHES)
        .map(|_| {
            let start = clock.now().wall_us;
            (0..CALLS).for_each(|_| call());
            clock.now().wall_us.saturating_sub(start)
        })
        .collect();
    batches.sort_unstable();
    let median_us = batches[BATCHES / 2] as f64 / f64::from(CALLS);
    let fuel = (loaded.figures().fuel - fuel_before) / (BATCHES as u64 * u64::from(CALLS));
    println!("{what:<28} {median_us:>9.1} {fuel:>12} {size:>9}");
}

fn call() -> Call<'static> {
    Call::new("carts", &ItemKey::new(TableId(1), b"alice", None), 1 << 20)
}

fn dot(node: u64, counter: u64) -> Dot {
    let actor = Actor {
        node: NodeId(node),
        epoch: Epoch(node),
    };
    Dot { actor, counter }
}

/// Two concurrent values of about 1 KiB, as the built-in takes them.
fn siblings(sandbox: &Sandbox, loaded: &Loaded, name: &str) -> Vec<GuestSibling> {
    let version = |value: Bytes, written_at_us| Version {
        value: Some(value),
        content_type: Arc::from("application/json"),
        written_at_us,
        stands_for: None,
    };
    let value = |node: u64| -> Bytes {
        match name {
            "lww" => vec![node as u8; VALUE_BYTES].into(),
            "cart-union" => {
                let item = |index: u64| format!("\"item-{:04}\":{}", index * node, index % 7 + 1);
                let items: Vec<String> = (1..=72).map(item).collect();
                format!("{{{}}}", items.join(",")).into()
            }
            // States grow by operations until they are large enough, or as
            // large as one actor makes them.
            _ => {
                let mut state: Option<Bytes> = None;
                for counter in 1..=60 {
                    let body = match name {
                        "or-cart" => format!("{{\"add\":\"item-{:04}\"}}", counter * node),
                        _ => "{\"add\":3}".to_owned(),
                    };
                    let operation = Operation {
                        body: body.into(),
                        dot: dot(node, counter),
                        written_at_us: counter,
                    };
                    let applied = sandbox.apply(loaded, &call(), state.as_deref(), &operation);
                    state = Some(applied.expect("an operation"));
                }
                state.expect("a state")
            }
        }
    };
    (1..=2)
        .map(|node| GuestSibling {
            dot: dot(node, 60),
            version: version(value(node), 60),
        })
        .collect()
}
