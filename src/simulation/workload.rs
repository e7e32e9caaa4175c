//! Clients of a simulated cluster: they write, read and delete a few keys
//! through any node, each going on with the contexts that it was given, while
//! nodes crash and links fail.
//!
//! Every value is written once in the whole run, so that whatever comes to light
//! names the write that it came from.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{RAW_TABLE, Settings, UNION_TABLE, World};
use crate::clock::Dice;
use crate::protocol::context::Context;
use crate::protocol::effect::RequestId;
use crate::protocol::message::{Ask, ItemRequest, Response};

/// A write as its client knows it.
#[derive(Clone, Debug)]
pub struct Write {
    /// None: a deletion.
    pub value: Option<Vec<u8>>,
    /// The writes that its client had seen of this key, by their numbers.
    pub seen: BTreeSet<usize>,
    /// Whether the client was told that it is stored.
    pub acknowledged: bool,
}

/// What happened to one key.
#[derive(Clone, Debug, Default)]
pub struct KeyHistory {
    pub writes: Vec<Write>,
}

/// What a client holds of one key: its context, and the writes that are in it.
#[derive(Clone, Debug, Default)]
struct Holding {
    context: Context,
    seen: BTreeSet<usize>,
}

enum Pending {
    Write {
        client: usize,
        key: usize,
        write: usize,
        seen: BTreeSet<usize>,
    },
    Read {
        client: usize,
        key: usize,
    },
    Line {
        line: String,
    },
}

/// What a run left behind, for the checks.
pub struct Run {
    pub world: World,
    /// By key of the raw table.
    pub keys: Vec<KeyHistory>,
    /// Lines given to the union table's one key: those asked for, and those
    /// acknowledged.
    pub lines_asked: BTreeSet<String>,
    pub lines_acknowledged: BTreeSet<String>,
    pub operations: u64,
    pub acknowledged: u64,
    pub unavailable: u64,
    pub crashes: u64,
}

/// The name of a key of the raw table.
pub fn key_name(key: usize) -> Vec<u8> {
    format!("k{key}").into_bytes()
}

/// The one key of the union table.
pub const UNION_KEY: &[u8] = b"lines";

/// How a run goes.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub settings: Settings,
    pub clients: usize,
    pub keys: usize,
    pub rounds: usize,
    /// Whether nodes crash and links fail.
    pub faults: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            settings: Settings::default(),
            clients: 4,
            keys: 3,
            rounds: 150,
            faults: true,
        }
    }
}

