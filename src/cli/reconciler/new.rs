//! `kinfold reconciler new`: a crate to begin with.
//!
//! Promises: what it writes compiles, is lawful and has a test that says so,
//! with nothing but cargo and crates.io. It appears whole or not at all, and
//! nothing that is there is overwritten.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::super::Common;
use super::super::error::CliError;
use super::vendored;

pub const EXAMPLES: &str = "\
The crate has the SDK beside it, as this kinfold has it, and needs nothing else but
cargo: `cargo test` runs the law check, `kinfold reconciler build` makes the module.

Examples:
  kinfold reconciler new wish-list
  kinfold reconciler new tally --data-type --path merges/tally";

/// Longer than this, a name is a sentence.
const MAX_NAME_CHARS: usize = 64;
/// Names that cargo, tables or the crate's own dependencies have taken.
const TAKEN: &[&str] = &[
    "alloc",
    "core",
    "deps",
    "build",
    "examples",
    "incremental",
    "kinfold-laws",
    "kinfold-reconciler",
    "none",
    "proc-macro",
    "serde",
    "serde-json",
    "std",
    "test",
    "wit-bindgen",
];
/// What may not be the name of a Rust crate: the keywords that have no capitals.
const KEYWORDS: &[&str] = &[
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate",
    "do", "dyn", "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl",
    "in", "let", "loop", "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref",
    "return", "self", "static", "struct", "super", "trait", "true", "try", "type", "typeof",
    "unsafe", "unsized", "use", "virtual", "where", "while", "yield",
];

/// Makes a crate with a merge to begin with
#[derive(Args, Debug)]
pub struct NewArgs {
    /// What the crate and the module are called, like wish-list
    name: String,
    /// Begin with a data type, whose clients send operations, instead of a merge
    #[arg(long)]
    data_type: bool,
    /// Where to make it [default: a folder of that name, here]
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
}

/// Why there is no crate.
#[derive(Debug, thiserror::Error)]
pub enum NewError {
    #[error("{name:?} cannot name a crate: {reason}; try {suggestion:?}")]
    Name {
        name: String,
        reason: &'static str,
        suggestion: String,
    },
    #[error("{} is there already; nothing was written: name another folder with --path", path.display())]
    Exists { path: PathBuf },
    #[error("{}: {source}; nothing was written", path.display())]
    Io { path: PathBuf, source: io::Error },
}

pub fn run(common: &Common, args: NewArgs) -> Result<(), CliError> {
    check_name(&args.name)?;
    let folder = args.path.unwrap_or_else(|| PathBuf::from(&args.name));
    let files = files(&args.name, args.data_type);
    make(&folder, &files)?;
    let output = common.output();
    if output.json {
        let files: Vec<&str> = files.iter().map(|(path, _)| path.as_str()).collect();
        return output.json(&json!({
            "name": args.name,
            "path": folder.display().to_string(),
            "kind": if args.data_type { "data type" } else { "reconciler" },
            "files": files,
        }));
    }
    let (name, shown) = (&args.name, folder.display().to_string());
    let kind = if args.data_type {
        "a data type"
    } else {
        "a merge"
    };
    output.line(&format!(
        "made {shown}: {kind} to begin with, its test, and the SDK of kinfold {version}\n\
         \n  {shown}/src/lib.rs    yours: change it\
         \n  {shown}/README.md     what to do with it\
         \n  {shown}/kinfold       the SDK: leave it\n\
         \nnext:\
         \n  cd {shown}\
         \n  cargo test                           # your tests, and the law check\
         \n  kinfold reconciler build             # makes {name}.wasm\
         \n  kinfold reconciler check {name}.wasm\
         \n  kinfold reconciler push {name}.wasm\
         \n  kinfold table set things --reconciler {name}",
        version = env!("CARGO_PKG_VERSION"),
    ))
}

/// Whether cargo, Rust and tables all take the name.
fn check_name(name: &str) -> Result<(), NewError> {
    match fault(name) {
        None => Ok(()),
        Some(reason) => Err(NewError::Name {
            name: name.to_owned(),
            reason,
            suggestion: suggestion(name),
        }),
    }
}

/// What is wrong with a name.
fn fault(name: &str) -> Option<&'static str> {
    Some(if name.is_empty() {
        "it is empty"
    } else if name.len() > MAX_NAME_CHARS {
        "it has more than 64 characters"
    } else if !name.starts_with(|first: char| first.is_ascii_lowercase()) {
        "it begins with no lower-case letter"
    } else if !name
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    {
        "it has other than lower-case letters, digits and hyphens"
    } else if name.ends_with('-') || name.contains("--") {
        "its hyphens join nothing"
    } else if KEYWORDS.contains(&name) {
        "it is a word of Rust"
    } else if TAKEN.contains(&name) {
        "it is the name of something else"
    } else {
        return None;
    })
}

