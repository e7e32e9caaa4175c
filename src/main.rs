//! The binary: arguments in, exit code out.

use std::ffi::c_char;
use std::process::ExitCode;

/// See Cargo.toml for why.
#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How jemalloc is set. A commit gives back at once what dozens of requests had taken, and
/// the thread caches are to hold that: their usual two hundred places a size overflow, and
/// what overflows costs a lock and a search. Eight times as many objects as a slab has, at
/// most a thousand of a size: a node's memory under load is the same within a megabyte.
///
/// jemalloc looks for this symbol. What the environment says in `MALLOC_CONF` goes before.
#[cfg(not(target_env = "msvc"))]
#[allow(unsafe_code)]
#[unsafe(export_name = "malloc_conf")]
pub static MALLOC_CONF: Option<&'static c_char> = {
    let text = c"lg_tcache_nslots_mul:3,tcache_nslots_small_max:1000";
    // SAFETY: the text ends in a zero and lives for ever, which is all that jemalloc wants.
    Some(unsafe { &*text.as_ptr() })
};

fn main() -> ExitCode {
    kinfold::cli::run(std::env::args_os())
}
