//! How the system schedules a node's threads.
//!
//! Promises: on Linux, a thread for which [`apply`] was called with [`Scheduling::Batch`],
//! and every thread that it starts later, interrupts nobody when it wakes up. Where
//! the system has no such means or refuses it, threads are scheduled as usual, and the
//! log says so.

use crate::config::Scheduling;

/// Has the calling thread scheduled so, and all that it starts from now on.
#[cfg(target_os = "linux")]
pub fn apply(scheduling: Scheduling) {
    match scheduling {
        // Who started this program may have chosen something else than the usual, and
        // that stays.
        Scheduling::Normal => {}
        Scheduling::Batch => {
            if let Err(error) = batch() {
                tracing::info!(%error, "threads are scheduled as usual, at some processor time more");
            }
        }
    }
}

#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn batch() -> std::io::Result<()> {
    // SAFETY: it holds integers alone, so that zeros are a value of it: priority 0, the
    // one that there is here.
    let parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: the parameters outlive the call; thread 0 is the one that calls.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Elsewhere there is no such means.
#[cfg(not(target_os = "linux"))]
pub fn apply(_: Scheduling) {}
