//! The way out to a connected peer: gathers what waits into writes, and makes them.
//!
//! Promises: frames leave whole, in the order of their letters, one batch after the
//! other; a letter is held until its frame has left, so that the end of a connection
//! leaves nobody's message unaccounted for; nothing here waits.

use tokio::net::tcp::OwnedWriteHalf;
use tracing::warn;

use crate::protocol::id::{ClusterId, NodeId};
use crate::transport::codec;

use super::Shared;
use super::link::{Letter, Link};

/// How many bytes of frames one write gathers, about: everything that waits, in
/// all but the largest rushes.
const WRITE_BYTES: usize = 1 << 20;
/// A write buffer that grew beyond this for a large frame is given back.
const KEEP_BYTES: usize = 2 * WRITE_BYTES;
/// Nor is room for more letters than this kept.
const KEEP_LETTERS: usize = 1024;

/// How things stand after a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outlook {
    /// What was taken has left, or somebody else is at it.
    Good,
    /// The kernel takes no more for now.
    Waits,
    /// The link's task has something to see to.
    Wants,
}

/// What one write gathers. A connection has one, whose room is used again.
#[derive(Default)]
struct Batch {
    letters: Vec<Letter>,
    /// Their frames, one after the other.
    frames: Vec<u8>,
    /// Where each letter's frame ends.
    ends: Vec<usize>,
    /// How many bytes of the frames have left.
    left: usize,
}

impl Batch {
    fn clear(&mut self) {
        self.letters.clear();
        self.frames.clear();
        self.ends.clear();
        self.left = 0;
        if self.frames.capacity() > KEEP_BYTES {
            self.frames = Vec::new();
        }
        if self.letters.capacity() > KEEP_LETTERS {
            self.letters = Vec::new();
            self.ends = Vec::new();
        }
    }
}

/// What the link's task has to see to.
#[derive(Default)]
pub(super) struct Troubles {
    /// Letters for another node than the one that listens.
    pub misdirected: Vec<Letter>,
    /// Why nothing more can be written.
    pub error: Option<std::io::Error>,
    /// This node has joined a cluster since the handshake: the peer should know.
    pub is_outdated: bool,
}

/// The writing half of a connection.
pub(super) struct Outlet {
    stream: OwnedWriteHalf,
    peer: NodeId,
    /// Which cluster this node said it belongs to.
    met_as: Option<ClusterId>,
    batch: Batch,
    /// Bytes of frames written in the connection's life.
    written: u64,
    troubles: Troubles,
}

impl Outlet {
    pub fn new(stream: OwnedWriteHalf, peer: NodeId, met_as: Option<ClusterId>) -> Self {
        Outlet {
            stream,
            peer,
            met_as,
            batch: Batch::default(),
            written: 0,
            troubles: Troubles::default(),
        }
    }

    /// Bytes of frames written in the connection's life.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Whether no frame is waiting to leave.
    pub fn is_idle(&self) -> bool {
        self.batch.letters.is_empty()
    }

    /// What went wrong since it was asked last.
    pub fn troubles(&mut self) -> Troubles {
        std::mem::take(&mut self.troubles)
    }

    /// What never left in full, and can therefore never be acted on; and the stream.
    pub fn end(self) -> (Vec<Letter>, OwnedWriteHalf) {
        let Batch {
            letters,
            ends,
            left,
            ..
        } = self.batch;
        let mut lost = self.troubles.misdirected;
        let unsent = letters.into_iter().zip(ends);
        lost.extend(unsent.filter_map(|(letter, end)| (end > left).then_some(letter)));
        (lost, self.stream)
    }

    /// Writes what is left of the last batch, or a batch of what waits at the link.
    pub fn write_some(&mut self, link: &Link, shared: &Shared) -> Outlook {
        if self.batch.letters.is_empty() {
            if self.met_as != shared.cluster() {
                self.troubles.is_outdated = true;
                return Outlook::Wants;
            }
            link.take(WRITE_BYTES, &mut self.batch.letters);
            self.sort_out(link);
            for letter in &self.batch.letters {
                codec::encode(&letter.message, &mut self.batch.frames)
                    .expect("its size was checked when it was queued");
                self.batch.ends.push(self.batch.frames.len());
            }
        }
        while self.batch.left < self.batch.frames.len() {
            match self.stream.try_write(&self.batch.frames[self.batch.left..]) {
                Ok(0) => return self.broken(std::io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.batch.left += written;
                    self.written += written as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    return Outlook::Waits;
                }
                Err(error) => return self.broken(error),
            }
        }
        self.batch.clear();
        match self.troubles.misdirected.is_empty() {
            true => Outlook::Good,
            false => Outlook::Wants,
        }
    }

    fn broken(&mut self, error: std::io::Error) -> Outlook {
        self.troubles.error = Some(error);
        Outlook::Wants
    }

    /// Puts aside what is for another node than the one that listens.
    fn sort_out(&mut self, link: &Link) {
        let peer = self.peer;
        let is_misdirected = |letter: &mut Letter| letter.to.is_some_and(|to| to != peer);
        let misdirected = &mut self.troubles.misdirected;
        let before = misdirected.len();
        misdirected.extend(self.batch.letters.extract_if(.., is_misdirected));
        let messages = misdirected.len() - before;
        if messages > 0 {
            warn!(
                address = %link.address(), %peer, messages,
                "another node listens where messages were to go"
            );
        }
    }
}
