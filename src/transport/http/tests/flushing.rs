//! Who sends also writes, whoever else does so at the same moment.

use std::sync::Barrier;

use super::*;

#[test]
fn what_several_threads_send_at_once_leaves_and_keeps_each_ones_order() {
    const THREADS: u64 = 3;
    const ROUNDS: u64 = 300;
    const AT_ONCE: u64 = 2;
    let mut world = OnSockets::default();
    world.start("a");
    world.start("b");
    world.send("a", "b", probe(0));
    world.take_when("b", &|inputs| !inputs.is_empty());
    let transport = world.nodes["a"].transport.clone();
    let address = world.address("b");
    for round in 0..ROUNDS {
        // Nobody sends after them: what one leaves to another must not be forgotten.
        let barrier = Barrier::new(THREADS as usize);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (barrier, transport, address) = (&barrier, &transport, &address);
                scope.spawn(move || {
                    barrier.wait();
                    for number in 0..AT_ONCE {
                        let id = (round * AT_ONCE + number) * THREADS + thread;
                        transport.send(NodeId::of("b"), address, probe(id));
                        transport.flush();
                    }
                });
            }
        });
        let all = (THREADS * AT_ONCE) as usize;
        let inputs = world.take_when("b", &|inputs| inputs.len() >= all);
        let mut last = [None; THREADS as usize];
        for input in inputs {
            let Input::Peer {
                message: Message::Probe { id },
                ..
            } = input
            else {
                panic!("a probe was expected, not {input:?}");
            };
            let last = &mut last[(id.0 % THREADS) as usize];
            assert!(*last < Some(id.0), "{id:?} came after {last:?}");
            *last = Some(id.0);
        }
    }
}

#[test]
fn what_was_not_flushed_leaves_when_the_transport_closes() {
    let mut world = OnSockets::default();
    world.start("a");
    world.start("b");
    world.send("a", "b", probe(0));
    world.take_when("b", &|inputs| !inputs.is_empty());
    let node = &world.nodes["a"];
    for id in 1..=3 {
        let address = world.address("b");
        node.transport.send(NodeId::of("b"), &address, probe(id));
    }
    node.runtime.block_on(node.transport.close());
    let inputs = world.take_when("b", &|inputs| inputs.len() >= 3);
    assert_eq!(inputs.len(), 3);
}

#[test]
fn who_sends_does_not_wait_for_a_peer_that_does_not_read() {
    let mut world = OnSockets::default();
    world.start("a");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = Address::from(listener.local_addr().expect("bound").to_string());
    let transport = world.nodes["a"].transport.clone();
    let send = |message| {
        transport.send(NodeId::of("b"), &address, message);
        transport.flush();
    };
    send(probe(1));
    let mut stream = accept_raw(&listener, "b");
    let mut frame = [0; codec::HEADER_BYTES + 2];
    stream.read_exact(&mut frame).expect("the probe comes");
    // More than the kernel buffers on both sides together, and something behind it.
    let large = module(20 << 20);
    send(large.clone());
    send(probe(2));
    // Once the peer reads, all of it comes, and in its order.
    let mut rest = vec![0; codec::frame_bytes(&large)];
    stream.read_exact(&mut rest).expect("the module comes");
    assert_eq!(codec::decode_one(&rest), Ok(Some(large)));
    stream.read_exact(&mut frame).expect("the probe comes");
    assert_eq!(frame[codec::HEADER_BYTES + 1], 2);
    assert_eq!(transport.figures().queued_messages, 0);
}
