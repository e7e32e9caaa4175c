//! Random faults for as long as one likes, see the top of `main.rs`.
//!
//! The run goes by rounds. In each, clients work on items of their own while
//! faults come and go, one or two at a time; then all is healed, the cluster
//! converges, and this round and all rounds before it are judged: nothing that
//! was there once may go, either.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Duration;

use kinfold::clock::{Clock, Dice, SystemClock};

use crate::common::{Cluster, Plan};
use crate::heal::{converge, full_service, start};
use crate::isolation::{Place, place};
use crate::judge::{History, judge};
use crate::network::{NEEDS, Network};
use crate::shim::{Shim, available};
use crate::workload::{Progress, TABLES, read_all, work_on};

const NAME: &str = "long::faults_at_random";
const NODES: usize = 4;
/// How many times faults come in a round.
const STEPS: usize = 8;
/// How many operations go well between two of them.
const BETWEEN: usize = 30;
/// The longest that a fault lasts, in milliseconds: longer than all timeouts.
const LONGEST_MS: u64 = 7_000;
/// The furthest that a clock steps, in seconds.
const FURTHEST_S: u64 = 2 * 3_600;

/// What can go wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Fault {
    Kill,
    KillAll,
    Pause,
    FullDisk,
    FailedSync,
    ClockStep,
    Wipe,
    Alone,
    OneWay,
    Pair,
    Halves,
}

/// Everything that can be done to a cluster.
struct Faults {
    network: Option<Network>,
    shims: Vec<Shim>,
    dice: Dice,
    /// Whether a disk was lost since the cluster last converged: a second one may
    /// hold the last copies.
    wiped: bool,
    counts: BTreeMap<Fault, u64>,
    /// From the first fault of a step to full service after it, by its kinds.
    recoveries: Vec<(String, Duration)>,
}

impl Faults {
    fn below(&mut self, bound: u64) -> u64 {
        self.dice.next_u64() % bound
    }

    fn possible(&self) -> Vec<Fault> {
        use Fault::{
            Alone, ClockStep, FailedSync, FullDisk, Halves, Kill, KillAll, OneWay, Pair, Pause,
            Wipe,
        };
        let mut faults = vec![Kill, Kill, KillAll, Pause, Pause];
        if !self.shims.is_empty() {
            faults.extend([FullDisk, FailedSync, ClockStep]);
        }
        if self.network.is_some() {
            faults.extend([Alone, OneWay, Pair, Halves]);
        }
        if !self.wiped {
            faults.push(Wipe);
        }
        faults
    }

    /// One or two faults at once, on nodes of their own, and their end.
    fn step(&mut self, cluster: &Cluster) {
        let clock = SystemClock::new();
        let first = self.below(NODES as u64) as usize;
        let mut faults = Vec::new();
        for turn in 0..1 + self.below(2) as usize {
            let possible = self.possible();
            let fault = possible[self.below(possible.len() as u64) as usize];
            // Two kinds that speak of all nodes do not go together with others.
            if faults.iter().any(|(other, _)| *other == Fault::KillAll)
                || (fault == Fault::KillAll && !faults.is_empty())
            {
                continue;
            }
            faults.push((fault, (first + turn) % NODES));
        }
        let names: Vec<String> = faults
            .iter()
            .map(|(fault, _)| format!("{fault:?}"))
            .collect();
        let names = names.join(" + ");
        for &(fault, node) in &faults {
            *self.counts.entry(fault).or_default() += 1;
            self.begin(cluster, fault, node);
        }
        let length = Duration::from_millis(200 + self.below(LONGEST_MS - 200));
        thread::sleep(length);
        for &(fault, node) in &faults {
            self.end(cluster, fault, node);
        }
        full_service(cluster);
        let took = Duration::from_millis(clock.now().monotonic_ms);
        println!("{names} at {first}: {length:?} long, full service after {took:?}");
        self.recoveries.push((names, took.saturating_sub(length)));
    }

    fn begin(&mut self, cluster: &Cluster, fault: Fault, node: usize) {
        let other = (node + 1 + self.below(NODES as u64 - 1) as usize) % NODES;
        let offset = self.below(2 * FURTHEST_S) as i64 - FURTHEST_S as i64;
        let nodes = &cluster.nodes;
        let network = self.network.as_mut();
        match fault {
            Fault::Kill => nodes[node].kill9(),
            Fault::KillAll => nodes.iter().for_each(|node| node.kill9()),
            Fault::Pause => nodes[node].pause(),
            Fault::FullDisk => self.shims[node].no_space(true),
            Fault::FailedSync => self.shims[node].fail_sync(true),
            Fault::ClockStep => self.shims[node].clock_off_by(offset),
            Fault::Wipe => {
                nodes[node].kill9();
                nodes[node].forget();
                self.wiped = true;
            }
            Fault::Alone => network.expect("possible").split(&[node]),
            Fault::OneWay => network.expect("possible").cut_one_way(node, other),
            Fault::Pair => network.expect("possible").cut(node, other),
            Fault::Halves => network.expect("possible").split(&[node, other]),
        }
    }

