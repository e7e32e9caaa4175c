//! What time it is, as machines are told.

/// The time, twice: one that people read and one that never runs backwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    /// Microseconds since the Unix epoch; may step either way.
    pub wall_us: u64,
    /// Milliseconds since some moment in this process's life; never goes back.
    pub monotonic_ms: u64,
}
