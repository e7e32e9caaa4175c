//! The clock by which calls are interrupted.
//!
//! Promises: while a call is in hand the engine's epoch is counted on every
//! [`EPOCH_MS`]; when there has been none for [`REST_AFTER_EPOCHS`] nobody counts, so
//! that a node that folds nothing does not wake its machine a hundred times a second.
//! Where calls come often they wake nobody: two counters are all that they touch.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use wasmtime::{Engine, EngineWeak};

/// How often the engine counts an epoch, in milliseconds.
pub const EPOCH_MS: u64 = 10;
/// After how many epochs without a call the counting rests: waking a thread costs as
/// much as a fold, and so is done once in a second at most.
const REST_AFTER_EPOCHS: u32 = 100;

/// Counts epochs, on a thread that ends with it.
pub struct Epochs {
    calls: Arc<Calls>,
    thread: Thread,
}

#[derive(Default)]
struct Calls {
    begun: AtomicU64,
    in_hand: AtomicU64,
    is_resting: AtomicBool,
    has_ended: AtomicBool,
}

/// A call, until it is dropped.
pub struct InHand<'e>(&'e Calls);

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.0.in_hand.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Epochs {
    /// Starts the thread.
    pub fn of(engine: &Engine) -> io::Result<Self> {
        let calls = Arc::new(Calls::default());
        let engine = engine.weak();
        let theirs = calls.clone();
        let spawned = thread::Builder::new()
            .name("guest-epochs".to_owned())
            .spawn(move || theirs.count(&engine))?;
        let thread = spawned.thread().clone();
        Ok(Epochs { calls, thread })
    }

    /// Has epochs counted for as long as what it returns is kept.
    pub fn begin(&self) -> InHand<'_> {
        self.calls.begun.fetch_add(1, Ordering::Relaxed);
        // Either this sees that the thread is about to rest, or the thread sees the call:
        // each writes its own before it reads the other's, in one order for all.
        self.calls.in_hand.fetch_add(1, Ordering::SeqCst);
        if self.calls.is_resting.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
        InHand(&self.calls)
    }

    /// Whether nobody counts, since nobody has called for a while.
    #[cfg(test)]
    pub fn are_resting(&self) -> bool {
        self.calls.is_resting.load(Ordering::SeqCst)
    }
}

impl Drop for Epochs {
    fn drop(&mut self) {
        self.calls.has_ended.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

impl Calls {
    fn count(&self, engine: &EngineWeak) {
        let (mut begun_before, mut idle_epochs) = (0, 0);
        while !self.has_ended.load(Ordering::SeqCst) {
            thread::park_timeout(Duration::from_millis(EPOCH_MS));
            match engine.upgrade() {
                Some(engine) => engine.increment_epoch(),
                None => return,
            }
            let begun = self.begun.load(Ordering::Relaxed);
            // One that is in hand for long keeps it from resting, and not from trying to.
            idle_epochs = if begun == begun_before {
                idle_epochs + 1
            } else {
                0
            };
            begun_before = begun;
            if idle_epochs >= REST_AFTER_EPOCHS {
                self.rest();
                idle_epochs = 0;
            }
        }
    }

    fn rest(&self) {
        self.is_resting.store(true, Ordering::SeqCst);
        while self.in_hand.load(Ordering::SeqCst) == 0 && !self.has_ended.load(Ordering::SeqCst) {
            thread::park();
        }
        self.is_resting.store(false, Ordering::SeqCst);
    }
}