    fn end(&mut self, cluster: &Cluster, fault: Fault, node: usize) {
        let nodes = &cluster.nodes;
        match fault {
            Fault::Kill | Fault::Wipe => nodes[node].start(),
            Fault::KillAll => nodes.iter().for_each(|node| node.start()),
            Fault::Pause => nodes[node].resume(),
            Fault::FullDisk => self.shims[node].no_space(false),
            Fault::FailedSync => {
                assert_eq!(nodes[node].wait_end().code(), Some(74));
                self.shims[node].fail_sync(false);
                nodes[node].start();
            }
            // It stays where it stepped to.
            Fault::ClockStep => {}
            Fault::Alone | Fault::OneWay | Fault::Pair | Fault::Halves => {
                if let Some(network) = self.network.as_mut() {
                    network.heal();
                }
            }
        }
    }
}

/// A number from the environment.
fn told(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {text:?}")),
    )
}

/// The median and the greatest.
fn spread(of: &[Duration]) -> String {
    let mut sorted = of.to_vec();
    sorted.sort_unstable();
    match (sorted.get(sorted.len() / 2), sorted.last()) {
        (Some(half), Some(most)) => format!("p50 {half:?}, at most {most:?}"),
        _ => "none".to_owned(),
    }
}

#[test]
#[ignore = "long: set KINFOLD_FAULTS_MINUTES"]
fn faults_at_random() {
    let network = match place(NAME, NEEDS) {
        Place::Done => return,
        Place::Inside => Some(Network::new(NODES)),
        // The other faults are faults all the same.
        Place::Impossible => None,
    };
    let minutes = told("KINFOLD_FAULTS_MINUTES").unwrap_or(1);
    let seed = told("KINFOLD_FAULTS_SEED").unwrap_or_else(|| Dice::from_system().next_u64());
    println!("{minutes} minutes of faults; KINFOLD_FAULTS_SEED={seed} plays them again");
    let plan = Plan::with(TABLES);
    let cluster = match &network {
        Some(network) => network.prepare(plan),
        None => Cluster::prepare(NODES, plan),
    };
    let mut shims = Vec::new();
    if available(NAME) {
        for (index, node) in cluster.nodes.iter().enumerate() {
            let under = network.as_ref().map(|network| network.under(index));
            shims.push(Shim::with(node, cluster.dir(), under.unwrap_or_default()));
        }
    }
    start(&cluster);
    let mut faults = Faults {
        network,
        shims,
        dice: Dice::from_seed(seed),
        wiped: false,
        counts: BTreeMap::new(),
        recoveries: Vec::new(),
    };
    let clock = SystemClock::new();
    let mut rounds: Vec<History> = Vec::new();
    let mut converged = Vec::new();
    while clock.now().monotonic_ms < minutes * 60_000 {
        let keys = format!("r{}-", rounds.len());
        let history = work_on(&keys, &cluster, |progress: &Progress| {
            for _ in 0..STEPS {
                progress.wait_for(BETWEEN);
                faults.step(&cluster);
            }
            progress.wait_for(BETWEEN);
        });
        rounds.push(history);
        let paths: BTreeSet<&str> = rounds.iter().flat_map(History::paths).collect();
        converged.push(converge(&cluster, paths));
        faults.wiped = false;
        for (round, history) in rounds.iter().enumerate() {
            for node in &cluster.nodes {
                let verdict = judge(history, &read_all(node.http(), history));
                if round + 1 == rounds.len() && node.name == "a" {
                    println!("round {round}: {verdict}");
                }
                assert!(
                    verdict.wrong.is_empty(),
                    "KINFOLD_FAULTS_SEED={seed}, round {round} as node {} sees it after {} more: \
                     {verdict}\n{}",
                    node.name,
                    rounds.len() - 1 - round,
                    verdict.wrong.join("\n")
                );
            }
        }
    }
    let mut all = History::default();
    rounds.into_iter().for_each(|history| all.extend(history));
    let (operations, available) = all.availability();
    println!(
        "seed {seed}: {} rounds, {operations} operations, {:.2} % of them went well ({:?})",
        converged.len(),
        available * 100.0,
        all.tally
    );
    println!("faults: {:?}", faults.counts);
    println!("healed → converged: {}", spread(&converged));
    let mut by_kind: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    for (kind, took) in &faults.recoveries {
        by_kind.entry(kind).or_default().push(*took);
    }
    println!("end of a fault → full service:");
    for (kind, took) in by_kind {
        println!("  {kind}: {} times, {}", took.len(), spread(&took));
    }
}
