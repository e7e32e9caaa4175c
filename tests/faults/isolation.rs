//! Tests that need a system of their own: mounts and networks that nobody else
//! sees, and that are gone with the last process.
//!
//! Promises: [`isolated`] runs the test's body once, in fresh namespaces, or says
//! why it cannot; nothing outside is changed, whatever happens inside.

use std::io::Write;
use std::process::Command;

/// Set where the body runs.
const INSIDE: &str = "KINFOLD_TEST_INSIDE";

/// Says that a test did not run, where even a quiet test runner shows it.
pub fn skipped(test: &str, why: &str) {
    // Not `eprintln!`, which the runner keeps to itself when a test passes.
    writeln!(std::io::stderr(), "SKIPPED: {test}: {why}").expect("stderr is there");
}

/// Where a test finds itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In namespaces of its own.
    Inside,
    /// Outside, and it was run inside.
    Done,
    /// Outside, and this machine has no inside; it was told so.
    Impossible,
}

/// True in namespaces of the test's own. False outside, after the test of this
/// name (its path in this binary) was run there, or skipped.
#[track_caller]
pub fn isolated(test: &str, needs: &[&[&str]]) -> bool {
    place(test, needs) == Place::Inside
}

/// The same, for a test that can do something outside too.
#[track_caller]
pub fn place(test: &str, needs: &[&[&str]]) -> Place {
    if std::env::var_os(INSIDE).is_some() {
        return Place::Inside;
    }
    let flags = ["--mount", "--net"];
    for need in needs {
        let tried = Command::new("unshare").args(flags).args(*need).output();
        let why = match tried {
            Ok(output) if output.status.success() => continue,
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        skipped(test, &format!("`unshare … {}`: {why}", need.join(" ")));
        return Place::Impossible;
    }
    let status = Command::new("unshare")
        .args(flags)
        .arg(std::env::current_exe().expect("this binary"))
        .args([test, "--exact", "--include-ignored", "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("it was there a moment ago");
    assert!(status.success(), "{test} failed in its own namespaces");
    Place::Done
}

/// Makes 127.0.0.1 work, which a fresh network namespace does not have.
pub fn loopback() {
    run("ip", &["link", "set", "lo", "up"]);
}

/// Runs a command that has to succeed.
#[track_caller]
pub fn run(program: &str, args: &[&str]) {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}
