//! What the parts of a put and of a get cost, in seconds of processors: joins,
//! tokens, frames, rows, the store, rings, and the protocol's own machines.
//!
//! Processor time of all threads, not time of the clock: it is what kinfold is to be
//! sparing of, and others on the machine do not add to it. (Waiting for a disk is
//! not in it; `store` tells how many operations there are in a second.)
//!
//! `cargo bench --bench parts` measures all of them in some minutes, and with a
//! name (`-- sync`) those whose name has it in it; criterion says by how much each
//! differs from the run before. What a fold costs, natively and in the sandbox, is
//! in `fold` and `sandbox`; layouts are in `layout`, walks over partitions in
//! `store`. The same scenes are counted in instructions by `instructions`, which
//! is what CI looks at: seconds of another machine say nothing.

use std::time::Duration;

use criterion::Criterion;
use criterion::measurement::Measurement;
use kinfold::store::sqlite::Durability;

use scenes::Scene;
use scenes::processor::Processor;

mod scenes;

/// How long each part is measured.
const MEASURED: Duration = Duration::from_secs(2);
/// How long it runs before.
const WARM_UP: Duration = Duration::from_millis(500);
/// How many samples are taken of each: the shortest that criterion knows is ten.
const SAMPLES: usize = 30;

fn main() {
    // `cargo test` runs benches too, without this flag.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let mut criterion = Criterion::default()
        .with_measurement(Processor::new())
        .sample_size(SAMPLES)
        .warm_up_time(WARM_UP)
        .measurement_time(MEASURED)
        .configure_from_args();
    let mut scenes = scenes::counted();
    scenes.extend(scenes::protocol::ring_scenes());
    // One at a time with the weaker durability is among the counted ones.
    scenes.push(scenes::storage::puts(Durability::Commit, 1));
    for at_once in [8, 64] {
        for durability in [Durability::Os, Durability::Commit] {
            scenes.push(scenes::storage::puts(durability, at_once));
        }
    }
    for scene in scenes {
        measure(&mut criterion, scene);
    }
    criterion.final_summary();
}

/// Times a scene, batch by batch.
fn measure(criterion: &mut Criterion<Processor>, mut scene: Scene) {
    let name = scene.name.clone();
    criterion.bench_function(&name, |bencher| {
        bencher.iter_custom(|times| {
            let mut left = times as usize;
            let processor = Processor::new();
            let mut spent = processor.zero();
            while left > 0 {
                let batch = left.min(scene.batch);
                scene.run(batch, &mut |work| {
                    let begun = processor.start();
                    work();
                    spent += processor.end(begun);
                });
                left -= batch;
            }
            spent
        });
    });
}
