//! The suite of the sandbox, on real modules.

use std::sync::{Arc, mpsc};

use bytes::Bytes;

use super::*;
use crate::protocol::catalog::{Digest, ModuleKind};
use crate::protocol::dot::{Actor, Dot, Epoch};
use crate::protocol::effect::{GuestReply, GuestRequest, GuestSibling, Operation, View};
use crate::protocol::id::{ItemKey, NodeId, TableId};
use crate::protocol::siblings::Version;
use crate::reconcile::Guests;

mod slow;

const MISBEHAVE: &[u8] = include_bytes!("../../../reconcilers/prebuilt/test/misbehave.wasm");
const MISBEHAVE_CORE: &[u8] =
    include_bytes!("../../../reconcilers/prebuilt/test/misbehave.core.wasm");
const IMPORTS: &[u8] = include_bytes!("../../../reconcilers/prebuilt/test/imports.wasm");

fn limits() -> SandboxLimits {
    SandboxLimits {
        // Enough for what the tests fold, and spent in a blink.
        fuel: 50_000_000,
        workers: 2,
        ..SandboxLimits::default()
    }
}

fn sandbox() -> Sandbox {
    Sandbox::new(limits(), None).expect("a sandbox")
}

fn built_in(name: &str) -> &'static [u8] {
    let built_ins = crate::reconcile::registry::built_ins();
    let found = built_ins.iter().find(|(known, _)| *known == name);
    found.expect("a built-in").1
}

fn sibling(value: Option<&str>, written_at_us: u64, actor: u64, counter: u64) -> GuestSibling {
    GuestSibling {
        dot: Dot {
            actor: Actor {
                node: NodeId(actor),
                epoch: Epoch(9),
            },
            counter,
        },
        version: Version {
            value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())),
            content_type: "text/plain".into(),
            written_at_us,
            stands_for: None,
        },
    }
}

fn request(module: &[u8], siblings: Vec<GuestSibling>) -> GuestRequest {
    GuestRequest {
        digest: Digest::of(module),
        table: "carts".into(),
        key: ItemKey::new(TableId(1), b"alice", Some(b"2026")),
        siblings,
        operation: None,
        render: false,
        max_output_bytes: 1 << 20,
    }
}

fn operation(body: &str, counter: u64) -> Operation {
    Operation {
        body: Bytes::copy_from_slice(body.as_bytes()),
        dot: sibling(None, 0, 1, counter).dot,
        written_at_us: counter,
    }
}

fn ask(workers: &Workers, request: GuestRequest) -> GuestReply {
    let (answered, answer) = mpsc::channel();
    workers.submit(
        request,
        Box::new(move |reply, _| answered.send(reply).expect("the test waits")),
    );
    answer.recv().expect("an answer")
}

#[test]
fn an_answer_says_what_it_took() {
    let workers = workers(&[MISBEHAVE]);
    let fuel = |text: &'static str| {
        let siblings = vec![sibling(Some(text), 1, 1, 1), sibling(Some("x"), 1, 2, 1)];
        let (answered, answer) = mpsc::channel();
        let done = move |_, fuel: u64| answered.send(fuel).expect("the test waits");
        workers.submit(request(MISBEHAVE, siblings), Box::new(done));
        answer.recv().expect("an answer")
    };
    let short = fuel("a");
    assert!(short > 0);
    assert_eq!(fuel("a"), short, "fuel does not depend on what ran before");
    assert!(fuel("a longer value burns more, since its bytes are copied") > short);
    assert!(fuel("spin") >= workers.sandbox().limits().fuel, "all of it");
}

fn workers(modules: &[&[u8]]) -> Workers {
    let sandbox = Arc::new(sandbox());
    for module in modules {
        sandbox.load(module).expect("a module");
    }
    Workers::start(sandbox).expect("threads")
}

/// What misbehave gives for a first sibling with this value.
fn misbehave(workers: &Workers, first: &str) -> GuestReply {
    let siblings = vec![sibling(Some(first), 1, 1, 1), sibling(Some("x"), 1, 2, 1)];
    ask(workers, request(MISBEHAVE, siblings))
}

