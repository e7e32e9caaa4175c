//! The protocol as readable transcripts: what was done, and what came of it.
//!
//! Each file under `transcripts/` is a script of commands with the output that
//! they must give; `UPDATE_GOLDENFILES=1 cargo test transcripts` writes the
//! output anew, and the difference is then read like code. Dots are shown as
//! node and counter, with a letter for each further epoch (`n0:1`, `n0b:1`).
//! The network is kind and quick here: what goes wrong, a script says.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;

use bytes::Bytes;
use goldenscript::{Command, Context as ScriptContext, Runner};

use super::{RAW_TABLE, Settings, UNION_TABLE, World};
use crate::protocol::context::Context;
use crate::protocol::dot::{Actor, Dot};
use crate::protocol::id::NodeId;
use crate::protocol::message::{Ask, ItemRequest, Refusal, Response};
use crate::protocol::siblings::SiblingSet;

#[derive(Default)]
struct Script {
    world: Option<World>,
    /// Context tokens by the names that the script gives them.
    tokens: BTreeMap<String, Context>,
    /// Epochs in the order in which they came to light, by node.
    epochs: BTreeMap<NodeId, Vec<u64>>,
}

impl Script {
    fn world(&mut self) -> &mut World {
        self.world.as_mut().expect("a script begins with `cluster`")
    }

    fn node_name(node: NodeId) -> String {
        (0..10)
            .map(|number| format!("n{number}"))
            .find(|name| NodeId::of(name) == node)
            .unwrap_or_else(|| node.to_string())
    }

    fn actor(&mut self, actor: Actor) -> String {
        let epochs = self.epochs.entry(actor.node).or_default();
        let place = match epochs.iter().position(|epoch| *epoch == actor.epoch.0) {
            Some(place) => place,
            None => {
                epochs.push(actor.epoch.0);
                epochs.len() - 1
            }
        };
        let letter = if place == 0 {
            ""
        } else {
            ["b", "c", "d", "e", "f"][place - 1]
        };
        format!("{}{letter}", Self::node_name(actor.node))
    }

    fn dot(&mut self, dot: Dot) -> String {
        format!("{}:{}", self.actor(dot.actor), dot.counter)
    }

    fn context(&mut self, context: &Context) -> String {
        let mut parts = Vec::new();
        for (actor, seen) in context.iter() {
            let mut part = format!("{}:{}", self.actor(actor), seen.contiguous);
            for counter in &seen.beyond {
                let _infallible = write!(part, "+{counter}");
            }
            parts.push((actor.node, part));
        }
        format!("{{{}}}", in_order(parts).join(" "))
    }

    fn set(&mut self, set: &SiblingSet) -> String {
        if set.is_empty() {
            return "nothing".to_owned();
        }
        let mut parts = Vec::new();
        for (dot, version) in set.siblings() {
            let value = version.value.as_ref().map_or_else(
                || "tombstone".to_owned(),
                |value| value.escape_ascii().to_string(),
            );
            parts.push((dot.actor.node, format!("{}={value}", self.dot(dot))));
        }
        format!(
            "[{}] {}",
            in_order(parts).join(", "),
            self.context(set.context())
        )
    }

    fn response(&mut self, response: &Response) -> String {
        match response {
            Response::Value(value) => format!(
                "{} ({} sibling{}{})",
                value.value.escape_ascii(),
                value.siblings,
                if value.siblings == 1 { "" } else { "s" },
                if value.folded_by.is_some() {
                    ", folded"
                } else {
                    ""
                }
            ),
            Response::Siblings { set, .. } => self.set(set),
            Response::Absent { context: Some(_) } => "deleted".to_owned(),
            Response::Absent { context: None } => "absent".to_owned(),
            Response::Explained(explanation) => self.response(&explanation.told),
            Response::Written { context } => format!("token {}", self.context(context)),
            Response::Refused(Refusal::QuorumUnmet {
                needed,
                got,
                may_be_stored,
            }) => {
                let stored = if *may_be_stored {
                    ", may be stored"
                } else {
                    ""
                };
                format!("refused: {got} of {needed}{stored}")
            }
            Response::Refused(refusal) => format!("refused: {refusal}"),
        }
    }
}

/// By node, then by what is shown: epochs are random, and so is the order that they
/// give.
fn in_order(mut parts: Vec<(NodeId, String)>) -> Vec<String> {
    parts.sort_unstable();
    parts.into_iter().map(|(_, part)| part).collect()
}

fn node(name: Option<&str>) -> Result<usize, Box<dyn Error>> {
    let name = name.ok_or("which node?")?;
    Ok(name
        .strip_prefix('n')
        .ok_or("nodes are n0, n1, …")?
        .parse()?)
}

