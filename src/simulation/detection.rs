//! How the failure detectors of a run did: how long a crash goes unnoticed, and
//! who is taken for dead that is not.
//!
//! Promises: every change of every node's opinion of every other is seen at its
//! next tick. A verdict is *right* when the other is down, *excused* when a fault
//! other than a pause of at most [`FORGIVEN_PAUSE_MS`] stands or stood between the
//! two within [`AFTERMATH_MS`], and *false* otherwise.

use std::collections::BTreeMap;

use super::World;

/// A pause that must take nobody down.
pub const FORGIVEN_PAUSE_MS: u64 = 2_000;
/// How long after a fault a wrong verdict is put down to it: a detector judges a
/// silence of some seconds.
pub const AFTERMATH_MS: u64 = 8_000;

/// What a run's detectors did.
#[derive(Clone, Debug, Default)]
pub struct Detection {
    /// How long after it ended each observer took a killed process for down.
    pub killed_ms: Vec<u64>,
    /// The same for machines that fell silent.
    pub silent_ms: Vec<u64>,
    /// Verdicts on nodes that a fault had cut off, or slowed down.
    pub excused: u64,
    /// Verdicts on nodes that nothing was wrong with.
    pub false_positives: u64,
    /// How many pauses were short enough to be forgiven.
    pub short_pauses: u64,
    opinions: BTreeMap<(usize, usize), bool>,
    /// When a fault last stood between two nodes.
    troubled_ms: BTreeMap<(usize, usize), u64>,
}

/// How a node's last life ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct End {
    pub at_ms: u64,
    /// Whether its machine fell silent, instead of refusing connections.
    pub silent: bool,
}

impl Detection {
    /// Adds another run's.
    pub fn join(&mut self, other: &Detection) {
        self.killed_ms.extend(&other.killed_ms);
        self.silent_ms.extend(&other.silent_ms);
        self.excused += other.excused;
        self.false_positives += other.false_positives;
        self.short_pauses += other.short_pauses;
    }

    /// A value that so many of a hundred do not exceed; none of nothing.
    pub fn percentile_ms(times_ms: &[u64], percent: usize) -> Option<u64> {
        let mut sorted = times_ms.to_vec();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        sorted
            .get((sorted.len() * percent / 100).min(last))
            .copied()
    }
}

impl World {
    /// A fault stands between the two.
    pub(super) fn trouble(&mut self, a: usize, b: usize) {
        let link = (a.min(b), a.max(b));
        self.detection.troubled_ms.insert(link, self.now_ms);
    }

    /// A fault stands between the node and everyone.
    pub(super) fn trouble_node(&mut self, node: usize) {
        for other in 0..self.nodes.len() {
            self.trouble(node, other);
        }
    }

    /// A fault stands between all.
    pub(super) fn trouble_all(&mut self) {
        for node in 0..self.nodes.len() {
            self.trouble_node(node);
        }
    }

    /// Looks at whom a node takes for alive.
    pub(super) fn observe(&mut self, observer: usize) {
        let Some(machine) = &self.nodes[observer].machine else {
            return;
        };
        let opinions: Vec<bool> = self
            .nodes
            .iter()
            .map(|other| machine.is_up(other.identity.node))
            .collect();
        for (peer, is_up) in opinions.into_iter().enumerate() {
            let before = self.detection.opinions.insert((observer, peer), is_up);
            if before == Some(true) && !is_up {
                self.judge(observer, peer);
            }
        }
    }

    fn judge(&mut self, observer: usize, peer: usize) {
        let now_ms = self.now_ms;
        let is_paused = |node: usize| {
            let sim = &self.nodes[node];
            sim.paused.is_some() && now_ms > sim.paused_ms + FORGIVEN_PAUSE_MS
        };
        let broken = is_paused(observer)
            || is_paused(peer)
            || self.network.extra_loss > 0
            || self.network.delay_max_ms.is_some()
            || self.network.is_broken(observer, peer)
            || self.network.is_broken(peer, observer)
            || self.slowness(observer) > 1
            || self.slowness(peer) > 1;
        let link = (observer.min(peer), observer.max(peer));
        let troubled_ms = self.detection.troubled_ms.get(&link).copied();
        let excused =
            broken || troubled_ms.is_some_and(|since_ms| now_ms < since_ms + AFTERMATH_MS);
        let (from, to) = (self.name(observer), self.name(peer));
        match self.nodes[peer].end {
            Some(end) if !self.is_up(peer) => {
                // Troubled observers say nothing about how fast detectors are.
                if !excused && self.nodes[observer].started_ms < end.at_ms {
                    let times_ms = if end.silent {
                        &mut self.detection.silent_ms
                    } else {
                        &mut self.detection.killed_ms
                    };
                    times_ms.push(now_ms - end.at_ms);
                }
                self.tell(None, || format!("{from} takes {to} for down, rightly"));
            }
            _ if excused => {
                self.detection.excused += 1;
                self.tell(None, || format!("{from} takes {to} for down"));
            }
            _ => {
                self.detection.false_positives += 1;
                self.tell(None, || format!("{from} takes {to} for down, wrongly"));
            }
        }
    }

    /// A node that starts has no opinions.
    pub(super) fn forget_opinions(&mut self, observer: usize) {
        self.detection
            .opinions
            .retain(|(other, _), _| *other != observer);
    }
}
