//! `kinfold table`: lists, shows, makes, changes and deletes tables.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use hyper::StatusCode;
use serde_json::{Map, Value};

use super::Common;
use super::error::{CliError, expect_success};
use super::item::{self, Quorum};
use super::output::{self, Output, cell};
use crate::client::{Client, Request, segment};

/// The keys of a definition, in the order in which people are shown them. What
/// else an answer says of a table is not for sending back.
const KEYS: [&str; 11] = [
    "n",
    "r",
    "w",
    "reconciler",
    "reconciler_digest",
    "max_value_bytes",
    "fold_above",
    "max_siblings",
    "max_actors",
    "quorum",
    "sort_keys",
];

const SET_EXAMPLES: &str = "\
A table that exists keeps what no flag names; with --file it becomes what the file says.

Examples:
  kinfold table set wishes --reconciler cart-union
  kinfold table set carts --n 3 --r 2 --w 2 --reconciler or-cart --quorum strict
  kinfold table set raw --reconciler none
  kinfold table show carts --json > carts.json && kinfold table set carts --file carts.json";

#[derive(Subcommand, Debug)]
pub enum TableCommand {
    /// List the tables
    List,
    /// Show a table's definition
    Show { name: String },
    /// Make a table, or change one
    Set(Box<SetArgs>),
    /// Delete a table and everything in it
    Delete {
        name: String,
        /// Really delete it: there is no way back
        #[arg(long)]
        yes: bool,
    },
}

/// Makes a table, or changes one
#[derive(Args, Debug)]
#[command(after_help = SET_EXAMPLES)]
pub struct SetArgs {
    name: String,
    /// How many replicas an item has
    #[arg(long)]
    n: Option<u32>,
    /// Replicas that must answer a read: a number, quorum or all
    #[arg(long)]
    r: Option<String>,
    /// Replicas that must store a write: a number, quorum or all
    #[arg(long)]
    w: Option<String>,
    /// The module that folds siblings; none gives them to clients
    #[arg(long, value_name = "NAME")]
    reconciler: Option<String>,
    /// Fold with this version of the module, whatever its current one is
    #[arg(long, value_name = "DIGEST")]
    reconciler_digest: Option<String>,
    /// The largest value, like 1MiB
    #[arg(long, value_name = "SIZE")]
    max_value_bytes: Option<String>,
    /// Fold what is stored when there would be more siblings than this
    #[arg(long, value_name = "COUNT")]
    fold_above: Option<u32>,
    /// Refuse writes that would leave more siblings than this
    #[arg(long, value_name = "COUNT")]
    max_siblings: Option<u32>,
    /// How many actors an item's context remembers
    #[arg(long, value_name = "COUNT")]
    max_actors: Option<u32>,
    /// Whether fallbacks count towards quorums (sloppy) or not (strict)
    #[arg(long, value_enum)]
    quorum: Option<Quorum>,
    /// Whether items have sort keys, from the table's birth on
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    sort_keys: Option<bool>,
    /// Take the whole definition from this JSON file; - reads standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "n", "r", "w", "reconciler", "reconciler_digest", "max_value_bytes",
        "fold_above", "max_siblings", "max_actors", "quorum", "sort_keys",
    ])]
    file: Option<PathBuf>,
}

impl SetArgs {
    /// The flags, over what the table is now.
    fn merge(&self, mut present: Map<String, Value>) -> Map<String, Value> {
        present.retain(|key, value| KEYS.contains(&key.as_str()) && !value.is_null());
        let mut set = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                present.insert(key.to_owned(), value);
            }
        };
        set("n", self.n.map(Value::from));
        set("r", self.r.as_deref().map(replicas));
        set("w", self.w.as_deref().map(replicas));
        set(
            "max_value_bytes",
            self.max_value_bytes.as_deref().map(replicas),
        );
        set("fold_above", self.fold_above.map(Value::from));
        set("max_siblings", self.max_siblings.map(Value::from));
        set("max_actors", self.max_actors.map(Value::from));
        set(
            "quorum",
            self.quorum.map(|quorum| {
                Value::from(match quorum {
                    Quorum::Sloppy => "sloppy",
                    Quorum::Strict => "strict",
                })
            }),
        );
        set("sort_keys", self.sort_keys.map(Value::from));
        if let Some(name) = &self.reconciler {
            // A digest belongs to the module that it was pinned for.
            present.remove("reconciler_digest");
            present.insert("reconciler".to_owned(), Value::from(name.as_str()));
        }
        if let Some(digest) = &self.reconciler_digest {
            present.insert("reconciler_digest".to_owned(), Value::from(digest.as_str()));
        }
        present
    }
}

/// A number as one, anything else as text for the node to judge.
fn replicas(text: &str) -> Value {
    text.parse::<u64>()
        .map_or_else(|_| Value::from(text), Value::from)
}

