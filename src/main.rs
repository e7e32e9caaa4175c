//! The binary: arguments in, exit code out.

use std::process::ExitCode;

/// See Cargo.toml for why.
#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    kinfold::cli::run(std::env::args_os())
}
