//! The ledger of a trial: answers for the module under trial, and remembers what
//! every version is made of.
//!
//! Promises: of two versions that hold the same writes the ledger knows both, and
//! where and when each was made; the first two that differ are the finding. Each
//! fold is also held against what the same writes give when they meet all at once.
//! Where it cannot be told what a version is made of, it is
//! left out, never guessed.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;

use super::derivation::{Asking, Derived, Guest, Made, Number, folded, said};
use crate::protocol::dot::Dot;
use crate::protocol::effect::{GuestReply, GuestRequest, GuestSibling, JobId, StoreRequest};
use crate::protocol::id::ItemKey;
use crate::protocol::replica::Mutation;
use crate::protocol::siblings::{SiblingSet, Version};

/// A fold of so many writes or fewer is made again of the writes themselves, at
/// once: beyond this the check would cost more than the run.
const MAX_AT_ONCE: usize = 24;

/// What shows that replicas may end up apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// The same writes became two values; `reordered` if only their order differed,
    /// which no node chooses.
    Apart {
        one: Number,
        other: Number,
        reordered: bool,
    },
    /// A fold gave no value.
    Failed { fold: Number, reason: String },
    /// A data type cannot show a state that it made.
    Unshown { state: Number, reason: String },
}

/// How a folded version is found again when a module is given it: modules do not
/// see its own dot.
type Face = (ItemKey, Option<Dot>, u64, Option<Bytes>);

/// What is known of all versions so far.
pub struct Ledger {
    pub guest: Rc<dyn Guest>,
    pub asking: Asking,
    pub all: Vec<Derived>,
    pub finding: Option<Finding>,
    pub figures: Figures,
    /// Whether a refusal of what clients wrote is the module's right: the samples
    /// are none of its own.
    pub lenient: bool,
    by_dot: BTreeMap<Dot, Number>,
    /// None where two versions with different histories look the same.
    by_face: BTreeMap<Face, Option<Number>>,
    /// The first version with these writes.
    by_writes: BTreeMap<(ItemKey, BTreeSet<Number>), Number>,
    /// What guests are at work on.
    working: BTreeMap<(usize, u64, JobId), Number>,
    /// What the answer that a machine is given now was made of.
    deciding: Option<Number>,
}

/// What a trial came to, in numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    /// Folds that nodes asked for, of two versions or more.
    pub folds: u64,
    /// The most versions that met in one of them.
    pub most_siblings: u64,
    /// Folds that the module left undecided.
    pub unresolved: u64,
    /// Refusals of values that are none of the module's own samples.
    pub refused: u64,
    /// Pairs of versions that hold the same writes by different paths, and agree.
    pub compared: u64,
    /// The most that one call burnt.
    pub max_fuel: u64,
}

impl Figures {
    /// Adds another run's.
    pub fn join(&mut self, other: &Figures) {
        self.folds += other.folds;
        self.most_siblings = self.most_siblings.max(other.most_siblings);
        self.unresolved += other.unresolved;
        self.refused += other.refused;
        self.compared += other.compared;
        self.max_fuel = self.max_fuel.max(other.max_fuel);
    }
}

impl Ledger {
    pub fn new(guest: Rc<dyn Guest>, asking: Asking, lenient: bool) -> Self {
        Ledger {
            guest,
            asking,
            all: Vec::new(),
            finding: None,
            figures: Figures::default(),
            lenient,
            by_dot: BTreeMap::new(),
            by_face: BTreeMap::new(),
            by_writes: BTreeMap::new(),
            working: BTreeMap::new(),
            deciding: None,
        }
    }

    fn call(&mut self, request: &GuestRequest) -> GuestReply {
        let before = self.guest.fuel();
        let reply = self.guest.answer(request);
        let burnt = self.guest.fuel().saturating_sub(before);
        self.figures.max_fuel = self.figures.max_fuel.max(burnt);
        reply
    }

    fn find(&mut self, finding: Finding) {
        // The first is what counts: the rest follows from it.
        self.finding.get_or_insert(finding);
    }

