//! The house keeps its plan: what may import what, a promise at the top of every
//! file, and no file that has become more than one room.

use std::fs;
use std::path::{Path, PathBuf};

/// Files that may be longer than [`MAX_LINES`], and why.
const LONG_FILES: &[(&str, &str)] = &[
    (
        "reconcilers/sdk/src/bindings/data_type.rs",
        "generated from the contract",
    ),
    (
        "reconcilers/sdk/src/bindings/reconciler.rs",
        "generated from the contract",
    ),
];

/// Longer than this, a file is usually two.
const MAX_LINES: usize = 600;

/// A folder or file of `src/`, and what it must not name.
const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "protocol",
        &[
            "tokio",
            "hyper",
            "rusqlite",
            "wasmtime",
            "tracing::",
            "rand::",
            "std::time",
            "std::thread",
            "std::fs",
            "std::net",
            "std::sync::Mutex",
            "std::sync::RwLock",
            "std::sync::mpsc",
            "HashMap",
            "HashSet",
            "async fn",
            "crate::api",
            "crate::cli",
            "crate::clock",
            "crate::config",
            "crate::node",
            "crate::reconcile",
            "crate::server",
            "crate::simulation",
            "crate::store",
            "crate::transport",
        ],
    ),
    (
        "store",
        &[
            "crate::api",
            "crate::cli",
            "crate::node",
            "crate::reconcile",
            "crate::server",
            "crate::transport",
            "wasmtime",
            "hyper",
        ],
    ),
    (
        "reconcile",
        &[
            "crate::api",
            "crate::cli",
            "crate::node",
            "crate::server",
            "crate::store",
            "crate::transport",
            "rusqlite",
            "hyper",
        ],
    ),
    (
        "transport",
        &[
            "crate::api",
            "crate::cli",
            "crate::node",
            "crate::reconcile",
            "crate::server",
            "crate::store",
            "rusqlite",
            "wasmtime",
        ],
    ),
    (
        "node",
        &[
            "crate::api",
            "crate::cli",
            "crate::server",
            "crate::simulation",
            "rusqlite",
            "wasmtime",
            "hyper",
            "store::sqlite",
            "transport::http",
            "reconcile::wasm",
        ],
    ),
    (
        "api",
        &[
            "crate::cli",
            "crate::server",
            "crate::simulation",
            "rusqlite",
            "wasmtime",
            "store::sqlite",
            "transport::http",
        ],
    ),
    (
        "simulation",
        &[
            "crate::api",
            "crate::cli",
            "crate::server",
            "tokio",
            "rusqlite",
            "wasmtime",
            "std::time",
            "std::thread",
        ],
    ),
    ("cli", &["rusqlite"]),
];

/// The only places that may name these crates.
const HOMES: &[(&str, &[&str])] = &[
    ("rusqlite::", &["store/sqlite"]),
    ("wasmtime::", &["reconcile/wasm"]),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    for entry in entries {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            if !path.ends_with("target") {
                sources(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
}

/// The code of a file, without its comments: what is written about may be named.
fn code(text: &str) -> String {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn all() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in ["src", "tests", "benches", "examples", "reconcilers"] {
        if root.join(folder).exists() {
            sources(&root.join(folder), &mut found);
        }
    }
    found
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a readable file");
            let name = path.strip_prefix(root).expect("below the root");
            (name.to_string_lossy().into_owned(), text)
        })
        .collect()
}

#[test]
fn every_file_says_what_it_promises() {
    let silent: Vec<String> = all()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//!") && !text.starts_with("#!"))
        .map(|(name, _)| name)
        .collect();
    assert!(silent.is_empty(), "no `//!` at the top of {silent:?}");
}

#[test]
fn no_file_is_more_than_one_room() {
    let excused = |name: &str| LONG_FILES.iter().any(|(long, _)| *long == name);
    let long: Vec<(String, usize)> = all()
        .into_iter()
        .map(|(name, text)| (name, text.lines().count()))
        .filter(|(name, lines)| *lines > MAX_LINES && !excused(name))
        .collect();
    assert!(
        long.is_empty(),
        "split these, or say in LONG_FILES why not: {long:?}"
    );
}

#[test]
fn imports_point_one_way() {
    let mut wrong = Vec::new();
    for (name, text) in all() {
        let Some(inside) = name.strip_prefix("src/") else {
            continue;
        };
        let code = code(&text);
        for (folder, names) in FORBIDDEN {
            let here =
                inside.starts_with(&format!("{folder}/")) || inside == format!("{folder}.rs");
            for forbidden in names.iter().filter(|_| here) {
                if code.contains(forbidden) {
                    wrong.push(format!("{name} names {forbidden}"));
                }
            }
        }
        for (krate, homes) in HOMES {
            if code.contains(krate) && !homes.iter().any(|home| inside.starts_with(home)) {
                wrong.push(format!("{name} names {krate}, which lives in {homes:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_is_left_unfinished() {
    let marks = [
        "todo!(",
        "unimplemented!(",
        concat!("FIX", "ME"),
        concat!("TO", "DO"),
    ];
    let unfinished: Vec<String> = all()
        .into_iter()
        .filter(|(name, text)| {
            name != "tests/tidy.rs" && marks.iter().any(|mark| text.contains(mark))
        })
        .map(|(name, _)| name)
        .collect();
    assert!(unfinished.is_empty(), "{unfinished:?}");
}
