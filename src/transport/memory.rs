//! Several nodes in one process, and a network between them that does only what
//! it is told.
//!
//! Promises: deterministic, no threads, no clock; nothing arrives but by
//! [`MemoryNetwork::deliver`] or [`MemoryNetwork::deliver_next`], so whoever
//! drives it decides the order, and loses a parcel by dropping it, delays it by
//! keeping it and repeats it by cloning it. Every message passes through the
//! codec. What a node sends reaches no `Deliver` within `send`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};

use crate::protocol::effect::{Address, Input};
use crate::protocol::id::NodeId;
use crate::protocol::message::Message;

use super::{Deliver, Transport, codec};

/// How many parcels may wait from one address to another; beyond it a message
/// comes back as overloaded. Few enough that a simulation meets the case.
pub const MAX_WAITING: usize = 1024;

/// A message on its way.
#[derive(Clone, Debug)]
pub struct Parcel {
    pub from: NodeId,
    pub from_address: Address,
    /// Who it is for; none for whoever is attached at the address.
    pub to: Option<NodeId>,
    pub to_address: Address,
    freight: Freight,
}

#[derive(Clone, Debug)]
enum Freight {
    Frame(Bytes),
    /// Not to be sent: goes back to its sender as overloaded.
    Refused(Box<Message>),
}

impl Parcel {
    /// The message inside.
    pub fn message(&self) -> Message {
        match &self.freight {
            Freight::Frame(frame) => codec::decode_one(frame)
                .expect("what the codec wrote it reads")
                .expect("a parcel holds a whole frame"),
            Freight::Refused(message) => (**message).clone(),
        }
    }
}

struct Attached {
    node: NodeId,
    deliver: Deliver,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<Address, Attached>,
    parcels: VecDeque<Parcel>,
    /// How many parcels wait, by sender's and receiver's address.
    waiting: BTreeMap<(Address, Address), usize>,
    /// Connections that have carried a message: sender's, receiver's address.
    connected: BTreeSet<(Address, Address)>,
}

impl State {
    fn take(&mut self) -> Option<Parcel> {
        let parcel = self.parcels.pop_front()?;
        let route = (parcel.from_address.clone(), parcel.to_address.clone());
        let waiting = self.waiting.get_mut(&route).expect("a parcel is counted");
        *waiting -= 1;
        if *waiting == 0 {
            self.waiting.remove(&route);
        }
        Some(parcel)
    }
}

/// The network. Clones share it.
#[derive(Clone, Default)]
pub struct MemoryNetwork {
    state: Arc<Mutex<State>>,
}

impl MemoryNetwork {
    /// A network without nodes.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a node listen at this address, in place of whoever did.
    pub fn attach(&self, node: NodeId, address: &Address, deliver: Deliver) -> MemoryTransport {
        self.detach(address);
        let attached = Attached { node, deliver };
        self.state().nodes.insert(address.clone(), attached);
        MemoryTransport {
            network: self.clone(),
            node,
            address: address.clone(),
        }
    }

    /// Ends whoever listens at this address: nodes that have sent it something
    /// are told, and what is on its way to it will come back undelivered. What it
    /// has sent is still on its way.
    pub fn detach(&self, address: &Address) {
        let mut state = self.state();
        let Some(gone) = state.nodes.remove(address) else {
            return;
        };
        let broken: Vec<_> = state
            .connected
            .extract_if(.., |(from, to)| from == address || to == address)
            .collect();
        let told: Vec<Deliver> = broken
            .iter()
            .filter_map(|(from, _)| state.nodes.get(from))
            .map(|node| node.deliver.clone())
            .collect();
        drop(state);
        for deliver in told {
            deliver(&mut vec![Input::Disconnected { peer: gone.node }]);
        }
    }

