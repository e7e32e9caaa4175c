//! What the laws are tried on: siblings of sample values, and for data types the
//! histories of a few replicas.
//!
//! Promises: cases depend on the dice alone; no two writes of a case share a
//! dot, as no two writes of a cluster do; tombstones, equal times and equal
//! values are always among them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::{Answer, Subject, version};
use crate::clock::Dice;
use crate::protocol::catalog::ModuleKind;
use crate::protocol::dot::{Actor, Dot, Epoch};
use crate::protocol::effect::GuestSibling;
use crate::protocol::id::NodeId;

/// How many samples are drawn: few enough that they meet in many pairs.
const POOL: u32 = 64;
/// How many files a folder of samples may have, and how large each.
const MAX_SAMPLE_FILES: usize = 4096;
const MAX_SAMPLE_BYTES: u64 = 1 << 20;
/// How many replicas a history has at most, which is also how many siblings it
/// ends in.
pub(super) const REPLICAS: usize = 4;

/// Where the samples come from.
#[derive(Clone, Debug, Default)]
pub enum Samples {
    /// The module's own; failing these, general ones.
    #[default]
    Module,
    /// These: values, or operations for a data type.
    Given(Vec<Vec<u8>>),
}

/// Why a folder gives no samples.
#[derive(Debug, thiserror::Error)]
pub enum SamplesError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} has no files; put one sample in each")]
    Empty { path: PathBuf },
    #[error("{path} is larger than the {limit} bytes of a sample")]
    TooLarge { path: PathBuf, limit: u64 },
}

impl Samples {
    /// One sample for each file of the folder, in the order of their names.
    pub fn from_dir(folder: &Path) -> Result<Self, SamplesError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| SamplesError::Io { path, source }
        };
        let mut paths = Vec::new();
        for entry in fs::read_dir(folder).map_err(at(folder))? {
            let path = entry.map_err(at(folder))?.path();
            if path.is_file() {
                paths.push(path);
            }
        }
        paths.sort();
        paths.truncate(MAX_SAMPLE_FILES);
        if paths.is_empty() {
            return Err(SamplesError::Empty {
                path: folder.to_owned(),
            });
        }
        let mut samples = Vec::with_capacity(paths.len());
        for path in paths {
            if fs::metadata(&path).map_err(at(&path))?.len() > MAX_SAMPLE_BYTES {
                let limit = MAX_SAMPLE_BYTES;
                return Err(SamplesError::TooLarge { path, limit });
            }
            samples.push(fs::read(&path).map_err(at(&path))?);
        }
        Ok(Samples::Given(samples))
    }
}

/// One thing to try.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Case {
    /// Siblings as clients wrote them, sorted by dot.
    Values(Vec<GuestSibling>),
    /// What some replicas did, in order; the siblings are what they end up with.
    History(Vec<Step>),
}

/// One deed of one replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Step {
    pub replica: usize,
    pub deed: Deed,
    /// How much later than the step before; often not at all.
    pub later_us: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Deed {
    /// Applies an operation.
    Apply(Bytes),
    /// Takes in what that replica has.
    Merge(usize),
    /// Deletes the item.
    Delete,
}

/// The dot of the `counter`th write of one of the case's actors.
pub(super) fn dot(actor: usize, counter: u64) -> Dot {
    Dot {
        actor: Actor {
            node: NodeId(actor as u64 + 1),
            epoch: Epoch(0),
        },
        counter,
    }
}

/// A number below `bound`, which is at least one.
fn below(dice: &mut Dice, bound: u64) -> u64 {
    dice.next_u64() % bound
}

fn pick<'a, T>(dice: &mut Dice, from: &'a [T]) -> &'a T {
    let index = below(dice, from.len() as u64);
    &from[index as usize]
}

/// Draws cases.
pub(super) struct Source {
    kind: ModuleKind,
    pool: Vec<Bytes>,
}

