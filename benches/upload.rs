//! From an upload to the first fold on another node.
//!
//! Run with `cargo bench --bench upload`, and `-- --help` for the flags. Three
//! nodes. Each round uploads a module that nobody has seen yet to one of them, with
//! the law check and a majority's disks in between, points a table with a stored
//! conflict at it, and asks another node until it folds. Printed: medians of the
//! parts, in milliseconds.

mod common;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use common::{Connection, Servers};
use hyper::Method;
use kinfold::client::{Client, Request};
use kinfold::reconcile::registry::built_ins;
use tokio::time::Instant;

/// How long to wait between two looks at the other node.
const LOOK: Duration = Duration::from_millis(2);

/// Measures uploads
#[derive(Parser, Debug)]
struct Args {
    /// How many modules of each kind are uploaded
    #[arg(long, default_value_t = 7)]
    rounds: u8,
    /// The server to run, to compare one build with another
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_kinfold"))]
    server: PathBuf,
    /// What `cargo bench` passes along
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let data = tempfile::Builder::new()
        .prefix("kinfold-upload-")
        .tempdir()?;
    let servers = Servers::start(data.path(), &args.server, "commit", &[]).await?;
    let here = Client::new(&servers.addresses[0])?;
    let mut writer = Connection::open(&servers.addresses[0]).await?;
    let mut reader = Connection::open(&servers.addresses[2]).await?;
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "module",
        "bytes",
        "upload ms",
        "table set ms",
        "first fold elsewhere ms",
    ]);
    for name in ["lww", "cart-union"] {
        let module = built_ins().iter().find(|(known, _)| *known == name);
        let module = module.context("a built-in")?.1;
        let mut parts: [Vec<f64>; 3] = Default::default();
        for round in 0..args.rounds {
            let of = format!("{name}-{round}");
            set_table(&here, &of, "none").await?;
            let path = format!("/v1/tables/{of}/items/k");
            for value in ["{\"fig\":1}", "{\"nut\":1}"] {
                let value = Bytes::from_static(value.as_bytes());
                writer.ask(Method::PUT, &path, None, value).await?;
            }
            // Another digest: one more custom section.
            let mut bytes = module.to_vec();
            bytes.extend([0, 3, 1, b'n', round]);

            let begun = Instant::now();
            let upload = Request::put(format!("/v1/reconcilers/{of}"), bytes);
            let answer = here.send(upload.content_type("application/wasm")?).await?;
            ensure!(answer.status.is_success(), "upload: {}", answer.status);
            let uploaded = begun.elapsed();
            set_table(&here, &of, &of).await?;
            let set = begun.elapsed();
            loop {
                let answer = reader
                    .exchange(Method::GET, &path, None, Bytes::new())
                    .await?;
                if answer.headers().contains_key("kinfold-reconciler") {
                    break;
                }
                tokio::time::sleep(LOOK).await;
            }
            let folded = begun.elapsed();
            for (part, took) in parts
                .iter_mut()
                .zip([uploaded, set - uploaded, folded - set])
            {
                part.push(took.as_secs_f64() * 1e3);
            }
        }
        let mut row = vec![name.to_owned(), module.len().to_string()];
        for part in &mut parts {
            part.sort_by(f64::total_cmp);
            row.push(format!("{:.0}", part[part.len() / 2]));
        }
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
    Ok(())
}

async fn set_table(client: &Client, name: &str, reconciler: &str) -> anyhow::Result<()> {
    let definition = format!("{{\"reconciler\":\"{reconciler}\"}}");
    let request = Request::put(format!("/v1/tables/{name}"), definition);
    let answer = client
        .send(request.content_type("application/json")?)
        .await?;
    ensure!(answer.status.is_success(), "{name}: {}", answer.status);
    Ok(())
}
