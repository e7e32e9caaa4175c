//! How much processor time processes took.
//!
//! Promises: figures to a hundredth of a second, where there is a `/proc` as Linux
//! has it. Elsewhere there are none, which is an error and not a zero.

use std::fs;
use std::io;

/// Linux counts processor time for `/proc` in hundredths of a second on every
/// machine that kinfold runs on (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;
/// Where user and system time are in `/proc/PID/stat`, counted from the field that
/// follows the name.
const USER_FIELD: usize = 11;
const SYSTEM_FIELD: usize = 12;

/// User and system time of this process so far, in seconds; none where the system
/// does not tell.
pub fn own_cpu_s() -> Option<f64> {
    cpu_s(std::process::id()).ok()
}

/// User and system time of a process on this machine so far, in seconds.
pub fn cpu_s(pid: u32) -> io::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let odd = || io::Error::new(io::ErrorKind::InvalidData, "an odd line in /proc");
    // The second field is a name in parentheses, which may hold anything.
    let (_, fields) = stat.rsplit_once(") ").ok_or_else(odd)?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |place: usize| -> Option<f64> { fields.get(place)?.parse().ok() };
    let (user, system) = (ticks(USER_FIELD), ticks(SYSTEM_FIELD));
    Ok((user.ok_or_else(odd)? + system.ok_or_else(odd)?) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_shows() {
        let before = own_cpu_s().expect("this process is there");
        let mut sum = 0_u64;
        while own_cpu_s().is_some_and(|now| now < before + 0.05) {
            sum = (0..100_000).fold(sum, |sum, n| std::hint::black_box(sum ^ n));
        }
        let after = cpu_s(std::process::id()).expect("this process is there");
        assert!(after >= before + 0.05 - 1e-9, "{before} {after}");
        assert!(cpu_s(u32::MAX).is_err(), "there is no such process");
    }
}
