//! What every transport promises, as tests that run on each.

use crate::protocol::effect::{Address, Input};
use crate::protocol::id::NodeId;
use crate::protocol::message::{Message, MessageId};

use super::Transport;
use super::samples::{module, one_of_each, probe};

/// Nodes on some transport.
pub trait World {
    /// Starts the node of this name; again, at the same address, after a stop.
    fn start(&mut self, name: &str);
    /// Ends the node as a crash does.
    fn stop(&mut self, name: &str);
    /// Where the node listens, or did when it was last up.
    fn address(&self, name: &str) -> Address;
    /// The node's own transport.
    fn transport(&self, name: &str) -> &dyn Transport;
    /// Waits until what the node has been given satisfies the condition, and
    /// takes it. Panics when that does not come to pass.
    fn take_when(&mut self, name: &str, condition: &dyn Fn(&[Input]) -> bool) -> Vec<Input>;
    /// Waits until one of these nodes has been given something: its name.
    fn first_to_get<'n>(&mut self, names: &[&'n str]) -> &'n str;
    /// An address that takes no message for a while, and then none at all.
    fn deaf_address(&mut self) -> Address;
    /// How many messages of this transport may wait for one peer.
    fn max_queued(&self) -> usize;
}

fn send(world: &dyn World, from: &str, to: &str, message: Message) {
    let address = world.address(to);
    let transport = world.transport(from);
    transport.send(NodeId::of(to), &address, message);
}

/// The messages that arrived, all of them from this node.
fn arrived(inputs: Vec<Input>, sender: &str) -> Vec<Message> {
    let message = |input| match input {
        Input::Peer { from, message } if from == NodeId::of(sender) => message,
        other => panic!("a message from {sender} was expected, not {other:?}"),
    };
    inputs.into_iter().map(message).collect()
}

fn is_disconnected(input: &Input, name: &str) -> bool {
    matches!(input, Input::Disconnected { peer } if *peer == NodeId::of(name))
}

/// Sends a first message until it arrives: then the two are connected.
fn connect(world: &mut dyn World, from: &str, to: &str) {
    send(world, from, to, probe(0));
    let inputs = world.take_when(to, &|inputs| !inputs.is_empty());
    assert_eq!(arrived(inputs, from), [probe(0)]);
}

pub fn messages_arrive_as_they_were_sent_and_in_order(world: &mut dyn World) {
    world.start("a");
    world.start("b");
    let mut sent = one_of_each();
    sent.extend((0..500).map(probe));
    for message in &sent {
        send(world, "a", "b", message.clone());
    }
    let count = sent.len();
    let inputs = world.take_when("b", &|inputs| inputs.len() >= count);
    assert_eq!(arrived(inputs, "a"), sent);
}

pub fn both_sides_talk_and_know_where_to_answer(world: &mut dyn World) {
    world.start("a");
    world.start("b");
    let address = world.address("b");
    // B has never heard of A, and A does not know B's name.
    assert_eq!(world.transport("b").address_of(NodeId::of("a")), None);
    world.transport("a").contact(&address, probe(1));
    let inputs = world.take_when("b", &|inputs| !inputs.is_empty());
    assert_eq!(arrived(inputs, "a"), [probe(1)]);
    let back = world.transport("b").address_of(NodeId::of("a"));
    let back = back.expect("A has introduced itself");
    assert_eq!(back, world.address("a"));
    let answer = Message::ProbeAnswer { id: MessageId(1) };
    world
        .transport("b")
        .send(NodeId::of("a"), &back, answer.clone());
    let inputs = world.take_when("a", &|inputs| !inputs.is_empty());
    assert_eq!(arrived(inputs, "b"), [answer]);
}

pub fn large_messages_arrive_and_larger_ones_come_back(world: &mut dyn World) {
    world.start("a");
    world.start("b");
    let large = module(20 << 20);
    let too_large = module(super::codec::MAX_FRAME_BYTES);
    for message in [&probe(1), &large, &too_large, &probe(2)] {
        send(world, "a", "b", message.clone());
    }
    let inputs = world.take_when("b", &|inputs| inputs.len() == 3);
    assert_eq!(arrived(inputs, "a"), [probe(1), large, probe(2)]);
    let inputs = world.take_when("a", &|inputs| !inputs.is_empty());
    let [
        Input::Undelivered {
            to,
            message: Message::Module {
                bytes: Some(bytes), ..
            },
            overloaded: true,
        },
    ] = &inputs[..]
    else {
        panic!("the message that is too large was expected back");
    };
    assert_eq!(*to, NodeId::of("b"));
    assert_eq!(bytes.len(), super::codec::MAX_FRAME_BYTES);
}