fn done(value: &str) -> GuestReply {
    GuestReply::Done {
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        view: None,
    }
}

fn failed(reason: &str) -> GuestReply {
    GuestReply::Failed(reason.to_owned())
}

#[test]
fn every_way_to_misbehave_costs_one_answer_and_no_more() {
    let workers = workers(&[MISBEHAVE]);
    assert_eq!(
        misbehave(&workers, "spin"),
        failed("ran out of fuel (limit 50000000)")
    );
    assert_eq!(
        misbehave(&workers, "hog"),
        failed("ran out of memory (limit 16777216 bytes)")
    );
    assert_eq!(
        misbehave(&workers, "huge"),
        failed("gave more than 1048576 bytes of output")
    );
    assert_eq!(misbehave(&workers, "trap"), failed("trapped: unreachable"));
    assert_eq!(
        misbehave(&workers, "error"),
        failed("refused: asked to fail")
    );
    assert_eq!(misbehave(&workers, "unresolved"), GuestReply::Unresolved);
    let deleted = GuestReply::Done {
        value: None,
        view: None,
    };
    assert_eq!(misbehave(&workers, "delete"), deleted);
    assert_eq!(misbehave(&workers, "fine"), done("finex"));

    let figures = workers.sandbox().figures()[&Digest::of(MISBEHAVE)];
    assert_eq!((figures.folds, figures.failures), (8, 5));
    assert!(figures.fuel > 50_000_000, "the spin alone burns as much");
}

#[test]
fn an_output_just_over_the_tables_limit_fails() {
    let workers = workers(&[MISBEHAVE]);
    let siblings = vec![sibling(Some("abc"), 1, 1, 1), sibling(Some("de"), 1, 2, 1)];
    let mut asked = request(MISBEHAVE, siblings);
    asked.max_output_bytes = 5;
    assert_eq!(ask(&workers, asked.clone()), done("abcde"));
    asked.max_output_bytes = 4;
    assert_eq!(
        ask(&workers, asked),
        failed("gave more than 4 bytes of output")
    );
}

#[test]
fn the_clock_stops_what_fuel_does_not() {
    let limits = SandboxLimits {
        fuel: u64::MAX / 2,
        deadline_ms: 1,
        ..limits()
    };
    let sandbox = Arc::new(Sandbox::new(limits, None).expect("a sandbox"));
    sandbox.load(MISBEHAVE).expect("a module");
    let workers = Workers::start(sandbox).expect("threads");
    assert_eq!(
        misbehave(&workers, "spin"),
        failed("ran out of time (limit 1 ms)")
    );
}

#[test]
fn the_clock_rests_while_nobody_calls_and_runs_again_for_who_does() {
    let limits = SandboxLimits {
        // Some seconds, so that this ends by itself should the clock stand still.
        fuel: 4_000_000_000,
        deadline_ms: 30,
        ..limits()
    };
    let sandbox = Arc::new(Sandbox::new(limits, None).expect("a sandbox"));
    sandbox.load(MISBEHAVE).expect("a module");
    let workers = Workers::start(sandbox.clone()).expect("threads");
    for _ in 0..2 {
        let patience = 60_000;
        let rests = (0..patience).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            sandbox.epochs.are_resting()
        });
        assert!(rests);
        assert_eq!(
            misbehave(&workers, "spin"),
            failed("ran out of time (limit 30 ms)")
        );
    }
}

#[test]
fn no_call_remembers_another() {
    let workers = workers(&[MISBEHAVE]);
    for _ in 0..20 {
        assert_eq!(misbehave(&workers, "remember"), done("0"));
    }
}