impl Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &ScriptContext) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let output = match command.name.as_str() {
            // cluster nodes=3
            "cluster" => {
                let nodes = args.take_key("nodes").unwrap_or("3").parse()?;
                let settings = Settings::quiet(nodes);
                let mut world = World::new(1, settings);
                if !world.run_until(20_000, World::is_settled) {
                    return Err("the cluster did not form".into());
                }
                self.world = Some(world);
                String::new()
            }
            // preference KEY: the preference list of a key of the raw table
            "preference" => {
                let key = args.next_pos().ok_or("which key?")?.to_owned();
                let nodes = self.world().preference(RAW_TABLE, key.as_bytes());
                nodes
                    .into_iter()
                    .map(Self::node_name)
                    .collect::<Vec<_>>()
                    .join(" ")
            }
            // put NODE KEY=VALUE [token=NAME] [as=NAME] [w=N] [table=NAME]
            // delete NODE KEY [token=NAME] [as=NAME] [w=N]
            // get NODE KEY [r=N] [as=NAME] [table=NAME] [raw=false]
            verb @ ("put" | "delete" | "get") => {
                let table = args.take_key("table").unwrap_or(RAW_TABLE).to_owned();
                let token = args.take_key("token").map(str::to_owned);
                let save = args.take_key("as").map(str::to_owned);
                let raw = args.take_key("raw").unwrap_or("true") == "true";
                let w = args.take_key("w").unwrap_or("2").parse()?;
                let r = args.take_key("r").unwrap_or("2").parse()?;
                let strict = args.take_key("strict").unwrap_or("false") == "true";
                let at = node(args.next_pos())?;
                let client = match &token {
                    None => None,
                    Some(name) => Some(self.tokens.get(name).cloned().ok_or("no such token")?),
                };
                let (key, ask) = match verb {
                    "put" => {
                        let (key, value) = args.next_key().ok_or("what is put?")?;
                        let ask = Ask::Put {
                            client: client.unwrap_or_default(),
                            value: Bytes::from(value.to_owned()),
                            content_type: "text/plain".into(),
                            representation: false,
                        };
                        (key.to_owned(), ask)
                    }
                    "delete" => {
                        let key = args.next_pos().ok_or("which key?")?.to_owned();
                        (key, Ask::Delete { client })
                    }
                    _ => (
                        args.next_pos().ok_or("which key?")?.to_owned(),
                        Ask::Get { raw },
                    ),
                };
                let world = self.world();
                let id = world.ask(at, &table, key.as_bytes(), |request| ItemRequest {
                    ask,
                    r,
                    w,
                    strict,
                    ..request
                });
                world.run_until(5_000, |world| world.responses.contains_key(&id));
                let response = world.responses.remove(&id).ok_or("no answer within 5 s")?;
                if let Some(name) = save {
                    let context = match &response {
                        Response::Written { context } => context.clone(),
                        Response::Siblings { set, .. } => set.context().clone(),
                        Response::Value(value) => value.context.clone(),
                        Response::Absent {
                            context: Some(context),
                        } => context.clone(),
                        other => return Err(format!("no token in {other:?}").into()),
                    };
                    self.tokens.insert(name, context);
                }
                self.response(&response)
            }
            // stored KEY [table=NAME]: what every node's store holds
            "stored" => {
                let table = args.take_key("table").unwrap_or(RAW_TABLE).to_owned();
                let key = args.next_pos().ok_or("which key?")?.to_owned();
                let world = self.world();
                let sets: Vec<SiblingSet> = (0..world.len())
                    .map(|node| world.stored(node, &table, key.as_bytes()))
                    .collect();
                let mut lines = Vec::new();
                for (node, set) in sets.iter().enumerate() {
                    lines.push(format!("n{node} {}", self.set(set)));
                }
                lines.join("\n")
            }
            "hints" => self.world().hints().to_string(),
            "crash" => {
                let at = node(args.next_pos())?;
                self.world().crash(at);
                String::new()
            }
            "start" => {
                let at = node(args.next_pos())?;
                self.world().start(at);
                String::new()
            }
            "wipe" => {
                let at = node(args.next_pos())?;
                self.world().wipe(at);
                String::new()
            }
            // cut FROM TO: nothing passes that way any more
            "cut" => {
                let (from, to) = (node(args.next_pos())?, node(args.next_pos())?);
                self.world().cut(from, to);
                String::new()
            }
            "mend" => {
                self.world().mend();
                String::new()
            }
            // run SECONDS
            "run" => {
                let seconds: u64 = args.next_pos().ok_or("how long?")?.parse()?;
                self.world().run(seconds * 1000);
                String::new()
            }
            other => return Err(format!("unknown command {other}").into()),
        };
        args.reject_next()?;
        Ok(output)
    }
}

fn transcript(name: &str) {
    let path = format!(
        "{}/src/simulation/transcripts/{name}",
        env!("CARGO_MANIFEST_DIR")
    );
    goldenscript::run(&mut Script::default(), &path)
        .unwrap_or_else(|error| panic!("{name} does not come out as written: {error}"));
}

#[test]
fn version_evolution() {
    transcript("version_evolution");
}

#[test]
fn interleaved_writers() {
    transcript("interleaved_writers");
}

#[test]
fn dead_primary() {
    transcript("dead_primary");
}

#[test]
fn late_hint() {
    transcript("late_hint");
}

#[test]
fn folding_before_storing() {
    transcript("folding_before_storing");
    assert_eq!(UNION_TABLE, "union", "the script names it");
}

#[test]
fn read_repair() {
    transcript("read_repair");
}

#[test]
fn amnesia() {
    transcript("amnesia");
}