    /// A node's machine asks its module for something.
    pub fn answer(
        &mut self,
        node: usize,
        life: u64,
        at_ms: u64,
        job: JobId,
        request: &GuestRequest,
    ) -> GuestReply {
        let reply = self.call(request);
        let inputs: Vec<Option<Number>> = request
            .siblings
            .iter()
            .map(|sibling| self.number_of(&request.key, sibling, at_ms))
            .collect();
        let Some(inputs) = inputs.into_iter().collect::<Option<Vec<Number>>>() else {
            return reply;
        };
        let here = Some(node);
        if request.operation.is_none() && inputs.len() < 2 {
            if let (GuestReply::Failed(reason), [state]) = (&reply, &inputs[..]) {
                let (state, reason) = (*state, reason.clone());
                self.find(Finding::Unshown { state, reason });
            }
            return reply;
        }
        if inputs.len() > 1 {
            self.figures.folds += 1;
            self.figures.most_siblings = self.figures.most_siblings.max(inputs.len() as u64);
        }
        let made = match &request.operation {
            None => Made::Folded,
            Some(operation) => Made::Applied(operation.clone()),
        };
        match &reply {
            GuestReply::Done { value, .. } => {
                let applies = matches!(made, Made::Applied(_)) && inputs.len() > 1;
                let number = self.derive(
                    &request.key,
                    made,
                    inputs.clone(),
                    value.clone(),
                    here,
                    at_ms,
                );
                self.working.insert((node, life, job), number);
                self.compare(number);
                // What the operation was applied to is a fold as well.
                if applies && let Ok(base) = self.fold(&request.key, Made::Folded, inputs, at_ms) {
                    self.all[base].node = here;
                    self.compare(base);
                }
            }
            GuestReply::Unresolved => self.figures.unresolved += 1,
            GuestReply::BadOperation(_) => self.figures.refused += 1,
            GuestReply::Failed(reason) => {
                let reason = reason.clone();
                self.fail(&request.key, made, inputs, reason, here, at_ms);
            }
            GuestReply::Missing | GuestReply::Overloaded | GuestReply::Quarantined(_) => {}
        }
        reply
    }

    fn fail(
        &mut self,
        item: &ItemKey,
        made: Made,
        inputs: Vec<Number>,
        reason: String,
        node: Option<usize>,
        at_ms: u64,
    ) {
        let all_written = inputs
            .iter()
            .all(|input| matches!(self.all[*input].made, Made::Written));
        if self.lenient && all_written {
            self.figures.refused += 1;
            return;
        }
        let fold = self.derive(item, made, inputs, None, node, at_ms);
        self.find(Finding::Failed { fold, reason });
    }

    /// Notes a version that was made of these.
    fn derive(
        &mut self,
        item: &ItemKey,
        made: Made,
        inputs: Vec<Number>,
        value: Option<Bytes>,
        node: Option<usize>,
        at_ms: u64,
    ) -> Number {
        let number = self.all.len();
        let mut writes = BTreeSet::new();
        for input in &inputs {
            writes.extend(self.all[*input].writes.iter().copied());
        }
        let sibling = match &made {
            Made::Applied(operation) => {
                writes.insert(number);
                self.by_dot.insert(operation.dot, number);
                GuestSibling {
                    dot: operation.dot,
                    version: Version {
                        value,
                        content_type: "application/octet-stream".into(),
                        written_at_us: operation.written_at_us,
                        stands_for: None,
                    },
                }
            }
            Made::Written | Made::Folded | Made::FoldedAsListed => {
                let siblings: Vec<GuestSibling> = inputs
                    .iter()
                    .map(|input| self.all[*input].sibling.clone())
                    .collect();
                folded(&siblings, value)
            }
        };
        self.all.push(Derived {
            item: item.clone(),
            made,
            inputs,
            writes,
            sibling,
            node,
            at_ms,
        });
        number
    }

    /// Which version a module is given; a write that nobody has seen yet is noted.
    fn number_of(&mut self, item: &ItemKey, sibling: &GuestSibling, at_ms: u64) -> Option<Number> {
        let version = &sibling.version;
        if version.stands_for.is_some() {
            let face = (
                item.clone(),
                version.stands_for,
                version.written_at_us,
                version.value.clone(),
            );
            return self.by_face.get(&face).copied().flatten();
        }
        // A dot that was planned and never stored names another write the next time:
        // only what looks the same is the same.
        let known = self.by_dot.get(&sibling.dot).copied();
        let known = known.filter(|known| self.all[*known].sibling.version == *version);
        Some(known.unwrap_or_else(|| self.wrote(item, sibling.clone(), at_ms)))
    }

    fn wrote(&mut self, item: &ItemKey, sibling: GuestSibling, at_ms: u64) -> Number {
        let number = self.all.len();
        self.by_dot.insert(sibling.dot, number);
        self.all.push(Derived {
            item: item.clone(),
            made: Made::Written,
            inputs: Vec::new(),
            writes: BTreeSet::from([number]),
            sibling,
            node: None,
            at_ms,
        });
        number
    }

    /// The guest's answer to this job is about to be given to its machine.
    pub fn decide(&mut self, node: usize, life: u64, job: JobId) {
        self.deciding = self.working.remove(&(node, life, job));
    }