#[test]
fn one_sibling_is_not_folded_and_none_is_no_state() {
    let workers = workers(&[MISBEHAVE]);
    let one = vec![sibling(Some("trap"), 1, 1, 1)];
    assert_eq!(ask(&workers, request(MISBEHAVE, one)), done("trap"));
    let nothing = GuestReply::Done {
        value: None,
        view: None,
    };
    assert_eq!(ask(&workers, request(MISBEHAVE, vec![])), nothing);
    let tombstone = vec![sibling(None, 1, 1, 1)];
    assert_eq!(ask(&workers, request(MISBEHAVE, tombstone)), nothing);
}

#[test]
fn a_core_module_is_encoded_on_arrival() {
    let workers = workers(&[MISBEHAVE_CORE]);
    let siblings = vec![sibling(Some("a"), 1, 1, 1), sibling(Some("b"), 1, 2, 1)];
    assert_eq!(ask(&workers, request(MISBEHAVE_CORE, siblings)), done("ab"));
}

#[test]
fn an_import_is_refused_by_its_name() {
    let error = sandbox().load(IMPORTS).err().expect("refused");
    assert_eq!(
        error.to_string(),
        "the module imports bad:clock/wall@0.1.0 (now); a reconciler imports nothing"
    );
}

#[test]
fn garbage_is_refused_with_a_reason() {
    let sandbox = sandbox();
    let refused = |bytes: &[u8]| sandbox.load(bytes).err().expect("refused");
    assert_eq!(refused(b""), InvalidModule::NotWasm);
    assert_eq!(refused(b"not wasm at all"), InvalidModule::NotWasm);
    let cut_short = &MISBEHAVE[..MISBEHAVE.len() / 2];
    assert!(matches!(
        refused(cut_short),
        InvalidModule::NotCompilable(_)
    ));
    let empty_component = b"\0asm\x0d\0\x01\0";
    let missing = InvalidModule::MissingExport("kinfold:reconciler/reconcile@1.0.0");
    assert_eq!(refused(empty_component), missing);
    // A core module with nothing in it, not even a type for the encoder.
    let empty_core = refused(b"\0asm\x01\0\0\0");
    assert!(
        matches!(
            empty_core,
            InvalidModule::MissingExport(_) | InvalidModule::NotEncodable(_)
        ),
        "{empty_core}"
    );
    let too_large = vec![0; MAX_MODULE_BYTES as usize + 1];
    assert!(matches!(
        refused(&too_large),
        InvalidModule::TooLarge { .. }
    ));
}

#[test]
fn a_module_that_is_not_here_is_missing() {
    let workers = workers(&[]);
    assert_eq!(misbehave(&workers, "fine"), GuestReply::Missing);
}

#[test]
fn a_full_queue_answers_at_once_and_closing_answers_the_rest() {
    let limits = SandboxLimits {
        workers: 1,
        queue: 2,
        ..limits()
    };
    let sandbox = Arc::new(Sandbox::new(limits, None).expect("a sandbox"));
    sandbox.load(MISBEHAVE).expect("a module");
    let workers = Workers::start(sandbox).expect("threads");
    let ask = |done: crate::reconcile::Done| {
        let siblings = vec![sibling(Some("a"), 1, 1, 1), sibling(Some("b"), 1, 2, 1)];
        workers.submit(request(MISBEHAVE, siblings), done);
    };
    // The one thread is held in the first answer's hands.
    let (entered, thread_is_held) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    ask(Box::new(move |_, _| {
        entered.send(()).expect("the test waits");
        released.recv().expect("the test releases");
    }));
    thread_is_held.recv().expect("the thread came");
    let (answered, answers) = mpsc::channel();
    for _ in 0..3 {
        let answered = answered.clone();
        ask(Box::new(move |reply, _| {
            answered.send(reply).expect("the test waits")
        }));
    }
    assert_eq!(answers.recv().expect("at once"), GuestReply::Overloaded);
    assert_eq!((workers.queue_depth(), workers.refused()), (2, 1));
    release.send(()).expect("the thread waits");
    workers.close();
    // Each was answered once: folded before the close, or turned away by it.
    let rest: Vec<GuestReply> = answers.try_iter().collect();
    assert_eq!(rest.len(), 2);
    let legal = [GuestReply::Overloaded, done("ab")];
    assert!(rest.iter().all(|reply| legal.contains(reply)), "{rest:?}");
    let late = super::tests::ask(&workers, request(MISBEHAVE, vec![]));
    assert_eq!(late, GuestReply::Overloaded);
}

