//! The SDK as this build has it: what `kinfold reconciler new` puts beside a new
//! crate.
//!
//! Promises: these are the files of `reconcilers/sdk`, `reconcilers/laws` and
//! `wit`, each of them (a test compares), so that a crate which this binary makes
//! is built and checked with the law check that this binary's nodes use. They lie
//! to each other as they do here, so that their manifests need no change.

/// A path under the new crate's `kinfold/`, and the text.
pub type VendoredFile = (&'static str, &'static str);

macro_rules! files {
    ($($folder:literal: $($file:literal)*;)*) => {
        &[$($((
            concat!($folder, "/", $file),
            include_str!(concat!("../../../reconcilers/", $folder, "/", $file)),
        )),*),*]
    };
}

/// What is not under `reconcilers/`.
pub const CONTRACT: VendoredFile = (
    "wit/reconciler.wit",
    include_str!("../../../wit/reconciler.wit"),
);

/// The crates.
pub const CRATES: &[VendoredFile] = files! {
    "sdk":
        "Cargo.toml"
        "src/bindings.rs"
        "src/bindings/data_type.rs"
        "src/bindings/reconciler.rs"
        "src/causal.rs"
        "src/dice.rs"
        "src/export.rs"
        "src/json.rs"
        "src/json/text.rs"
        "src/json/text/number.rs"
        "src/json/text/order.rs"
        "src/lib.rs"
        "src/operation.rs"
        "src/testing.rs"
        "src/testing/replica.rs"
        "src/testing/subject.rs"
        "src/varint.rs";
    "laws":
        "Cargo.toml"
        "src/case.rs"
        "src/check.rs"
        "src/dice.rs"
        "src/finding.rs"
        "src/hint.rs"
        "src/lib.rs"
        "src/mutate.rs"
        "src/play.rs"
        "src/probe.rs"
        "src/samples.rs"
        "src/shrink.rs"
        "src/subject.rs"
        "src/tell.rs"
        "src/text.rs";
};

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn found(folder: &Path, name: &str, into: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{name}/{}", entry.file_name().to_str().unwrap());
            if entry.file_name() == "tests" {
                // They test the crate, not what is made of it.
                continue;
            }
            if entry.path().is_dir() {
                found(&entry.path(), &name, into);
            } else {
                into.push(name);
            }
        }
    }

    #[test]
    fn nothing_of_the_sdk_is_missing() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("reconcilers");
        let mut there = Vec::new();
        for name in ["sdk", "laws"] {
            found(&root.join(name), name, &mut there);
        }
        there.sort();
        let mut listed: Vec<&str> = CRATES.iter().map(|(path, _)| *path).collect();
        listed.sort_unstable();
        assert_eq!(listed, there, "list in `CRATES` what is there");
    }

    /// Outside this repository there is no workspace to inherit from.
    #[test]
    fn the_manifests_are_complete_in_themselves() {
        for (path, text) in CRATES
            .iter()
            .filter(|(path, _)| path.ends_with("Cargo.toml"))
        {
            assert!(
                !text.contains("workspace =") && !text.contains(".workspace"),
                "{path} inherits something"
            );
        }
    }
}
