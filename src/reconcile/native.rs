//! The simulator's guests: no WebAssembly, no threads, no clock.
//!
//! One reconciler, whatever the digest: a value is a set of lines, the fold is
//! their union, sorted, each line ended by a newline. An operation adds its body
//! as lines, and the view of a state is the state. So a checker sees in a value
//! which writes went into it.
//!
//! Promises: the same request gives the same answer; the answer comes before
//! `submit` returns; the union is lawful in the sense of `laws.rs`, tombstones
//! contribute nothing, and only tombstones leave the item deleted.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{Done, Guests};
use crate::protocol::effect::{GuestReply, GuestRequest, View};

/// Folds sets of lines.
#[derive(Clone, Copy, Debug, Default)]
pub struct NativeGuests;

impl NativeGuests {
    /// The answer to a request.
    pub fn answer(request: &GuestRequest) -> GuestReply {
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
        done(Self::answer(&request));
    }
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
