//! Processor time of processes, from `/proc`.
//!
//! Promises: user and system time of all threads, living and gone, in seconds.
//! The kernel counts in hundredths of a second: a second of work is known to a
//! percent.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// Linux counts processor time for `/proc` in hundredths of a second on every
/// machine that kinfold runs on (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;
/// How long processes are looked at to say whether they rest.
const WINDOW: Duration = Duration::from_millis(250);
/// Processes rest when they take this much of a core more than idle ones do.
const RESTING_SHARE: f64 = 0.04;
/// How long processes may work on after load has ended, before the next turn
/// begins nevertheless.
pub const MAX_SETTLING: Duration = Duration::from_secs(20);
/// How long idle processes are looked at.
const IDLE: Duration = Duration::from_secs(2);

/// User and system time so far of processes, in seconds.
pub fn cpu_seconds(pids: &[u32]) -> anyhow::Result<f64> {
    let mut ticks = 0.0;
    for pid in pids {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .with_context(|| format!("process {pid} has ended; its log says why"))?;
        // The second field is a name in parentheses, which may hold anything.
        let (_, fields) = stat.rsplit_once(") ").context("an odd line in /proc")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        for field in [11, 12] {
            let field = fields.get(field).context("an odd line in /proc")?;
            ticks += field.parse::<f64>()?;
        }
    }
    Ok(ticks / TICKS_PER_SECOND)
}

/// User and system time so far of this process, in seconds.
pub fn own_cpu_seconds() -> anyhow::Result<f64> {
    cpu_seconds(&[std::process::id()])
}

/// How much of a core processes take that nobody asks for anything.
pub fn idle_share(pids: &[u32]) -> anyhow::Result<f64> {
    settle(pids, 0.0)?;
    let (before, begin) = (cpu_seconds(pids)?, Instant::now());
    sleep(IDLE);
    Ok((cpu_seconds(pids)? - before) / begin.elapsed().as_secs_f64())
}

/// Waits until processes rest, or [`MAX_SETTLING`] has passed, and says how much
/// processor time they took meanwhile beyond what idle ones take, in seconds:
/// work that was put off.
pub fn settle(pids: &[u32], idle_share: f64) -> anyhow::Result<f64> {
    let (first, begin) = (cpu_seconds(pids)?, Instant::now());
    let mut before = first;
    loop {
        let window = Instant::now();
        sleep(WINDOW);
        let after = cpu_seconds(pids)?;
        let share = (after - before) / window.elapsed().as_secs_f64();
        before = after;
        if share <= idle_share + RESTING_SHARE || begin.elapsed() > MAX_SETTLING {
            let idle = idle_share * begin.elapsed().as_secs_f64();
            return Ok((after - first - idle).max(0.0));
        }
    }
}