    /// Breaks the connection on which `from` sends to `to`, if there is one:
    /// `from` is told.
    pub fn disconnect(&self, from: &Address, to: &Address) {
        let mut state = self.state();
        if !state.connected.remove(&(from.clone(), to.clone())) {
            return;
        }
        let sender = state.nodes.get(from).map(|node| node.deliver.clone());
        let peer = state.nodes.get(to).map(|node| node.node);
        drop(state);
        if let (Some(deliver), Some(peer)) = (sender, peer) {
            deliver(&mut vec![Input::Disconnected { peer }]);
        }
    }

    /// How many parcels wait.
    pub fn waiting(&self) -> usize {
        self.state().parcels.len()
    }

    /// Takes the oldest parcel off the network.
    pub fn take(&self) -> Option<Parcel> {
        self.state().take()
    }

    /// Carries a parcel to where it goes, or back if nobody there is meant.
    pub fn deliver(&self, parcel: Parcel) {
        let message = parcel.message();
        let mut state = self.state();
        let receiver = state.nodes.get(&parcel.to_address);
        let receiver = receiver.filter(|node| parcel.to.is_none_or(|to| to == node.node));
        match (&parcel.freight, receiver) {
            (Freight::Frame(_), Some(receiver)) => {
                let deliver = receiver.deliver.clone();
                state
                    .connected
                    .insert((parcel.from_address, parcel.to_address));
                drop(state);
                let from = parcel.from;
                deliver(&mut vec![Input::Peer { from, message }]);
            }
            (freight, _) => {
                let overloaded = matches!(freight, Freight::Refused(_));
                drop(state);
                self.give_back(&parcel, overloaded);
            }
        }
    }

    /// Gives a parcel back to its sender as one that was never sent, as when the
    /// receiver cannot be reached.
    pub fn return_to_sender(&self, parcel: Parcel) {
        self.give_back(&parcel, false);
    }

    fn give_back(&self, parcel: &Parcel, overloaded: bool) {
        let state = self.state();
        let sender = state.nodes.get(&parcel.from_address);
        // A sender that was replaced by another node is not told of it.
        let sender = sender.filter(|node| node.node == parcel.from);
        let deliver = sender.map(|node| node.deliver.clone());
        drop(state);
        if let (Some(deliver), Some(to)) = (deliver, parcel.to) {
            let message = parcel.message();
            deliver(&mut vec![Input::Undelivered {
                to,
                message,
                overloaded,
            }]);
        }
    }

    /// Delivers the oldest parcel. False if there is none.
    pub fn deliver_next(&self) -> bool {
        let parcel = self.take();
        let delivered = parcel.is_some();
        if let Some(parcel) = parcel {
            self.deliver(parcel);
        }
        delivered
    }
}

/// One node's end of the network.
#[derive(Clone)]
pub struct MemoryTransport {
    network: MemoryNetwork,
    node: NodeId,
    address: Address,
}

impl MemoryTransport {
    fn post(&self, to: Option<NodeId>, address: &Address, message: Message) {
        debug_assert_ne!(to, Some(self.node), "a node does not write to itself");
        debug_assert_ne!(*address, self.address, "a node does not write to itself");
        let mut state = self.network.state();
        let route = (self.address.clone(), address.clone());
        let waiting = state.waiting.entry(route).or_default();
        *waiting += 1;
        let mut frame = BytesMut::new();
        let fits = *waiting <= MAX_WAITING && codec::encode(&message, &mut frame).is_ok();
        let freight = if fits {
            Freight::Frame(frame.freeze())
        } else {
            Freight::Refused(Box::new(message))
        };
        state.parcels.push_back(Parcel {
            from: self.node,
            from_address: self.address.clone(),
            to,
            to_address: address.clone(),
            freight,
        });
    }
}

impl Transport for MemoryTransport {
    fn send(&self, to: NodeId, address: &Address, message: Message) {
        self.post(Some(to), address, message);
    }

    fn contact(&self, address: &Address, message: Message) {
        self.post(None, address, message);
    }

