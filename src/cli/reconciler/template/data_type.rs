//! NAME: a tally of votes. Change this into a data type of your own.
//!
//! Clients of a data type send operations, here `{"vote":"fig"}`, and see a view,
//! here `{"fig":2}`. Between the two is a *state*, which replicas exchange. Two
//! clients that vote at once at two nodes leave two states. kinfold keeps both
//! and calls `join` to make one of them.
//!
//! Every replica may join in another order, in other groups, and some states
//! twice, and all must end up with the same bytes. So ask of your type:
//!
//! - a.join(b) is b.join(a), and a.join(a) is a;
//! - of three, it does not matter which two are joined first;
//! - a state joined with what an operation made of it is what the operation made.
//!
//! One number for each choice would not do: joining 1 and 1 cannot tell one vote
//! that both have seen from two. So each actor counts its own votes, and a join
//! takes the larger count of each.
//!
//! `cargo test` searches for operations and states that your type gets wrong.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use kinfold_reconciler::{Dice, Event, JsonDataType};
use serde::{Deserialize, Serialize};

/// For each choice, what each actor (a node's name for its own writes) counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally(BTreeMap<String, BTreeMap<String, u64>>);

/// What clients send.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vote {
    vote: String,
}

impl JsonDataType for Tally {
    type Operation = Vote;
    type View = BTreeMap<String, u64>;

    const SUMMARY: &str = "A tally: every vote counts, once";
    /// The beginning of every refusal: operations come from clients, and may be
    /// wrong.
    const EXPECTED: &str = r#"an operation is {"vote":"fig"}"#;

    /// The larger count of each actor: it holds all that the smaller one did.
    fn join(mut self, other: Self) -> Self {
        for (choice, counts) in other.0 {
            let ours = self.0.entry(choice).or_default();
            for (actor, count) in counts {
                let larger = ours.entry(actor).or_default();
                *larger = count.max(*larger);
            }
        }
        self
    }

    /// An actor adds to its own count and to no other's. An error refuses the
    /// operation, and its text goes to the client.
    fn apply(&mut self, operation: Vote, event: &Event) -> Result<(), String> {
        if operation.vote.is_empty() {
            return Err("a vote needs a choice".to_owned());
        }
        let counts = self.0.entry(operation.vote).or_default();
        *counts.entry(event.dot.actor_hex()).or_default() += 1;
        Ok(())
    }

    fn view(&self) -> BTreeMap<String, u64> {
        let total = |counts: &BTreeMap<String, u64>| counts.values().sum();
        let choices = self.0.iter();
        choices
            .map(|(choice, counts)| (choice.clone(), total(counts)))
            .collect()
    }

    /// Operations for the law check. Few choices, so that they meet.
    fn sample(dice: &mut Dice) -> Vote {
        Vote {
            vote: dice.pick(&["fig", "nut", "pear"]).to_owned(),
        }
    }
}

kinfold_reconciler::export_data_type!(Tally);

#[cfg(test)]
mod tests {
    use kinfold_reconciler::testing::{self, Replica};

    use super::*;

    #[test]
    fn votes_at_two_nodes_count_once_each() {
        let (mut left, mut right) = (Replica::<Tally>::new(1), Replica::<Tally>::new(2));
        left.apply(r#"{"vote":"fig"}"#).unwrap();
        right.apply(r#"{"vote":"fig"}"#).unwrap();
        right.apply(r#"{"vote":"nut"}"#).unwrap();
        left.receive(&right);
        left.receive(&right);
        assert_eq!(left.view(), r#"{"fig":2,"nut":1}"#);
    }

    /// Fails with operations and states that are joined wrong, if it finds any.
    #[test]
    fn the_data_type_is_lawful() {
        testing::check_data_type::<Tally>();
    }
}
