//! Placeholder of promises, replaced below.
fn main() {}
