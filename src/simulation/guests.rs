//! The simulated cluster's modules, and how they fail.
//!
//! Promises: each node's modules are those of [`NativeGuests`]; a fault makes
//! those of one node trap, decline or be missing until it is over.

use super::{Event, World};
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

impl World {
    pub(super) fn run_guest(&mut self, node: usize, job: JobId, request: &GuestRequest) {
        let reply = match self.nodes[node].modules {
            Modules::Work => NativeGuests::answer(request),
            Modules::Trap => GuestReply::Failed("a simulated trap".to_owned()),
            Modules::Decline => GuestReply::Unresolved,
            Modules::Missing => GuestReply::Missing,
        };
        let life = self.nodes[node].life;
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
