//! The devices: each looks at its cart, thinks, and changes one item, through
//! whichever node its load balancer picks.
//!
//! In `carts` a change is an operation. In `baskets` it is what the Dynamo
//! paper's clients do: the whole cart is read, changed and put back with the
//! context of the read. Promises: a write is sent again only if it certainly was
//! not stored; every write that may have been is in the record, with the ticks
//! around it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use hyper::StatusCode;
use kinfold::client::{Client, ClientError, Reply, Request, item_path};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::cluster::{BASKETS, CARTS};
use crate::observer::{Cart, Write, receipt};
use crate::plan::{Change, Device, Session, Tap};

/// How often a request that was certainly not carried out is sent again, and
/// how long after: a node that was stopped is away for a second or two.
const TRIES: usize = 200;
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// What every request asks for, whatever its table says: with majorities of
/// primaries, R + W > N holds on clusters of any size and in any trouble.
const QUORUM: [(&str, &str); 3] = [("quorum", "strict"), ("r", "quorum"), ("w", "quorum")];

/// How a cart is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    Operations,
    WholeCarts,
}

impl Way {
    pub fn table(self) -> &'static str {
        match self {
            Way::Operations => CARTS,
            Way::WholeCarts => BASKETS,
        }
    }
}

/// What happened to one cart.
#[derive(Default)]
pub struct Record {
    pub writes: Vec<Write>,
    pub reads: u64,
    /// Reads that found a conflict and got it folded, and the siblings in them.
    pub folded_reads: u64,
    pub folded_siblings: u64,
}

/// The nodes, and the observer's counter.
pub struct Shop {
    clients: Vec<Client>,
    ticks: AtomicU64,
    /// Keeps this day's carts apart from those of another on the same cluster.
    day: String,
}

impl Shop {
    pub fn new(clients: Vec<Client>, day: String) -> Shop {
        Shop {
            clients,
            ticks: AtomicU64::new(1),
            day,
        }
    }

    fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::SeqCst)
    }

    fn path(&self, way: Way, session: usize) -> String {
        item_path(
            way.table(),
            format!("{}/{session}", self.day).as_bytes(),
            None,
        )
    }

    /// Sends a request to a node, or to the next while it certainly was not
    /// carried out. `None` is no answer, or one that leaves it open.
    async fn send(&self, node: usize, request: Request) -> anyhow::Result<Option<Reply>> {
        let request = QUORUM
            .iter()
            .fold(request, |request, (name, value)| request.query(name, value));
        for turn in 0..TRIES {
            let client = &self.clients[(node + turn) % self.clients.len()];
            match client.send(request.clone()).await {
                Ok(reply) if reply.status == StatusCode::SERVICE_UNAVAILABLE => {
                    if reply.problem().code != "not_ready" {
                        return Ok(None);
                    }
                }
                Ok(reply) => return Ok(Some(reply)),
                Err(ClientError::Unreachable { .. }) => {}
                Err(error) if error.is_unavailable() => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            sleep(RETRY_AFTER).await;
        }
        Ok(None)
    }

    /// Reads a cart: what is in it, its context, and how many siblings it was.
    /// A read may be repeated until it is answered.
    pub async fn look(
        &self,
        way: Way,
        session: usize,
        node: usize,
    ) -> anyhow::Result<(Cart, Option<String>, u64)> {
        for turn in 0..TRIES {
            let Some(reply) = self
                .send(node + turn, Request::get(self.path(way, session)))
                .await?
            else {
                sleep(RETRY_AFTER).await;
                continue;
            };
            let context = reply.context().map(str::to_owned);
            if reply.status == StatusCode::NOT_FOUND {
                return Ok((Cart::new(), context, 1));
            }
            ensure!(
                reply.status == StatusCode::OK,
                "reading a cart: {} {:?}",
                reply.status,
                reply.header("kinfold-reconcile-error"),
            );
            let siblings = reply
                .header("kinfold-siblings")
                .and_then(|count| count.parse().ok());
            return Ok((
                reply.json()?,
                context,
                siblings.context("no count of siblings")?,
            ));
        }
        anyhow::bail!("a read was not answered in {TRIES} tries")
    }

    /// One family's day with one cart, all devices at once.
    pub async fn live(
        self: Arc<Self>,
        way: Way,
        number: usize,
        session: Session,
    ) -> anyhow::Result<Record> {
        let mut devices = JoinSet::new();
        for device in session {
            devices.spawn(self.clone().tap(way, number, device));
        }
        let mut record = Record::default();
        while let Some(ended) = devices.join_next().await {
            let of_device = ended??;
            record.writes.extend(of_device.writes);
            record.reads += of_device.reads;
            record.folded_reads += of_device.folded_reads;
            record.folded_siblings += of_device.folded_siblings;
        }
        Ok(record)
    }

    /// One device's day.
    async fn tap(
        self: Arc<Self>,
        way: Way,
        session: usize,
        device: Device,
    ) -> anyhow::Result<Record> {
        let mut record = Record::default();
        for tap in device {
            sleep(tap.pause).await;
            let read_start = self.tick();
            let (mut cart, context, siblings) = self.look(way, session, tap.nodes[0]).await?;
            record.reads += 1;
            if siblings > 1 {
                record.folded_reads += 1;
                record.folded_siblings += siblings;
            }
            sleep(tap.think).await;
            let request = match way {
                Way::Operations => {
                    let path = format!("{}/operations", self.path(way, session));
                    Request::post(path, operation(&tap))
                }
                Way::WholeCarts => {
                    if !change(&mut cart, &tap) {
                        continue;
                    }
                    let body = serde_json::to_vec(&cart)?;
                    let request = Request::put(self.path(way, session), body);
                    match &context {
                        Some(token) => request.context(token)?,
                        None => request,
                    }
                }
            };
            let start = self.tick();
            let reply = self
                .send(tap.nodes[1], request.content_type("application/json")?)
                .await?;
            let end = self.tick();
            if let Some(reply) = &reply {
                let detail = reply.problem().detail;
                ensure!(
                    reply.status.is_success(),
                    "{way:?}: {} {detail}",
                    reply.status
                );
            }
            record.writes.push(Write {
                number: tap.number,
                item: tap.item.to_owned(),
                change: tap.change,
                read_start,
                start,
                end: reply.map(|_| end),
                put: (way == Way::WholeCarts).then_some(cart),
            });
        }
        Ok(record)
    }
}

fn operation(tap: &Tap) -> String {
    let item = tap.item;
    match tap.change {
        Change::Add(quantity) => json!({ "add": item, "quantity": quantity }),
        Change::Set(quantity) => json!({ "set": item, "quantity": quantity }),
        Change::Remove => json!({ "remove": item }),
    }
    .to_string()
}

/// Changes a cart as the tap says and puts its receipt in; false when there is
/// nothing to change.
fn change(cart: &mut Cart, tap: &Tap) -> bool {
    match tap.change {
        Change::Add(quantity) => *cart.entry(tap.item.to_owned()).or_default() += quantity,
        Change::Set(quantity) => {
            cart.insert(tap.item.to_owned(), quantity);
        }
        Change::Remove => {
            if cart.remove(tap.item).is_none() {
                return false;
            }
        }
    }
    cart.insert(receipt(tap.number), 1);
    true
}
