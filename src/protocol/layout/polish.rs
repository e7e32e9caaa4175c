//! Polish: undoes moves that proved needless.
//!
//! Promises: takes a table that is right and leaves it right, with as many
//! replicas moved or fewer. Repair gives to the neediest first and fixes whole
//! targets before it knows what the zones will ask for, so now and then a
//! replica can return to where it was while others, which moved anyway, or
//! another rounding make up for it: a cycle of cost −1 in the flow that
//! `repair` describes.
//!
//! Does not look for cycles that must first move something else, and stops
//! after `MAX_QUESTIONS`: what is left then is a little movement.

use std::collections::VecDeque;

use super::repair::{Pairs, Table};

/// How often polish may ask whether a partition may pass from one node to
/// another. A join or a leave takes a few thousand questions; the bound is for
/// a cluster that is born with hundreds of nodes at once. Some 50 ms.
const MAX_QUESTIONS: u32 = 2_000_000;

/// A step that moves no replica more than were moved before.
#[derive(Clone, Copy)]
enum Step {
    /// The partition goes from one node to the other.
    Pass {
        partition: usize,
        from: u16,
        to: u16,
    },
    /// One node is rounded up, and for it another one down.
    Round { up: u16, down: u16 },
}

impl Table<'_> {
    /// Returns replicas to where they were while that can be made up for.
    pub(super) fn polish(&mut self) {
        let mut questions = MAX_QUESTIONS;
        let mut again = true;
        while std::mem::take(&mut again) {
            // What failed between two nodes fails for their other partitions
            // too, as good as always, until something changes.
            let mut failed = Pairs::new(self.held.len(), self.held.len());
            for partition in self.partitions() {
                let left: Vec<u16> = self.left(partition).collect();
                for to in left {
                    let new = |&from: &u16| {
                        !self.before.contains(from, partition) && self.may_pass(partition, from, to)
                    };
                    let newcomers: Vec<u16> = self.holders(partition).filter(new).collect();
                    for from in newcomers {
                        if failed.contains(from, to as usize) {
                            continue;
                        }
                        if self.undo(partition, from, to, &mut questions) {
                            again = true;
                            break;
                        }
                        failed.insert(from, to as usize);
                    }
                }
                if questions == 0 {
                    return;
                }
            }
        }
    }

    /// Returns the partition from a node to which it moved to one that had it,
    /// if free steps can make up for it.
    fn undo(&mut self, partition: usize, from: u16, to: u16, questions: &mut u32) -> bool {
        self.replace(partition, from, to);
        if let Some(steps) = self.free_steps(to, from, questions) {
            let done = steps.iter().take_while(|step| self.take(**step)).count();
            if done == steps.len() {
                return true;
            }
            // Two steps on one partition, each allowed, but not both.
            steps[..done]
                .iter()
                .rev()
                .for_each(|step| self.take_back(*step));
        }
        self.replace(partition, to, from);
        false
    }

    fn take(&mut self, step: Step) -> bool {
        match step {
            Step::Pass {
                partition,
                from,
                to,
            } => {
                let allowed = self.may_pass(partition, from, to);
                if allowed {
                    self.replace(partition, from, to);
                }
                allowed
            }
            Step::Round { up, down } => {
                self.target[up as usize] += 1;
                self.target[down as usize] -= 1;
                true
            }
        }
    }

    fn take_back(&mut self, step: Step) {
        match step {
            Step::Pass {
                partition,
                from,
                to,
            } => self.replace(partition, to, from),
            Step::Round { up, down } => {
                self.target[up as usize] -= 1;
                self.target[down as usize] += 1;
            }
        }
    }

    /// The fewest free steps by which one replica too many on `start` becomes
    /// one more on `end`.
    fn free_steps(&self, start: u16, end: u16, questions: &mut u32) -> Option<Vec<Step>> {
        let nodes = self.held.len() as u16;
        let mut came: Vec<Option<Step>> = vec![None; self.held.len()];
        let mut rounded = false;
        let mut queue = VecDeque::from([start]);
        while let Some(from) = queue.pop_front() {
            if from == end {
                return Some(trace(&came, start, end));
            }
            if !rounded && self.may_round_up(from) {
                // Whoever is rounded down instead has one too many then.
                rounded = true;
                for down in (0..nodes).filter(|&node| self.may_round_down(node)) {
                    if down != start && came[down as usize].is_none() {
                        came[down as usize] = Some(Step::Round { up: from, down });
                        queue.push_back(down);
                    }
                }
            }
            for partition in self.now.of(from) {
                // What is new here may go on to anyone; what was here before
                // may only go where it was before too.
                let new = !self.before.contains(from, partition);
                let everyone = if new { 0..nodes } else { 0..0 };
                let returns = self.left(partition).filter(|_| !new);
                for to in everyone.chain(returns) {
                    if to == start || came[to as usize].is_some() {
                        continue;
                    }
                    *questions = questions.checked_sub(1)?;
                    if self.may_pass(partition, from, to) {
                        came[to as usize] = Some(Step::Pass {
                            partition,
                            from,
                            to,
                        });
                        queue.push_back(to);
                    }
                }
            }
        }
        None
    }
}

fn trace(came: &[Option<Step>], start: u16, end: u16) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut at = end;
    while at != start {
        let step = came[at as usize].expect("the search came this way");
        steps.push(step);
        at = match step {
            Step::Pass { from, .. } => from,
            Step::Round { up, .. } => up,
        };
    }
    steps.reverse();
    steps
}