#[test]
fn compiled_code_is_kept_and_a_damaged_file_is_made_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path().join("code");
    let open = || Sandbox::new(limits(), Some(cache.clone())).expect("a sandbox");
    let files = || -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(&cache).expect("the cache");
        entries
            .map(|entry| entry.expect("an entry").path())
            .collect()
    };
    open().load(MISBEHAVE).expect("compiled");
    let [file] = &files()[..] else {
        panic!("one file: {:?}", files());
    };
    let good = std::fs::read(file).expect("compiled code");

    // A miss would write the file anew.
    let before = std::fs::metadata(file)
        .expect("a file")
        .modified()
        .expect("a time");
    open().load(MISBEHAVE).expect("from the cache");
    let after = std::fs::metadata(file)
        .expect("a file")
        .modified()
        .expect("a time");
    assert_eq!(before, after, "a hit writes nothing");

    for damage in [0, 20, 41, good.len() / 2, good.len() - 1] {
        let mut bad = good.clone();
        bad[damage] ^= 1;
        std::fs::write(file, &bad).expect("damaged");
        open().load(MISBEHAVE).expect("compiled again");
        assert_eq!(
            std::fs::read(file).expect("compiled code"),
            good,
            "byte {damage}"
        );
    }
    std::fs::write(file, &good[..good.len() / 2]).expect("cut short");
    open().load(MISBEHAVE).expect("compiled again");
    assert_eq!(std::fs::read(file).expect("compiled code"), good);

    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &std::path::Path| {
            let metadata = std::fs::metadata(path).expect("a file");
            metadata.permissions().mode() & 0o777
        };
        assert_eq!((mode(&cache), mode(file)), (0o700, 0o600));
        // What others may write is not trusted, whatever it holds.
        let open_to_all = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(file, open_to_all).expect("a mode");
        open().load(MISBEHAVE).expect("compiled again");
        assert_eq!(mode(file), 0o600);
    }
}

#[test]
fn lww_takes_the_newest_then_the_greatest_dot() {
    let lww = built_in("lww");
    let workers = workers(&[lww]);
    let fold = |siblings: Vec<GuestSibling>| ask(&workers, request(lww, siblings));
    let old = sibling(Some("old"), 1, 9, 9);
    let new = sibling(Some("new"), 2, 1, 1);
    assert_eq!(fold(vec![new.clone(), old.clone()]), done("new"));
    let tie = sibling(Some("greater dot"), 2, 1, 2);
    assert_eq!(fold(vec![new.clone(), tie, old]), done("greater dot"));
    let tombstone = sibling(None, 3, 2, 1);
    let deleted = GuestReply::Done {
        value: None,
        view: None,
    };
    assert_eq!(fold(vec![new, tombstone]), deleted);
}

