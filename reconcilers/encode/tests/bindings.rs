//! The SDK's bindings are what wit-bindgen makes of `wit/reconciler.wit`.
//!
//! Promises: a guest on the SDK compiles neither a generator nor a parser of
//! WIT, because the bindings are committed; and they cannot fall behind the
//! contract, because this test fails when they do. `KINFOLD_BLESS=1` writes them
//! anew.

use std::path::{Path, PathBuf};
use std::{env, fs};

use wit_bindgen_core::wit_parser::Resolve;
use wit_bindgen_core::{Files, WorldGenerator};
use wit_bindgen_rust::{Opts, WithOption};

/// The SDK's own types stand for the contract's: nothing is converted.
const TYPES: &[&str] = &["dot", "item", "sibling", "outcome"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The bindings of one world, as Rust.
fn generate(world: &str, export_macro: &str) -> String {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(root().join("wit")).expect("a WIT");
    let world = resolve
        .select_world(&[package], Some(world))
        .expect("the world is there");
    let with = TYPES.iter().map(|name| {
        let mut letters = name.chars();
        let first = letters.next().expect("a name").to_ascii_uppercase();
        (
            format!("kinfold:reconciler/types@1.0.0/{name}"),
            WithOption::Path(format!("crate::{first}{}", letters.as_str())),
        )
    });
    let mut files = Files::default();
    Opts {
        format: true,
        generate_all: true,
        pub_export_macro: true,
        export_macro_name: Some(export_macro.to_owned()),
        runtime_path: Some("wit_bindgen::rt".to_owned()),
        with: with.collect(),
        ..Opts::default()
    }
    .build()
    .generate(&mut resolve, world, &mut files)
    .expect("bindings");
    let (_, text) = files.iter().next().expect("one file");
    // Both worlds export `reconcile`; macros of one crate have one name each.
    let text = std::str::from_utf8(text)
        .expect("text")
        .replace("_1_0_0_cabi", &format!("_1_0_0_for_{export_macro}"));
    format!(
        "//! The contract's world as Rust: generated from `wit/reconciler.wit` by the test\n\
         //! `encode/tests/bindings.rs`, which also vouches that it still is.\n\n{text}"
    )
}

#[test]
fn the_bindings_are_those_of_the_contract() {
    for (world, file, export_macro) in [
        ("checked-reconciler", "reconciler.rs", "export_reconciler"),
        ("data-type-reconciler", "data_type.rs", "export_data_type"),
    ] {
        let path = root().join("reconcilers/sdk/src/bindings").join(file);
        let wanted = generate(world, export_macro);
        if env::var_os("KINFOLD_BLESS").is_some() {
            fs::write(&path, &wanted).expect("it is written");
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == wanted,
            "{} is not what wit/reconciler.wit gives: run this test with KINFOLD_BLESS=1",
            path.display()
        );
    }
}
