//! Clients that work while faults come and go, and remember what they were told.
//!
//! Promises: each client thread talks to one node and goes to the next when that
//! one does not answer, as a service with a list of nodes would; it keeps the
//! context of what it read or wrote last; no request is sent twice, so what has no
//! answer stays unknown. What is done, in turn: an addition to an `or-cart`, a
//! blind write to a `cart-union`, an addition to a `pn-counter`, a write to a
//! register without reconciler with the context kept, and reads of these.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use kinfold::client::ClientError;
use kinfold::clock::{Clock, SystemClock};
use serde_json::{Value, json};

use crate::common::http::values;
use crate::common::{Cluster, Expect, Http, Reply, Request, item, until};
use crate::judge::{Addition, Count, Final, History, Outcome, SetRead, Verdict, Write, judge};

/// The tables that the clients use.
pub const TABLES: &str = "
[tables.carts]
reconciler = \"or-cart\"

[tables.baskets]
reconciler = \"cart-union\"

[tables.counters]
reconciler = \"pn-counter\"

[tables.raw]
max_siblings = 10000
";

/// How long a client waits for an answer: more than the nodes take to give up
/// on one another, with the `timeout_ms` that they are told.
const PATIENCE: Duration = Duration::from_secs(4);
const TIMEOUT: &str = "timeout_ms=2500";
/// How many client threads there are.
const CLIENTS: usize = 4;
/// How many items of each kind.
const ITEMS: usize = 2;
/// Past this many elements an item is left, and another one is begun: states
/// travel whole, and this is about faults, not about size.
const ELEMENTS_PER_ITEM: usize = 150;

/// What clients do while faults come and go.
pub struct Progress<'w> {
    acknowledged: &'w AtomicUsize,
    broken: &'w AtomicBool,
}

impl Progress<'_> {
    /// Waits until so many more operations went well.
    #[track_caller]
    pub fn wait_for(&self, more: usize) {
        let enough = self.acknowledged.load(Ordering::Relaxed) + more;
        until("operations go well", || {
            assert!(!self.broken.load(Ordering::Relaxed), "a client broke");
            self.acknowledged.load(Ordering::Relaxed) >= enough
        });
    }
}

/// Lets clients work while `disturb` runs. Returns what they were told.
pub fn work_under(cluster: &Cluster, disturb: impl FnOnce(&Progress)) -> History {
    work_on("k", cluster, disturb)
}

/// The same, on items whose keys begin so.
pub fn work_on(keys: &str, cluster: &Cluster, disturb: impl FnOnce(&Progress)) -> History {
    let (acknowledged, broken) = (AtomicUsize::new(0), AtomicBool::new(false));
    let stop = AtomicBool::new(false);
    let clock = SystemClock::new();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let client = Client {
                    keys,
                    number,
                    nodes: cluster
                        .nodes
                        .iter()
                        .map(|node| Http::with_timeout(&node.address(), PATIENCE))
                        .collect(),
                    at: number % cluster.nodes.len(),
                    clock: &clock,
                    acknowledged: &acknowledged,
                    history: History::default(),
                    registers: BTreeMap::new(),
                };
                let (stop, broken) = (&stop, &broken);
                scope.spawn(move || {
                    let _alarm = Alarm(broken);
                    client.work(stop)
                })
            })
            .collect();
        // Clients end when this does, however it does.
        let stopping = Stop(&stop);
        disturb(&Progress {
            acknowledged: &acknowledged,
            broken: &broken,
        });
        drop(stopping);
        let mut history = History::default();
        for client in clients {
            history.extend(client.join().expect("a client"));
        }
        history
    })
}

struct Stop<'s>(&'s AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Tells when a client panics, so that nobody waits for it.
struct Alarm<'s>(&'s AtomicBool);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// The context that a client keeps, and the values that it covers.
#[derive(Clone, Default)]
struct Known {
    token: Option<String>,
    saw: BTreeSet<String>,
}

struct Client<'w> {
    keys: &'w str,
    number: usize,
    nodes: Vec<Http>,
    at: usize,
    clock: &'w SystemClock,
    acknowledged: &'w AtomicUsize,
    history: History,
    registers: BTreeMap<String, Known>,
}

