//! What shells look at, and what operators change by hand.
//!
//! Promises: looking changes nothing; what an operator changes is gossiped at once,
//! and is for the shell to persist before it answers.

use std::sync::Arc;

use super::super::catalog::Catalog;
use super::super::effect::Effect;
use super::super::id::NodeId;
use super::super::membership::{LeaveRefused, Membership, RemoveRefused};
use super::super::ring::Ring;
use super::super::time::Now;
use super::{Counters, Machine, Tables};

impl Machine {
    /// The tables that exist, resolved.
    pub fn tables(&self) -> &Arc<Tables> {
        &self.tables
    }

    /// What time it was when it was last stepped.
    pub fn now(&self) -> Now {
        self.now
    }

    /// The catalog.
    pub fn catalog(&self) -> &Catalog {
        self.membership.catalog()
    }

    /// Members, layout, and everything gossip knows.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// The ring of the newest layout, once there is one.
    pub fn ring(&self) -> Option<&Arc<Ring>> {
        self.ring.as_ref()
    }

    /// The ring that reads go by. While a layout is new it is an older one's, whose
    /// nodes all have their data.
    pub fn reading_ring(&self) -> Option<&Arc<Ring>> {
        self.reading_ring.as_ref()
    }

    /// The rings that a write must reach, the newest first. Whoever is a primary in
    /// one of them has reason to hold the item.
    pub fn writing_rings(&self) -> &[Arc<Ring>] {
        &self.writing_rings
    }

    /// Whether a peer seems to be up from here.
    pub fn is_up(&self, node: NodeId) -> bool {
        self.membership.is_up(node)
    }

    /// How many hints are held for a node, about.
    pub fn hints_held(&self, node: NodeId) -> u64 {
        self.hints.held(node)
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        Counters {
            hints_held: self.hints.total(),
            ..self.counters
        }
    }

    /// Whether clients can be served, or why not.
    pub fn readiness(&self) -> Result<(), String> {
        self.membership
            .is_ready(self.now.monotonic_ms)
            .map_err(|why| why.to_string())?;
        if self.ring.is_none() {
            return Err("no layout is known yet".to_owned());
        }
        Ok(())
    }

    /// Changes tables or reconcilers, as an operator asks. What changed is
    /// gossiped at once; the shell persists it before it answers.
    pub fn change_catalog<T>(
        &mut self,
        now: Now,
        change: impl FnOnce(&mut Catalog) -> T,
    ) -> (T, Vec<Effect>) {
        self.now = now;
        let (result, gossip) = self.membership.change_catalog(change);
        self.on_gossip(gossip);
        self.run_queues();
        (result, std::mem::take(&mut self.out))
    }

    /// This node begins to leave the cluster. The shell persists it before it
    /// answers.
    pub fn leave(&mut self, now: Now) -> (Result<(), LeaveRefused>, Vec<Effect>) {
        self.now = now;
        let (result, gossip) = self.membership.leave();
        self.on_gossip(gossip);
        self.run_queues();
        (result, std::mem::take(&mut self.out))
    }

    /// Removes a dead member. The shell persists it before it answers.
    pub fn remove(&mut self, now: Now, node: NodeId) -> (Result<(), RemoveRefused>, Vec<Effect>) {
        self.now = now;
        let (result, gossip) = self.membership.remove(node);
        self.on_gossip(gossip);
        self.run_queues();
        (result, std::mem::take(&mut self.out))
    }
}
