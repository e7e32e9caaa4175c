//! The simulator's guests: no WebAssembly, no threads, no clock.
//!
//! Two reconcilers. [`COUNTER`] is the digest of a counter: an operation adds the
//! whole number in its body, and the view of a state is the sum. Any other digest
//! is a set of lines: the fold is their union, sorted, each line ended by a
//! newline, an operation adds its body as lines, and the view of a state is the
//! state. So a checker sees in a value which writes went into it.
//!
//! Promises: the same request gives the same answer; the answer comes before
//! `submit` returns; both are lawful in the sense of `laws.rs`, tombstones
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
    use super::super::laws::{Answer, Samples, Subject, Verdict, check_subject};
    use super::*;
    use crate::protocol::catalog::{Digest, ModuleKind};
    use crate::protocol::effect::{GuestSibling, Operation};
    use crate::protocol::id::{ItemKey, TableId};

    struct Native;

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
        fn kind(&self) -> ModuleKind {
            ModuleKind::Reconciler
        }
        fn samples(&self, _seed: u64, _count: u32) -> Option<Vec<Vec<u8>>> {
            let samples = ["a\n", "b\n", "a\nb\n", "c\n", ""];
            Some(samples.map(|text| text.as_bytes().to_vec()).to_vec())
        }
        fn fold(&self, siblings: &[GuestSibling]) -> Answer {
            match NativeGuests::answer(&request(siblings)) {
                GuestReply::Done { value, .. } => Answer::Value(value),
                other => Answer::Refused(format!("{other:?}")),
            }
        }
        fn apply(&self, _state: Option<&[u8]>, _operation: &Operation) -> Answer {
            Answer::Refused("no operations here".to_owned())
        }
        fn render(&self, _state: &[u8]) -> Result<(), String> {
            Ok(())
        }
    }

    #[test]
    fn the_union_of_lines_is_lawful() {
        let verdict = check_subject(&Native, &Samples::Module, 7, 300, &mut |_| {});
        assert_eq!(
            verdict,
            Verdict::NoCounterexample {
                cases: 300,
                seed: 7
            }
        );
    }

    #[test]
    fn counters_add_up_across_actors_and_count_nothing_twice() {
        use crate::protocol::dot::{Actor, Dot, Epoch};
        let dot = |node| Dot {
            actor: Actor {
                node: crate::protocol::id::NodeId(node),
                epoch: Epoch(1),
            },
            counter: 1,
        };
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
        let sibling = |number: u64, state: &Bytes| GuestSibling {
            dot: dot(number),
            version: crate::protocol::siblings::Version {
                value: Some(state.clone()),
                content_type: "".into(),
                written_at_us: 1,
                stands_for: None,
            },
        };
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
            dot: super::super::laws::test_dot(1),
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