pub fn what_nobody_listens_to_comes_back(world: &mut dyn World) {
    world.start("a");
    world.start("b");
    world.stop("b");
    let sent: Vec<Message> = (0..20).map(probe).collect();
    for message in &sent {
        send(world, "a", "b", message.clone());
    }
    let inputs = world.take_when("a", &|inputs| inputs.len() >= 20);
    let back: Vec<Message> = inputs.into_iter().map(undelivered_to_b).collect();
    assert_eq!(back, sent);
}

fn undelivered_to_b(input: Input) -> Message {
    match input {
        Input::Undelivered {
            to,
            message,
            overloaded: false,
        } if to == NodeId::of("b") => message,
        other => panic!("something undelivered was expected, not {other:?}"),
    }
}

pub fn what_is_for_another_node_comes_back(world: &mut dyn World) {
    world.start("a");
    world.start("c");
    let address = world.address("c");
    let transport = world.transport("a");
    transport.send(NodeId::of("b"), &address, probe(1));
    transport.send(NodeId::of("c"), &address, probe(2));
    let inputs = world.take_when("c", &|inputs| !inputs.is_empty());
    assert_eq!(arrived(inputs, "a"), [probe(2)]);
    let inputs = world.take_when("a", &|inputs| !inputs.is_empty());
    let back: Vec<Message> = inputs.into_iter().map(undelivered_to_b).collect();
    assert_eq!(back, [probe(1)]);
}

pub fn a_dead_peer_is_noticed_once_and_found_when_it_returns(world: &mut dyn World) {
    world.start("a");
    world.start("b");
    for _ in 0..3 {
        connect(world, "a", "b");
        world.stop("b");
        let inputs = world.take_when("a", &|inputs| !inputs.is_empty());
        assert!(is_disconnected(&inputs[0], "b"), "{inputs:?}");
        assert_eq!(inputs.len(), 1);
        world.start("b");
        // Whoever sends too early gets the message back, and sends it again.
        send(world, "a", "b", probe(7));
        while world.first_to_get(&["a", "b"]) == "a" {
            for input in world.take_when("a", &|inputs| !inputs.is_empty()) {
                assert_eq!(undelivered_to_b(input), probe(7));
                send(world, "a", "b", probe(7));
            }
        }
        let inputs = world.take_when("b", &|inputs| !inputs.is_empty());
        assert_eq!(arrived(inputs, "a"), [probe(7)]);
    }
}

pub fn a_full_queue_comes_back_as_overloaded(world: &mut dyn World) {
    world.start("a");
    let max = world.max_queued() as u64;
    let address = world.deaf_address();
    for id in 0..max + 5 {
        let transport = world.transport("a");
        transport.send(NodeId::of("b"), &address, probe(id));
    }
    let all = max + 5;
    let inputs = world.take_when("a", &|inputs| inputs.len() as u64 >= all);
    let (mut overloaded, mut unreachable) = (Vec::new(), Vec::new());
    for input in inputs {
        let Input::Undelivered {
            message: Message::Probe { id },
            overloaded: is_overloaded,
            ..
        } = input
        else {
            panic!("an undelivered probe was expected, not {input:?}");
        };
        if is_overloaded {
            overloaded.push(id.0);
        } else {
            unreachable.push(id.0);
        }
    }
    assert_eq!(overloaded, Vec::from_iter(max..all));
    assert_eq!(unreachable, Vec::from_iter(0..max));
}

/// Makes each test of the suite a `#[test]`, on the world that the expression
/// makes.
macro_rules! run_on {
    ($world:expr) => {
        $crate::transport::suite::run_on! { $world;
            messages_arrive_as_they_were_sent_and_in_order
            both_sides_talk_and_know_where_to_answer
            large_messages_arrive_and_larger_ones_come_back
            what_nobody_listens_to_comes_back
            what_is_for_another_node_comes_back
            a_dead_peer_is_noticed_once_and_found_when_it_returns
            a_full_queue_comes_back_as_overloaded
        }
    };
    ($world:expr; $($test:ident)*) => {
        $(#[test]
        fn $test() {
            $crate::transport::suite::$test(&mut $world);
        })*
    };
}
pub(in crate::transport) use run_on;
