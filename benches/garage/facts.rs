//! What is compared with what.
//!
//! Promises: everything that was set on each side and bears on the figures, and
//! everything in which the sides are not alike, in one table that stands before
//! the figures; what the machine is, and how busy it was before.

use std::fmt;
use std::path::Path;
use std::process::Command;

use comfy_table::ContentArrangement;
use serde::Serialize;

use crate::report::{SIDES, table};
use crate::{Args, output_of};

/// What was configured, and where.
#[derive(Serialize, Clone)]
pub struct Facts {
    machine: String,
    load_when_started: String,
    workload: String,
    /// What, kinfold's, Garage's.
    configured: Vec<(String, String, String)>,
}

impl Facts {
    /// Asks the machine and the programs.
    pub fn gather(args: &Args, garage: &Path) -> anyhow::Result<Facts> {
        let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let cpu = cpu
            .lines()
            .find_map(|line| line.strip_prefix("model name"))
            .map_or("processors", |line| {
                line.trim_start_matches([' ', '\t', ':'])
            });
        let version = |program: &Path| {
            let said = output_of(Command::new(program).arg("--version"))?;
            anyhow::Ok(said.trim().to_owned())
        };
        let own_durability = match args.durability.as_str() {
            "commit" => "yes: WAL, synchronous=FULL, every commit synced before the answer",
            _ => "no: WAL, synchronous=NORMAL (--durability os)",
        };
        let partitions = match args.items_per_partition {
            1 => "partition key and sort key, one item a partition".to_owned(),
            many => format!("partition key and sort key, {many} items a partition"),
        };
        let rows = [
            ("version", version(&args.server)?, version(garage)?),
            (
                "nodes, copies",
                "3, n = 3".into(),
                "3, replication_factor = 3".into(),
            ),
            (
                "an answer waits for",
                "the defaults of a table: w = 2, r = 2".into(),
                "consistency_mode = consistent, its default: 2 to write, 2 to read".into(),
            ),
            (
                "database",
                "SQLite, as built in".into(),
                format!("db_engine = {}", args.engine),
            ),
            (
                "a write survives loss of power",
                own_durability.into(),
                args.engine.durability(args.fsync).into(),
            ),
            (
                "items",
                "a table without a reconciler, partition key".into(),
                partitions,
            ),
            (
                "requests are signed",
                "no, kinfold has no keys".into(),
                "yes, K2V refuses others; bodies are not (UNSIGNED-PAYLOAD), which is cheaper"
                    .into(),
            ),
            (
                "nodes talk in",
                "plain TCP".into(),
                "an encrypted protocol, which cannot be turned off".into(),
            ),
            (
                "contexts",
                "in the answers of PUT and GET".into(),
                "in the answers of GET".into(),
            ),
            (
                "log, metrics",
                "warn, metrics on".into(),
                "warn; metrics as built, see version".into(),
            ),
        ];
        Ok(Facts {
            machine: format!(
                "{} × {cpu}, Linux {}",
                std::thread::available_parallelism()?,
                read("/proc/sys/kernel/osrelease").trim()
            ),
            load_when_started: read("/proc/loadavg")
                .split_whitespace()
                .take(3)
                .collect::<Vec<_>>()
                .join(" "),
            workload: format!(
                "values of {} bytes, connections {:?}, {} rounds of {} s a phase, kinfold and \
                 Garage in turns; keep-alive; connections spread over the three nodes; get reads \
                 any key that was put; the client has {} threads and shares the machine",
                args.value_bytes, args.connections, args.rounds, args.seconds, args.client_threads,
            ),
            configured: rows
                .into_iter()
                .map(|(what, own, other)| (what.to_owned(), own, other))
                .collect(),
        })
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            to,
            "{}\nload average {}",
            self.machine, self.load_when_started
        )?;
        writeln!(to, "{}", self.workload)?;
        let mut table = table(["configured", SIDES[0], SIDES[1], ""]);
        table.set_content_arrangement(ContentArrangement::Dynamic);
        for (what, own, other) in &self.configured {
            table.add_row([what, own, other]);
        }
        write!(to, "{table}")
    }
}
