//! Operators who change the catalog of a simulated cluster, and the shelves on
//! which its nodes keep modules.
//!
//! Promises: a module is on a node's shelf some time after its bytes came, and
//! stays there until the disk is wiped; its bytes are its digest, since native
//! guests need none.

use bytes::Bytes;

use super::{Event, World};
use crate::protocol::catalog::{CatalogChange, Digest};
use crate::protocol::effect::{Address, Input, RequestId};
use crate::protocol::id::NodeId;
use crate::protocol::message::Message;

#[cfg(test)]
mod tests;

/// How long a node takes at most to keep a module, in milliseconds: it compiles it,
/// too.
const KEEP_MAX_MS: u64 = 40;

impl World {
    /// An operator asks a node for a change. Nobody is answered by a node that is
    /// down.
    pub fn publish(&mut self, node: usize, change: CatalogChange, timeout_ms: u64) -> RequestId {
        self.next_request += 1;
        let request = RequestId(self.next_request);
        if let CatalogChange::SetReconciler { module, .. } = &change
            && self.is_up(node)
        {
            self.keep_module(node, module.digest);
        }
        let publish = Input::Publish {
            request,
            change,
            timeout_ms,
        };
        self.step(node, publish);
        request
    }

    /// A node that starts knows what is on its shelf.
    pub(super) fn show_shelf(&mut self, node: usize) {
        let digests: Vec<Digest> = self.nodes[node].disk.shelf.iter().copied().collect();
        if !digests.is_empty() {
            self.step(node, Input::ModulesHeld { digests });
        }
    }

    pub(super) fn keep_module(&mut self, node: usize, digest: Digest) {
        self.nodes[node].disk.shelf.insert(digest);
        let digests = vec![digest];
        self.step(node, Input::ModulesHeld { digests });
    }

    /// The bytes of a module came.
    pub(super) fn plan_keeping(&mut self, node: usize, digest: Digest) {
        let life = self.nodes[node].life;
        let in_ms = (1 + self.below(KEEP_MAX_MS)) * self.slowness(node);
        self.plan(in_ms, Event::Kept { node, life, digest });
    }

    /// Who does not have it says nothing, and is asked again or not.
    pub(super) fn serve_module(
        &mut self,
        node: usize,
        to: NodeId,
        address: &Address,
        digest: Digest,
    ) {
        if self.nodes[node].disk.shelf.contains(&digest) {
            let bytes = Some(Bytes::copy_from_slice(&digest.0));
            self.send(node, to, address, Message::Module { digest, bytes });
        }
    }
}
