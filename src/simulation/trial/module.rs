//! The module of a trial in the real sandbox, and the values for its clients.
//!
//! Promises: calls are made one after the other on this thread, as a worker makes
//! them, and fuel decides what comes of each, so the same trial gives the same
//! answers. (The wall-clock backstop may end a call that takes half a minute.)

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::Subject;
use super::derivation::Guest;
use crate::protocol::catalog::ModuleKind;
use crate::protocol::dot::{Actor, Dot, Epoch};
use crate::protocol::effect::{GuestReply, GuestRequest, GuestSibling};
use crate::protocol::id::{ItemKey, NodeId, TableId};
use crate::protocol::siblings::Version;
use crate::reconcile::wasm::{Call, Failure, InvalidModule, Loaded, Sandbox, run_now};

/// How many samples are drawn: few enough that equal ones meet.
const POOL: u32 = 48;
/// The largest output while samples are tried.
const MAX_OUTPUT_BYTES: u64 = 1 << 20;

/// Values for a module that gives none of its own: JSON whose keys collide, and
/// texts.
const GENERAL: &[&str] = &[
    "{}",
    r#"{"a":1}"#,
    r#"{"a":2}"#,
    r#"{"b":1}"#,
    r#"{"a":1,"b":2}"#,
    r#"{"a":"x","c":[1]}"#,
    r#"{"a":{"b":1}}"#,
    r#"{"a":{"c":2}}"#,
    r#"{"a":null}"#,
    "[]",
    "[1,2]",
    "[2,3]",
    r#"["a","b"]"#,
    "0",
    "1",
    "2",
    "10",
    "-3",
    "2.5",
    r#""x""#,
    r#""y""#,
    "true",
    "null",
    "a",
    "b",
    "a\nb\n",
    "b\nc\n",
];

/// Why a module cannot be tried.
#[derive(Debug, thiserror::Error)]
pub enum Untried {
    #[error(transparent)]
    Invalid(#[from] InvalidModule),
    #[error("the module's own samples fail: {0}")]
    Samples(Failure),
    #[error(
        "the module accepts none of the samples; give it values that it accepts with --samples DIR"
    )]
    NothingAccepted,
}

struct Sandboxed {
    sandbox: Arc<Sandbox>,
    loaded: Arc<Loaded>,
}

impl Guest for Sandboxed {
    fn answer(&self, request: &GuestRequest) -> GuestReply {
        run_now(&self.sandbox, request)
    }

    fn fuel(&self) -> u64 {
        self.loaded.figures().fuel
    }
}

/// Loads a module, and draws what its clients write: `given`, else the module's
/// own samples, else general ones.
pub fn subject(
    sandbox: &Arc<Sandbox>,
    bytes: &[u8],
    given: Option<Vec<Vec<u8>>>,
    seed: u64,
) -> Result<Subject, Untried> {
    let loaded = sandbox.load(bytes)?;
    let kind = loaded.kind();
    let own = || match kind {
        ModuleKind::Reconciler => sandbox.samples(&loaded, seed, POOL),
        ModuleKind::DataType => sandbox.operations(&loaded, seed, POOL),
    };
    let (drawn, lenient) = match given {
        Some(given) => (given, false),
        None => match own().map_err(Untried::Samples)? {
            Some(own) if !own.is_empty() => (own, false),
            _ => {
                let general = GENERAL.iter().map(|text| text.as_bytes().to_vec());
                (general.collect(), true)
            }
        },
    };
    let key = ItemKey::new(TableId::of("trial", 1), b"k0", None);
    let call = Call::new("trial", &key, MAX_OUTPUT_BYTES);
    let accepts = |sample: &Bytes| {
        let alone = GuestSibling {
            dot: Dot {
                actor: Actor {
                    node: NodeId(1),
                    epoch: Epoch(0),
                },
                counter: 1,
            },
            version: Version {
                value: Some(sample.clone()),
                content_type: super::content_type(sample).into(),
                written_at_us: 1,
                stands_for: None,
            },
        };
        match kind {
            ModuleKind::Reconciler => sandbox.fold(&loaded, &call, &[alone]).is_ok(),
            // An operation may need a state that has come further.
            ModuleKind::DataType => true,
        }
    };
    let pool: Vec<Bytes> = drawn.into_iter().map(Bytes::from).filter(accepts).collect();
    if pool.is_empty() {
        return Err(Untried::NothingAccepted);
    }
    Ok(Subject {
        digest: loaded.digest(),
        kind,
        eager: loaded.description().eager,
        pool,
        lenient,
        guest: Rc::new(Sandboxed {
            sandbox: sandbox.clone(),
            loaded: loaded.clone(),
        }),
    })
}
