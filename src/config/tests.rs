//! The config file: the page's example, defaults, and every way to get it wrong.

use super::*;
use crate::protocol::catalog::QuorumSize;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, "node.toml", NodeSettings::default())
}

fn refusal(text: &str) -> String {
    let message = parse(text).expect_err("the config is wrong").to_string();
    assert_eq!(message.lines().count(), 1, "one line: {message}");
    message
}

/// The example of the configuration page, word for word.
const EXAMPLE: &str = r#"
[node]
name = "a"                      # required, unique in the cluster
listen = "127.0.0.1:8101"
advertise = "127.0.0.1:8101"    # defaults to listen
data_dir = "data/a"
seeds = ["127.0.0.1:8101", "127.0.0.1:8102"]
weight = 1.0
zone = "z1"
durability = "commit"           # commit: fsync before every ack; os: survives a crash of the process only

[cluster]                       # the first two are fixed when the cluster is born
partitions = 256
replicas = 3
gossip_interval = "1s"
exchange_interval = "60s"       # one exchange per partition and pair
reap_after = "1h"

[tables.carts]
n = 3
r = 2
w = 2
reconciler = "or-cart"          # none: clients get siblings
max_value_bytes = "1MiB"
fold_above = 16                 # 1 when the module is eager
max_siblings = 100
quorum = "sloppy"
"#;

#[test]
fn the_example_of_the_page_parses() {
    let config = parse(EXAMPLE).unwrap();
    assert_eq!(&*config.node.name, "a");
    assert_eq!(config.node.listen, "127.0.0.1:8101".parse().unwrap());
    assert_eq!(config.node.advertise.as_deref(), Some("127.0.0.1:8101"));
    assert_eq!(config.node.data_dir, Path::new("data/a"));
    assert_eq!(config.node.seeds.len(), 2);
    assert_eq!(&*config.node.zone, "z1");
    assert_eq!(config.cluster, ClusterConfig::default());
    let expected = TableDefinition {
        r: QuorumSize::Count(2),
        w: QuorumSize::Count(2),
        reconciler: Some("or-cart".into()),
        fold_above: Some(16),
        ..TableDefinition::default()
    };
    assert_eq!(config.tables["carts"], expected);
}

#[test]
fn the_sandbox_defaults_are_the_sandboxs_own() {
    let said = SandboxConfig::default();
    let own = crate::reconcile::wasm::SandboxLimits::default();
    assert_eq!(said.fuel, own.fuel);
    assert_eq!(said.memory_bytes, own.memory_bytes as u64);
    assert_eq!(said.deadline.as_millis(), u128::from(own.deadline_ms));
    assert_eq!(said.workers as usize, own.workers);
    assert_eq!(said.queue as usize, own.queue);
}

#[test]
fn everything_but_the_name_has_a_default() {
    let config = parse("node.name = 'a'\n[tables.t]\n").unwrap();
    assert_eq!(config.node.listen, DEFAULT_LISTEN.parse().unwrap());
    assert_eq!(config.node.data_dir, Path::new("data/a"));
    assert_eq!(config.node.durability, Durability::Commit);
    assert_eq!(config.sandbox, SandboxConfig::default());
    assert_eq!(config.tables["t"], TableDefinition::default());
    let bound = "127.0.0.1:4242".parse().unwrap();
    assert_eq!(&*config.node.advertised(bound), "127.0.0.1:4242");
    assert_eq!(config.node.seeds_or_self(bound).len(), 1);

    let message = refusal("[node]\nlisten = '127.0.0.1:1'");
    assert!(message.contains("node.name"), "{message}");
    assert!(message.contains("--name"), "{message}");
}

#[test]
fn settings_override_the_file_and_stand_without_one() {
    let overrides = NodeSettings {
        name: Some("b".to_owned()),
        durability: Some(Durability::Os),
        ..NodeSettings::default()
    };
    let config = Config::parse(EXAMPLE, "node.toml", overrides.clone()).unwrap();
    assert_eq!(&*config.node.name, "b");
    assert_eq!(config.node.durability, Durability::Os);
    assert_eq!(&*config.node.zone, "z1");
    let config = Config::load(None, overrides).unwrap();
    assert_eq!(config.node.data_dir, Path::new("data/b"));
}

#[test]
fn a_wrong_setting_is_blamed_on_its_flag_not_on_the_file() {
    let overrides = NodeSettings {
        listen: Some("localhost".to_owned()),
        ..NodeSettings::default()
    };
    let message = Config::parse(EXAMPLE, "node.toml", overrides)
        .unwrap_err()
        .to_string();
    assert!(
        message.starts_with("--listen or KINFOLD_LISTEN: node.listen: "),
        "{message}"
    );
}

#[test]
fn unknown_keys_are_errors_with_key_and_line() {
    for (text, line, key) in [
        ("[node]\nname = 'a'\nlissten = 'x'\n", 3, "node.lissten"),
        (
            "[node]\nname = 'a'\n\n[claster]\npartitions = 1\n",
            4,
            "claster",
        ),
        (
            "node.name = 'a'\n[tables.t]\nn = 3\nq = 3\n",
            4,
            "tables.t.q",
        ),
        (
            "node.name = 'a'\ntables.t = { n = 3,\n  q = 3 }\n",
            3,
            "tables.t.q",
        ),
        ("node.name = 'a'\n[sandbox]\nfule = 1\n", 3, "sandbox.fule"),
    ] {
        let message = refusal(text);
        assert!(
            message.starts_with(&format!("node.toml line {line}: {key}: ")),
            "{message}"
        );
        assert!(message.contains("unknown field"), "{message}");
    }
}

