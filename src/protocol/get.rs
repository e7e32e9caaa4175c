//! Coordinating a read, as a machine: whom to ask, when enough is known, what to
//! repair (Dynamo, section 4.5; the shape is that of `riak_kv_get_core`).
//!
//! It asks the first N reachable nodes of the preference list: one for the whole
//! state, the others for a hash of theirs. It answers once R of them are known
//! to hold what was joined, and then waits for the rest, so that every primary
//! that differs can be sent the join. Promises: the answer is the join of at
//! least R replicas; a failed read is never counted as "absent"; a fallback that
//! holds nothing does not count; converged replicas cause no write.

use super::id::NodeId;
use super::message::ReadAnswer;
use super::sabotage::{Variant, broken};
use super::siblings::{SiblingSet, StateHash};

/// What is known of one node of the preference list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    /// Not asked yet.
    Nothing,
    /// Asked for its hash, or for its whole state.
    Asked { hash_only: bool },
    /// It holds a state with this hash.
    Hash(StateHash),
    /// It holds a state with this hash, and that state is in the join.
    Joined(StateHash),
    /// Its hash was unknown here, so its whole state was asked for.
    AskedAgain(StateHash),
    /// A fallback with nothing to say.
    Empty,
    /// It could not be reached or could not read.
    Failed,
}

struct Replica {
    node: NodeId,
    primary: bool,
    /// Whether it seemed up when the read began.
    up: bool,
    known: Known,
}

/// What the coordinator does next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GetAction {
    /// Ask a node for its state, or only for its hash.
    Ask { node: NodeId, hash_only: bool },
    /// Enough is known: this is the item, and the hash of its state.
    Answer { set: SiblingSet, hash: StateHash },
    /// R replicas cannot be had; this many could.
    Unmet { got: u32 },
    /// Send the join to a primary that differs.
    Repair { node: NodeId, set: SiblingSet },
}

/// A read in progress.
pub struct Get {
    replicas: Vec<Replica>,
    r: usize,
    n: usize,
    strict: bool,
    joined: SiblingSet,
    /// The hash of the join, kept because hashing a state costs more than joining
    /// two that are equal. Means nothing while the join is empty.
    joined_hash: StateHash,
    answered: bool,
    finished: bool,
}

impl Get {
    /// Begins a read of an item with this preference list, whose first `n`
    /// nodes are primaries. `me` is asked for the state before others, because
    /// it costs no message; `is_up` is the coordinator's opinion.
    pub fn new(
        preference: &[NodeId],
        n: usize,
        r: usize,
        strict: bool,
        me: NodeId,
        is_up: impl Fn(NodeId) -> bool,
    ) -> (Self, Vec<GetAction>) {
        let usable = if strict {
            n.min(preference.len())
        } else {
            preference.len()
        };
        let mut replicas: Vec<Replica> = preference[..usable]
            .iter()
            .enumerate()
            .map(|(place, &node)| Replica {
                node,
                primary: place < n,
                up: node == me || is_up(node),
                known: Known::Nothing,
            })
            .collect();
        let live = replicas.iter().filter(|replica| replica.up).count();
        if live < replicas.len() {
            // Those that seem down are asked last, not never: opinions are stale.
            replicas.sort_by_key(|replica| !replica.up);
        }
        let mut get = Get {
            replicas,
            r,
            n,
            strict,
            joined: SiblingSet::new(),
            joined_hash: StateHash([0; 16]),
            answered: false,
            finished: false,
        };
        let ask = get.n.min(live.max(get.r)).min(get.replicas.len());
        let first = get.replicas[..ask]
            .iter()
            .position(|replica| replica.node == me)
            .unwrap_or(0);
        let mut actions = Vec::with_capacity(ask);
        for place in 0..ask {
            get.ask(place, place != first, &mut actions);
        }
        get.advance(&mut actions);
        (get, actions)
    }

    fn ask(&mut self, place: usize, hash_only: bool, actions: &mut Vec<GetAction>) {
        let replica = &mut self.replicas[place];
        replica.known = match replica.known {
            Known::Hash(hash) => Known::AskedAgain(hash),
            _ => Known::Asked { hash_only },
        };
        actions.push(GetAction::Ask {
            node: replica.node,
            hash_only,
        });
    }

    /// Whether nothing more will come of this read.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// A node answered.
    pub fn on_answer(&mut self, node: NodeId, answer: ReadAnswer) -> Vec<GetAction> {
        let hash = match &answer {
            ReadAnswer::State(set) => set.hash(),
            ReadAnswer::Hash { hash, .. } => *hash,
        };
        self.on_hashed_answer(node, answer, hash)
    }