#[test]
fn cart_union_keeps_the_larger_quantity_of_everything() {
    let cart = built_in("cart-union");
    let workers = workers(&[cart]);
    let siblings = vec![
        sibling(Some(r#"{"pear":1,"apple":2}"#), 1, 1, 1),
        sibling(Some(r#"{"apple":5}"#), 1, 2, 1),
    ];
    assert_eq!(
        ask(&workers, request(cart, siblings)),
        done(r#"{"apple":5,"pear":1}"#)
    );
    let siblings = vec![
        sibling(Some("no cart"), 1, 1, 1),
        sibling(Some("{}"), 1, 2, 1),
    ];
    let reply = ask(&workers, request(cart, siblings));
    assert!(
        matches!(&reply, GuestReply::Failed(reason) if reason.starts_with("refused: ")),
        "{reply:?}"
    );
}

/// Applies to a state, and gives the state and what a client sees of it.
fn operate(
    workers: &Workers,
    module: &[u8],
    siblings: Vec<GuestSibling>,
    operation: Operation,
) -> (Bytes, View) {
    let mut asked = request(module, siblings);
    asked.operation = Some(operation);
    asked.render = true;
    match ask(workers, asked) {
        GuestReply::Done {
            value: Some(value),
            view: Some(view),
        } => (value, view),
        other => panic!("{other:?}"),
    }
}

fn state(bytes: &Bytes, counter: u64, actor: u64) -> GuestSibling {
    let mut state = sibling(None, counter, actor, counter);
    state.version.value = Some(bytes.clone());
    state
}

#[test]
fn or_cart_folds_applies_and_renders_in_one_request() {
    let cart = built_in("or-cart");
    let workers = workers(&[cart]);
    let (one, view) = operate(
        &workers,
        cart,
        vec![],
        operation(r#"{"add":"apple","quantity":2}"#, 1),
    );
    assert_eq!(&view.body[..], br#"{"apple":2}"#);
    assert_eq!(&*view.content_type, "application/json");
    // Elsewhere, at the same time: a pear. Then the apple is removed by one who
    // saw both.
    let mut elsewhere = operation(r#"{"add":"pear"}"#, 1);
    elsewhere.dot.actor.node = NodeId(2);
    let (two, _) = operate(&workers, cart, vec![], elsewhere);
    let (_, view) = operate(
        &workers,
        cart,
        vec![state(&one, 1, 1), state(&two, 1, 2)],
        operation(r#"{"remove":"apple"}"#, 2),
    );
    assert_eq!(&view.body[..], br#"{"pear":1}"#);

    let mut nonsense = request(cart, vec![]);
    nonsense.operation = Some(operation("nonsense", 1));
    let reply = ask(&workers, nonsense);
    assert!(matches!(reply, GuestReply::BadOperation(_)), "{reply:?}");
}

#[test]
fn pn_counter_counts_both_sides() {
    let counter = built_in("pn-counter");
    let workers = workers(&[counter]);
    let (one, view) = operate(&workers, counter, vec![], operation(r#"{"add":5}"#, 1));
    assert_eq!(&view.body[..], b"5");
    let mut elsewhere = operation(r#"{"add":-7}"#, 1);
    elsewhere.dot.actor.node = NodeId(2);
    let (two, _) = operate(&workers, counter, vec![], elsewhere);
    let mut asked = request(counter, vec![state(&one, 1, 1), state(&two, 1, 2)]);
    asked.render = true;
    let GuestReply::Done { view, .. } = ask(&workers, asked) else {
        panic!("no view");
    };
    assert_eq!(&view.expect("a view").body[..], b"-2");
}

#[test]
fn a_plain_reconciler_takes_no_operations_and_renders_nothing() {
    let workers = workers(&[MISBEHAVE]);
    let mut asked = request(MISBEHAVE, vec![sibling(Some("a"), 1, 1, 1)]);
    asked.render = true;
    assert_eq!(ask(&workers, asked.clone()), done("a"));
    asked.operation = Some(operation("x", 1));
    let reply = ask(&workers, asked);
    assert!(
        matches!(&reply, GuestReply::Failed(reason) if reason.contains("takes no operations")),
        "{reply:?}"
    );
}

#[test]
fn modules_say_what_they_are() {
    let sandbox = sandbox();
    let kind = |name| sandbox.load(built_in(name)).expect("a module").kind();
    assert_eq!(kind("lww"), ModuleKind::Reconciler);
    assert_eq!(kind("or-cart"), ModuleKind::DataType);
    let lww = sandbox.loaded(Digest::of(built_in("lww"))).expect("loaded");
    assert!(lww.description().eager && lww.has_samples());
    assert!(!lww.description().summary.is_empty());
    sandbox.unload(lww.digest());
    assert!(sandbox.loaded(lww.digest()).is_none());
}