#[test]
fn wrong_values_are_errors_with_key_and_line() {
    for (text, line, key, reason) in [
        (
            "[cluster]\ngossip_interval = '1 fortnight'",
            2,
            "cluster.gossip_interval",
            "not a duration",
        ),
        (
            "[cluster]\ngossip_interval = 5",
            2,
            "cluster.gossip_interval",
            "with its unit",
        ),
        (
            "[cluster]\ngossip_interval = '0s'",
            2,
            "cluster.gossip_interval",
            "under 1ms",
        ),
        (
            "[cluster]\n\npartitions = 100",
            3,
            "cluster.partitions",
            "power of two",
        ),
        ("[cluster]\npartitions = -1", 2, "cluster.partitions", "-1"),
        (
            "[cluster]\nbackground_percent = 0",
            2,
            "cluster.background_percent",
            "from 1 to 100 percent",
        ),
        (
            "[cluster]\nbackground_percent = 101",
            2,
            "cluster.background_percent",
            "from 1 to 100 percent",
        ),
        (
            "[cluster]\nreplicas = 0",
            2,
            "cluster.replicas",
            "from 1 to",
        ),
        ("[tables.t]\nn = 3\nr = 4", 3, "tables.t.r", "n is 3"),
        ("[tables.t]\nw = 4", 2, "tables.t.w", "n is 3"),
        ("[tables.t]\nr = 'most'", 2, "tables.t.r", "quorum"),
        (
            "[tables.t]\nmax_value_bytes = '1 parsec'",
            2,
            "tables.t.max_value_bytes",
            "number of bytes",
        ),
        (
            "[tables.t]\nquorum = 'loose'",
            2,
            "tables.t.quorum",
            "sloppy",
        ),
        (
            "[tables.t]\nmax_siblings = 0",
            2,
            "tables.t.max_siblings",
            "1..=10000",
        ),
        (
            "[tables.t]\nreconciler_digest = 'abc'",
            2,
            "tables.t.reconciler_digest",
            "64 hex digits",
        ),
        (
            "[tables.'a b']\nn = 3",
            1,
            "tables.a b",
            "no name for a table",
        ),
        (
            "[sandbox]\nmemory = '1KiB'",
            2,
            "sandbox.memory",
            "at least",
        ),
        ("[node]\nname = 'a b'", 2, "node.name", "is no name"),
        ("[node]\nname = ''", 2, "node.name", "is no name"),
        ("[node]\nname = 'a'\nweight = 0", 3, "node.weight", "0.001"),
        (
            "[node]\nname = 'a'\nweight = nan",
            3,
            "node.weight",
            "0.001",
        ),
        (
            "[node]\nname = 'a'\nlisten = 'localhost:8101'",
            3,
            "node.listen",
            "IP address",
        ),
        (
            "[node]\nname = 'a'\nlisten = '0.0.0.0:8101'",
            3,
            "node.listen",
            "set advertise",
        ),
        (
            "[node]\nname = 'a'\nadvertise = '0.0.0.0:8101'",
            3,
            "node.advertise",
            "wildcard",
        ),
        (
            "[node]\nname = 'a'\nadvertise = '[::]:8101'",
            3,
            "node.advertise",
            "wildcard",
        ),
        (
            "[node]\nname = 'a'\nadvertise = 'host:0'",
            3,
            "node.advertise",
            "port 0",
        ),
        (
            "[node]\nname = 'a'\nseeds = ['h:1', 'http://h:1']",
            3,
            "node.seeds",
            "host:port",
        ),
        (
            "[node]\nname = 'a'\ndurability = 'maybe'",
            3,
            "node.durability",
            "maybe",
        ),
        (
            "[node]\nname = 'a'\nname = 'b'",
            3,
            "name: ",
            "duplicate key",
        ),
        (
            "[node]\nname = 'a'\n[tables.t]\n[tables.t]",
            4,
            "t: ",
            "duplicate key",
        ),
    ] {
        let (text, line) = if text.starts_with("[node]") {
            (text.to_owned(), line)
        } else {
            (format!("node.name = 'a'\n{text}"), line + 1)
        };
        let message = refusal(&text);
        assert!(
            message.starts_with(&format!("node.toml line {line}: {key}")),
            "{message}"
        );
        assert!(message.contains(reason), "{message}");
    }
}

#[test]
fn reachable_addresses_pass() {
    for address in [
        "10.0.0.7:8101",
        "[::1]:8101",
        "node-a.example.com:1",
        "localhost:8101",
    ] {
        assert_eq!(check_reachable(address).as_deref(), Ok(address));
    }
}

#[test]
fn sizes_and_durations_take_units() {
    let config = parse(
        "node.name = 'a'\nsandbox = { memory = '1MiB', deadline = '1s 500ms' }\n[tables.t]\nmax_value_bytes = 2048",
    )
    .unwrap();
    assert_eq!(config.sandbox.memory_bytes, 1 << 20);
    assert_eq!(config.sandbox.deadline, Duration::from_millis(1500));
    assert_eq!(config.tables["t"].max_value_bytes, 2048);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let message = Config::load(
        Some(Path::new("/nowhere/node.toml")),
        NodeSettings::default(),
    )
    .unwrap_err()
    .to_string();
    assert!(message.contains("/nowhere/node.toml"), "{message}");
}
