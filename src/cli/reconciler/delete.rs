//! `kinfold reconciler delete`: forgets a module and its versions, unless a table
//! names it.

use clap::Args;
use serde_json::json;

use super::super::Common;
use super::super::error::{CliError, expect_success};
use super::path;
use crate::client::Request;

#[derive(Args, Debug)]
pub struct DeleteArgs {
    /// The module's name
    name: String,
    /// Delete all of its versions
    #[arg(long)]
    yes: bool,
}

pub async fn run(common: &Common, args: DeleteArgs) -> Result<(), CliError> {
    let name = &args.name;
    if !args.yes {
        return Err(CliError::Usage(format!(
            "deleting {name} deletes every version of it; add --yes to go on"
        )));
    }
    let output = common.output();
    let request = Request::delete(path(name)).query("confirm", name);
    expect_success(common.client()?.send(request).await?)?;
    if output.json {
        output.json(&json!({ "deleted": name }))
    } else {
        output.line(&format!("deleted {name}"))
    }
}
