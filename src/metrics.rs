//! What a node counts, as OpenMetrics text for Prometheus.
//!
//! Everything is named `kinfold_…`. Counters end in `_total`, times are seconds.
//!
//! What there is stands in docs/operating.md, with what to make of it.
//!
//! `kind` of a request is one of [`Kind`]; `code` is the problem's
//! and empty when there was none. Promises: counting never blocks for long and
//! never fails; labels come from bounded sets (paths and keys are none).
//!
//! What others count already is handed to [`Metrics::text`] as [`Family`] values.

mod requests;

use std::collections::BTreeMap;
use std::fmt::Write;

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::protocol::catalog::{Catalog, Digest};
use crate::protocol::machine::Counters;
use crate::reconcile::ModuleFigures;
use crate::reconcile::quarantine::Trouble;
use crate::store::Figures;

pub use self::requests::Kind;
use self::requests::Requests;

/// Bounds of the latency histograms, in seconds: from a read out of memory to
/// beyond the default timeout, each a little over double the last.
const LATENCY_SECONDS: [f64; 14] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0,
];
/// Bounds of the histogram of siblings per read.
const SIBLINGS: [f64; 8] = [1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0];

/// A node's counters.
pub struct Metrics {
    registry: Registry,
    requests: Requests,
    in_flight: Gauge,
    read_siblings: Histogram,
    fold_seconds: Histogram,
}

fn latency() -> Histogram {
    Histogram::new(LATENCY_SECONDS)
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Counters that stand at nothing.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("kinfold");
        let requests = Requests::new(&mut registry);
        let in_flight = Gauge::default();
        registry.register(
            "requests_in_flight",
            "HTTP requests being carried out",
            in_flight.clone(),
        );
        let read_siblings = Histogram::new(SIBLINGS);
        registry.register(
            "read_siblings",
            "Siblings that reads met",
            read_siblings.clone(),
        );
        let fold_seconds = latency();
        registry.register(
            "fold_seconds",
            "How long folds took, waiting included",
            fold_seconds.clone(),
        );
        Metrics {
            registry,
            requests,
            in_flight,
            read_siblings,
            fold_seconds,
        }
    }

    /// A request came in. [`Self::request_finished`] must follow.
    pub fn request_started(&self) {
        self.in_flight.inc();
    }

    /// A request was answered, or its client went away (status 499).
    pub fn request_finished(&self, kind: Kind, status: u16, code: &'static str, seconds: f64) {
        self.in_flight.dec();
        self.requests.count(kind, status, code);
        self.requests.observe(kind, seconds);
    }

    /// A request was refused with 503 before anything was done for it.
    pub fn request_refused(&self, kind: Kind, code: &'static str) {
        self.requests.count(kind, 503, code);
    }

    /// A client's read met this many siblings.
    pub fn read_siblings(&self, count: u64) {
        self.read_siblings.observe(count as f64);
    }

    /// A module answered a request of the machine's.
    pub fn fold_finished(&self, seconds: f64) {
        self.fold_seconds.observe(seconds);
    }

    /// All of it as text, with what others have counted.
    pub fn text(&self, others: &[Family]) -> String {
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)
            .and_then(|()| {
                others
                    .iter()
                    .try_for_each(|family| family.encode(&mut text))
            })
            .and_then(|()| encode_eof(&mut text))
            .expect("writing to a String does not fail");
        text
    }
}

/// A metric that someone else counts, as of now.
#[derive(Clone, PartialEq, Debug)]
pub struct Family {
    /// With the prefix, without `_total`.
    pub name: &'static str,
    pub help: &'static str,
    pub samples: Samples,
}

/// The samples of a family, by their labels.
#[derive(Clone, PartialEq, Debug)]
pub enum Samples {
    Counter(Vec<(Labels, u64)>),
    Gauge(Vec<(Labels, f64)>),
    /// One histogram: upper bounds with how many fell below each but not below
    /// the last, how many lay beyond all, and the sum of all.
    Histogram {
        buckets: Vec<(f64, u64)>,
        beyond: u64,
        sum: f64,
    },
}

