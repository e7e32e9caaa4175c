//! Signals to processes.

use std::fs;
use std::process::{Child, Command};

use super::until;

/// Sends a signal of this name.
pub fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args(["-s", name, &child.id().to_string()])
        .status();
    assert!(
        sent.expect("kill is there").success(),
        "the process is gone"
    );
}

/// Asks a process to end.
pub fn terminate(child: &Child) {
    signal(child, "TERM");
}

/// Stops every thread of a process, and returns when they stand.
pub fn stop(child: &Child) {
    signal(child, "STOP");
    let tasks = format!("/proc/{}/task", child.id());
    let stands = |stat: String| {
        // After the name in parentheses comes the state.
        let state = stat.rsplit_once(") ");
        state.is_some_and(|(_, state)| state.starts_with('T'))
    };
    until("it has stopped", || {
        let mut tasks = fs::read_dir(&tasks).expect("its threads");
        tasks.all(|task| {
            let stat = task.and_then(|task| fs::read_to_string(task.path().join("stat")));
            stat.is_ok_and(stands)
        })
    });
}
