//! One row under every change: fresh epochs, limits, swaps and joins.

use bytes::Bytes;

use super::context::Context;
use super::dot::{Dot, Epoch};
use super::id::NodeId;
use super::model::{NO_LIMITS, Step, World};
use super::replica::{
    Draft, Minting, Mutation, Outcome, Row, SiblingLimits, apply, plan_event, plan_fold,
    plan_operation,
};
use super::siblings::SiblingSet;

/// The rules that keep a dot from being minted twice.
#[test]
fn a_fresh_epoch_is_taken_whenever_memory_is_in_doubt() {
    let limits = NO_LIMITS;
    let draft = |client: Context| Draft {
        client,
        value: Some(Bytes::from_static(b"v")),
        content_type: "text/plain".into(),
    };
    let minting = |incarnation, epoch| Minting {
        node: NodeId(1),
        incarnation,
        now_us: 5,
        fresh_epoch: Epoch(epoch),
    };
    let write = |row: Option<Row>, client: Context, minting: Minting| match apply(
        row,
        Mutation::Write {
            draft: draft(client),
            minting,
            limits,
        },
    ) {
        (Some(row), Outcome::Written(written)) => (row, written.dot),
        other => panic!("{other:?}"),
    };
    let (row, first) = write(None, Context::new(), minting(1, 100));
    assert_eq!((first.actor.epoch, first.counter), (Epoch(100), 1));
    // It remembers: the epoch goes on.
    let (row, second) = write(Some(row), Context::new(), minting(1, 101));
    assert_eq!((second.actor.epoch, second.counter), (Epoch(100), 2));
    // The store came back from who knows where.
    let (_, third) = write(Some(row.clone()), Context::new(), minting(2, 102));
    assert_eq!((third.actor.epoch, third.counter), (Epoch(102), 1));
    // A client shows a counter of ours that we do not remember.
    let mut shown = Context::new();
    shown.add(
        Dot {
            counter: 3,
            ..second
        },
        5,
    );
    let (_, fourth) = write(Some(row.clone()), shown, minting(1, 103));
    assert_eq!((fourth.actor.epoch, fourth.counter), (Epoch(103), 1));
    // Truncation forgot our own entry: the counter is remembered beside it.
    let mut forgetful = row;
    forgetful.set.truncate(0);
    forgetful.set = SiblingSet::new();
    let (_, fifth) = write(Some(forgetful), Context::new(), minting(1, 104));
    assert_eq!((fifth.actor.epoch, fifth.counter), (Epoch(100), 3));
}

#[test]
fn limits_are_kept_and_a_mending_write_is_taken() {
    let mut row = None;
    let limits = SiblingLimits {
        fold_above: None,
        max_siblings: 3,
        max_actors: 20,
    };
    let mut epoch = 0;
    let mut write = |row: Option<Row>, client: Context, limits| {
        epoch += 1;
        let minting = Minting {
            node: NodeId(1),
            incarnation: 1,
            now_us: 5,
            fresh_epoch: Epoch(epoch),
        };
        let draft = Draft {
            client,
            value: None,
            content_type: "".into(),
        };
        apply(
            row,
            Mutation::Write {
                draft,
                minting,
                limits,
            },
        )
    };
    for _ in 0..3 {
        row = write(row, Context::new(), limits).0;
    }
    let before = row.clone();
    let (after, outcome) = write(row.clone(), Context::new(), limits);
    assert_eq!((after, outcome), (None, Outcome::TooManySiblings(4)));
    // With what it saw a client always gets through.
    let seen = before.as_ref().expect("three writes").set.context().clone();
    let (after, _) = write(row, seen, limits);
    assert_eq!(after.expect("taken").set.len(), 1);
    // Above the fold limit nothing is stored either: folding comes first.
    let eager = SiblingLimits {
        fold_above: Some(1),
        ..limits
    };
    let (after, outcome) = write(before.clone(), Context::new(), eager);
    assert_eq!(after, None);
    assert_eq!(outcome, Outcome::WantsFold(before.expect("three writes")));
}

#[test]
fn a_swap_happens_only_on_the_state_it_was_made_from() {
    let mut world = World::default();
    world
        .take(&Step::Write {
            client: 0,
            node: 0,
            blind: true,
            delete: false,
        })
        .expect("a write");
    let base = world.rows[0].clone();
    let minting = world.minting(0);
    let (folded, _) = plan_fold(
        base.clone(),
        Some(Bytes::from_static(b"f")),
        "t/p".into(),
        &minting,
        20,
    );
    let swap = Mutation::Replace {
        expected: base.set.hash(),
        row: folded.clone(),
    };
    world
        .take(&Step::Write {
            client: 1,
            node: 0,
            blind: true,
            delete: false,
        })
        .expect("a write");
    let (row, outcome) = apply(Some(world.rows[0].clone()), swap.clone());
    assert_eq!(
        (row, outcome),
        (None, Outcome::Conflict(world.rows[0].clone()))
    );
    assert_eq!(apply(Some(base), swap), (Some(folded), Outcome::Replaced));
}

#[test]
fn an_operation_may_join_what_came_meanwhile_unless_its_dot_was_taken() {
    let blind = |client, node| Step::Write {
        client,
        node,
        blind: true,
        delete: false,
    };
    let mut world = World::default();
    world.take(&blind(0, 0)).expect("a write");
    let base = world.rows[0].clone();
    let minting = world.minting(0);
    let (planned, dot, written_at_us) = plan_event(base.clone(), &minting);
    let state = Bytes::from_static(b"s");
    let made = plan_operation(planned, (dot, written_at_us), state, "t/p".into(), 20);
    let join = Mutation::Join {
        minted: base.minted,
        made: made.clone(),
        max_actors: 20,
    };
    // Nothing came: it is what a swap would have stored.
    assert_eq!(
        apply(Some(base.clone()), join.clone()),
        (Some(made), Outcome::Replaced)
    );
    // A peer's write came: it stands beside, and what the operation saw is gone.
    world.take(&blind(1, 1)).expect("a write");
    let sync = Mutation::Sync {
        set: world.rows[1].set.clone(),
        max_actors: 20,
    };
    let (met, _) = apply(Some(base.clone()), sync);
    let theirs: Vec<Dot> = world.rows[1].set.siblings().map(|(dot, _)| dot).collect();
    let (joined, outcome) = apply(met, join.clone());
    let joined = joined.expect("it was stored");
    assert_eq!(outcome, Outcome::Replaced);
    let mut expected = theirs;
    expected.push(dot);
    expected.sort();
    let found: Vec<Dot> = joined.set.siblings().map(|(dot, _)| dot).collect();
    assert_eq!(found, expected);
    // Another write was minted here: the dot may be another's now.
    world.take(&blind(2, 0)).expect("a write");
    let (row, outcome) = apply(Some(world.rows[0].clone()), join);
    assert_eq!(
        (row, outcome),
        (None, Outcome::Conflict(world.rows[0].clone()))
    );
}
