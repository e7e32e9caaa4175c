//! What the sandbox adds: a fold in it beside a bare wasmtime call of the same
//! function, beside the same merge in native Rust, and through its worker threads;
//! and how long a hundred modules take to load.
//!
//! Run with `cargo bench --bench sandbox`. Medians of batches, in microseconds a
//! call, on one thread, all in one run; what counts are the ratios. The bare call
//! has the same engine settings (fuel, epochs, pooling, canonical NaNs), makes an
//! instance for each call and lowers and lifts the same values, and nothing more.

use std::sync::{Arc, mpsc};

use bytes::Bytes;
use comfy_table::{CellAlignment, Table, presets};
use kinfold::clock::{Clock as _, SystemClock};
use kinfold::protocol::catalog::Digest;
use kinfold::protocol::dot::{Actor, Dot, Epoch};
use kinfold::protocol::effect::{GuestReply, GuestRequest, GuestSibling};
use kinfold::protocol::id::{ItemKey, NodeId, TableId};
use kinfold::protocol::siblings::Version;
use kinfold::reconcile::Guests as _;
use kinfold::reconcile::registry::built_ins;
use kinfold::reconcile::wasm::{Call, Outcome, Sandbox, SandboxLimits, Workers};

mod bare;

/// Batches whose median counts.
const BATCHES: usize = 30;
/// How long a batch should take, so that the clock is fine enough.
const BATCH_US: u64 = 3_000;
/// How many modules a node loads in the last part.
const MODULES: usize = 100;
/// The largest output here, in bytes.
const MAX_OUTPUT_BYTES: u64 = 1 << 20;

fn main() {
    ways();
    loading();
}

/// One merge, done in four ways.
fn ways() {
    let sandbox = Arc::new(Sandbox::new(SandboxLimits::default(), None).expect("a sandbox"));
    let workers = Workers::start(sandbox.clone()).expect("threads");
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "module",
        "siblings",
        "bytes each",
        "native µs",
        "bare call µs",
        "sandbox µs",
        "by a worker µs",
        "sandbox / bare",
        "bare / native",
    ]);
    for name in ["lww", "cart-union"] {
        let module = built_ins().iter().find(|(known, _)| *known == name);
        let module = module.expect("a built-in").1;
        let loaded = sandbox.load(module).expect("it loads");
        let bare = bare::Bare::new(module);
        let key = ItemKey::new(TableId(1), b"alice", None);
        let call = Call::new("carts", &key, MAX_OUTPUT_BYTES);
        for (count, bytes) in [
            (2, 100),
            (2, 1_000),
            (2, 10_000),
            (2, 100_000),
            (4, 1_000),
            (8, 1_000),
            (16, 1_000),
        ] {
            let siblings: Vec<GuestSibling> = (1..=count)
                .map(|node| sibling(node, value(name, node, bytes)))
                .collect();
            let plain = bare::plain(&siblings);
            // All ways agree, or there is nothing to compare.
            let folded = match sandbox.fold(&loaded, &call, &siblings).expect("a fold") {
                Outcome::Merged(value) => value,
                other => panic!("{other:?}"),
            };
            assert_eq!(bare::native(name, &plain), folded);
            assert_eq!(bare.fold(&siblings), folded);

            let native_us = median_us(|| drop(bare::native(name, &plain)));
            let bare_us = median_us(|| drop(bare.fold(&siblings)));
            let sandbox_us = median_us(|| {
                sandbox.fold(&loaded, &call, &siblings).expect("a fold");
            });
            let worker_us = median_us(|| {
                let request = GuestRequest {
                    digest: Digest::of(module),
                    table: "carts".into(),
                    key: key.clone(),
                    siblings: siblings.clone(),
                    operation: None,
                    render: false,
                    max_output_bytes: MAX_OUTPUT_BYTES,
                };
                let (answered, answer) = mpsc::channel();
                workers.submit(
                    request,
                    Box::new(move |reply, _fuel| answered.send(reply).expect("somebody waits")),
                );
                let reply = answer.recv().expect("an answer");
                assert!(matches!(reply, GuestReply::Done { .. }));
            });
            table.add_row([
                name.to_owned(),
                count.to_string(),
                bytes.to_string(),
                format!("{native_us:.1}"),
                format!("{bare_us:.1}"),
                format!("{sandbox_us:.1}"),
                format!("{worker_us:.1}"),
                format!("{:.2}", sandbox_us / bare_us),
                format!("{:.1}", bare_us / native_us),
            ]);
        }
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
}

/// A hundred modules, compiled, and loaded again from the cache on disk.
fn loading() {
    let folder = tempfile::tempdir().expect("a folder");
    let modules: Vec<Vec<u8>> = (0..MODULES)
        .map(|number| {
            let (_, module) = built_ins()[number % built_ins().len()];
            // Another digest: one more custom section, with a name of one byte.
            let mut module = module.to_vec();
            module.extend([0, 3, 1, b'n', number as u8]);
            module
        })
        .collect();
    for what in ["compiled", "from the cache on disk"] {
        let cache = Some(folder.path().join("code"));
        let sandbox = Sandbox::new(SandboxLimits::default(), cache).expect("a sandbox");
        let before_us = now_us();
        for module in &modules {
            sandbox.load(module).expect("it loads");
        }
        println!(
            "{MODULES} modules {what}: {} ms",
            (now_us() - before_us) / 1_000
        );
    }
}

/// The finer of the two clocks.
fn now_us() -> u64 {
    SystemClock::new().now().wall_us
}

/// The median time of a call, in microseconds.
fn median_us(mut call: impl FnMut()) -> f64 {
    let mut calls = 1;
    loop {
        let before_us = now_us();
        (0..calls).for_each(|_| call());
        if now_us() - before_us >= BATCH_US {
            break;
        }
        calls *= 2;
    }
    let mut batches: Vec<f64> = (0..BATCHES)
        .map(|_| {
            let before_us = now_us();
            (0..calls).for_each(|_| call());
            (now_us() - before_us) as f64 / f64::from(calls)
        })
        .collect();
    batches.sort_by(f64::total_cmp);
    batches[BATCHES / 2]
}

/// A value of about this many bytes, as the built-in takes it.
fn value(name: &str, node: u64, bytes: usize) -> Bytes {
    match name {
        "lww" => vec![node as u8; bytes].into(),
        _ => {
            let item = |index: u64| format!("\"item-{:06}\":{}", index * node, index % 7 + 1);
            let items: Vec<String> = (1..=(bytes as u64 / 16).max(1)).map(item).collect();
            format!("{{{}}}", items.join(",")).into()
        }
    }
}

fn sibling(node: u64, value: Bytes) -> GuestSibling {
    GuestSibling {
        dot: Dot {
            actor: Actor {
                node: NodeId(node),
                epoch: Epoch(node),
            },
            counter: 1,
        },
        version: Version {
            value: Some(value),
            content_type: "application/json".into(),
            written_at_us: node,
            stands_for: None,
        },
    }
}