/// Names and values.
pub type Labels = Vec<(&'static str, String)>;

fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn write_labels(out: &mut String, labels: &Labels) -> std::fmt::Result {
    for (index, (name, value)) in labels.iter().enumerate() {
        let before = if index == 0 { '{' } else { ',' };
        write!(out, "{before}{name}=\"{}\"", escape(value))?;
    }
    out.write_str(if labels.is_empty() { "" } else { "}" })
}

impl Family {
    fn encode(&self, out: &mut String) -> std::fmt::Result {
        let Family { name, help, .. } = self;
        let kind = match self.samples {
            Samples::Counter(_) => "counter",
            Samples::Gauge(_) => "gauge",
            Samples::Histogram { .. } => "histogram",
        };
        writeln!(out, "# HELP {name} {help}.")?;
        writeln!(out, "# TYPE {name} {kind}")?;
        match &self.samples {
            Samples::Counter(samples) => samples.iter().try_for_each(|(labels, value)| {
                write!(out, "{name}_total")?;
                write_labels(out, labels)?;
                writeln!(out, " {value}")
            }),
            Samples::Gauge(samples) => samples.iter().try_for_each(|(labels, value)| {
                out.write_str(name)?;
                write_labels(out, labels)?;
                writeln!(out, " {value}")
            }),
            Samples::Histogram {
                buckets,
                beyond,
                sum,
            } => {
                let mut count = 0;
                for (bound, here) in buckets {
                    count += here;
                    writeln!(out, "{name}_bucket{{le=\"{bound:?}\"}} {count}")?;
                }
                count += beyond;
                writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {count}")?;
                writeln!(out, "{name}_sum {sum}")?;
                writeln!(out, "{name}_count {count}")
            }
        }
    }
}

/// A gauge without labels.
fn gauge(name: &'static str, help: &'static str, value: u64) -> Family {
    Family {
        name,
        help,
        samples: Samples::Gauge(vec![(Vec::new(), value as f64)]),
    }
}

/// A store's figures as families.
pub fn of_store(figures: &Figures) -> Vec<Family> {
    let depth = |queue: &str, depth: u64| (vec![("queue", queue.to_owned())], depth as f64);
    let buckets = figures
        .batch_sizes
        .iter()
        .enumerate()
        .map(|(power, count)| ((1_u64 << power) as f64, *count))
        .collect();
    vec![
        Family {
            name: "kinfold_store_queue_depth",
            help: "Requests that wait for the store",
            samples: Samples::Gauge(vec![
                depth("write", figures.write_queue_depth),
                depth("read", figures.read_queue_depth),
            ]),
        },
        gauge(
            "kinfold_store_unfiled_rows",
            "New rows that the store's indices do not know yet",
            figures.unfiled_rows,
        ),
        gauge(
            "kinfold_store_log_bytes",
            "How long the store's write-ahead logs are on the disk",
            figures.log_bytes,
        ),
        Family {
            name: "kinfold_store_batch_changes",
            help: "Changes in each transaction",
            samples: Samples::Histogram {
                buckets,
                beyond: 0,
                sum: figures.changes as f64,
            },
        },
    ]
}

/// What the machine counted, as families.
pub fn of_machine(counters: &Counters) -> Vec<Family> {
    let counter = |name, help, value| Family {
        name,
        help,
        samples: Samples::Counter(vec![(Vec::new(), value)]),
    };
    let outcome = |name: &str| vec![("outcome", name.to_owned())];
    let purpose = |name: &str| vec![("for", name.to_owned())];
    let direction = |name: &str| vec![("direction", name.to_owned())];
    vec![
        Family {
            name: "kinfold_quorums",
            help: "Quorums asked for, by outcome",
            samples: Samples::Counter(vec![
                (outcome("met"), counters.quorum_met),
                (outcome("unmet"), counters.quorum_unmet),
            ]),
        },
        Family {
            name: "kinfold_folds",
            help: "Folds asked for, by what for",
            samples: Samples::Counter(vec![
                (purpose("read"), counters.folds_of_reads),
                (purpose("write"), counters.folds_of_writes),
            ]),
        },
        counter(
            "kinfold_fold_failures",
            "Folds that a module, its absence or a full queue made fail",
            counters.failed_folds,
        ),
        counter(
            "kinfold_swap_conflicts",
            "Folds and operations made again because their item changed meanwhile",
            counters.swap_conflicts,
        ),
        counter(
            "kinfold_forwarded",
            "Requests handed to a coordinator",
            counters.forwarded,
        ),
        counter(
            "kinfold_hedges",
            "Requests that found a replica slow",
            counters.hedged,
        ),
        counter(
            "kinfold_read_repairs",
            "Replicas that were sent the join after a read",
            counters.read_repairs,
        ),
        counter(
            "kinfold_hints_stored",
            "Writes held here for a primary",
            counters.hints_noted,
        ),
        counter(
            "kinfold_hints_delivered",
            "Held writes that their primary has stored",
            counters.hints_delivered,
        ),
        gauge(
            "kinfold_hints_held",
            "Writes held now, about",
            counters.hints_held,
        ),
        counter(
            "kinfold_store_failures",
            "Store requests that failed",
            counters.store_failures,
        ),
        counter(
            "kinfold_exchange_roots",
            "Partitions compared with another owner's",
            counters.roots_compared,
        ),
        counter(
            "kinfold_exchange_differing",
            "Of those, partitions that differed",
            counters.trees_differing,
        ),
        Family {
            name: "kinfold_exchange_rows",
            help: "Rows that exchange, transfers and strays brought here or took from here",
            samples: Samples::Counter(vec![
                (direction("received"), counters.rows_received),
                (direction("given"), counters.rows_given),
            ]),
        },
        counter(
            "kinfold_exchange_failures",
            "Exchanges with a peer that did not end well, and are made again",
            counters.sessions_failed,
        ),
        counter(
            "kinfold_partitions_derived",
            "Partitions whose rows were read whole to check them",
            counters.partitions_derived,
        ),
        counter(
            "kinfold_trees_corrected",
            "Of those, partitions whose rows were not as the writes had left them",
            counters.trees_corrected,
        ),
        counter(
            "kinfold_rows_given_up",
            "Damaged rows that no other owner had either, forgotten",
            counters.rows_given_up,
        ),
        counter(
            "kinfold_strays_moved",
            "Rows handed over to their owners and forgotten here",
            counters.strays_moved,
        ),
        counter(
            "kinfold_tombstones_reaped",
            "Deletions forgotten, since nothing can contradict them any more",
            counters.tombstones_reaped,
        ),
        gauge(
            "kinfold_coordinated_in_flight",
            "Requests that this node coordinates now",
            counters.requests_in_hand,
        ),
    ]
}

/// How every module has fared, as families.
pub fn of_modules(health: &BTreeMap<Digest, ModuleFigures>) -> Vec<Family> {
    let by = |pick: fn(&ModuleFigures) -> u64| {
        let label = |digest: &Digest| vec![("digest", digest.to_string())];
        health
            .iter()
            .map(|(digest, health)| (label(digest), pick(health)))
            .collect()
    };
    vec![
        Family {
            name: "kinfold_module_runs",
            help: "What each module was run for: folds, operations, views",
            samples: Samples::Counter(by(|health| health.folds)),
        },
        Family {
            name: "kinfold_module_failures",
            help: "Runs of each module that failed",
            samples: Samples::Counter(by(|health| health.failures)),
        },
    ]
}

/// How the reconcilers have fared, by name: all of their digests together, but for
/// the quarantine, which is the current one's.
pub fn of_reconcilers(
    catalog: &Catalog,
    health: &BTreeMap<Digest, ModuleFigures>,
    troubles: &BTreeMap<Digest, Trouble>,
) -> Vec<Family> {
    let label = |name: &str| vec![("name", name.to_owned())];
    let sum = |pick: &dyn Fn(Digest) -> u64| {
        let reconcilers = catalog.reconcilers();
        let samples = reconcilers.map(|(name, definition)| {
            let digests = definition.modules.iter().map(|module| module.digest);
            (label(name), digests.map(pick).sum())
        });
        Samples::Counter(samples.collect())
    };
    let figure = |digest, pick: fn(&ModuleFigures) -> u64| health.get(&digest).map_or(0, pick);
    let is_quarantined = |digest: Digest| {
        let trouble = troubles.get(&digest);
        trouble.is_some_and(|trouble| trouble.quarantined_since_us.is_some())
    };
    let quarantined = catalog.reconcilers().map(|(name, definition)| {
        let quarantined = is_quarantined(definition.current);
        (label(name), f64::from(u8::from(quarantined)))
    });
    vec![
        Family {
            name: "kinfold_reconciler_runs",
            help: "What each reconciler was run for on this node: folds, operations, views",
            samples: sum(&|digest| figure(digest, |figures| figures.folds)),
        },
        Family {
            name: "kinfold_reconciler_failures",
            help: "Runs of each reconciler that failed",
            samples: sum(&|digest| figure(digest, |figures| figures.failures)),
        },
        Family {
            name: "kinfold_reconciler_fuel",
            help: "Fuel that each reconciler burnt",
            samples: sum(&|digest| figure(digest, |figures| figures.fuel)),
        },
        Family {
            name: "kinfold_reconciler_spared",
            help: "Requests that were answered without running a reconciler that fails",
            samples: sum(&|digest| troubles.get(&digest).map_or(0, |trouble| trouble.spared)),
        },
        Family {
            name: "kinfold_reconciler_quarantined",
            help: "Whether the current module of each reconciler is quarantined on this node",
            samples: Samples::Gauge(quarantined.collect()),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_shown() {
        let metrics = Metrics::new();
        metrics.request_started();
        metrics.request_started();
        metrics.request_finished(Kind::Put, 503, "quorum_unmet", 0.02);
        let spent = [(Kind::Get, 200), (Kind::Get, 204), (Kind::Get, 200)];
        for (kind, status) in spent {
            metrics.request_started();
            metrics.request_finished(kind, status, "", 0.02);
        }
        metrics.request_started();
        metrics.request_finished(Kind::Unknown, 200, "", 0.02);
        metrics.request_refused(Kind::Get, "overloaded");
        metrics.read_siblings(3);
        metrics.fold_finished(0.001);
        let figures = Figures {
            write_queue_depth: 7,
            commits: 3,
            changes: 6,
            batch_sizes: [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0],
            unfiled_rows: 21,
            log_bytes: 4096,
            ..Figures::default()
        };
        let mut others = of_store(&figures);
        others.extend(of_machine(&Counters {
            quorum_met: 6,
            folds_of_writes: 4,
            read_repairs: 1,
            hints_noted: 3,
            hints_delivered: 2,
            ..Counters::default()
        }));
        let digest = Digest::of(b"module");
        let fared = ModuleFigures {
            folds: 9,
            failures: 8,
            ..ModuleFigures::default()
        };
        others.extend(of_modules(&BTreeMap::from([(digest, fared)])));
        let module = format!("kinfold_module_failures_total{{digest=\"{digest}\"}} 8");
        others.push(Family {
            name: "kinfold_escaped",
            help: "Names that need escapes",
            samples: Samples::Gauge(vec![(vec![("node", "b\"\n\\".into())], 4.0)]),
        });
        others.push(Family {
            name: "kinfold_dropped",
            help: "Dropped",
            samples: Samples::Counter(vec![(Vec::new(), 5)]),
        });
        let text = metrics.text(&others);
        for line in [
            "kinfold_requests_total{kind=\"put\",status=\"503\",code=\"quorum_unmet\"} 1",
            "kinfold_request_seconds_bucket{le=\"0.025\",kind=\"put\"} 1",
            "kinfold_requests_total{kind=\"get\",status=\"200\",code=\"\"} 2",
            "kinfold_requests_total{kind=\"get\",status=\"204\",code=\"\"} 1",
            "kinfold_requests_total{kind=\"get\",status=\"503\",code=\"overloaded\"} 1",
            "kinfold_requests_total{kind=\"unknown\",status=\"200\",code=\"\"} 1",
            "kinfold_request_seconds_count{kind=\"get\"} 3",
            "kinfold_requests_in_flight 1",
            "kinfold_quorums_total{outcome=\"met\"} 6",
            "kinfold_folds_total{for=\"write\"} 4",
            &module,
            "kinfold_read_siblings_bucket{le=\"3.0\"} 1",
            "kinfold_read_repairs_total 1",
            "kinfold_hints_stored_total 3",
            "kinfold_hints_delivered_total 2",
            "kinfold_fold_seconds_count 1",
            "kinfold_store_queue_depth{queue=\"write\"} 7",
            "kinfold_store_unfiled_rows 21",
            "kinfold_store_log_bytes 4096",
            "kinfold_store_batch_changes_bucket{le=\"2.0\"} 2",
            "kinfold_store_batch_changes_bucket{le=\"+Inf\"} 3",
            "kinfold_store_batch_changes_count 3",
            "kinfold_escaped{node=\"b\\\"\\n\\\\\"} 4",
            "kinfold_dropped_total 5",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
        }
        // What never happened is not shown.
        assert_eq!(text.matches("kinfold_requests_total{").count(), 5, "{text}");
        assert_eq!(text.matches("kinfold_request_seconds_count{").count(), 3);
        assert!(text.ends_with("# EOF\n"));
        assert_eq!(text.matches("# EOF").count(), 1);
    }
}
