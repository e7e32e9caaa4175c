//! `kinfold reconciler build`: from a crate to a module that a node takes.
//!
//! Promises: what it writes is a component that this build's sandbox has loaded:
//! it imports nothing, exports what the contract wants, and says what it is. No
//! path of this machine is in its bytes. The file appears whole or not at all.
//! Where there is no WebAssembly target it says what to install.
//!
//! Not promised: that the module is lawful; `check` and `push` see to that.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use serde_json::{Value, json};

use super::super::Common;
use super::super::error::CliError;
use super::SHORT_DIGEST_CHARS;
use super::toolchain::{self, TARGET, Toolchain, ToolchainError};
use crate::protocol::catalog::ModuleKind;
use crate::reconcile::wasm::{InvalidModule, Sandbox, SandboxError, SandboxLimits};

pub const EXAMPLES: &str = "\
Wants Rust's WebAssembly target, once: rustup target add wasm32-unknown-unknown.
Cargo's own variables work, such as CARGO_BUILD_JOBS, CARGO_TARGET_DIR and
CARGO_NET_OFFLINE.

Examples:
  kinfold reconciler build
  kinfold reconciler build merges/tally --output tally.wasm";

/// Builds a crate into a module
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct BuildArgs {
    /// The crate's folder
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Where to write the module [default: NAME.wasm in the crate's folder]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Why there is no module.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    Toolchain(#[from] ToolchainError),
    #[error("{} has no Cargo.toml; name the crate's folder, or begin one with `kinfold reconciler new`", dir.display())]
    NoCrate { dir: PathBuf },
    #[error("cargo cannot make sense of {}: {reason}", dir.display())]
    Metadata { dir: PathBuf, reason: String },
    #[error(
        "{name} makes no module: its Cargo.toml wants [lib] crate-type = [\"cdylib\", \"rlib\"]"
    )]
    NoCdylib { name: String },
    #[error("{name} does not build; cargo says why above")]
    Cargo { name: String },
    #[error("{name} builds, and is no module: {source}")]
    Invalid { name: String, source: InvalidModule },
    #[error(
        "the module would carry the path {path} of this machine; is it in a string, or included with include_str!?"
    )]
    Path { path: String },
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// What cargo knows of the crate.
#[derive(Debug)]
struct Package {
    name: String,
    manifest: PathBuf,
    target_dir: PathBuf,
}

pub fn run(common: &Common, args: &BuildArgs) -> Result<(), CliError> {
    let built = build(args).map_err(CliError::from)?;
    let output = common.output();
    if output.json {
        return output.json(&json!({
            "name": built.name,
            "path": built.path.display().to_string(),
            "size_bytes": built.size_bytes,
            "digest": built.digest,
            "kind": built.kind,
            "summary": built.summary,
        }));
    }
    let digest = built.digest.trim_start_matches("sha256:");
    output.line(&format!(
        "{file}: {kind}, {size} bytes, {digest}, imports nothing\n  “{summary}”\n\
         next: kinfold reconciler check {file}",
        file = built.path.display(),
        kind = built.kind,
        size = built.size_bytes,
        digest = &digest[..SHORT_DIGEST_CHARS.min(digest.len())],
        summary = built.summary,
    ))
}