impl Source {
    /// None when the module accepts no sample.
    pub fn new(subject: &dyn Subject, samples: &Samples, dice: &mut Dice) -> Option<Self> {
        let drawn = match samples {
            Samples::Given(samples) => samples.clone(),
            Samples::Module => subject
                .samples(dice.next_u64(), POOL)
                .filter(|samples| !samples.is_empty())
                .unwrap_or_else(|| general_samples(dice)),
        };
        let kind = subject.kind();
        let accepted = |sample: &Bytes| {
            let answer = match kind {
                ModuleKind::Reconciler => subject.fold(&[GuestSibling {
                    dot: dot(0, 1),
                    version: version(Some(sample.clone()), 1),
                }]),
                // An operation may need a state that has come further.
                ModuleKind::DataType => Answer::Unresolved,
            };
            matches!(answer, Answer::Value(_) | Answer::Unresolved)
        };
        let pool: Vec<Bytes> = drawn
            .into_iter()
            .map(Bytes::from)
            .filter(accepted)
            .collect();
        (!pool.is_empty()).then_some(Source { kind, pool })
    }

    /// The next case.
    pub fn case(&self, dice: &mut Dice) -> Case {
        match self.kind {
            ModuleKind::Reconciler => Case::Values(self.siblings(dice)),
            ModuleKind::DataType => Case::History(self.history(dice)),
        }
    }

    fn siblings(&self, dice: &mut Dice) -> Vec<GuestSibling> {
        // Mostly two or three: small cases find most of what there is to find.
        let count = *pick(dice, &[1, 2, 2, 2, 3, 3, 3, 3, 4, 4]);
        let mut siblings: Vec<GuestSibling> = Vec::new();
        for counter in 1..=count {
            let value = match below(dice, 10) {
                0 => None,
                1 | 2 if !siblings.is_empty() => pick(dice, &siblings).version.value.clone(),
                _ => Some(pick(dice, &self.pool).clone()),
            };
            let actor = below(dice, 3) as usize;
            siblings.push(GuestSibling {
                dot: dot(actor, counter),
                version: version(value, 1 + below(dice, 3)),
            });
        }
        siblings.sort_by_key(|sibling| sibling.dot);
        siblings
    }

    fn history(&self, dice: &mut Dice) -> Vec<Step> {
        let replicas = 2 + below(dice, REPLICAS as u64 - 1);
        let count = 2 + below(dice, 3 * replicas);
        let step = |dice: &mut Dice| {
            let replica = below(dice, replicas) as usize;
            let other = (replica as u64 + 1 + below(dice, replicas - 1)) % replicas;
            let deed = match below(dice, 16) {
                0 => Deed::Delete,
                1..=4 => Deed::Merge(other as usize),
                _ => Deed::Apply(pick(dice, &self.pool).clone()),
            };
            let later_us = below(dice, 2);
            Step {
                replica,
                deed,
                later_us,
            }
        };
        (0..count).map(|_| step(dice)).collect()
    }
}

/// Values for a module that gives none of its own: texts, numbers, bytes, and
/// JSON whose keys collide, some of them mutated.
fn general_samples(dice: &mut Dice) -> Vec<Vec<u8>> {
    const SEEDS: &[&[u8]] = &[
        b"",
        b"0",
        b"1",
        b"2",
        b"10",
        b"-3",
        b"2.5",
        b"a",
        b"b",
        b"ab",
        b"a\nb\n",
        b"b\nc\n",
        b"null",
        b"true",
        b"\"x\"",
        b"\"y\"",
        b"[]",
        b"[1,2]",
        b"[2,3]",
        b"[\"a\",\"b\"]",
        b"{}",
        br#"{"a":1}"#,
        br#"{"a":2}"#,
        br#"{"b":1}"#,
        br#"{"b":1,"a":1}"#,
        br#"{"a":"x"}"#,
        br#"{"a":{"b":1}}"#,
        br#"{"a":{"c":2}}"#,
        br#"{"a":null}"#,
        br#"{"a":[1]}"#,
        b"\x00",
        b"\xff\xfe",
        b"\x01\x02\x03",
    ];
    let mut samples: Vec<Vec<u8>> = SEEDS.iter().map(|seed| seed.to_vec()).collect();
    while samples.len() < POOL as usize {
        let mut sample = pick(dice, &samples).clone();
        let at = below(dice, sample.len() as u64 + 1) as usize;
        match below(dice, 3) {
            0 => sample.insert(at, below(dice, 256) as u8),
            1 if at < sample.len() => sample[at] = sample[at].wrapping_add(1),
            _ => sample.extend_from_slice(&pick(dice, &samples).clone()),
        }
        samples.push(sample);
    }
    samples
}
