//! A shopping day, replayed: families with a phone, a laptop and somebody
//! else's phone fill one cart each, all at once and through different nodes.
//!
//! Run with `cargo run --release --example shopping_day`. Every session is
//! played twice: into `carts`, with the operations of `or-cart`, and into
//! `baskets`, with the reading, changing and putting back of the Dynamo paper,
//! folded by `cart-union`. At the end every cart is read at every node and
//! compared with what an omniscient observer expects, which `observer.rs`
//! defines. Promises: the plan is the seed's; the verdict depends on what was
//! read and acknowledged and on no time; the exit code is 0 only if every cart
//! of both tables is as expected and no acknowledged addition is lost.

mod cluster;
mod observer;
mod plan;
mod shop;

use std::io::{IsTerminal, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use kinfold::clock::{Clock, Dice, SystemClock};
use kinfold::logging::{self, LogFormat};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use cluster::Cluster;
use observer::{Cart, Verdict, judge_operations, judge_union};
use plan::Session;
use shop::{Record, Shop, Way};

/// How many wrong carts are printed: the first few tell the story.
const SHOWN: usize = 5;
/// The node that takes a rest.
const RESTING: usize = 2;

/// Replays a shopping day against three nodes and checks every cart
#[derive(Parser, Debug)]
struct Args {
    /// How many carts, in each of the two tables
    #[arg(long, default_value_t = 3_000)]
    sessions: usize,
    /// The seed of the day's plan
    #[arg(long, default_value_t = 2007)]
    seed: u64,
    /// How many families shop at once
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u16).range(1..))]
    at_once: u16,
    /// A running cluster, host:port separated by commas [default: three nodes of its own]
    #[arg(long, env = "KINFOLD_ENDPOINT", value_name = "URL,…")]
    endpoint: Option<String>,
    /// Stop one node after a third of the day and start it again after two
    #[arg(long, conflicts_with = "endpoint")]
    outage: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The day in one table.
#[derive(Default)]
struct Sum {
    carts: u64,
    wrong_carts: u64,
    writes: u64,
    unknown: u64,
    overlapping: u64,
    reads: u64,
    folded_reads: u64,
    folded_siblings: u64,
    carts_come_back: u64,
    verdict: Verdict,
}

impl Sum {
    fn add(&mut self, record: &Record, verdict: Verdict, name: &str) {
        self.carts += 1;
        self.writes += record.writes.len() as u64;
        self.unknown += record
            .writes
            .iter()
            .filter(|write| write.end.is_none())
            .count() as u64;
        let overlaps = |one: &observer::Write, two: &observer::Write| {
            one.number != two.number
                && one.end.is_none_or(|end| two.start < end)
                && two.end.is_none_or(|end| one.start < end)
        };
        let meets = |one: &&observer::Write| record.writes.iter().any(|two| overlaps(one, two));
        self.overlapping += record.writes.iter().filter(meets).count() as u64;
        self.reads += record.reads;
        self.folded_reads += record.folded_reads;
        self.folded_siblings += record.folded_siblings;
        self.wrong_carts += u64::from(!verdict.wrong.is_empty());
        self.carts_come_back += u64::from(verdict.came_back > 0);
        self.verdict
            .wrong
            .extend(verdict.wrong.iter().map(|text| format!("{name}: {text}")));
        self.verdict.items += verdict.items;
        self.verdict.open_items += verdict.open_items;
        self.verdict.came_back += verdict.came_back;
        self.verdict.off += verdict.off;
        self.verdict.lost += verdict.lost;
    }

    /// Every figure, under the name that it has for programs and for people.
    fn figures(&self) -> [(&'static str, &'static str, u64); 13] {
        [
            ("carts", "carts", self.carts),
            ("items", "items written, in all carts", self.verdict.items),
            ("writes", "writes", self.writes),
            ("unknown", "  outcome unknown to the client", self.unknown),
            (
                "overlapping",
                "  under way at once with another of the cart",
                self.overlapping,
            ),
            ("reads", "reads", self.reads),
            (
                "folded_reads",
                "  conflicts folded (reads that met siblings)",
                self.folded_reads,
            ),
            (
                "folded_siblings",
                "  siblings in them",
                self.folded_siblings,
            ),
            (
                "came_back",
                "removed items that came back (the anomaly)",
                self.verdict.came_back,
            ),
            ("carts_come_back", "  carts with one", self.carts_come_back),
            ("off", "quantities other than meant", self.verdict.off),
            ("lost", "acknowledged additions lost", self.verdict.lost),
            (
                "wrong_carts",
                "carts not as the observer expects",
                self.wrong_carts,
            ),
        ]
    }

    fn to_json(&self) -> Value {
        let mut object: serde_json::Map<String, Value> = self
            .figures()
            .iter()
            .map(|(name, _, figure)| ((*name).to_owned(), json!(figure)))
            .collect();
        object.insert("open_items".to_owned(), json!(self.verdict.open_items));
        object.insert("wrong".to_owned(), json!(self.verdict.wrong));
        Value::Object(object)
    }