pub async fn run(common: &Common, command: TableCommand) -> Result<(), CliError> {
    let output = common.output();
    let client = common.client()?;
    match command {
        TableCommand::List => list(&output, &client).await,
        TableCommand::Show { name } => {
            let reply = expect_success(client.get(&path(&name)).await?)?;
            show(&output, &reply.json()?)
        }
        TableCommand::Set(args) => set(&output, &client, &args).await,
        TableCommand::Delete { name, yes: false } => Err(CliError::Usage(format!(
            "deleting {name} deletes every item in it on every node; add --yes to go on"
        ))),
        TableCommand::Delete { name, yes: true } => {
            let request = Request::delete(path(&name)).query("confirm", &name);
            expect_success(client.send(request).await?)?;
            if output.json {
                output.json(&serde_json::json!({ "deleted": name }))
            } else {
                output.note(&format!("deleted {name}"))
            }
        }
    }
}

fn path(name: &str) -> String {
    format!("/v1/tables/{}", segment(name.as_bytes()))
}

async fn list(output: &Output, client: &Client) -> Result<(), CliError> {
    let answer: Value = expect_success(client.get("/v1/tables").await?)?.json()?;
    if output.json {
        return output.json(&answer);
    }
    let tables = output::list(&answer, "tables");
    if tables.is_empty() {
        return output.note("there are no tables; `kinfold table set NAME` makes one");
    }
    let shown = ["name", "n", "r", "w", "reconciler", "quorum", "sort_keys"];
    let rows = tables
        .iter()
        .map(|table| shown.iter().map(|key| cell(&table[key])).collect())
        .collect();
    let header = ["table", "n", "r", "w", "reconciler", "quorum", "sort keys"];
    output.table(&header, rows)
}

fn show(output: &Output, table: &Value) -> Result<(), CliError> {
    if output.json {
        return output.json(table);
    }
    let rows = KEYS
        .iter()
        .map(|key| vec![(*key).to_owned(), cell(&table[key])])
        .collect();
    output.table(&["key", "value"], rows)
}

async fn set(output: &Output, client: &Client, args: &SetArgs) -> Result<(), CliError> {
    let path = path(&args.name);
    let definition = if let Some(file) = &args.file {
        let text = item::read_input((file.as_os_str() != "-").then_some(file))?;
        match serde_json::from_slice(&text) {
            Ok(Value::Object(definition)) => definition,
            Ok(_) => {
                let text = format!("{} is no JSON object", file.display());
                return Err(CliError::Usage(text));
            }
            Err(error) => {
                let text = format!("{} is not JSON: {error}", file.display());
                return Err(CliError::Usage(text));
            }
        }
    } else {
        let present = client.get(&path).await?;
        match present.status {
            StatusCode::NOT_FOUND => args.merge(Map::new()),
            _ => args.merge(expect_success(present)?.json()?),
        }
    };
    let request = Request::put(path, Value::Object(definition).to_string());
    let reply = client
        .send(request.content_type("application/json")?)
        .await?;
    let reply = expect_success(reply)?;
    let answer: Value = reply.json()?;
    if output.json {
        return output.json(&answer);
    }
    if output.terminal {
        show(output, &answer)?;
    }
    for warning in output::list(&answer, "warnings") {
        eprintln!("kinfold: warning: {}", cell(warning));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use serde_json::json;

    #[derive(Parser)]
    struct Wrapper {
        #[command(flatten)]
        set: SetArgs,
    }

    fn merged(flags: &[&str], present: Value) -> Value {
        let arguments = ["set", "carts"].iter().chain(flags);
        let args = Wrapper::parse_from(arguments).set;
        let Value::Object(present) = present else {
            panic!("definitions are objects")
        };
        Value::Object(args.merge(present))
    }

    #[test]
    fn flags_change_what_they_name_and_nothing_else() {
        let present = json!({"name": "carts", "n": 3, "r": 2, "reconciler": "lww",
            "reconciler_digest": "sha256:0", "fold_above": null, "quorum": "strict"});
        assert_eq!(
            merged(
                &["--r", "quorum", "--w", "3", "--sort-keys"],
                present.clone()
            ),
            json!({"n": 3, "r": "quorum", "w": 3, "reconciler": "lww",
                "reconciler_digest": "sha256:0", "quorum": "strict", "sort_keys": true})
        );
        assert_eq!(
            merged(&["--reconciler", "none"], present.clone()),
            json!({"n": 3, "r": 2, "reconciler": "none", "quorum": "strict"})
        );
        assert_eq!(
            merged(
                &["--reconciler", "or-set", "--max-value-bytes", "2MiB"],
                present
            ),
            json!({"n": 3, "r": 2, "reconciler": "or-set", "max_value_bytes": "2MiB",
                "quorum": "strict"})
        );
    }
}