    /// The same of an answer whose hash is known: the coordinator's own store keeps
    /// it with the row.
    pub fn on_hashed_answer(
        &mut self,
        node: NodeId,
        answer: ReadAnswer,
        hash: StateHash,
    ) -> Vec<GetAction> {
        debug_assert!(
            !matches!(&answer, ReadAnswer::State(set) if set.hash() != hash),
            "it is the hash of this very state"
        );
        let mut actions = Vec::new();
        let Some(replica) = self
            .replicas
            .iter_mut()
            .find(|replica| replica.node == node)
        else {
            return actions;
        };
        match (answer, replica.known) {
            // A repeated or late answer to a question that is settled.
            (_, Known::Nothing | Known::Joined(_) | Known::Empty)
            | (ReadAnswer::Hash { .. }, Known::Hash(_) | Known::AskedAgain(_)) => return actions,
            (ReadAnswer::State(set), _)
                if set.is_empty() && !replica.primary && !broken(Variant::EmptyFallbackCounts) =>
            {
                replica.known = Known::Empty;
            }
            (ReadAnswer::Hash { is_empty: true, .. }, _)
                if !replica.primary && !broken(Variant::EmptyFallbackCounts) =>
            {
                replica.known = Known::Empty;
            }
            (ReadAnswer::State(set), _) => {
                replica.known = Known::Joined(hash);
                if self.joined.is_empty() {
                    self.joined = set;
                    self.joined_hash = hash;
                } else if hash != self.joined_hash && self.joined.sync(&set) {
                    self.joined_hash = self.joined.hash();
                }
            }
            (ReadAnswer::Hash { .. }, _) => replica.known = Known::Hash(hash),
        }
        self.advance(&mut actions);
        actions
    }

    /// A node could not be reached, or could not read.
    pub fn on_failure(&mut self, node: NodeId) -> Vec<GetAction> {
        let mut actions = Vec::new();
        if let Some(replica) = self
            .replicas
            .iter_mut()
            .find(|replica| replica.node == node)
            && matches!(replica.known, Known::Asked { .. } | Known::AskedAgain(_))
        {
            replica.known = Known::Failed;
            self.advance(&mut actions);
        }
        actions
    }

    /// Some node is slow: ask one more, and ask for a state again if none came.
    pub fn on_hedge(&mut self) -> Vec<GetAction> {
        let mut actions = Vec::new();
        if self.answered || self.finished {
            return actions;
        }
        if !self
            .replicas
            .iter()
            .any(|replica| matches!(replica.known, Known::Joined(_)))
            && let Some(place) = self
                .replicas
                .iter()
                .position(|replica| matches!(replica.known, Known::Hash(_)))
        {
            self.ask(place, false, &mut actions);
        }
        if let Some(place) = self.idle() {
            self.ask(place, false, &mut actions);
        }
        actions
    }

    /// The client's patience is over, or the repair window is.
    pub fn on_timeout(&mut self) -> Vec<GetAction> {
        let mut actions = Vec::new();
        for replica in &mut self.replicas {
            if matches!(replica.known, Known::Asked { .. } | Known::AskedAgain(_)) {
                replica.known = Known::Failed;
            }
        }
        if !self.answered && !self.finished {
            self.answered = true;
            actions.push(GetAction::Unmet {
                got: self.counted() as u32,
            });
        }
        self.finish(&mut actions);
        actions
    }

    fn idle(&self) -> Option<usize> {
        self.replicas
            .iter()
            .position(|replica| replica.known == Known::Nothing)
    }

    /// Whether a state with this hash is in the join.
    fn has_joined(&self, hash: StateHash) -> bool {
        self.replicas
            .iter()
            .any(|replica| replica.known == Known::Joined(hash))
    }

    /// How many replicas are known to hold no more than the join.
    fn counted(&self) -> usize {
        let counts = |replica: &&Replica| match replica.known {
            Known::Joined(_) => true,
            Known::Hash(hash) => self.has_joined(hash) || broken(Variant::StrangeHashCounts),
            _ => false,
        };
        self.replicas.iter().filter(counts).count()
    }

    fn outstanding(&self) -> usize {
        let open = |replica: &&Replica| {
            matches!(replica.known, Known::Asked { .. } | Known::AskedAgain(_))
        };
        self.replicas.iter().filter(open).count()
    }

    /// How many replicas have told a hash that no state in hand has. Each will count, or
    /// be asked for its state, when the state comes that is on its way: hashes are told
    /// from memory and are often here first.
    fn waiting(&self) -> usize {
        let waits = |replica: &&Replica| match replica.known {
            Known::Hash(hash) => !self.has_joined(hash) && !broken(Variant::StrangeHashCounts),
            _ => false,
        };
        self.replicas.iter().filter(waits).count()
    }

