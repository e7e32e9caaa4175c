//! Which compiler builds guests here.
//!
//! Promises: rustup's WebAssembly target if it is there, else the tool chain that
//! `scripts/install-wasm-toolchain.sh` unpacks, else an error with the commands
//! that install either. Nothing is installed, and nothing but environment and
//! files is looked at.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What guests are compiled for: no system interface, so nothing to import.
pub const TARGET: &str = "wasm32-unknown-unknown";
/// Names the folder of an unpacked tool chain.
const PREFIX_VARIABLE: &str = "KINFOLD_WASM_TOOLCHAIN";

/// How cargo is run to build a guest.
#[derive(Debug)]
pub struct Toolchain {
    pub cargo: PathBuf,
    pub cargo_home: PathBuf,
    /// Where the compiler has the sources of the standard library.
    pub sysroot: PathBuf,
    pub environment: Vec<(String, PathBuf)>,
    pub arguments: Vec<String>,
}

/// Why guests cannot be built here.
#[derive(Debug, thiserror::Error)]
pub enum ToolchainError {
    #[error(
        "there is no {program} here: install Rust from https://rustup.rs, then `rustup target add {TARGET}`"
    )]
    NoRust { program: &'static str },
    #[error(
        "this Rust has no target {TARGET}; install it with `rustup target add {TARGET}`, or, where rustup cannot fetch, on Debian with scripts/install-wasm-toolchain.sh of kinfold's sources (looked for in {})",
        looked.display()
    )]
    NoTarget { looked: PathBuf },
    #[error("{PREFIX_VARIABLE} names {}, which holds no tool chain; unset it, or fill it with scripts/install-wasm-toolchain.sh {}", path.display(), path.display())]
    NotAToolchain { path: PathBuf },
}

/// The tool chain for the crate in `dir`, whose rust-toolchain.toml counts.
pub fn find(dir: &Path) -> Result<Toolchain, ToolchainError> {
    let sysroot = ask(dir, "rustc", &["--print", "sysroot"])
        .ok_or(ToolchainError::NoRust { program: "rustc" })?;
    let sysroot = PathBuf::from(sysroot);
    let cargo_home = match env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => home().join(".cargo"),
    };
    let named = env::var_os(PREFIX_VARIABLE).map(PathBuf::from);
    if sysroot
        .join("lib/rustlib")
        .join(TARGET)
        .join("lib")
        .is_dir()
    {
        if ask(dir, "cargo", &["--version"]).is_none() {
            return Err(ToolchainError::NoRust { program: "cargo" });
        }
        return Ok(Toolchain {
            cargo: PathBuf::from("cargo"),
            cargo_home,
            sysroot,
            environment: Vec::new(),
            arguments: Vec::new(),
        });
    }
    let prefix = named.clone().unwrap_or_else(|| {
        let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.unwrap_or_else(|| home().join(".cache"));
        cache.join("kinfold/wasm-toolchain")
    });
    if !prefix.join("complete").is_file() {
        return Err(match named {
            Some(path) => ToolchainError::NotAToolchain { path },
            None => ToolchainError::NoTarget { looked: prefix },
        });
    }
    unpacked(dir, prefix, cargo_home)
}

/// The unpacked compiler, the ordinary cargo, and a standard library from source:
/// Debian ships none for this target.
fn unpacked(dir: &Path, prefix: PathBuf, cargo_home: PathBuf) -> Result<Toolchain, ToolchainError> {
    // rustup's proxy would put its own compiler's libraries first.
    let cargo = ask(dir, "rustup", &["which", "cargo"])
        .map(PathBuf::from)
        .or_else(|| ask(dir, "cargo", &["--version"]).map(|_| PathBuf::from("cargo")))
        .ok_or(ToolchainError::NoRust { program: "cargo" })?;
    let linker = linker(&prefix).ok_or_else(|| ToolchainError::NotAToolchain {
        path: prefix.clone(),
    })?;
    let environment = [
        ("RUSTC_BOOTSTRAP", PathBuf::from("1")),
        ("RUSTC", prefix.join("usr/bin/rustc")),
        ("LD_LIBRARY_PATH", prefix.join("usr/lib/x86_64-linux-gnu")),
        ("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker),
    ];
    Ok(Toolchain {
        cargo,
        cargo_home,
        sysroot: prefix,
        environment: environment
            .map(|(key, value)| (key.to_owned(), value))
            .into(),
        arguments: vec!["-Zbuild-std=std,panic_abort".to_owned()],
    })
}

fn linker(prefix: &Path) -> Option<PathBuf> {
    let programs = fs::read_dir(prefix.join("usr/bin")).ok()?;
    programs
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with("wasm-ld"))
        })
        .min()
}

fn home() -> PathBuf {
    env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from)
}

/// What a program says, on one line; none when it is not there, or fails.
fn ask(dir: &Path, program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !said.trim().is_empty()).then(|| said.trim().to_owned())
}
