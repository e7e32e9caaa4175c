//! The simulated cluster's modules, and how they fail.
//!
//! Promises: each node's modules are those of [`NativeGuests`], or in a trial the
//! one under trial; a fault makes those of one node trap, decline or be missing
//! until it is over.

use std::rc::Rc;

use super::tables::propose_tables;
use super::trial::ledger::Ledger;
use super::{Event, World};
use crate::protocol::catalog::Catalog;
use crate::protocol::effect::{GuestReply, GuestRequest, JobId};
use crate::reconcile::native::NativeGuests;

/// How a node's modules behave.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Modules {
    #[default]
    Work,
    Trap,
    Decline,
    Missing,
}

/// What a cluster is asked about, and by what it folds.
pub(super) struct Scene {
    /// What every node's config says of the tables.
    pub tables: Rc<dyn Fn(&mut Catalog)>,
    /// Folds with the module under trial, and keeps book; none: the native ones.
    pub ledger: Option<Box<Ledger>>,
}

impl Default for Scene {
    fn default() -> Self {
        Scene {
            tables: Rc::new(propose_tables),
            ledger: None,
        }
    }
}

impl World {
    pub(super) fn run_guest(&mut self, node: usize, job: JobId, request: &GuestRequest) {
        let (life, at_ms) = (self.nodes[node].life, self.now_ms);
        let reply = match self.nodes[node].modules {
            Modules::Work => match &mut self.scene.ledger {
                Some(ledger) => ledger.answer(node, life, at_ms, job, request),
                None => NativeGuests::answer(request),
            },
            Modules::Trap => GuestReply::Failed("a simulated trap".to_owned()),
            Modules::Decline => GuestReply::Unresolved,
            Modules::Missing => GuestReply::Missing,
        };
        let in_ms = self.below(5) * self.slowness(node);
        self.plan(
            in_ms,
            Event::Guest {
                node,
                life,
                job,
                reply,
            },
        );
    }
}