impl Client<'_> {
    fn work(mut self, stop: &AtomicBool) -> History {
        let mut round = 0;
        while !stop.load(Ordering::Relaxed) {
            self.turn(round);
            round += 1;
        }
        self.history
    }

    fn turn(&mut self, round: usize) {
        let item_number = round / 7 % ITEMS + round / 7 / ELEMENTS_PER_ITEM * ITEMS;
        let key = format!("{}{item_number}", self.keys);
        match round % 7 {
            0 => self.add_to_cart(&item("carts", &key), round),
            1 => self.put_basket(&item("baskets", &key), round),
            2 => self.count(&item("counters", &key)),
            3 | 4 => self.write(&item("raw", &key), round),
            5 => self.read_set(&item(["carts", "baskets"][round / 7 % 2], &key)),
            _ => self.read_register(&item("raw", &key)),
        }
    }

    fn now_ms(&self) -> u64 {
        self.clock.now().monotonic_ms
    }

    /// Asks one node, or the next where nothing could be sent. After an answer
    /// that is no good, the next request goes to the next node.
    fn ask(&mut self, kind: &'static str, request: Request) -> (Outcome, Option<Reply>) {
        let mut answer = self.nodes[self.at].try_send(request.clone());
        for _ in 1..self.nodes.len() {
            if !matches!(answer, Err(ClientError::Unreachable { .. })) {
                break;
            }
            self.at = (self.at + 1) % self.nodes.len();
            answer = self.nodes[self.at].try_send(request.clone());
        }
        let (outcome, reply) = match answer {
            Ok(reply) => match reply.status.as_u16() {
                200 | 204 => (Outcome::Acknowledged, Some(reply)),
                404 if kind == "read" && reply.problem().code == "not_found" => {
                    (Outcome::Acknowledged, Some(reply))
                }
                // Refused, and perhaps stored all the same.
                503 | 507 | 500 => (Outcome::Unknown, Some(reply)),
                other => panic!("{other}: {:?}", reply.problem()),
            },
            Err(ClientError::Unreachable { .. }) => (Outcome::Failed, None),
            Err(_) => (Outcome::Unknown, None),
        };
        let tally = self.history.tally.entry(kind).or_default();
        if outcome == Outcome::Acknowledged {
            tally.0 += 1;
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        } else {
            tally.1 += 1;
            self.at = (self.at + 1) % self.nodes.len();
            // Whoever finds a closed door does not hammer on it.
            thread::sleep(Duration::from_millis(5));
        }
        (outcome, reply)
    }

    fn add_to_cart(&mut self, path: &str, round: usize) {
        let element = format!("c{}-{round}", self.number);
        let body = json!({ "add": element }).to_string();
        let request = Request::post(format!("{path}/operations?{TIMEOUT}"), body);
        let (outcome, _) = self.ask("cart", request);
        self.note_addition(path, element, outcome);
    }

    fn put_basket(&mut self, path: &str, round: usize) {
        let element = format!("b{}-{round}", self.number);
        let body = json!({ &element: 1 }).to_string();
        let (outcome, _) = self.ask("basket", Request::put(format!("{path}?{TIMEOUT}"), body));
        self.note_addition(path, element, outcome);
    }

    fn note_addition(&mut self, path: &str, element: String, outcome: Outcome) {
        let ended_ms = self.now_ms();
        self.history.additions.push(Addition {
            path: path.to_owned(),
            element,
            outcome,
            ended_ms,
        });
    }

    fn count(&mut self, path: &str) {
        let request = Request::post(format!("{path}/operations?{TIMEOUT}"), r#"{"add":1}"#);
        let (outcome, _) = self.ask("count", request);
        self.history.counts.push(Count {
            path: path.to_owned(),
            outcome,
        });
    }

    fn write(&mut self, path: &str, round: usize) {
        let value = format!("w{}-{round}", self.number);
        let known = self.registers.get(path).cloned().unwrap_or_default();
        let mut request = Request::put(format!("{path}?{TIMEOUT}"), value.clone());
        if let Some(token) = &known.token {
            request = request.context(token).expect("a token");
        }
        let (outcome, reply) = self.ask("write", request);
        if let (Outcome::Acknowledged, Some(reply)) = (outcome, reply) {
            let mut saw = known.saw.clone();
            saw.insert(value.clone());
            let token = Some(reply.token());
            self.registers.insert(path.to_owned(), Known { token, saw });
        }
        self.history.writes.push(Write {
            path: path.to_owned(),
            value,
            saw: known.saw,
            outcome,
        });
    }

    fn read_set(&mut self, path: &str) {
        let begun_ms = self.now_ms();
        let (outcome, reply) = self.ask("read", Request::get(format!("{path}?{TIMEOUT}")));
        if let (Outcome::Acknowledged, Some(reply)) = (outcome, reply) {
            self.history.set_reads.push(SetRead {
                path: path.to_owned(),
                begun_ms,
                found: elements(&reply),
            });
        }
    }

    fn read_register(&mut self, path: &str) {
        let request = Request::get(format!("{path}?siblings=true&{TIMEOUT}"));
        let (outcome, reply) = self.ask("read", request);
        if let (Outcome::Acknowledged, Some(reply)) = (outcome, reply)
            && reply.status == 200
        {
            let known = Known {
                token: Some(reply.token()),
                saw: register(&reply),
            };
            self.registers.insert(path.to_owned(), known);
        }
    }
}

