//! The simulator's guests: no WebAssembly, no threads, no clock.
//!
//! Two reconcilers. [`COUNTER`] is the digest of a counter: an operation adds the
//! whole number in its body, and the view of a state is the sum. Any other digest
//! is a set of lines: the fold is their union, sorted, each line ended by a
//! newline, an operation adds its body as lines, and the view of a state is the
//! state. So a checker sees in a value which writes went into it.
//!
//! Promises: the same request gives the same answer; the answer comes before
//! `submit` returns; both are lawful in the sense of `kinfold-laws`, tombstones
//! contribute nothing, and only tombstones leave the item deleted.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{Done, Guests};
use crate::protocol::catalog::Digest;
use crate::protocol::effect::{GuestReply, GuestRequest, View};

/// Names the counter among the native reconcilers.
pub const COUNTER: Digest = Digest([0x63; 32]);

/// Folds sets of lines, and counters.
#[derive(Clone, Copy, Debug, Default)]
pub struct NativeGuests;

impl NativeGuests {
    /// The answer to a request.
    pub fn answer(request: &GuestRequest) -> GuestReply {
        if request.digest == COUNTER {
            return count(request);
        }
        let mut state = match &request.siblings[..] {
            [only] => only.version.value.clone(),
            siblings => {
                let values: Vec<&Bytes> = siblings
                    .iter()
                    .filter_map(|sibling| sibling.version.value.as_ref())
                    .collect();
                (!values.is_empty()).then(|| union(values.iter().map(|value| &value[..])))
            }
        };
        if let Some(operation) = &request.operation {
            let before = state.unwrap_or_default();
            state = Some(union([&before[..], &operation.body[..]].into_iter()));
        }
        let size = state.as_ref().map_or(0, Bytes::len) as u64;
        if size > request.max_output_bytes {
            let limit = request.max_output_bytes;
            return GuestReply::Failed(format!("gave more than {limit} bytes of output"));
        }
        let view = state.as_ref().filter(|_| request.render).map(|state| View {
            body: state.clone(),
            content_type: "text/plain".into(),
        });
        GuestReply::Done { value: state, view }
    }
}

impl Guests for NativeGuests {
    fn submit(&self, request: GuestRequest, done: Done) {
        done(Self::answer(&request), 0);
    }
}

/// What a counter's actors have added: by actor the counter of its newest
/// operation, and the sum of all of its operations. An actor's operations on an
/// item follow one another, so of two entries the newer one holds the older.
type Sums = BTreeMap<String, (u64, i64)>;

fn count(request: &GuestRequest) -> GuestReply {
    let mut sums = Sums::new();
    let values = request
        .siblings
        .iter()
        .filter_map(|sibling| sibling.version.value.as_ref());
    let mut has_state = false;
    for value in values {
        has_state = true;
        let Some(theirs) = parse(value) else {
            return GuestReply::Failed("a state is no counter".to_owned());
        };
        for (actor, entry) in theirs {
            let mine = sums.entry(actor).or_insert(entry);
            *mine = entry.max(*mine);
        }
    }
    if let Some(operation) = &request.operation {
        has_state = true;
        let text = String::from_utf8_lossy(&operation.body);
        let Ok(amount) = text.trim().parse::<i64>() else {
            return GuestReply::BadOperation("not a whole number".to_owned());
        };
        let entry = sums
            .entry(format!("{:?}", operation.dot.actor))
            .or_default();
        *entry = (operation.dot.counter, entry.1.saturating_add(amount));
    }
    if !has_state {
        let (value, view) = (None, None);
        return GuestReply::Done { value, view };
    }
    let state: String = sums
        .iter()
        .map(|(actor, (counter, sum))| format!("{actor} {counter} {sum}\n"))
        .collect();
    let sum: i64 = sums.values().map(|(_, sum)| sum).sum();
    GuestReply::Done {
        value: Some(state.into()),
        view: request.render.then(|| View {
            body: sum.to_string().into(),
            content_type: "text/plain".into(),
        }),
    }
}

/// Reads a counter's state; none when the bytes are not one.
fn parse(state: &[u8]) -> Option<Sums> {
    let text = std::str::from_utf8(state).ok()?;
    text.lines()
        .map(|line| {
            let mut words = line.split(' ');
            let actor = words.next()?.to_owned();
            let counter = words.next()?.parse().ok()?;
            Some((actor, (counter, words.next()?.parse().ok()?)))
        })
        .collect()
}