    fn address_of(&self, node: NodeId) -> Option<Address> {
        let state = self.network.state();
        let mut senders = state.connected.iter().filter(|(_, to)| *to == self.address);
        let found = senders.find(|(from, _)| {
            let sender = state.nodes.get(from);
            sender.is_some_and(|sender| sender.node == node)
        });
        found.map(|(from, _)| from.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::probe;
    use super::super::suite::{World, run_on};
    use super::*;

    type Inbox = Arc<Mutex<Vec<Input>>>;

    fn attach(network: &MemoryNetwork, name: &str) -> (MemoryTransport, Inbox) {
        let inbox = Inbox::default();
        let sink = inbox.clone();
        let deliver: Deliver = Arc::new(move |inputs| sink.lock().expect("whole").append(inputs));
        let transport = network.attach(NodeId::of(name), &Address::from(name), deliver);
        (transport, inbox)
    }

    fn ids(inbox: &Inbox) -> Vec<u64> {
        let inputs = std::mem::take(&mut *inbox.lock().expect("whole"));
        let id = |input| match input {
            Input::Peer {
                message: Message::Probe { id },
                ..
            } => id.0,
            other => panic!("a probe was expected, not {other:?}"),
        };
        inputs.into_iter().map(id).collect()
    }

    #[derive(Default)]
    struct InMemory {
        network: MemoryNetwork,
        nodes: BTreeMap<String, (MemoryTransport, Inbox)>,
    }

    impl InMemory {
        fn run(&self) {
            while self.network.deliver_next() {}
        }
    }

    impl World for InMemory {
        fn start(&mut self, name: &str) {
            let node = attach(&self.network, name);
            self.nodes.insert(name.to_owned(), node);
        }

        fn stop(&mut self, name: &str) {
            self.nodes.remove(name);
            self.network.detach(&self.address(name));
        }

        fn address(&self, name: &str) -> Address {
            Address::from(name)
        }

        fn transport(&self, name: &str) -> &dyn Transport {
            &self.nodes[name].0
        }

        fn take_when(&mut self, name: &str, condition: &dyn Fn(&[Input]) -> bool) -> Vec<Input> {
            self.run();
            let mut inbox = self.nodes[name].1.lock().expect("whole");
            assert!(condition(&inbox), "this was all: {inbox:?}");
            std::mem::take(&mut *inbox)
        }

        fn first_to_get<'n>(&mut self, names: &[&'n str]) -> &'n str {
            self.run();
            let has_some = |name: &&&str| !self.nodes[**name].1.lock().expect("whole").is_empty();
            names.iter().find(has_some).expect("all are empty")
        }

        fn deaf_address(&mut self) -> Address {
            Address::from("nobody")
        }

        fn max_queued(&self) -> usize {
            MAX_WAITING
        }
    }

    run_on!(InMemory::default());

    #[test]
    fn whoever_drives_it_decides_what_arrives() {
        let network = MemoryNetwork::new();
        let (a, _) = attach(&network, "a");
        let (_, inbox) = attach(&network, "b");
        for id in 1..=3 {
            a.send(NodeId::of("b"), &"b".into(), probe(id));
        }
        assert_eq!((network.waiting(), ids(&inbox)), (3, vec![]));
        let first = network.take().expect("three wait");
        drop(network.take());
        assert!(network.deliver_next());
        network.deliver(first.clone());
        network.deliver(first);
        assert!(!network.deliver_next());
        assert_eq!(ids(&inbox), [3, 1, 1]);
    }

    #[test]
    fn a_parcel_given_back_is_undelivered() {
        let network = MemoryNetwork::new();
        let (a, inbox) = attach(&network, "a");
        a.send(NodeId::of("b"), &"b".into(), probe(1));
        let parcel = network.take().expect("one waits");
        network.return_to_sender(parcel);
        let inputs = inbox.lock().expect("whole");
        assert!(matches!(
            inputs[..],
            [Input::Undelivered {
                overloaded: false,
                ..
            }]
        ));
    }
}