/// A name like this one that is a name.
fn suggestion(name: &str) -> String {
    let words: Vec<String> = name
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
        .collect();
    let mut tried = words.join("-");
    tried.truncate(MAX_NAME_CHARS / 2);
    let tried = tried.trim_matches('-').to_owned();
    if tried.is_empty() {
        return "my-merge".to_owned();
    }
    if fault(&tried).is_none() {
        return tried;
    }
    format!("my-{tried}")
}

/// Every file of the crate: its path in it, and its text.
fn files(name: &str, data_type: bool) -> Vec<(String, String)> {
    let (source, kind, attempt) = if data_type {
        (
            include_str!("template/data_type.rs"),
            "a data type, whose clients send operations",
            "kinfold op things one '{\"vote\":\"fig\"}'",
        )
    } else {
        (
            include_str!("template/merge.rs"),
            "a merge of JSON values",
            "kinfold put things one '{\"fig\":[\"ann\"]}'\n\
             kinfold put things one '{\"fig\":[\"bob\"],\"nut\":[\"bob\"]}'\n\
             kinfold get things one",
        )
    };
    let readme = include_str!("template/readme.md")
        .replace("KIND", kind)
        .replace("TRY", attempt)
        .replace("VERSION", env!("CARGO_PKG_VERSION"));
    let own = [
        ("Cargo.toml", include_str!("template/manifest.toml")),
        ("README.md", &readme),
        (".gitignore", "/target\n/*.wasm\n"),
        ("src/lib.rs", source),
    ];
    let own = own.map(|(path, text)| (path.to_owned(), text.replace("NAME", name)));
    let vendored = vendored::CRATES.iter().chain([&vendored::CONTRACT]);
    let vendored = vendored.map(|(path, text)| (format!("kinfold/{path}"), (*text).to_owned()));
    own.into_iter().chain(vendored).collect()
}

/// Writes the files beside `folder`, and puts them there when all are written.
fn make(folder: &Path, files: &[(String, String)]) -> Result<(), NewError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| NewError::Io { path, source }
    };
    let exists = || NewError::Exists {
        path: folder.to_owned(),
    };
    if folder.symlink_metadata().is_ok() && !is_empty_folder(folder) {
        return Err(exists());
    }
    let parent = match folder.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(at(parent))?;
    let draft = tempfile::Builder::new()
        .prefix(".kinfold-new-")
        .tempdir_in(parent)
        .map_err(at(parent))?;
    let whole = draft.path().join("crate");
    for (path, text) in files {
        let path = whole.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(at(parent))?;
        }
        fs::write(&path, text).map_err(at(&path))?;
    }
    // Replaces an empty folder and nothing else: should somebody have made the
    // crate meanwhile, theirs stays.
    fs::rename(&whole, folder).map_err(|source| match source.kind() {
        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => exists(),
        _ => at(folder)(source),
    })
}

fn is_empty_folder(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_crates_and_tables() {
        for name in ["a", "wish-list", "m2", "or-set-2"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for (name, suggestion) in [
            ("", "my-merge"),
            ("Wish_List", "wish-list"),
            ("2nd", "my-2nd"),
            ("../evil", "evil"),
            ("self", "my-self"),
            ("none", "my-none"),
            ("serde", "my-serde"),
            ("kinfold-reconciler", "my-kinfold-reconciler"),
            ("a--b", "a-b"),
            ("größe", "gr-e"),
        ] {
            match check_name(name) {
                Err(NewError::Name { suggestion: it, .. }) => assert_eq!(it, suggestion),
                other => panic!("{name}: {other:?}"),
            }
            assert!(check_name(suggestion).is_ok(), "{suggestion}");
        }
        let long = "a".repeat(65);
        assert!(check_name(&long).is_err());
        assert!(check_name(&suggestion(&long)).is_ok());
    }

    #[test]
    fn nothing_is_overwritten_and_nothing_is_left_half_done() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/wish-list");
        let files = files("wish-list", false);
        make(&path, &files).unwrap();
        fs::write(path.join("src/lib.rs"), "mine").unwrap();
        let again = make(&path, &files);
        assert!(matches!(again, Err(NewError::Exists { .. })), "{again:?}");
        assert_eq!(fs::read_to_string(path.join("src/lib.rs")).unwrap(), "mine");
        let there: Vec<_> = fs::read_dir(folder.path().join("deep")).unwrap().collect();
        assert_eq!(there.len(), 1, "no draft stays: {there:?}");
        let empty = folder.path().join("empty");
        fs::create_dir(&empty).unwrap();
        make(&empty, &files).unwrap();
        assert!(empty.join("Cargo.toml").exists());
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(make(&file, &files), Err(NewError::Exists { .. })));
    }

    /// What a template leaves open is filled in.
    #[test]
    fn no_placeholder_stays() {
        for (path, text) in [true, false]
            .into_iter()
            .flat_map(|kind| files("wish-list", kind))
        {
            if !path.starts_with("kinfold/") {
                for placeholder in ["NAME", "KIND", "TRY", "VERSION"] {
                    assert!(!text.contains(placeholder), "{path} has {placeholder}");
                }
            }
        }
    }
}