/// All the lines of these values, sorted, each once.
fn union<'a>(values: impl Iterator<Item = &'a [u8]>) -> Bytes {
    let lines: BTreeSet<&[u8]> = values
        .flat_map(|value| value.split(|byte| *byte == b'\n'))
        .filter(|line| !line.is_empty())
        .collect();
    let mut joined = Vec::new();
    for line in lines {
        joined.extend_from_slice(line);
        joined.push(b'\n');
    }
    joined.into()
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use kinfold_laws::{
        Answer, Failure, Item, Kind, Outcome, Samples, Settings, Sibling, Subject, Verdict,
    };

    use super::*;
    use crate::protocol::catalog::Digest;
    use crate::protocol::dot::{Actor, Dot, Epoch};
    use crate::protocol::effect::{GuestSibling, Operation};
    use crate::protocol::id::{ItemKey, NodeId, TableId};
    use crate::protocol::siblings::Version;

    struct Native;

    fn dot(node: u64) -> Dot {
        let actor = Actor {
            node: NodeId(node),
            epoch: Epoch(1),
        };
        Dot { actor, counter: 1 }
    }

    fn sibling(number: u64, value: Option<Bytes>) -> GuestSibling {
        GuestSibling {
            dot: dot(number),
            version: Version {
                value,
                content_type: "".into(),
                written_at_us: 1,
                stands_for: None,
            },
        }
    }

    fn request(siblings: &[GuestSibling]) -> GuestRequest {
        GuestRequest {
            digest: Digest::of(b"native"),
            table: "t".into(),
            key: ItemKey::new(TableId(1), b"k", None),
            siblings: siblings.to_vec(),
            operation: None,
            render: false,
            max_output_bytes: 1 << 20,
        }
    }

    impl Subject for Native {
        fn kind(&self) -> Kind {
            Kind::Reconciler
        }
        fn samples(&self, _seed: u64, _count: u32) -> Result<Option<Vec<Vec<u8>>>, Failure> {
            let samples = ["a\n", "b\n", "a\nb\n", "c\n", ""];
            Ok(Some(samples.map(|text| text.as_bytes().to_vec()).to_vec()))
        }
        fn fold(&self, _item: &Item, siblings: &[&Sibling]) -> Answer {
            let mut siblings: Vec<GuestSibling> = (1..)
                .zip(siblings)
                .map(|(number, one)| sibling(number, one.value.clone().map(Bytes::from)))
                .collect();
            // One version needs no merging and is answered as it is; the laws
            // ask what its fold is.
            if let [only] = &siblings[..] {
                siblings.push(only.clone());
            }
            match NativeGuests::answer(&request(&siblings)) {
                GuestReply::Done {
                    value: Some(value), ..
                } => Ok(Outcome::Merged(value.to_vec())),
                GuestReply::Done { value: None, .. } => Ok(Outcome::Deleted),
                other => Err(Failure::Refused(format!("{other:?}"))),
            }
        }
    }

    #[test]
    fn the_union_of_lines_is_lawful() {
        let report = kinfold_laws::check(
            &Native,
            &Samples::Module,
            Settings::new(7, 300),
            &mut |_| ControlFlow::Continue(()),
        );
        match report.verdict {
            Verdict::NoCounterexample { cases } => assert!(cases > 200, "{cases}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn counters_add_up_across_actors_and_count_nothing_twice() {
        let add = |siblings: &[GuestSibling], number: u64, amount: &'static str| {
            let mut asked = request(siblings);
            asked.digest = COUNTER;
            asked.render = true;
            asked.operation = Some(Operation {
                body: Bytes::from_static(amount.as_bytes()),
                dot: dot(number),
                written_at_us: 1,
            });
            match NativeGuests::answer(&asked) {
                GuestReply::Done {
                    value: Some(state),
                    view: Some(view),
                } => (state, String::from_utf8_lossy(&view.body).into_owned()),
                other => panic!("{other:?}"),
            }
        };
        let sibling = |number, state: &Bytes| sibling(number, Some(state.clone()));
        let (first, _) = add(&[], 1, "5");
        let (second, _) = add(&[sibling(1, &first)], 2, "-2");
        let (other, _) = add(&[sibling(1, &first)], 3, "10");
        let siblings = [sibling(1, &first), sibling(2, &second), sibling(3, &other)];
        let (_, sum) = add(&siblings, 4, "0");
        assert_eq!(sum, "13", "5 was seen by both");
    }

    #[test]
    fn operations_add_lines() {
        let mut asked = request(&[]);
        asked.operation = Some(Operation {
            body: Bytes::from_static(b"b\na"),
            dot: dot(1),
            written_at_us: 1,
        });
        asked.render = true;
        let GuestReply::Done { value, view } = NativeGuests::answer(&asked) else {
            panic!("no answer");
        };
        assert_eq!(value.as_deref(), Some(&b"a\nb\n"[..]));
        assert_eq!(view.map(|view| view.body), value);
    }
}
