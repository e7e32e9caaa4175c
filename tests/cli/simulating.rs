//! `kinfold reconciler simulate`: what it says of modules that converge and of
//! those that do not, and what it ends with.

use std::fs;

use super::{Ran, command, prebuilt};

fn simulate(arguments: &[&str]) -> Ran {
    let mut all = vec!["reconciler", "simulate"];
    all.extend(arguments);
    command("http://127.0.0.1:1", &all)
        .output()
        .expect("it runs")
        .into()
}

#[test]
fn a_lawful_module_converges() {
    for module in ["cart-union.wasm", "pn-counter.wasm"] {
        let module = prebuilt(module);
        let played = simulate(&[&module, "--seed", "1", "--minutes", "0.02"]).code(0);
        let text = played.text();
        assert!(text.contains("converges"), "{text}");
        assert!(text.contains("equal byte for byte"), "{text}");
    }
    let module = prebuilt("lww.wasm");
    let arguments = [&module[..], "--seed", "1", "--minutes", "0.02", "--json"];
    let played = simulate(&arguments).code(0);
    let figures = &played.json()["figures"];
    assert_eq!(played.json()["verdict"], "converges");
    assert!(figures["folds"]["compared"].as_u64() > Some(0), "{figures}");
    assert!(figures["folds"]["max_fuel"].as_u64() > Some(0), "{figures}");
    // The same seed gives the same run, in another process too.
    assert_eq!(simulate(&arguments).code(0).json(), played.json());
}

/// `misbehave` strings the values together when they ask for nothing else.
#[test]
fn a_concatenation_is_shown_with_the_command_that_plays_it_again() {
    let folder = tempfile::tempdir().unwrap();
    for (name, value) in [("1", "x"), ("2", "y"), ("3", "zz")] {
        fs::write(folder.path().join(name), value).unwrap();
    }
    let module = prebuilt("test/misbehave.wasm");
    let samples = folder.path().to_str().expect("text");
    let arguments = [&module[..], "--samples", samples, "--seed", "7"];
    let found = simulate(&arguments).code(1);
    let text = found.text();
    assert!(text.contains("does not converge"), "{text}");
    assert!(text.contains("  writes "), "{text}");
    assert!(text.contains("^"), "what differs is marked: {text}");
    let found = found.says("does not converge").says("--seed");

    // What it says to play again finds the same.
    let (_, again) = text.split_once("again: kinfold ").expect("a command");
    let again: Vec<&str> = again.lines().next().expect("a line").split(' ').collect();
    let again: Ran = command("http://127.0.0.1:1", &again)
        .output()
        .expect("it runs")
        .into();
    let again = again.code(1);
    let paths = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| line.contains("  =  "));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(paths(&again.text()).len(), 2, "{}", again.text());
    assert_eq!(paths(&again.text()), paths(&found.text()));

    let json = simulate(&[&arguments[..], &["--json"]].concat()).code(1);
    let json = json.json();
    assert_eq!(json["verdict"], "diverges");
    assert_eq!(
        json["divergence"]["paths"].as_array().map(Vec::len),
        Some(2)
    );
}

#[test]
fn what_cannot_be_tried_is_said() {
    let module = prebuilt("lww.wasm");
    simulate(&[&module, "--faults", "wipe"])
        .code(2)
        .says("takes away what was written");
    simulate(&[&prebuilt("test/imports.wasm")])
        .code(1)
        .says("imports");
    simulate(&["no-such.wasm"]).code(1).says("no-such.wasm");
}
