//! Requests by kind, status and code.
//!
//! Promises: a series is shown once something was counted in it, not before; the
//! counters of what nearly all requests come to are found by their place, since
//! hashing labels takes longer than all else that is counted of a request.

use std::sync::OnceLock;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Labelled;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// What a request is counted as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Get,
    Head,
    Put,
    Delete,
    Operation,
    Table,
    DryRun,
    Reconciler,
    Cluster,
    Health,
    Peer,
    Unknown,
}

impl Kind {
    /// How many there are.
    const COUNT: usize = Kind::Unknown as usize + 1;

    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Get => "get",
            Kind::Head => "head",
            Kind::Put => "put",
            Kind::Delete => "delete",
            Kind::Operation => "operation",
            Kind::Table => "table",
            Kind::DryRun => "dry_run",
            Kind::Reconciler => "reconciler",
            Kind::Cluster => "cluster",
            Kind::Health => "health",
            Kind::Peer => "peer",
            Kind::Unknown => "unknown",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    kind: &'static str,
    status: u16,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

/// What requests of one kind usually come to, looked up when it was first needed.
#[derive(Default)]
struct Usual {
    ok: OnceLock<Counter>,
    no_content: OnceLock<Counter>,
    seconds: OnceLock<Histogram>,
}

/// All requests that were answered.
pub(super) struct Requests {
    counted: Labelled<RequestLabels, Counter>,
    seconds: Labelled<KindLabels, Histogram>,
    usual: [Usual; Kind::COUNT],
}

impl Requests {
    /// None yet.
    pub(super) fn new(registry: &mut Registry) -> Self {
        let counted = Labelled::default();
        registry.register("requests", "HTTP requests answered", counted.clone());
        let seconds = Labelled::<KindLabels, Histogram>::new_with_constructor(super::latency);
        registry.register(
            "request_seconds",
            "How long HTTP requests took",
            seconds.clone(),
        );
        Requests {
            counted,
            seconds,
            usual: Default::default(),
        }
    }

    /// One was answered.
    pub(super) fn count(&self, kind: Kind, status: u16, code: &'static str) {
        let labels = || RequestLabels {
            kind: kind.name(),
            status,
            code,
        };
        let usual = &self.usual[kind as usize];
        let place = match (status, code) {
            (200, "") => &usual.ok,
            (204, "") => &usual.no_content,
            _ => {
                self.counted.get_or_create(&labels()).inc();
                return;
            }
        };
        place
            .get_or_init(|| self.counted.get_or_create_owned(&labels()))
            .inc();
    }

    /// One took so long.
    pub(super) fn observe(&self, kind: Kind, seconds: f64) {
        let labels = KindLabels { kind: kind.name() };
        self.usual[kind as usize]
            .seconds
            .get_or_init(|| self.seconds.get_or_create_owned(&labels))
            .observe(seconds);
    }
}
