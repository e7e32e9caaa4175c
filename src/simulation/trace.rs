//! The story of a run, for people: what happened to each item, in words.
//!
//! Promises: at most [`MAX_EVENTS`] events an item are kept, the newest; nothing
//! is kept, and no word made, unless the run is told to trace. A run that fails
//! is played again for its story, since the same seed gives the same run.

use std::collections::{BTreeMap, VecDeque};

use crate::protocol::effect::RequestId;
use crate::protocol::id::{ItemKey, NodeId};
use crate::protocol::message::{Ask, Message, MessageId, ReadAnswer, Response};
use crate::protocol::replica::Outcome;

/// How many events of one item, and of the cluster as a whole, are kept.
pub const MAX_EVENTS: usize = 60;

/// When something happened, and the how-manieth it was.
type Moment = (u64, u64);

/// What is remembered of a run's events.
#[derive(Debug, Default)]
pub(super) struct Tracer {
    told: u64,
    items: BTreeMap<ItemKey, VecDeque<(Moment, String)>>,
    cluster: VecDeque<(Moment, String)>,
    /// Which item a message or a request is about. Grows with the run, which is
    /// a short one when it is traced.
    asked: BTreeMap<(NodeId, MessageId), ItemKey>,
    requests: BTreeMap<RequestId, ItemKey>,
}

impl Tracer {
    pub fn tell(&mut self, now_ms: u64, item: Option<&ItemKey>, text: String) {
        self.told += 1;
        let events = match item {
            Some(item) => self.items.entry(item.clone()).or_default(),
            None => &mut self.cluster,
        };
        if events.len() == MAX_EVENTS {
            events.pop_front();
        }
        events.push_back(((now_ms, self.told), text));
    }

    pub fn on_request(&mut self, request: RequestId, item: &ItemKey) {
        self.requests.insert(request, item.clone());
    }

    pub fn item_of_request(&self, request: RequestId) -> Option<ItemKey> {
        self.requests.get(&request).cloned()
    }

    /// Which item the message is about, and what it says; none for those that
    /// concern no item.
    pub fn describe(
        &mut self,
        from: NodeId,
        to: NodeId,
        message: &Message,
    ) -> Option<(ItemKey, String)> {
        let mut asks = |id: &MessageId, key: &ItemKey| {
            self.asked.insert((from, *id), key.clone());
        };
        match message {
            Message::Read {
                id, key, hash_only, ..
            } => {
                asks(id, key);
                let what = if *hash_only { "the hash" } else { "the state" };
                Some((key.clone(), format!("asks for {what}")))
            }
            Message::Write {
                id,
                key,
                set,
                hint_for,
                ..
            } => {
                asks(id, key);
                let hint = hint_for.map_or(String::new(), |node| format!(", hint for {node}"));
                Some((key.clone(), format!("gives {set:?}{hint}")))
            }
            Message::Forward { id, item } => {
                asks(id, &item.key);
                Some((item.key.clone(), format!("forwards {}", ask(&item.ask))))
            }
            Message::ReadAnswer { id, answer } => {
                let item = self.asked.get(&(to, *id))?.clone();
                let said = match answer {
                    Ok(ReadAnswer::State(set)) => format!("answers {set:?}"),
                    Ok(ReadAnswer::Hash { hash, .. }) => format!("answers hash {hash}"),
                    Err(refusal) => format!("refuses: {refusal}"),
                };
                Some((item, said))
            }
            Message::WriteAnswer { id, answer } => {
                let item = self.asked.get(&(to, *id))?.clone();
                let said = match answer {
                    Ok(()) => "acknowledges".to_owned(),
                    Err(refusal) => format!("refuses: {refusal}"),
                };
                Some((item, said))
            }
            Message::ForwardAnswer { id, response: said } => {
                let item = self.asked.get(&(to, *id))?.clone();
                Some((item, format!("carried out: {}", response(said))))
            }
            _ => None,
        }
    }

    /// The last events of an item among those of the cluster, as lines.
    pub fn story(&self, item: Option<&ItemKey>) -> Vec<String> {
        let events = item.and_then(|item| self.items.get(item));
        let mut told: Vec<&(Moment, String)> =
            events.into_iter().flatten().chain(&self.cluster).collect();
        told.sort();
        told.iter()
            .map(|((at_ms, _), text)| format!("{:>5}.{:03} s  {text}", at_ms / 1000, at_ms % 1000))
            .collect()
    }
}

pub(super) fn ask(ask: &Ask) -> String {
    match ask {
        Ask::Get { .. } => "a read".to_owned(),
        Ask::Explain => "an explained read".to_owned(),
        Ask::Put { client, value, .. } => {
            format!("a write of {} over {client:?}", value.escape_ascii())
        }
        Ask::Delete { client } => format!("a deletion of {client:?}"),
        Ask::Operate { operation } => format!("the operation {}", operation.escape_ascii()),
    }
}

pub(super) fn response(response: &Response) -> String {
    match response {
        Response::Value(value) => format!("the value {}", value.value.escape_ascii()),
        Response::Siblings { set, .. } => format!("{set:?}"),
        Response::Absent { .. } => "absent".to_owned(),
        Response::Written { context } => format!("written, token {context:?}"),
        Response::Refused(refusal) => format!("refused: {refusal}"),
        Response::Explained(explanation) => format!("explained: {:?}", explanation.told),
    }
}

pub(super) fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Written(written) => format!("{:?}", written.delta),
        Outcome::WantsFold(_) => "nothing, folding comes first".to_owned(),
        Outcome::TooManySiblings(siblings) => format!("nothing, {siblings} siblings"),
        Outcome::Synced { changed: true } => "what a peer brought".to_owned(),
        Outcome::Synced { changed: false } => "nothing new".to_owned(),
        Outcome::Replaced => "what a module made".to_owned(),
        Outcome::Conflict(_) => "nothing, the item has changed".to_owned(),
    }
}