/// Plays a run from a seed, and lets it come to rest.
pub fn play(seed: u64, plan: Plan) -> Run {
    let mut dice = Dice::from_seed(seed ^ 0x6b69_6e66_6f6c_6421);
    let mut world = World::new(seed, plan.settings);
    let settled = world.run_until(20_000, World::is_settled);
    assert!(
        settled,
        "the cluster of seed {seed} did not form within 20 s"
    );
    let mut run = Run {
        world,
        keys: vec![KeyHistory::default(); plan.keys],
        lines_asked: BTreeSet::new(),
        lines_acknowledged: BTreeSet::new(),
        operations: 0,
        acknowledged: 0,
        unavailable: 0,
        crashes: 0,
    };
    let mut holdings = vec![vec![Holding::default(); plan.keys]; plan.clients];
    let mut pending: BTreeMap<RequestId, Pending> = BTreeMap::new();
    let mut draw = |bound: usize| (dice.next_u64() % bound as u64) as usize;
    for round in 0..plan.rounds {
        if plan.faults {
            faults(&mut run, &mut draw, plan.settings.nodes);
        }
        for (client, held) in holdings.iter().enumerate() {
            let (key, node) = (draw(plan.keys), draw(plan.settings.nodes));
            run.operations += 1;
            let (id, what) = match draw(10) {
                0..=4 => {
                    let blind = draw(4) == 0;
                    let held = if blind {
                        Holding::default()
                    } else {
                        held[key].clone()
                    };
                    let value = (draw(8) > 0).then(|| format!("{client}.{round}").into_bytes());
                    let write = run.keys[key].writes.len();
                    run.keys[key].writes.push(Write {
                        value: value.clone(),
                        seen: held.seen.clone(),
                        acknowledged: false,
                    });
                    let w = 1 + draw(3) as u32;
                    let id = run.world.ask(node, RAW_TABLE, &key_name(key), |request| {
                        let ask = match value {
                            Some(value) => Ask::Put {
                                client: held.context,
                                value: Bytes::from(value),
                                content_type: "text/plain".into(),
                                representation: false,
                            },
                            None => Ask::Delete {
                                client: Some(held.context),
                            },
                        };
                        ItemRequest { ask, w, ..request }
                    });
                    (
                        id,
                        Pending::Write {
                            client,
                            key,
                            write,
                            seen: held.seen,
                        },
                    )
                }
                5..=7 => {
                    let id = run
                        .world
                        .ask(node, RAW_TABLE, &key_name(key), |request| request);
                    (id, Pending::Read { client, key })
                }
                _ => {
                    let line = format!("{client}.{round}");
                    run.lines_asked.insert(line.clone());
                    let value = Bytes::from(line.clone());
                    let id = run
                        .world
                        .ask(node, UNION_TABLE, UNION_KEY, |request| ItemRequest {
                            ask: Ask::Put {
                                client: Context::new(),
                                value,
                                content_type: "text/plain".into(),
                                representation: false,
                            },
                            ..request
                        });
                    (id, Pending::Line { line })
                }
            };
            pending.insert(id, what);
        }
        let pause_ms = 5 + draw(60) as u64;
        run.world.run(pause_ms);
        collect(&mut run, &mut holdings, &mut pending);
    }
    run.world.heal();
    run.world.run(2_000);
    collect(&mut run, &mut holdings, &mut pending);
    run
}

fn faults(run: &mut Run, draw: &mut impl FnMut(usize) -> usize, nodes: usize) {
    let node = draw(nodes);
    match draw(30) {
        0 if run.world.is_up(node) => {
            run.world.crash(node);
            run.crashes += 1;
        }
        1..=3 if !run.world.is_up(node) => run.world.start(node),
        4 => run.world.cut(node, draw(nodes)),
        5 | 6 => run.world.mend(),
        _ => {}
    }
}

fn collect(
    run: &mut Run,
    holdings: &mut [Vec<Holding>],
    pending: &mut BTreeMap<RequestId, Pending>,
) {
    for (id, response) in std::mem::take(&mut run.world.responses) {
        let Some(what) = pending.remove(&id) else {
            continue;
        };
        match (what, response) {
            (
                Pending::Write {
                    client,
                    key,
                    write,
                    mut seen,
                },
                Response::Written { context },
            ) => {
                run.acknowledged += 1;
                run.keys[key].writes[write].acknowledged = true;
                seen.insert(write);
                holdings[client][key] = Holding { context, seen };
            }
            (Pending::Read { client, key }, Response::Siblings { set, .. }) => {
                // The context covers what these versions superseded as well; of
                // the writes that are known to the clients, a reader claims only
                // those it was shown, and what their writers had seen.
                let mut seen = BTreeSet::new();
                for (_, version) in set.siblings() {
                    let value = version.value.as_ref().map(|value| value.to_vec());
                    let writes = &run.keys[key].writes;
                    for (number, write) in writes.iter().enumerate() {
                        if value.is_some() && write.value == value {
                            seen.insert(number);
                            seen.extend(&write.seen);
                        }
                    }
                }
                holdings[client][key] = Holding {
                    context: set.context().clone(),
                    seen,
                };
            }
            (Pending::Line { line }, Response::Written { .. }) => {
                run.acknowledged += 1;
                run.lines_acknowledged.insert(line);
            }
            (_, Response::Refused(_)) => run.unavailable += 1,
            _ => {}
        }
    }
}