/// The module, as it lies on disk.
struct Built {
    name: String,
    path: PathBuf,
    size_bytes: u64,
    digest: String,
    kind: &'static str,
    summary: String,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> BuildError {
    let path = path.to_owned();
    move |source| BuildError::Io { path, source }
}

fn build(args: &BuildArgs) -> Result<Built, BuildError> {
    let dir = args.dir.canonicalize().map_err(at(&args.dir))?;
    if !dir.join("Cargo.toml").is_file() {
        return Err(BuildError::NoCrate {
            dir: args.dir.clone(),
        });
    }
    // First of all: without a compiler nothing else matters.
    let toolchain = toolchain::find(&dir)?;
    let package = package(&toolchain, &dir)?;
    let core = compile(&toolchain, &package, &dir)?;
    let core = fs::read(&core).map_err(at(&core))?;

    let sandbox = Sandbox::new(SandboxLimits::default(), None)?;
    let invalid = |source| BuildError::Invalid {
        name: package.name.clone(),
        source,
    };
    let component = sandbox.encode(&core).map_err(invalid)?;
    // What a node does with an upload, so that it says no here and not there.
    let loaded = sandbox.prepare(&component).map_err(invalid)?;
    for path in private_paths(&toolchain, &package, &dir) {
        if holds(&component, path.as_bytes()) {
            return Err(BuildError::Path { path });
        }
    }

    let file = format!("{}.wasm", package.name);
    let path = match &args.output {
        Some(path) => path.clone(),
        None if args.dir == Path::new(".") => PathBuf::from(file),
        None => args.dir.join(file),
    };
    write_whole(&path, &component)?;
    Ok(Built {
        name: package.name,
        size_bytes: loaded.size_bytes(),
        digest: loaded.digest().to_string(),
        kind: match loaded.kind() {
            ModuleKind::Reconciler => "reconciler",
            ModuleKind::DataType => "data type",
        },
        summary: loaded.description().summary.clone(),
        path,
    })
}

/// Replaces the file in one step: whoever reads it finds an old module or a new
/// one.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), BuildError> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new()
        .prefix(".kinfold-build-")
        .permissions(file_permissions())
        .tempfile_in(folder)
        .map_err(at(path))?;
    file.write_all(bytes).map_err(at(path))?;
    file.persist(path).map_err(|error| at(path)(error.error))?;
    Ok(())
}

/// A module is no secret; temporary files are private unless told.
#[cfg(unix)]
fn file_permissions() -> fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    fs::Permissions::from_mode(0o644)
}

fn package(toolchain: &Toolchain, dir: &Path) -> Result<Package, BuildError> {
    let unclear = |reason: String| BuildError::Metadata {
        dir: dir.to_owned(),
        reason,
    };
    let output = Command::new(&toolchain.cargo)
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .map_err(at(&toolchain.cargo))?;
    if !output.status.success() {
        return Err(unclear(
            String::from_utf8_lossy(&output.stderr).into_owned(),
        ));
    }
    let metadata: Value =
        serde_json::from_slice(&output.stdout).map_err(|error| unclear(error.to_string()))?;
    let manifest = dir.join("Cargo.toml");
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let package = list(&metadata["packages"])
        .into_iter()
        .find(|package| package["manifest_path"].as_str().map(Path::new) == Some(&manifest))
        .ok_or_else(|| unclear("it is no package".to_owned()))?;
    let name = package["name"].as_str().unwrap_or_default().to_owned();
    let is_cdylib = |target: &Value| list(&target["crate_types"]).iter().any(|it| it == "cdylib");
    if !list(&package["targets"]).iter().any(is_cdylib) {
        return Err(BuildError::NoCdylib { name });
    }
    let target_dir = metadata["target_directory"].as_str().unwrap_or_default();
    Ok(Package {
        name,
        manifest,
        target_dir: PathBuf::from(target_dir),
    })
}

/// Runs cargo, whose progress goes where it always goes; gives the core module.
fn compile(toolchain: &Toolchain, package: &Package, dir: &Path) -> Result<PathBuf, BuildError> {
    let mut command = Command::new(&toolchain.cargo);
    command
        // `rustc` and one crate type: beside an rlib there would be no LTO.
        .args(["rustc", "--release", "--lib", "--crate-type", "cdylib"])
        .args([
            "--target",
            TARGET,
            "--message-format",
            "json-render-diagnostics",
        ])
        .args(&toolchain.arguments)
        .envs(
            toolchain
                .environment
                .iter()
                .map(|(key, value)| (key, value)),
        )
        .arg("--")
        .args(flags(own_folders(package, dir)))
        // Separated as cargo wants them where paths may have spaces.
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            flags(shared_folders(toolchain)).join("\u{1f}"),
        )
        .env_remove("RUSTFLAGS")
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let failed = || BuildError::Cargo {
        name: package.name.clone(),
    };
    let mut child = command.spawn().map_err(at(&toolchain.cargo))?;
    let mut made = None;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.map_err(at(&toolchain.cargo))?;
            // Other lines are messages of other kinds, or a build script's.
            if let Ok(message) = serde_json::from_str::<Value>(&line) {
                made = artifact(&message, &package.manifest).or(made);
            }
        }
    }
    let status = child.wait().map_err(at(&toolchain.cargo))?;
    if !status.success() {
        return Err(failed());
    }
    made.ok_or_else(failed)
}