    fn advance(&mut self, actions: &mut Vec<GetAction>) {
        if self.finished {
            return;
        }
        let joined_any = self
            .replicas
            .iter()
            .any(|replica| matches!(replica.known, Known::Joined(_)));
        let state_coming = self.replicas.iter().any(|replica| {
            matches!(
                replica.known,
                Known::Asked { hash_only: false } | Known::AskedAgain(_)
            )
        });
        // A hash that no joined state has is worth its state; while no state is
        // in hand at all, one is enough to begin with.
        if joined_any || !state_coming {
            for place in 0..self.replicas.len() {
                if let Known::Hash(hash) = self.replicas[place].known
                    && !self.has_joined(hash)
                {
                    self.ask(place, false, actions);
                    if !joined_any {
                        break;
                    }
                }
            }
        }
        if !self.answered {
            if self.counted() >= self.r {
                self.answered = true;
                let hash = if self.joined.is_empty() {
                    StateHash::OF_NOTHING
                } else {
                    self.joined_hash
                };
                let set = self.joined.clone();
                actions.push(GetAction::Answer { set, hash });
            } else {
                self.widen(actions);
            }
        }
        if self.outstanding() == 0 {
            self.finish(actions);
        }
    }

    /// Asks further nodes while those asked cannot make up R.
    fn widen(&mut self, actions: &mut Vec<GetAction>) {
        loop {
            if self.counted() + self.outstanding() + self.waiting() >= self.r {
                return;
            }
            let Some(place) = self.idle() else { break };
            self.ask(place, false, actions);
        }
        if self.outstanding() == 0 {
            self.answered = true;
            actions.push(GetAction::Unmet {
                got: self.counted() as u32,
            });
        }
    }

    fn finish(&mut self, actions: &mut Vec<GetAction>) {
        if self.finished {
            return;
        }
        self.finished = true;
        if self.joined.is_empty() {
            return;
        }
        let joined = self.joined_hash;
        for replica in self.replicas.iter().filter(|replica| replica.primary) {
            let differs = match replica.known {
                Known::Joined(hash) | Known::Hash(hash) => hash != joined,
                _ => false,
            };
            if differs {
                actions.push(GetAction::Repair {
                    node: replica.node,
                    set: self.joined.clone(),
                });
            }
        }
    }

