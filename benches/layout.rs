//! Balance and movement of layouts, and how long they take.
//!
//! Promises: for each size, kind of weights, number of zones and partitions, a
//! line over every single join that leads to the size and some that lead down
//! from it again:
//! - `full`: the most that any node held of its fair share rounded up (1: no
//!   node was ever over it), and `raw`: of the exact share, where it is 20
//!   partitions or more;
//! - `moved`: replicas moved over all steps ÷ Σ max(0, fair share − held);
//! - `step`: the worst step ÷ the ideal of that step, the least movement that
//!   any balanced layout with its zones right could have. It is computed
//!   exactly only where a step is over 1.10 × the simple bound.
//!
//! A plain program: it prints figures to read, and asserts nothing.

// A bench measures real time; the rule is for what must replay.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use kinfold::protocol::id::{NodeId, Partition};
use kinfold::protocol::layout::{Candidate, Layout, fair_shares};
use kinfold::protocol::ring::Ring;

#[path = "../src/protocol/layout/oracle.rs"]
mod oracle;

fn member(number: usize, mixed: bool, zones: usize) -> Candidate {
    Candidate {
        node: NodeId::of(&format!("node-{number}")),
        weight_milli: if mixed {
            [1000, 2000, 4000, 1000, 500][number % 5]
        } else {
            1000
        },
        zone: Arc::from(format!("zone-{}", number % zones)),
    }
}

fn held(layout: &Layout) -> BTreeMap<NodeId, f64> {
    let mut held = BTreeMap::new();
    for partition in (0..layout.partitions()).map(Partition) {
        layout
            .holders(partition)
            .for_each(|node| *held.entry(node).or_default() += 1.0);
    }
    held
}

#[derive(Default)]
struct Figures {
    full: f64,
    raw: f64,
    moved: f64,
    lacked: f64,
    step: f64,
}

impl Figures {
    fn step(&mut self, layout: &Layout, members: &[Candidate]) -> Layout {
        let next = layout.next(members);
        let shares = fair_shares(layout.partitions(), layout.replicas(), members);
        let (was, is) = (held(layout), held(&next));
        let mut lacked = 0.0;
        let mut bound = 0.0;
        for (node, share) in shares {
            let was = was.get(&node).copied().unwrap_or(0.0);
            let is = is.get(&node).copied().unwrap_or(0.0);
            self.full = self.full.max(is / share.ceil());
            if share >= 20.0 {
                self.raw = self.raw.max(is / share);
            }
            lacked += (share - was).max(0.0);
            bound += (share.floor() - was).max(0.0);
        }
        let moved = oracle::moved(layout, &next) as f64;
        self.moved += moved;
        self.lacked += lacked;
        if moved > 1.1 * bound && moved / bound.max(1.0) > self.step {
            bound = oracle::least_moved(layout, &next, members) as f64;
        }
        if moved > 0.0 {
            self.step = self.step.max(moved / bound.max(1.0));
        }
        next
    }
}

fn main() {
    println!("  Q    zones weights nodes |  full   raw  moved   step");
    for partitions in [256, 4096] {
        for zones in [1, 3, 5] {
            for mixed in [false, true] {
                let mut members = vec![member(0, mixed, zones)];
                let mut layout = Layout::founding(partitions, 3, members[0].clone());
                for nodes in [3, 5, 10, 20, 50, 100] {
                    let mut figures = Figures::default();
                    while members.len() < nodes {
                        members.push(member(members.len(), mixed, zones));
                        layout = figures.step(&layout, &members);
                    }
                    // Some leave, which is not how the next size begins.
                    let (mut fewer, mut shrunk) = (members.clone(), layout.clone());
                    for turn in 1..=nodes.min(20) / 2 {
                        fewer.remove(turn * 7 % fewer.len());
                        shrunk = figures.step(&shrunk, &fewer);
                    }
                    let Figures {
                        full,
                        raw,
                        moved,
                        lacked,
                        step,
                    } = figures;
                    println!(
                        "{partitions:>5} {zones:>5} {:>7} {nodes:>5} | {full:>5.3} {raw:>5.3}  {:>5.3}  {step:>5.3}",
                        if mixed { "mixed" } else { "equal" },
                        moved / lacked,
                    );
                }
            }
        }
    }

    println!("\n1,000 nodes, mixed, 5 zones (milliseconds)");
    println!("    Q | founding → 1,000 | one joins | one leaves |  ring");
    for partitions in [256, 4096, 16_384, 65_536] {
        let members: Vec<Candidate> = (0..1001).map(|number| member(number, true, 5)).collect();
        let founding = Layout::founding(partitions, 3, members[0].clone());
        let clock = Instant::now();
        let layout = founding.next(&members[..1000]);
        let born = clock.elapsed();
        let clock = Instant::now();
        let joined = layout.next(&members);
        let join = clock.elapsed();
        let clock = Instant::now();
        let left = joined.next(&members[1..]);
        let leave = clock.elapsed();
        let clock = Instant::now();
        let ring = Ring::new(Arc::new(left));
        let built = clock.elapsed();
        assert_eq!(ring.layout().version(), 4);
        println!(
            "{partitions:>5} | {:>16.1} | {:>9.1} | {:>10.1} | {:>5.1}",
            born.as_secs_f64() * 1e3,
            join.as_secs_f64() * 1e3,
            leave.as_secs_f64() * 1e3,
            built.as_secs_f64() * 1e3,
        );
    }
}
