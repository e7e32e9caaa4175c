//! A peer that comes back is answered at once.

use super::*;

#[test]
fn an_answer_reaches_a_peer_that_has_just_come_back() {
    let mut world = OnSockets::default();
    let back = |input: &Input| matches!(input, Input::Undelivered { .. });
    world.start("a");
    for _ in 0..10 {
        world.start("b");
        world.stop("b");
        // Once a message comes back, A backs off from B's address. (One that was
        // written to a connection that had just died is lost, and said to be.)
        loop {
            world.send("a", "b", probe(1));
            let inputs = world.take_when("a", &|inputs| !inputs.is_empty());
            if inputs.iter().any(back) {
                break;
            }
        }
        world.start("b");
        world.send("b", "a", probe(2));
        world.take_when("a", &|inputs| {
            let asked = |input: &Input| matches!(input, Input::Peer { .. });
            inputs.iter().any(asked)
        });
        world.send("a", "b", probe(3));
        let answered = world.inboxes.wait(|inputs| {
            let has = |name: &str, what: &dyn Fn(&Input) -> bool| {
                inputs.get(name).is_some_and(|got| got.iter().any(what))
            };
            if has("b", &|input| matches!(input, Input::Peer { .. })) {
                return Some(true);
            }
            has("a", &back).then_some(false)
        });
        assert!(answered, "the answer came back to its sender");
        world.stop("b");
    }
}
