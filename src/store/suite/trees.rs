//! Merkle trees that follow a store's answers: however changes and derivations
//! interleave, the tree that every change kept up to date is the tree that the
//! rows give.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::*;
use crate::protocol::merkle::Tree;

const WIDTH: u32 = 16;
const PARTITIONS: u32 = 3;

/// What the tests know of one partition from the answers alone.
struct Keeper {
    tree: Tree,
    states: BTreeMap<ItemKey, StateHash>,
    derivation: Option<Derivation>,
    derived: usize,
    /// Kept for the test's own thread: a panic on one of the store's would only
    /// show as an error there.
    failures: Vec<String>,
}

/// A tree in the making.
struct Derivation {
    tree: Tree,
    /// Up to here the rows are in it.
    cursor: Option<ItemKey>,
    limit: usize,
}

impl Keeper {
    fn new() -> Self {
        Keeper {
            tree: Tree::new(WIDTH),
            states: BTreeMap::new(),
            derivation: None,
            derived: 0,
            failures: Vec::new(),
        }
    }

    fn on_change(&mut self, change: &LeafChange) {
        let LeafChange {
            key, before, after, ..
        } = change;
        let known = match after {
            Some(after) => self.states.insert(key.clone(), *after),
            None => self.states.remove(key),
        };
        if known != *before || before == after {
            self.failures
                .push(format!("{change:?} follows on {known:?}"));
        }
        self.tree.change(key, *before, *after);
        if let Some(derivation) = &mut self.derivation
            && derivation.cursor.as_ref() >= Some(key)
        {
            derivation.tree.change(key, *before, *after);
        }
    }

    /// Whether more is to be derived.
    fn on_leaves(&mut self, leaves: Vec<Leaf>, done: bool) -> bool {
        let Some(derivation) = &mut self.derivation else {
            self.failures.push("leaves that nobody asked for".into());
            return false;
        };
        for leaf in leaves {
            derivation.tree.change(&leaf.key, None, leaf.hash);
            derivation.cursor = Some(leaf.key);
        }
        if done {
            if derivation.tree != self.tree {
                self.failures.push(format!(
                    "derived {} items, kept {}",
                    derivation.tree.items(),
                    self.tree.items()
                ));
            }
            self.derived += 1;
            self.derivation = None;
        }
        !done
    }
}

/// The keepers of all partitions, and a channel that ends with the last answer.
struct Watch<S> {
    store: Arc<S>,
    keepers: Arc<Vec<Mutex<Keeper>>>,
    answered: mpsc::Sender<()>,
}

impl<S> Clone for Watch<S> {
    fn clone(&self) -> Self {
        Watch {
            store: self.store.clone(),
            keepers: self.keepers.clone(),
            answered: self.answered.clone(),
        }
    }
}