/// The module that a message of cargo's is about, if it is about this crate's.
fn artifact(message: &Value, manifest: &Path) -> Option<PathBuf> {
    if message["reason"] != "compiler-artifact"
        || Path::new(message["manifest_path"].as_str()?) != manifest
    {
        return None;
    }
    let files = message["filenames"].as_array()?;
    files
        .iter()
        .filter_map(Value::as_str)
        .find(|file| file.ends_with(".wasm"))
        .map(PathBuf::from)
}

/// A folder of this machine, and what a module says in its place.
type Renamed = (PathBuf, String);

/// What every crate of the build is told. The same for every crate that is built
/// on this machine, so that builds with one target folder share what is compiled.
fn shared_folders(toolchain: &Toolchain) -> Vec<Renamed> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let home = home.map(|home| (home, "/home".to_owned()));
    let known = [
        (toolchain.cargo_home.clone(), "/cargo".to_owned()),
        (toolchain.sysroot.clone(), "/rust".to_owned()),
    ];
    in_order(home.into_iter().chain(known).collect())
}

/// What the crate itself is told besides. (What lies in its folder beside it is
/// compiled by relative paths, which say nothing.)
fn own_folders(package: &Package, dir: &Path) -> Vec<Renamed> {
    in_order(vec![
        (dir.to_owned(), format!("/{}", package.name)),
        (package.target_dir.clone(), "/target".to_owned()),
    ])
}

/// Of the names that fit, the compiler takes the last: inner folders come last.
/// A home such as `/` is in every text and gives nothing away.
fn in_order(mut folders: Vec<Renamed>) -> Vec<Renamed> {
    folders.retain(|(folder, _)| folder.components().count() > 1);
    folders.sort_by_key(|(folder, _)| folder.components().count());
    folders
}

fn flags(folders: Vec<Renamed>) -> Vec<String> {
    let flag = |(folder, name): Renamed| format!("--remap-path-prefix={}={name}", folder.display());
    folders.into_iter().map(flag).collect()
}

/// What must not be in a module.
fn private_paths(toolchain: &Toolchain, package: &Package, dir: &Path) -> Vec<String> {
    let folders = [shared_folders(toolchain), own_folders(package, dir)].concat();
    folders
        .iter()
        .filter_map(|(folder, _)| folder.to_str())
        .map(|folder| format!("{}/", folder.trim_end_matches('/')))
        .collect()
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_is_that_of_this_crate() {
        let message = json!({
            "reason": "compiler-artifact",
            "manifest_path": "/a b/Cargo.toml",
            "filenames": ["/t/x.d", "/t/wish_list.wasm"],
        });
        let found = artifact(&message, Path::new("/a b/Cargo.toml"));
        assert_eq!(found, Some(PathBuf::from("/t/wish_list.wasm")));
        assert_eq!(artifact(&message, Path::new("/other/Cargo.toml")), None);
        assert_eq!(
            artifact(&json!({"reason": "build-finished"}), Path::new("/")),
            None
        );
    }

    #[test]
    fn inner_folders_are_renamed_after_outer_ones() {
        let package = Package {
            name: "wish-list".to_owned(),
            manifest: PathBuf::from("/a b/wish-list/Cargo.toml"),
            target_dir: PathBuf::from("/a b/wish-list/target"),
        };
        assert_eq!(
            flags(own_folders(&package, Path::new("/a b/wish-list"))),
            [
                "--remap-path-prefix=/a b/wish-list=/wish-list",
                "--remap-path-prefix=/a b/wish-list/target=/target",
            ]
        );
        let elsewhere = Package {
            target_dir: PathBuf::from("/target"),
            ..package
        };
        assert_eq!(
            flags(own_folders(&elsewhere, Path::new("/a b/wish-list"))),
            [
                "--remap-path-prefix=/target=/target",
                "--remap-path-prefix=/a b/wish-list=/wish-list",
            ]
        );
        let nowhere = vec![(PathBuf::from("/"), "/home".to_owned())];
        assert!(in_order(nowhere).is_empty());
    }

    #[test]
    fn a_path_in_the_bytes_is_found() {
        assert!(holds(b"\0/home/ann/x", b"/home/ann/"));
        assert!(!holds(b"\0/cargo/x", b"/home/ann/"));
        assert!(!holds(b"", b"/home/ann/"));
    }
}