/// The elements of a set, as a read shows it.
fn elements(reply: &Reply) -> BTreeSet<String> {
    match reply.status.as_u16() {
        404 => BTreeSet::new(),
        200 => match reply.document() {
            Value::Object(object) => object.keys().cloned().collect(),
            other => panic!("a cart is an object, not {other}"),
        },
        other => panic!("{other}: a cart folds; {:?}", reply.headers),
    }
}

/// The values of a register with siblings. Their dots are distinct.
fn register(reply: &Reply) -> BTreeSet<String> {
    let siblings = reply.siblings();
    let dots: BTreeSet<&str> = siblings.iter().map(|sibling| &*sibling.dot).collect();
    assert_eq!(dots.len(), siblings.len(), "a dot names two writes");
    values(&siblings)
        .into_iter()
        .map(|value| String::from_utf8(value.to_vec()).expect("text"))
        .collect()
}

/// What this node says is there, with all replicas asked.
pub fn read_all(http: &Http, history: &History) -> Final {
    let get = |path: &str, query: &str| http.get(&format!("{path}?r=all{query}"));
    let mut end = Final::default();
    for path in history.sets() {
        end.sets.insert(path.to_owned(), elements(&get(path, "")));
    }
    for path in history.registers() {
        let reply = get(path, "&siblings=true");
        let values = match reply.status.as_u16() {
            404 => BTreeSet::new(),
            _ => register(&reply.is(200)),
        };
        end.registers.insert(path.to_owned(), values);
    }
    for path in history.counters() {
        let reply = get(path, "");
        let counted = match reply.status.as_u16() {
            404 => 0,
            _ => reply.is(200).document().as_i64().expect("a number"),
        };
        end.counters.insert(path.to_owned(), counted);
    }
    end
}

/// Waits until the cluster has converged, judges what every node says, and
/// prints what came of it.
#[track_caller]
pub fn heal_and_judge(name: &str, cluster: &Cluster, history: &History) -> Verdict {
    let converged = crate::heal::converge(cluster, history.paths());
    let mut verdict = Verdict::default();
    for node in &cluster.nodes {
        verdict = judge(history, &read_all(node.http(), history));
        assert!(
            verdict.wrong.is_empty(),
            "{}, as node {} sees it:\n{}",
            verdict,
            node.name,
            verdict.wrong.join("\n")
        );
    }
    let (operations, available) = history.availability();
    println!(
        "{name}: {operations} operations, {:.2} % went well; healed → converged {converged:?}; \
         {verdict}; {:?}",
        available * 100.0,
        history.tally
    );
    verdict
}