    fn is_right(&self) -> bool {
        self.verdict.wrong.is_empty() && self.verdict.lost == 0
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    // A node that stops or starts refuses requests, which the devices expect.
    logging::init("warn,kinfold::api=error", LogFormat::Text)?;
    let cluster = match &args.endpoint {
        Some(endpoints) => Cluster::at(endpoints).await?,
        None => Cluster::start().await?,
    };
    let clock = SystemClock::new();
    let day = format!("day-{:016x}", Dice::from_system().next_u64());
    let shop = Arc::new(Shop::new(cluster.clients.clone(), day));
    let (cluster, records) = play(&args, cluster, &shop).await?;
    let seconds = clock.now().monotonic_ms as f64 / 1_000.0;
    let nodes = cluster.clients.len();
    let sums = judge(&args, &shop, nodes, records).await?;
    cluster.close().await?;

    let [operations, unions] = &sums;
    let anomaly_absent = operations.verdict.came_back == 0;
    let right = operations.is_right() && unions.is_right() && anomaly_absent;
    if args.json {
        let report = json!({
            "seed": args.seed, "nodes": nodes, "seconds": seconds, "right": right,
            "or_cart": operations.to_json(), "cart_union": unions.to_json(),
        });
        println!("{report:#}");
    } else {
        print!("{}", tell(&args, &sums, nodes, seconds));
    }
    for sum in &sums {
        for text in sum.verdict.wrong.iter().take(SHOWN) {
            eprintln!("wrong: {text}");
        }
    }
    Ok(if right {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Plays every session in both tables, some at once.
async fn play(
    args: &Args,
    mut cluster: Cluster,
    shop: &Arc<Shop>,
) -> anyhow::Result<(Cluster, Vec<[Record; 2]>)> {
    let sessions = plan::day(args.sessions, args.seed);
    let count = sessions.len();
    let mut waiting = sessions.into_iter().enumerate();
    let mut shopping = JoinSet::new();
    let mut records: Vec<[Record; 2]> = Vec::new();
    records.resize_with(count, Default::default);
    for done in 0..count {
        while shopping.len() < usize::from(args.at_once)
            && let Some((number, session)) = waiting.next()
        {
            shopping.spawn(both(shop.clone(), number, session));
        }
        let Some(ended) = shopping.join_next().await else {
            break;
        };
        let (number, record) = ended??;
        records[number] = record;
        progress("carts filled", done + 1, count);
        if args.outage && cluster.is_own() {
            // The others go on shopping meanwhile.
            if done == count / 3 {
                cluster.stop(RESTING).await?;
            } else if done == count * 2 / 3 {
                cluster.start_again(RESTING).await?;
            }
        }
    }
    Ok((cluster, records))
}

async fn both(
    shop: Arc<Shop>,
    number: usize,
    session: Session,
) -> anyhow::Result<(usize, [Record; 2])> {
    let operations = shop.clone().live(Way::Operations, number, session.clone());
    let unions = shop.live(Way::WholeCarts, number, session);
    let (operations, unions) = tokio::try_join!(operations, unions)?;
    Ok((number, [operations, unions]))
}

/// Reads every cart at every node and asks the observer.
async fn judge(
    args: &Args,
    shop: &Arc<Shop>,
    nodes: usize,
    records: Vec<[Record; 2]>,
) -> anyhow::Result<[Sum; 2]> {
    let count = records.len();
    let mut waiting = records.into_iter().enumerate();
    let mut reading = JoinSet::new();
    let mut sums = [Sum::default(), Sum::default()];
    for done in 0..count {
        while reading.len() < usize::from(args.at_once)
            && let Some((number, record)) = waiting.next()
        {
            let shop = shop.clone();
            reading.spawn(async move {
                let operations = read_everywhere(&shop, Way::Operations, number, nodes).await?;
                let unions = read_everywhere(&shop, Way::WholeCarts, number, nodes).await?;
                anyhow::Ok((number, record, operations, unions))
            });
        }
        let Some(ended) = reading.join_next().await else {
            break;
        };
        let (number, [operations, unions], carts, baskets) = ended??;
        let name = format!("cart {number}");
        sums[0].add(
            &operations,
            judge_operations(&operations.writes, &carts),
            &name,
        );
        sums[1].add(&unions, judge_union(&unions.writes, &baskets), &name);
        progress("carts checked", done + 1, count);
    }
    Ok(sums)
}

async fn read_everywhere(
    shop: &Shop,
    way: Way,
    number: usize,
    nodes: usize,
) -> anyhow::Result<Vec<Cart>> {
    let mut carts = Vec::with_capacity(nodes);
    for node in 0..nodes {
        carts.push(shop.look(way, number, node).await?.0);
    }
    Ok(carts)
}

/// A line that overwrites itself, where somebody watches.
fn progress(what: &str, done: usize, count: usize) {
    let mut screen = std::io::stderr();
    if screen.is_terminal() {
        let end = if done == count { "\r\x1b[K" } else { "" };
        // A terminal that is gone is no reason to stop.
        let _ = write!(screen, "\r{what}: {done} of {count}{end}").and_then(|()| screen.flush());
    }
}

fn tell(args: &Args, sums: &[Sum; 2], nodes: usize, seconds: f64) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "",
        "carts: or-cart, operations",
        "baskets: cart-union, whole carts",
    ]);
    for ((_, name, one), (_, _, other)) in sums[0].figures().iter().zip(sums[1].figures()) {
        table.add_row([(*name).to_owned(), one.to_string(), other.to_string()]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let open = sums[0].verdict.open_items;
    let requests = sums.iter().map(|sum| sum.reads + sum.writes).sum::<u64>();
    format!(
        "A shopping day of seed {seed} through {nodes} nodes: {requests} requests in {seconds:.1} s.\n\
         {table}\n\
         An or-cart item has one expected quantity but for {open} items whose removal or setting met\n\
         another write on its way: there either order is right, and nothing else.\n",
        seed = args.seed,
    )
}