    /// Whether only primaries count.
    pub fn is_strict(&self) -> bool {
        self.strict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::context::Context;
    use crate::protocol::dot::{Actor, Dot, Epoch};
    use crate::protocol::siblings::Version;

    fn state(counters: &[u64]) -> SiblingSet {
        let mut set = SiblingSet::new();
        for &counter in counters {
            let actor = Actor {
                node: NodeId(9),
                epoch: Epoch(1),
            };
            let version = Version {
                value: Some(bytes::Bytes::from_static(b"v")),
                content_type: "text/plain".into(),
                written_at_us: counter,
                stands_for: None,
            };
            set.put(&Context::new(), Dot { actor, counter }, version);
        }
        set
    }

    fn hash(set: &SiblingSet) -> ReadAnswer {
        ReadAnswer::Hash {
            hash: set.hash(),
            is_empty: set.is_empty(),
        }
    }

    fn answer(set: &SiblingSet) -> GetAction {
        GetAction::Answer {
            set: set.clone(),
            hash: set.hash(),
        }
    }

    fn ask(node: u64, hash_only: bool) -> GetAction {
        GetAction::Ask {
            node: NodeId(node),
            hash_only,
        }
    }

    /// Node 1 coordinates and is the first primary of three.
    fn get(nodes: u64, r: usize, strict: bool, down: &[u64]) -> (Get, Vec<GetAction>) {
        let preference: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
        Get::new(&preference, 3, r, strict, NodeId(1), |node| {
            !down.contains(&node.0)
        })
    }

    #[test]
    fn one_state_and_equal_hashes_are_enough_and_repair_nothing() {
        let set = state(&[1]);
        let (mut get, actions) = get(3, 2, false, &[]);
        assert_eq!(actions, [ask(1, false), ask(2, true), ask(3, true)]);
        assert_eq!(get.on_answer(NodeId(2), hash(&set)), []);
        assert_eq!(
            get.on_answer(NodeId(1), ReadAnswer::State(set.clone())),
            [answer(&set)]
        );
        assert_eq!(get.on_answer(NodeId(3), hash(&set)), []);
        assert!(get.is_finished());
    }

    #[test]
    fn a_differing_hash_is_not_counted_before_its_state_is_joined() {
        let (old, new) = (state(&[1]), state(&[1, 2]));
        let (mut get, _) = get(3, 2, false, &[]);
        assert_eq!(get.on_answer(NodeId(1), ReadAnswer::State(old.clone())), []);
        assert_eq!(get.on_answer(NodeId(2), hash(&new)), [ask(2, false)]);
        assert_eq!(
            get.on_answer(NodeId(2), ReadAnswer::State(new.clone())),
            [answer(&new)]
        );
        // The last reply tells who lags: both that hold the old state.
        let repair = |node| GetAction::Repair {
            node: NodeId(node),
            set: new.clone(),
        };
        assert_eq!(get.on_answer(NodeId(3), hash(&old)), [repair(1), repair(3)]);
    }

    #[test]
    fn hashes_alone_are_no_answer() {
        let set = state(&[1]);
        let (mut get, _) = get(3, 2, false, &[]);
        assert_eq!(get.on_answer(NodeId(2), hash(&set)), []);
        assert_eq!(get.on_answer(NodeId(3), hash(&set)), []);
        // The one that was asked for its state fails: another gives it.
        assert_eq!(get.on_failure(NodeId(1)), [ask(2, false)]);
        assert_eq!(
            get.on_answer(NodeId(2), ReadAnswer::State(set.clone())),
            [answer(&set)]
        );
    }

    #[test]
    fn a_fallback_that_holds_nothing_does_not_count() {
        let (mut get, actions) = get(5, 2, false, &[2, 3]);
        assert_eq!(actions, [ask(1, false), ask(4, true), ask(5, true)]);
        let nothing = SiblingSet::new();
        assert_eq!(
            get.on_answer(NodeId(1), ReadAnswer::State(nothing.clone())),
            []
        );
        assert_eq!(get.on_answer(NodeId(4), hash(&nothing)), []);
        // Nor does a whole state that is empty. Those that seem down are asked
        // last, not never.
        let actions = get.on_answer(NodeId(5), ReadAnswer::State(nothing));
        assert_eq!(actions, [ask(2, false)]);
        assert_eq!(get.on_failure(NodeId(2)), [ask(3, false)]);
        assert_eq!(get.on_failure(NodeId(3)), [GetAction::Unmet { got: 1 }]);
    }

    #[test]
    fn a_fallback_that_holds_something_counts() {
        let set = state(&[1]);
        let (mut get, _) = get(4, 2, false, &[2]);
        get.on_answer(NodeId(1), ReadAnswer::State(set.clone()));
        assert_eq!(get.on_answer(NodeId(4), hash(&set)), [answer(&set)]);
    }

    #[test]
    fn a_failed_read_is_never_absent() {
        let (mut get, _) = get(3, 3, false, &[]);
        let nothing = SiblingSet::new();
        get.on_answer(NodeId(1), ReadAnswer::State(nothing.clone()));
        get.on_answer(NodeId(2), hash(&nothing));
        assert_eq!(get.on_failure(NodeId(3)), [GetAction::Unmet { got: 2 }]);
    }

    #[test]
    fn strict_asks_primaries_only() {
        let (mut get, actions) = get(5, 2, true, &[2]);
        assert_eq!(actions, [ask(1, false), ask(3, true)]);
        assert_eq!(get.on_failure(NodeId(3)), [ask(2, false)]);
        assert_eq!(get.on_failure(NodeId(2)), []);
    }

    #[test]
    fn hashes_that_come_before_the_state_make_nobody_else_be_asked() {
        let set = state(&[1]);
        let (mut get, actions) = get(5, 2, false, &[]);
        assert_eq!(actions, [ask(1, false), ask(2, true), ask(3, true)]);
        assert_eq!(get.on_answer(NodeId(2), hash(&set)), []);
        assert_eq!(get.on_answer(NodeId(3), hash(&set)), []);
        // Without that state one of them is asked for its own, and again nobody else.
        assert_eq!(get.on_failure(NodeId(1)), [ask(2, false)]);
        assert_eq!(
            get.on_answer(NodeId(2), ReadAnswer::State(set.clone())),
            [answer(&set)]
        );
    }

    #[test]
    fn a_hedge_asks_for_a_state_where_none_came() {
        let set = state(&[1]);
        let (mut get, _) = get(4, 2, false, &[]);
        assert_eq!(get.on_answer(NodeId(2), hash(&set)), []);
        assert_eq!(get.on_hedge(), [ask(2, false), ask(4, false)]);
        assert_eq!(get.on_answer(NodeId(2), ReadAnswer::State(set.clone())), []);
        assert_eq!(get.on_answer(NodeId(3), hash(&set)), [answer(&set)]);
    }

    #[test]
    fn time_ends_it_with_what_is_known() {
        let (mut get, _) = get(3, 3, false, &[]);
        get.on_answer(NodeId(1), ReadAnswer::State(state(&[1])));
        assert_eq!(get.on_timeout(), [GetAction::Unmet { got: 1 }]);
        assert!(get.is_finished());
        assert_eq!(get.on_answer(NodeId(2), hash(&state(&[1]))), []);
    }
}
