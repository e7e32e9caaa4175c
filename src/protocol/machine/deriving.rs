//! How a node's trees are made: from its rows, a few at a time, and by every
//! change; and what is done about rows that cannot be read.
//!
//! Promises: trees follow the rows as `trees.rs` says; a damaged row is filled from
//! every other owner that lives, and is given up only when none of them has it.

use std::collections::BTreeMap;

use super::super::effect::{LeafChange, StoreError, StoreReply, StoreRequest};
use super::super::id::{Partition, TableId};
use super::super::trees::{Class, LEAVES_PER_REQUEST, NO_CLASS};
use super::background::{Chore, Took};
use super::exchange::Exchanges;
use super::{Job, Machine};

/// Every how many exchange intervals all trees are derived from the rows. At
/// an interval of a minute and a million rows that is some seconds of one core
/// in ten minutes.
const INTERVALS_PER_DERIVATION: u64 = 10;

/// How many leaves are derived at once while clients are served: that holds up the
/// writer of the partition's file for a fraction of a millisecond.
const POLITE_LEAVES: usize = 64;

impl Machine {
    /// Takes note of tables that came, went, or changed their number of replicas.
    pub(super) fn note_classes(&mut self) {
        let classes: BTreeMap<TableId, Class> = self
            .tables_by_id
            .values()
            .map(|table| {
                (
                    table.id,
                    table.definition.n.min(u32::from(u8::MAX)) as Class,
                )
            })
            .collect();
        // Rows of a table that is new here were counted as nobody's, if there are
        // any: writes come before news.
        let exchanges = &mut self.exchanges;
        let changed = exchanges
            .classes
            .iter()
            .any(|(id, class)| classes.get(id) != Some(class));
        let grown = classes.len() > exchanges.classes.len();
        if changed || (grown && exchanges.trees.has_class(NO_CLASS)) {
            exchanges.trees.forget_all();
        }
        exchanges.classes = classes;
    }

    /// A row changed here.
    pub(super) fn on_leaf_change(&mut self, change: &LeafChange) {
        let class = self.exchanges.class_of(&change.key);
        self.exchanges.trees.on_change(change, class);
        if change.mended {
            // Hints for it were passed over while it could not be read, and may have
            // been taken for none.
            self.hints_counted = false;
        }
    }

    /// A row could not be read: its partition is looked at whole, and soon.
    pub(super) fn on_damage(&mut self, partition: Partition) {
        self.exchanges.trees.suspect(partition);
    }

    /// Asks the store for the next leaves, if it is time.
    pub(super) fn derive(&mut self) {
        let upkeep = self.exchanges.upkeep;
        let every_ms = upkeep
            .exchange_interval_ms
            .saturating_mul(INTERVALS_PER_DERIVATION)
            .min(upkeep.reap_after_ms.max(upkeep.exchange_interval_ms));
        let now_ms = self.now.monotonic_ms;
        let Exchanges {
            trees, background, ..
        } = &mut self.exchanges;
        if !background.may_begin(Chore::Deriving, now_ms) {
            return;
        }
        if let Some((partition, after)) = trees.next_request(now_ms, every_ms) {
            background.begin(Chore::Deriving, now_ms);
            let request = StoreRequest::Derive {
                partition,
                after,
                limit: background.step_size(LEAVES_PER_REQUEST, POLITE_LEAVES),
            };
            self.exchanges.derive_begun_ms = now_ms;
            self.store(Job::Derive(partition), request);
        }
    }

    pub(super) fn on_derive(
        &mut self,
        partition: Partition,
        reply: Result<StoreReply, StoreError>,
    ) {
        let now_ms = self.now.monotonic_ms;
        let leaves = match &reply {
            Ok(StoreReply::Leaves { leaves, .. }) => leaves.len(),
            _ => 0,
        };
        let took = Took {
            begun_ms: self.exchanges.derive_begun_ms,
            now_ms,
        };
        self.exchanges
            .background
            .on_done(Chore::Deriving, leaves, 0, took);
        match reply {
            Ok(StoreReply::Leaves { leaves, done }) => {
                self.note_tombstones(partition, &leaves);
                let damaged = leaves.iter().filter(|leaf| leaf.hash.is_none());
                let damaged = damaged.map(|leaf| leaf.key.clone());
                self.exchanges.damaged.extend(damaged);
                let Exchanges { trees, classes, .. } = &mut self.exchanges;
                let class_of = |table| classes.get(&table).copied().unwrap_or(NO_CLASS);
                let found = trees.on_leaves(&leaves, done, class_of);
                if let Some(found) = found {
                    self.counters.partitions_derived += 1;
                    self.counters.trees_corrected += u64::from(found.differed);
                    self.on_damaged_rows(found.partition);
                }
                self.derive();
            }
            Ok(other) => unreachable!("leaves were asked for, not {other:?}"),
            Err(_) => {
                self.exchanges.damaged.clear();
                self.exchanges.trees.on_failed();
            }
        }
    }

    /// Rows that cannot be read are filled from the other owners. One that none of
    /// them has, and one that is nobody's business here, is given up: an error for
    /// ever would keep even new writes from it.
    fn on_damaged_rows(&mut self, partition: Partition) {
        let damaged = std::mem::take(&mut self.exchanges.damaged);
        let all_asked = self.exchanges.filling.take_refilled(partition);
        let mut given_up = Vec::new();
        let mut wanted = false;
        for key in damaged {
            let class = self.exchanges.class_of(&key);
            let owned = class == NO_CLASS || !self.is_stray(partition, class);
            if all_asked || !owned {
                given_up.push(key);
            } else {
                wanted = true;
            }
        }
        if wanted {
            self.refill(partition);
        }
        if !given_up.is_empty() && self.writing_rings.len() == 1 {
            self.counters.rows_given_up += given_up.len() as u64;
            let request = StoreRequest::ForgetDamaged {
                partition,
                keys: given_up,
            };
            self.store(Job::ForgetDamaged, request);
        }
    }
}
