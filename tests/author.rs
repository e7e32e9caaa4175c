//! The author's way, done for real: a crate is made, tested, built, checked and
//! pushed by the commands of the README, and a table folds with it. And what goes
//! wrong on the way is told where it goes wrong.
//!
//! Wants cargo with crates.io (or its cache) and a WebAssembly target; says
//! SKIPPED, and why, where these are not to be had. What is compiled stays under
//! `target/tmp`, so that only the first run takes minutes.

mod common;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use common::{Cluster, KINFOLD, Plan, Shared, eventually};
use serde_json::Value;
use tempfile::TempDir;

/// Larger than this, a small merge carries something that it should not: the
/// built-ins have 20 to 110 kB.
const MAX_MODULE_BYTES: u64 = 150_000;

/// One cluster for all tests of this file.
fn cluster() -> Shared {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    Shared(CLUSTER.get_or_init(|| Cluster::start(3, Plan::default())))
}

struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }
}

impl Ran {
    #[track_caller]
    fn code(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "stdout: {}\nstderr: {}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// It says this, on either stream.
    #[track_caller]
    fn says(self, wanted: &str) -> Self {
        assert!(
            self.stdout.contains(wanted) || self.stderr.contains(wanted),
            "{wanted:?} is not in\nstdout: {}\nstderr: {}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// The error is the last line of standard error, after cargo's own.
    #[track_caller]
    fn complains(self, wanted: &str) -> Self {
        let last = self.stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("kinfold: "), "{}", self.stderr);
        assert!(last.contains(wanted), "{wanted:?} is not in {last:?}");
        self
    }
}

/// An author at a shell: a folder, and the commands that are typed there.
struct Author {
    home: TempDir,
    crate_dir: PathBuf,
}

impl Author {
    /// `kinfold reconciler new`; none, loudly, when cargo cannot get the crates
    /// that it needs.
    fn new(test: &str, arguments: &[&str]) -> Option<Self> {
        let home = tempfile::Builder::new()
            .prefix("kinfold author ")
            .tempdir()
            .expect("a temporary folder");
        let mut author = Author {
            crate_dir: home.path().to_owned(),
            home,
        };
        let new = [&["reconciler", "new"][..], arguments].concat();
        author.kinfold(&new).code(0).says("cargo test");
        author.crate_dir = author.home.path().join(arguments[0]);
        for offline in ["false", "true"] {
            let mut cargo = author.command("cargo", &["generate-lockfile"]);
            let locked = cargo.env("CARGO_NET_OFFLINE", offline).output();
            if locked.expect("cargo runs").status.success() {
                return Some(author);
            }
        }
        eprintln!("SKIPPED {test}: cargo reaches neither crates.io nor a copy of it");
        None
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        // What the tests' own cargo and nodes are told is not meant for these.
        for (key, _) in env::vars_os() {
            let key = key.to_string_lossy().into_owned();
            let is_ours = key.starts_with("KINFOLD_") && key != "KINFOLD_WASM_TOOLCHAIN";
            let is_cargos = key.starts_with("CARGO_") && key != "CARGO_HOME";
            if is_ours || is_cargos || key == "LD_LIBRARY_PATH" || key == "RUSTFLAGS" {
                command.env_remove(key);
            }
        }
        command
            .args(arguments)
            .current_dir(&self.crate_dir)
            .env("KINFOLD_ENDPOINT", cluster().nodes[0].endpoint())
            .env("CARGO_BUILD_JOBS", "1")
            .env("CARGO_TARGET_DIR", built())
            .stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn run(&self, program: &str, arguments: &[&str]) -> Ran {
        let output = self.command(program, arguments).output();
        output.expect("it runs").into()
    }

    #[track_caller]
    fn kinfold(&self, arguments: &[&str]) -> Ran {
        self.run(KINFOLD, arguments)
    }

    /// `kinfold reconciler push`. The node checks a thousand cases first, which a
    /// machine that is busy enough does not do while the client waits: the same
    /// bytes may be sent again.
    #[track_caller]
    fn push(&self, file: &str) -> Ran {
        eventually("the node answers", || {
            let ran = self.kinfold(&["reconciler", "push", file]);
            if ran.code == Some(5) {
                Err(ran.stderr)
            } else {
                Ok(ran)
            }
        })
    }

    /// `kinfold reconciler build`; false, loudly, where there is no target.
    #[track_caller]
    fn build(&self, test: &str) -> bool {
        let ran = self.kinfold(&["reconciler", "build"]);
        if ran.stderr.contains("has no target wasm32") {
            ran.code(1)
                .complains("rustup target add wasm32-unknown-unknown");
            eprintln!("SKIPPED {test}: there is no WebAssembly target");
            return false;
        }
        ran.code(0).says("imports nothing");
        true
    }

    fn edit(&self, from: &str, to: &str) {
        let path = self.crate_dir.join("src/lib.rs");
        let text = fs::read_to_string(&path).expect("the merge");
        assert!(text.contains(from), "{from:?} is not in the template");
        fs::write(&path, text.replace(from, to)).expect("it is written");
    }
}

/// Where guests are compiled: kept from run to run.
fn built() -> &'static Path {
    Path::new(concat!(env!("CARGO_TARGET_TMPDIR"), "/author"))
}

/// What the table answers in the end: nodes fetch a module when they need it.
#[track_caller]
fn reads(author: &Author, table: &str, node: usize, wanted: &str, siblings: u64) {
    let endpoint = cluster().nodes[node].endpoint();
    eventually(&format!("node {node} answers {wanted}"), || {
        let arguments = ["get", table, "one", "--json", "--endpoint", &endpoint];
        let ran = author.kinfold(&arguments);
        let answer: Value = serde_json::from_str(&ran.stdout).map_err(|_| ran.stderr.clone())?;
        let shown = answer["json"].to_string();
        if shown == wanted && answer["siblings"] == siblings {
            Ok(())
        } else {
            Err(answer.to_string())
        }
    });
}

#[test]
fn from_new_to_a_table_that_folds_and_what_goes_wrong_on_the_way() {
    let test = "from_new_to_a_table_that_folds_and_what_goes_wrong_on_the_way";
    let Some(author) = Author::new(test, &["wish-list"]) else {
        return;
    };
    author
        .run("cargo", &["test"])
        .code(0)
        .says("test tests::the_merge_is_lawful ... ok");
    if !author.build(test) {
        return;
    }
    let module = author.crate_dir.join("wish-list.wasm");
    let bytes = fs::read(&module).expect("the module");
    assert!(
        (bytes.len() as u64) < MAX_MODULE_BYTES,
        "{} bytes",
        bytes.len()
    );
    let private = author.home.path().to_str().expect("text");
    for path in [private, env!("CARGO_TARGET_TMPDIR")] {
        let is_there = bytes
            .windows(path.len())
            .any(|part| part == path.as_bytes());
        assert!(!is_there, "{path} is in the module");
    }
    author
        .kinfold(&["reconciler", "check", "wish-list.wasm"])
        .code(0)
        .says("no counterexample in");
    author.push("wish-list.wasm").code(0).says("wish-list");
    author
        .kinfold(&["table", "set", "things", "--reconciler", "wish-list"])
        .code(0);

    // Two writers who have not seen each other.
    author
        .kinfold(&["put", "things", "one", r#"{"fig":["ann"]}"#])
        .code(0);
    let elsewhere = cluster().nodes[1].endpoint();
    let put = [
        "put",
        "things",
        "one",
        r#"{"nut":["bob"],"fig":["bob"]}"#,
        "--endpoint",
        &elsewhere,
    ];
    eventually("the other node knows the table", || {
        let ran = author.kinfold(&put);
        (ran.code == Some(0)).then_some(()).ok_or(ran.stderr)
    });
    let folded = r#"{"fig":["ann","bob"],"nut":["bob"]}"#;
    for node in 0..3 {
        reads(&author, "things", node, folded, 2);
    }

    // An unlawful merge: whoever comes last wins, by the order of the siblings.
    author.edit(
        "self.0.entry(wish).or_default().extend(names);",
        "self.0.insert(wish, names);",
    );
    author
        .run("cargo", &["test", "lawful"])
        .code(101)
        .says("not order-free")
        .says("KINFOLD_SEED=");
    assert!(author.build(test), "it builds all the same");
    author
        .kinfold(&["reconciler", "check", "wish-list.wasm"])
        .code(1)
        .says("not order-free")
        .complains("not lawful");
    author
        .push("wish-list.wasm")
        .code(1)
        .says("fold(a, b)")
        .complains("not lawful");
    // The table goes on with what it had.
    reads(&author, "things", 0, folded, 2);

    // No Rust at all: cargo's words, then one line of ours, and the old module
    // stays.
    author.edit("use std::collections", "uze std::collections");
    let before = fs::read(&module).expect("the module");
    author
        .kinfold(&["reconciler", "build"])
        .code(1)
        .says("error")
        .complains("wish-list does not build; cargo says why above");
    assert_eq!(fs::read(&module).expect("the module"), before);
}

#[test]
fn a_data_type_takes_operations() {
    let test = "a_data_type_takes_operations";
    let Some(author) = Author::new(test, &["tally", "--data-type"]) else {
        return;
    };
    author
        .run("cargo", &["test"])
        .code(0)
        .says("test tests::the_data_type_is_lawful ... ok");
    if !author.build(test) {
        return;
    }
    author
        .kinfold(&["reconciler", "check", "tally.wasm"])
        .code(0)
        .says("data type");
    author.push("tally.wasm").code(0);
    author
        .kinfold(&["table", "set", "polls", "--reconciler", "tally"])
        .code(0);
    for node in 0..2 {
        let endpoint = cluster().nodes[node].endpoint();
        let vote = [
            "op",
            "polls",
            "one",
            r#"{"vote":"fig"}"#,
            "--endpoint",
            &endpoint,
        ];
        eventually("the node has the module", || {
            let ran = author.kinfold(&vote);
            (ran.code == Some(0)).then_some(()).ok_or(ran.stderr)
        });
    }
    let view = author.kinfold(&["get", "polls", "one"]).code(0);
    assert_eq!(view.stdout.trim(), r#"{"fig":2}"#);
    author
        .kinfold(&["op", "polls", "one", r#"{"vote":""}"#])
        .code(1)
        .complains("a vote needs a choice");

    // Counting in one place counts what both have seen twice.
    author.edit("*larger = count.max(*larger);", "*larger += count;");
    author
        .run("cargo", &["test", "lawful"])
        .code(101)
        .says("not ")
        .says("KINFOLD_SEED=");
}

#[test]
fn mistakes_are_told_in_a_line_that_says_what_to_do() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let author = Author {
        crate_dir: home.path().to_owned(),
        home,
    };
    author
        .kinfold(&["reconciler", "new", "Wish_List"])
        .code(2)
        .complains("try \"wish-list\"");
    author
        .kinfold(&["reconciler", "build"])
        .code(1)
        .complains("has no Cargo.toml");
    author
        .kinfold(&["reconciler", "new", "wish-list", "--json"])
        .code(0)
        .says("\"path\":\"wish-list\"");
    author
        .kinfold(&["reconciler", "new", "wish-list"])
        .code(1)
        .complains("is there already; nothing was written");

    let mut command = author.command(KINFOLD, &["reconciler", "build", "wish-list"]);
    let empty = author.home.path().join("nothing here");
    let ran = command
        .env("KINFOLD_WASM_TOOLCHAIN", &empty)
        .output()
        .expect("it runs");
    let ran = Ran::from(ran);
    if ran.code == Some(0) {
        eprintln!("SKIPPED what a Rust without a WebAssembly target is told: this one has it");
        return;
    }
    ran.code(1).complains("holds no tool chain");
    let mut command = author.command(KINFOLD, &["reconciler", "build", "wish-list"]);
    let ran = command
        .env_remove("KINFOLD_WASM_TOOLCHAIN")
        .env("XDG_CACHE_HOME", &empty)
        .output()
        .expect("it runs");
    Ran::from(ran)
        .code(1)
        .complains("rustup target add wasm32-unknown-unknown")
        .complains("scripts/install-wasm-toolchain.sh");
}
