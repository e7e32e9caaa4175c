//! The simulated network: how long messages take, and which of them arrive.
//!
//! Promises: links differ by direction; several faults may hold one link, and it
//! carries messages again when the last of them lets go; a clogged link keeps its
//! messages and gives them up, in their order, when it is freed; a cut link loses
//! them. Whether and when one message arrives is for the world's dice.

use std::collections::BTreeMap;

use crate::protocol::id::NodeId;

/// A message on its way.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub from: usize,
    pub sender: NodeId,
    pub to: usize,
    /// The life of the receiver that the connection was made with: a process
    /// that starts anew gets nothing that was sent to the one before it.
    pub life: u64,
    pub bytes: Vec<u8>,
}

/// What the links between nodes are like.
#[derive(Debug, Default)]
pub(super) struct Network {
    /// Links that lose everything, and how many faults cut each.
    cuts: BTreeMap<(usize, usize), u32>,
    /// Links that keep everything, how many faults clog each, and what waits.
    clogs: BTreeMap<(usize, usize), Clog>,
    /// Added to the loss of the settings while a fault says so, in percent.
    pub extra_loss: u64,
    /// Added to the duplication of the settings, in percent.
    pub extra_duplication: u64,
    /// Delays are drawn from 1..=this while a fault says so.
    pub delay_max_ms: Option<u64>,
}

#[derive(Debug, Default)]
struct Clog {
    holders: u32,
    waiting: Vec<Frame>,
}

/// What becomes of a message now.
pub(super) enum Fate {
    Goes(Frame),
    Kept,
    Lost,
}

impl Network {
    pub fn cut(&mut self, from: usize, to: usize) {
        *self.cuts.entry((from, to)).or_default() += 1;
    }

    pub fn mend(&mut self, from: usize, to: usize) {
        if let Some(holders) = self.cuts.get_mut(&(from, to)) {
            *holders -= 1;
            if *holders == 0 {
                self.cuts.remove(&(from, to));
            }
        }
    }

    pub fn mend_all(&mut self) {
        self.cuts.clear();
    }

    pub fn clog(&mut self, from: usize, to: usize) {
        self.clogs.entry((from, to)).or_default().holders += 1;
    }

    /// Frees a link from one of its faults; what waited is returned when it was
    /// the last.
    pub fn free(&mut self, from: usize, to: usize) -> Vec<Frame> {
        if let Some(clog) = self.clogs.get_mut(&(from, to)) {
            clog.holders -= 1;
            if clog.holders == 0
                && let Some(clog) = self.clogs.remove(&(from, to))
            {
                return clog.waiting;
            }
        }
        Vec::new()
    }

    /// Whether nothing arrives from the one at the other just now.
    pub fn is_broken(&self, from: usize, to: usize) -> bool {
        self.cuts.contains_key(&(from, to)) || self.clogs.contains_key(&(from, to))
    }

    pub fn fate(&mut self, frame: Frame) -> Fate {
        let link = (frame.from, frame.to);
        if self.cuts.contains_key(&link) {
            return Fate::Lost;
        }
        match self.clogs.get_mut(&link) {
            Some(clog) => {
                clog.waiting.push(frame);
                Fate::Kept
            }
            None => Fate::Goes(frame),
        }
    }
}
