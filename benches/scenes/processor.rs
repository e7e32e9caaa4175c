//! Processor time: what work costs, however many others share the machine.

use std::time::Duration;

use criterion::measurement::{Measurement, ValueFormatter, WallTime};

/// User and system time of all threads of this process, in nanoseconds.
pub fn spent_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes into `time`, which lives until after it, and nowhere
    // else.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(
        failed, 0,
        "every system that kinfold runs on has this clock"
    );
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// What `work` gives, and how many milliseconds of processors it took.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let begun_ns = spent_ns();
    let made = work();
    (made, (spent_ns() - begun_ns) as f64 / 1e6)
}

/// Processor time for criterion, shown as it shows times of the clock.
pub struct Processor(WallTime);

impl Processor {
    /// There is but one.
    pub fn new() -> Processor {
        Processor(WallTime)
    }
}

impl Measurement for Processor {
    type Intermediate = u64;
    type Value = Duration;

    fn start(&self) -> u64 {
        spent_ns()
    }

    fn end(&self, begun_ns: u64) -> Duration {
        Duration::from_nanos(spent_ns() - begun_ns)
    }

    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        *one + *other
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        self.0.formatter()
    }
}
