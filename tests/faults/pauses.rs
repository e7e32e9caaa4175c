//! Processes that stop in their tracks and wake with old ideas.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use kinfold::clock::{Clock, SystemClock};
use serde_json::Value;

use crate::common::{Cluster, Plan};
use crate::heal::start_cluster;
use crate::workload::{TABLES, heal_and_judge, work_under};

/// A pause that no one should take for a death.
const SHORT: Duration = Duration::from_secs(2);
/// A pause that outlasts every timeout: of requests, probes, and the suspicion
/// of peers.
const LONG: Duration = Duration::from_secs(7);
/// How many operations go well between two faults.
const BETWEEN: usize = 60;

/// Counts how often some node sees another one go down, while `during` runs.
fn deaths_seen(cluster: &Cluster, watchers: &[usize], during: impl FnOnce()) -> u64 {
    let (stop, deaths) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for &watcher in watchers {
            let (stop, deaths) = (&stop, &deaths);
            scope.spawn(move || {
                let mut was_up = vec![true; cluster.nodes.len()];
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(view) = cluster.nodes[watcher].try_view() {
                        let members = view["members"].as_array().cloned().unwrap_or_default();
                        for (was, member) in was_up.iter_mut().zip(&members) {
                            let is_up = member["up"] == Value::Bool(true);
                            deaths.fetch_add(u64::from(*was && !is_up), Ordering::Relaxed);
                            *was = is_up;
                        }
                    }
                    thread::sleep(Duration::from_millis(20));
                }
            });
        }
        during();
        stop.store(true, Ordering::Relaxed);
    });
    deaths.into_inner()
}

#[test]
fn a_short_pause_is_no_death() {
    let cluster = start_cluster(Plan::with(TABLES));
    let mut deaths = 0;
    let history = work_under(&cluster, |progress| {
        progress.wait_for(BETWEEN);
        deaths = deaths_seen(&cluster, &[0, 1], || {
            cluster.nodes[2].pause();
            thread::sleep(SHORT);
            cluster.nodes[2].resume();
            progress.wait_for(BETWEEN);
        });
    });
    assert_eq!(deaths, 0, "a pause of {SHORT:?} made a node flap");
    heal_and_judge("a pause of 2 s", &cluster, &history);
}

#[test]
fn a_node_wakes_with_old_ideas() {
    let cluster = start_cluster(Plan::with(TABLES));
    let clock = SystemClock::new();
    let history = work_under(&cluster, |progress| {
        for paused in 0..2 {
            progress.wait_for(BETWEEN);
            cluster.nodes[paused].pause();
            let begun_ms = clock.now().monotonic_ms;
            // The others notice, and go on without it.
            cluster.wait_seen(2, paused, false);
            let noticed_ms = clock.now().monotonic_ms - begun_ms;
            println!("a paused node was seen down after {noticed_ms} ms");
            progress.wait_for(BETWEEN);
            let spent = Duration::from_millis(clock.now().monotonic_ms - begun_ms);
            thread::sleep(LONG.saturating_sub(spent));
            cluster.nodes[paused].resume();
            cluster.wait_seen(2, paused, true);
        }
        progress.wait_for(BETWEEN);
    });
    heal_and_judge("pauses of 7 s", &cluster, &history);
}

/// How long a slow node stands still, and how long it then runs, over and over.
const STANDS: Duration = Duration::from_millis(80);
const RUNS: Duration = Duration::from_millis(20);
/// How often.
const TURNS: usize = 30;

#[test]
fn a_slow_node_holds_nobody_up() {
    let cluster = start_cluster(Plan::with(TABLES));
    let history = work_under(&cluster, |progress| {
        progress.wait_for(BETWEEN);
        for _ in 0..TURNS {
            cluster.nodes[1].pause();
            thread::sleep(STANDS);
            cluster.nodes[1].resume();
            thread::sleep(RUNS);
        }
        progress.wait_for(BETWEEN);
    });
    let (_, available) = history.availability();
    assert!(available > 0.95, "{available}: {:?}", history.tally);
    heal_and_judge("a slow node", &cluster, &history);
}