    /// The machine has done what it would with a guest's answer.
    pub fn decided(&mut self) {
        self.deciding = None;
    }

    /// A machine asks its store for a change: what is new in it was made of the
    /// guest's answer that the machine was just given.
    pub fn stores(&mut self, request: &StoreRequest) {
        let (Some(made), StoreRequest::Update { key, mutation, .. }) = (self.deciding, request)
        else {
            return;
        };
        let row = match mutation {
            Mutation::Replace { row, .. } | Mutation::Join { made: row, .. } => row,
            Mutation::Write { .. } | Mutation::Sync { .. } | Mutation::Mend { .. } => return,
        };
        for (dot, version) in row.set.siblings() {
            let made_it = self.all[made].sibling.version.value == version.value;
            if self.version(dot, version).is_some() || !made_it {
                continue;
            }
            // If it named something before, that was planned and never stored.
            self.by_dot.insert(dot, made);
            let face = (
                key.clone(),
                version.stands_for,
                version.written_at_us,
                version.value.clone(),
            );
            let writes = &self.all[made].writes;
            let entry = self.by_face.entry(face).or_insert(Some(made));
            let same = entry.is_some_and(|known| self.all[known].writes == *writes);
            if !same {
                *entry = None;
            }
        }
    }

    /// A store took a client's write.
    pub fn stored(&mut self, node: usize, at_ms: u64, item: &ItemKey, delta: &SiblingSet) {
        for (dot, version) in delta.siblings() {
            if self.version(dot, version).is_none() && version.stands_for.is_none() {
                let version = version.clone();
                let number = self.wrote(item, GuestSibling { dot, version }, at_ms);
                self.all[number].node = Some(node);
            }
        }
    }

    /// The version that a store holds under this dot.
    pub fn version(&self, dot: Dot, version: &Version) -> Option<Number> {
        let number = *self.by_dot.get(&dot)?;
        let known = &self.all[number].sibling.version;
        let same = known.value == version.value && known.stands_for == version.stands_for;
        (same && known.written_at_us == version.written_at_us).then_some(number)
    }

    /// Holds a version against every other that has the same writes in it.
    fn compare(&mut self, number: Number) {
        let (item, writes) = (
            self.all[number].item.clone(),
            self.all[number].writes.clone(),
        );
        if writes.len() < 2 || self.finding.is_some() {
            return;
        }
        let known = *self
            .by_writes
            .entry((item.clone(), writes.clone()))
            .or_insert(number);
        if known != number && !self.agree(known, number) {
            return;
        }
        if matches!(self.all[number].made, Made::Applied(_)) || known != number {
            return;
        }
        if writes.len() <= MAX_AT_ONCE {
            self.hold_against(number, Made::Folded, writes.into_iter().collect());
        }
    }

    /// Holds a version against a fold of these, which have the same writes.
    pub fn hold_against(&mut self, number: Number, made: Made, inputs: Vec<Number>) {
        if self.finding.is_some() || inputs.len() < 2 {
            return;
        }
        let item = self.all[number].item.clone();
        let at_ms = self.all[number].at_ms;
        match self.fold(&item, made.clone(), inputs.clone(), at_ms) {
            Ok(other) => {
                self.agree(number, other);
            }
            Err(Some(reason)) => self.fail(&item, made, inputs, reason, None, at_ms),
            Err(None) => self.figures.unresolved += 1,
        }
    }

    /// Folds versions because the check wants to know; none when the module does
    /// not decide, else the reason for its failure.
    pub fn fold(
        &mut self,
        item: &ItemKey,
        made: Made,
        inputs: Vec<Number>,
        at_ms: u64,
    ) -> Result<Number, Option<String>> {
        let mut siblings: Vec<GuestSibling> = inputs
            .iter()
            .map(|input| self.all[*input].sibling.clone())
            .collect();
        if !matches!(made, Made::FoldedAsListed) {
            siblings.sort_by_key(|sibling| sibling.dot);
        }
        let request = self.asking.fold(item, siblings);
        match self.call(&request) {
            GuestReply::Done { value, .. } => {
                Ok(self.derive(item, made, inputs, value, None, at_ms))
            }
            GuestReply::Unresolved => Err(None),
            failed => Err(Some(said(&failed))),
        }
    }

    /// Whether two versions that hold the same writes are the same; if not, that
    /// is the finding.
    fn agree(&mut self, one: Number, other: Number) -> bool {
        let value = |number: Number| &self.all[number].sibling.version.value;
        if value(one) == value(other) {
            self.figures.compared += 1;
            return true;
        }
        let reordered = matches!(self.all[other].made, Made::FoldedAsListed);
        self.find(Finding::Apart {
            one,
            other,
            reordered,
        });
        false
    }
}
