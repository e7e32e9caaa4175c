//! The kinds of faults, and sets of them as people write them.
//!
//! Promises: a set is read back from what it prints; a name that is no fault's is
//! answered with those that there are.

use std::fmt;
use std::str::FromStr;

/// One kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FaultKind {
    /// All messages take long, and overtake one another more than usual.
    Delay,
    Loss,
    Duplication,
    /// One link carries nothing, one way.
    OneWay,
    /// Two groups cannot hear each other, or only one way, or but for one node
    /// that hears both.
    Partition,
    /// The links of some nodes keep what they should carry, one after the other,
    /// and give it up in another order (FoundationDB's swizzle-clogging).
    Clog,
    /// Everything that a node does takes twenty times as long.
    SlowNode,
    SlowDisk,
    /// A process stands still, while its clocks go on.
    Pause,
    /// A process is killed at some event, in the midst of it.
    Kill,
    /// A machine falls silent, and loses what its durability does not promise.
    PowerLoss,
    DiskFull,
    ReadErrors,
    /// A wall clock is set forwards or back.
    ClockStep,
    /// Clocks that are off and too fast from the beginning.
    ClockDrift,
    /// A node's modules trap, decline or are missing.
    Modules,
    /// A node loses its disk.
    Wipe,
    /// A node gets an old copy of its disk back, its identity's too.
    OldCopy,
    /// A stored row cannot be read any more.
    Corruption,
    /// A further node joins.
    Join,
    /// A node is asked to leave.
    Leave,
    /// A node dies for good, and is removed.
    Remove,
    /// A machine falls silent while its store is being written: some files have what
    /// they were given, others not.
    TornWrites,
    /// A disk says that it has synced what it has not; then its power fails.
    LyingDisk,
}

impl FaultKind {
    pub const ALL: [FaultKind; 24] = [
        FaultKind::Delay,
        FaultKind::Loss,
        FaultKind::Duplication,
        FaultKind::OneWay,
        FaultKind::Partition,
        FaultKind::Clog,
        FaultKind::SlowNode,
        FaultKind::SlowDisk,
        FaultKind::Pause,
        FaultKind::Kill,
        FaultKind::PowerLoss,
        FaultKind::DiskFull,
        FaultKind::ReadErrors,
        FaultKind::ClockStep,
        FaultKind::ClockDrift,
        FaultKind::Modules,
        FaultKind::Wipe,
        FaultKind::OldCopy,
        FaultKind::Corruption,
        FaultKind::Join,
        FaultKind::Leave,
        FaultKind::Remove,
        FaultKind::TornWrites,
        FaultKind::LyingDisk,
    ];

    pub fn name(self) -> &'static str {
        match self {
            FaultKind::Delay => "delay",
            FaultKind::Loss => "loss",
            FaultKind::Duplication => "duplication",
            FaultKind::OneWay => "one-way",
            FaultKind::Partition => "partition",
            FaultKind::Clog => "clog",
            FaultKind::SlowNode => "slow-node",
            FaultKind::SlowDisk => "slow-disk",
            FaultKind::Pause => "pause",
            FaultKind::Kill => "kill",
            FaultKind::PowerLoss => "power-loss",
            FaultKind::DiskFull => "disk-full",
            FaultKind::ReadErrors => "read-errors",
            FaultKind::ClockStep => "clock-step",
            FaultKind::ClockDrift => "clock-drift",
            FaultKind::Modules => "modules",
            FaultKind::Wipe => "wipe",
            FaultKind::OldCopy => "old-copy",
            FaultKind::Corruption => "corruption",
            FaultKind::Join => "join",
            FaultKind::Leave => "leave",
            FaultKind::Remove => "remove",
            FaultKind::TornWrites => "torn-writes",
            FaultKind::LyingDisk => "lying-disk",
        }
    }
}

/// Some kinds of faults.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultSet(u32);

impl FaultSet {
    pub const NONE: FaultSet = FaultSet(0);

    pub fn of(kinds: &[FaultKind]) -> Self {
        kinds
            .iter()
            .fold(FaultSet::NONE, |set, kind| set.with(*kind))
    }

    pub fn with(self, kind: FaultKind) -> Self {
        FaultSet(self.0 | 1 << kind as u32)
    }

    pub fn without(self, kind: FaultKind) -> Self {
        FaultSet(self.0 & !(1 << kind as u32))
    }

    pub fn has(self, kind: FaultKind) -> bool {
        self.0 & (1 << kind as u32) != 0
    }

    pub fn has_any(self, kinds: &[FaultKind]) -> bool {
        self.0 & FaultSet::of(kinds).0 != 0
    }

    pub fn kinds(self) -> impl Iterator<Item = FaultKind> {
        FaultKind::ALL
            .into_iter()
            .filter(move |kind| self.has(*kind))
    }
}

impl fmt::Display for FaultSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.kinds().map(FaultKind::name).collect();
        f.write_str(if names.is_empty() { "none" } else { "" })?;
        f.write_str(&names.join(","))
    }
}

/// A name that is no fault's.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no fault is called {name:?}; there are: {}", FaultSet::of(&FaultKind::ALL))]
pub struct UnknownFault {
    name: String,
}

impl FromStr for FaultSet {
    type Err = UnknownFault;

    fn from_str(text: &str) -> Result<Self, UnknownFault> {
        if text == "none" {
            return Ok(FaultSet::NONE);
        }
        let mut set = FaultSet::NONE;
        for name in text
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
        {
            let kind = FaultKind::ALL.into_iter().find(|kind| kind.name() == name);
            set = set.with(kind.ok_or_else(|| UnknownFault {
                name: name.to_owned(),
            })?);
        }
        Ok(set)
    }
}