impl<S: Subject> Watch<S> {
    fn keeper(&self, partition: Partition) -> std::sync::MutexGuard<'_, Keeper> {
        self.keepers[partition.0 as usize].lock().expect("sound")
    }

    fn submit(&self, partition: Partition, request: StoreRequest) {
        let watch = self.clone();
        let done = move |reply| watch.on_answer(partition, reply);
        self.store.submit(request, Box::new(done));
    }

    fn on_answer(&self, partition: Partition, reply: Result<StoreReply, StoreError>) {
        let mut keeper = self.keeper(partition);
        match reply {
            Ok(StoreReply::Updated(_, change)) => {
                change.iter().for_each(|change| keeper.on_change(change));
            }
            Ok(StoreReply::Dropped(changes)) => {
                changes.iter().for_each(|change| keeper.on_change(change));
            }
            Ok(StoreReply::Leaves { leaves, done }) => {
                let more = keeper.on_leaves(leaves, done);
                drop(keeper);
                if more {
                    self.derive(partition);
                }
                return;
            }
            Ok(StoreReply::Hints(hints)) => {
                drop(keeper);
                for hint in hints {
                    let state = hint.row.map(|row| row.set.hash());
                    let hint = (hint.id, hint.partition, hint.key, state);
                    let partition = hint.1;
                    self.submit(partition, StoreRequest::DropHints { hints: vec![hint] });
                }
                return;
            }
            other => keeper.failures.push(format!("{other:?}")),
        }
        self.answered.send(()).expect("the test waits");
    }

    /// Goes on with the derivation of this partition, if one is under way.
    fn derive(&self, partition: Partition) {
        let keeper = self.keeper(partition);
        let Some(derivation) = &keeper.derivation else {
            return;
        };
        let request = StoreRequest::Derive {
            partition,
            after: derivation.cursor.clone(),
            limit: derivation.limit,
        };
        drop(keeper);
        self.submit(partition, request);
    }

    fn take(&self, step: &Step, at: u64) {
        let (Step::Write(p, ..)
        | Step::Sync(p, ..)
        | Step::Forget(p, ..)
        | Step::Deliver(p)
        | Step::Derive(p, _)) = step;
        let partition = Partition(*p);
        let name = |number: &u8| format!("item {number}");
        match step {
            Step::Write(p, k, hinted) => {
                let hints = if *hinted { vec![NodeId(2)] } else { vec![] };
                let write = update(*p, &name(k), write("x", at), hints);
                self.submit(partition, write);
            }
            Step::Sync(p, k, counter) => {
                let sync = Mutation::Sync {
                    set: foreign_set(*counter, "theirs"),
                    max_actors: 20,
                };
                self.submit(partition, update(*p, &name(k), sync, vec![]));
            }
            Step::Forget(_, names) => {
                // As far as it is known: a state that has moved on is not forgotten.
                let keeper = self.keeper(partition);
                let known = names.iter().map(|number| key(&name(number)));
                let items = known
                    .filter_map(|key| Some((key.clone(), *keeper.states.get(&key)?)))
                    .collect();
                drop(keeper);
                let request = StoreRequest::Forget {
                    partition,
                    items,
                    hints: true,
                };
                self.submit(partition, request);
            }
            Step::Deliver(_) => {
                let target = NodeId(2);
                self.submit(partition, StoreRequest::Hints { target, limit: 3 });
            }
            Step::Derive(_, limit) => {
                let mut keeper = self.keeper(partition);
                if keeper.derivation.is_none() {
                    keeper.derivation = Some(Derivation {
                        tree: Tree::new(WIDTH),
                        cursor: None,
                        limit: *limit,
                    });
                    drop(keeper);
                    self.derive(partition);
                }
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// With a hint, or not.
    Write(u32, u8, bool),
    Sync(u32, u8, u64),
    Forget(u32, Vec<u8>),
    /// Takes hints for delivered, and drops them with their rows.
    Deliver(u32),
    /// By so many leaves at a time, unless one is under way.
    Derive(u32, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let partition = || 0..PARTITIONS;
    let step = prop_oneof![
        8 => (partition(), 0u8..12, any::<bool>()).prop_map(|(p, k, h)| Step::Write(p, k, h)),
        3 => (partition(), 0u8..12, 1u64..9).prop_map(|(p, k, c)| Step::Sync(p, k, c)),
        2 => (partition(), prop::collection::vec(0u8..12, 1..4)).prop_map(|(p, k)| Step::Forget(p, k)),
        1 => partition().prop_map(Step::Deliver),
        2 => (partition(), 1usize..4).prop_map(|(p, l)| Step::Derive(p, l)),
    ];
    prop::collection::vec(step, 0..60)
}

/// Takes each list of steps on a thread of its own, and holds trees against rows.
fn trees_follow_the_rows<S: Subject>(store: Arc<S>, lists: &[Vec<Step>]) {
    let (answered, answers) = mpsc::channel();
    let keepers = (0..PARTITIONS).map(|_| Mutex::new(Keeper::new())).collect();
    let watch = Watch {
        store,
        keepers: Arc::new(keepers),
        answered,
    };
    std::thread::scope(|scope| {
        for (list, number) in lists.iter().zip(1u64..) {
            let watch = watch.clone();
            scope.spawn(move || {
                for (step, at) in list.iter().zip(1u64..) {
                    watch.take(step, number * 1000 + at);
                }
            });
        }
    });
    let Watch {
        store,
        keepers,
        answered,
    } = watch;
    drop(answered);
    answers.iter().for_each(drop);
    for (keeper, partition) in keepers.iter().zip(0..) {
        let keeper = keeper.lock().expect("sound");
        assert_eq!(keeper.failures, Vec::<String>::new());
        assert!(keeper.derivation.is_none(), "every derivation ends");
        let begun = |step: &&Step| matches!(step, Step::Derive(p, _) if *p == partition);
        let begun = lists.iter().flatten().filter(begun).count();
        assert!(keeper.derived <= begun && (keeper.derived > 0) == (begun > 0));
        let mut tree = Tree::new(WIDTH);
        for (key, row) in store.rows_of(Partition(partition)) {
            tree.change(&key, None, Some(row.set.hash()));
        }
        assert_eq!(tree, keeper.tree);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn trees_follow_the_rows_in_memory(steps in steps()) {
        trees_follow_the_rows(memory().0, &[steps]);
    }

    #[test]
    fn trees_follow_the_rows_in_files(lists in prop::collection::vec(steps(), 1..4)) {
        let (store, _dir) = sqlite(2);
        trees_follow_the_rows(store, &lists);
    }
}
