//! Deliberately broken variants of the protocol, to show that tests notice.
//!
//! Promises: outside this crate's own tests every variant is a constant `false`,
//! and nothing of it is compiled in; inside, one variant at a time is on, for the
//! thread that asked for it. To add one: a line here, and `broken(Variant::It)`
//! where the code would do the wrong thing.

/// What can be broken. Each says what the code then does wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Variant {
    /// A node that lost its memory of an item mints under the epoch it had.
    EpochReused,
    /// A node that starts goes on with the epochs of its disk, which may have
    /// been put back from a copy.
    LifeGoesOn,
    /// A context's vector covers everything below its highest counter.
    VectorCoversCloud,
    /// A hint is forgotten when it is sent, not when it is acknowledged.
    HintDroppedEarly,
    /// A PUT's token covers siblings that its client never saw.
    TokenCoversUnseen,
    /// A replica acknowledges before its store has committed.
    AckBeforeCommit,
    /// A fallback that holds nothing counts towards R.
    EmptyFallbackCounts,
    /// A forwarded request that comes twice is carried out twice.
    ForwardTwice,
    /// Syncing keeps siblings that the other side has superseded.
    SyncKeepsDominated,
    /// A delta carries the context of the whole row.
    DeltaCarriesRow,
    /// Read repair reaches nobody.
    RepairReachesNobody,
    /// A primary that is slow, not down, gets no hint.
    SlowPrimaryUnhinted,
    /// Contexts are truncated by what peers send and not by writes.
    TruncatedOnOnePath,
    /// A replica that failed to read says that it has nothing.
    FailedReadIsAbsent,
    /// A write is answered one acknowledgement early.
    AnsweredOneEarly,
    /// Strict quorums count fallbacks.
    StrictCountsAnyone,
    /// A fold is stored although its item has changed since.
    SwapWithoutCompare,
    /// A replica whose hash differs counts towards R all the same.
    StrangeHashCounts,
    /// A write's time is the wall clock's, whatever it saw.
    WallClockRules,
    /// A forwarded write that may have been carried out is tried elsewhere.
    ForwardRetriedBlindly,
    /// Tombstones are reaped by their age, and nobody is asked.
    ReapedByTime,
    /// A stray is forgotten before its owners say that they hold it.
    StrayDroppedEarly,
    /// A node calls itself filled at once.
    FilledByWord,
    /// Exchange takes what the other has, and gives nothing.
    ExchangeOneWay,
    /// Rows that go are not taken out of the trees.
    TreesKeepTheGone,
    /// A change of the catalog is taken when one node has it.
    PublishedByOne,
    /// Modules are said to be here that are not.
    OfferUnheld,
    /// A part of the catalog is said to be kept before it is on disk.
    AdoptInMemory,
}

/// Whether the variant is on.
#[cfg(not(test))]
#[inline(always)]
pub const fn broken(_: Variant) -> bool {
    false
}

/// Whether the variant is on.
#[cfg(test)]
pub fn broken(variant: Variant) -> bool {
    ON.get() == Some(variant)
}

#[cfg(test)]
thread_local! {
    static ON: std::cell::Cell<Option<Variant>> = const { std::cell::Cell::new(None) };
}

/// Switches every variant off: after a test that ended in a panic.
#[cfg(test)]
pub fn clear() {
    ON.set(None);
}

/// Does something with a variant on.
#[cfg(test)]
pub fn with<T>(variant: Variant, something: impl FnOnce() -> T) -> T {
    let before = ON.replace(Some(variant));
    let result = something();
    ON.set(before);
    result
}
