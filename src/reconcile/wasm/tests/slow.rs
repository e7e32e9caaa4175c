//! Modules that take for ever, beside those that do not.

use std::thread;

use super::super::lanes::MAX_SLOW_CALLS;
use super::*;

/// One thread, and fuel and time without end: whoever spins does so until the
/// sandbox closes.
fn one_thread() -> Workers {
    let limits = SandboxLimits {
        fuel: u64::MAX / 2,
        deadline_ms: 3_600_000,
        workers: 1,
        ..limits()
    };
    let sandbox = Arc::new(Sandbox::new(limits, None).expect("a sandbox"));
    sandbox.load(built_in("lww")).expect("a module");
    Workers::start(sandbox).expect("a thread")
}

/// As misbehave, under another digest: with one more custom section.
fn another_misbehave(number: u8) -> Vec<u8> {
    let mut module = MISBEHAVE.to_vec();
    module.extend([0, 2, 1, b'a' + number]);
    module
}

fn spin(workers: &Workers, module: &[u8]) -> mpsc::Receiver<GuestReply> {
    let (answered, answer) = mpsc::channel();
    let siblings = vec![sibling(Some("spin"), 1, 1, 1), sibling(Some("x"), 1, 2, 1)];
    workers.submit(
        request(module, siblings),
        Box::new(move |reply, _| answered.send(reply).expect("the test waits")),
    );
    answer
}

fn newest(workers: &Workers) -> GuestReply {
    let siblings = vec![sibling(Some("a"), 1, 1, 1), sibling(Some("b"), 2, 2, 1)];
    ask(workers, request(built_in("lww"), siblings))
}

#[test]
fn who_spins_does_not_keep_others_waiting() {
    let workers = one_thread();
    workers.sandbox().load(MISBEHAVE).expect("a module");
    let first = spin(&workers, MISBEHAVE);
    let second = spin(&workers, MISBEHAVE);
    // There is one thread for quick calls, and the first spins for ever.
    assert_eq!(newest(&workers), done("b"));
    assert_eq!(newest(&workers), done("b"));
    assert_eq!((workers.slow_calls(), workers.queue_depth()), (1, 1));
    assert!(first.try_recv().is_err() && second.try_recv().is_err());
    // Nor does the sandbox wait for it when it closes.
    workers.close();
    assert_eq!(first.recv(), Ok(GuestReply::Overloaded));
    assert_eq!(second.recv(), Ok(GuestReply::Overloaded));
}

#[test]
fn the_slow_lane_has_an_end_and_the_quick_one_goes_on() {
    let workers = one_thread();
    let modules: Vec<Vec<u8>> = (0..=MAX_SLOW_CALLS as u8).map(another_misbehave).collect();
    let mut spinning = Vec::new();
    for module in &modules {
        workers.sandbox().load(module).expect("a module");
        spinning.push(spin(&workers, module));
    }
    // The last of them is cut short, since there is no room for it.
    let last = spinning.pop().expect("five");
    assert_eq!(last.recv(), Ok(GuestReply::Overloaded));
    assert_eq!(workers.slow_calls(), MAX_SLOW_CALLS as u64);
    assert_eq!(newest(&workers), done("b"));
    assert!(spinning.iter().all(|answer| answer.try_recv().is_err()));
    workers.close();
    for answer in spinning {
        assert_eq!(answer.recv(), Ok(GuestReply::Overloaded));
    }
}

#[test]
fn a_module_that_is_quick_again_is_let_back() {
    let limits = SandboxLimits {
        // Some tenths of a second: many quanta.
        fuel: 300_000_000,
        workers: 1,
        ..limits()
    };
    let sandbox = Arc::new(Sandbox::new(limits, None).expect("a sandbox"));
    sandbox.load(MISBEHAVE).expect("a module");
    let workers = Workers::start(sandbox).expect("a thread");
    let spinning = spin(&workers, MISBEHAVE);
    // These wait behind it, whichever lane they find; for too long, where the
    // machine is busy enough.
    let behind = [(); 3].map(|()| misbehave(&workers, "fine"));
    let legal = [done("finex"), GuestReply::Overloaded];
    assert!(
        behind.iter().all(|reply| legal.contains(reply)),
        "{behind:?}"
    );
    assert_eq!(
        spinning.try_recv(),
        Ok(failed("ran out of fuel (limit 300000000)"))
    );
    // The slow lane's thread leaves a moment after its last answer.
    while workers.slow_calls() > 0 {
        thread::yield_now();
    }
    assert_eq!(misbehave(&workers, "fine"), done("finex"));
    assert_eq!(workers.queue_depth(), 0);
}
