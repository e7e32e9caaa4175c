//! `/v1/cluster`: the cluster as seen from this node.
//!
//! `strays` counts items that the answering node holds and does not own;
//! `transfers` says how far it has come in being filled, from whom.

use hyper::StatusCode;
use serde_json::{Value, json};

use super::problem::Problem;
use super::query::Query;
use super::route::Resource;
use super::service::Service;
use super::{Answer, Call, path, require_method};
use crate::node::{AdminError, MemberView};
use crate::protocol::membership::RemoveRefused;
use crate::protocol::message::Refusal;

/// `GET /v1/cluster`.
pub fn show<S: Service>(service: &S, call: &Call<'_>) -> Answer {
    require_method(call, Resource::Cluster)?;
    Query::parse(call.parts.uri.query(), &[])?;
    let view = service.cluster_view();
    let members: Vec<Value> = view.members.iter().map(member).collect();
    let transfers: Vec<Value> = view
        .transfers
        .iter()
        .map(|transfer| {
            json!({
                "from": transfer.from.as_ref(),
                "to": transfer.to.as_ref(),
                "partitions_done": transfer.partitions_done,
                "partitions": transfer.partitions,
            })
        })
        .collect();
    Ok(super::json(
        StatusCode::OK,
        &json!({
            "node": view.node.as_ref(),
            "layout_version": view.layout_version,
            "layout_read": view.layout_read,
            "members": members,
            "under_replicated": view.under_replicated,
            "strays": view.strays,
            "transfers": transfers,
        }),
    ))
}

fn member(member: &MemberView) -> Value {
    json!({
        "node": member.node.as_ref(),
        "address": member.address.as_ref(),
        "status": member.status,
        "up": member.up,
        "zone": member.zone.as_ref(),
        "weight": member.weight,
        "partitions": member.partitions,
        "hints": member.hints,
        "clock_offset_us": member.clock_offset_us,
    })
}

/// `POST /v1/cluster/leave`: this node begins to leave. The answer says that this is
/// decided and durable, not that it is done.
pub async fn leave<S: Service>(service: &S, call: &Call<'_>) -> Answer {
    require_method(call, Resource::Leave)?;
    Query::parse(call.parts.uri.query(), &[])?;
    service.leave().await?;
    let document = json!({"node": service.name(), "status": "leaving"});
    Ok(super::json(StatusCode::ACCEPTED, &document))
}

/// `DELETE /v1/cluster/members/{node}`: removes a dead member, at once.
pub async fn remove<S: Service>(service: &S, member: &str, call: &Call<'_>) -> Answer {
    require_method(call, Resource::Member)?;
    Query::parse(call.parts.uri.query(), &[])?;
    let no_such = || Problem::from(AdminError::Remove(RemoveRefused::Unknown));
    let member = path::name(member)?.ok_or_else(no_such)?;
    let name = service.remove_member(&member).await?;
    let document = json!({"node": name, "status": "removed"});
    Ok(super::json(StatusCode::ACCEPTED, &document))
}

/// `GET /v1/cluster/ring/{table}/{partition_key}`: where an item lies. The item
/// need not exist.
pub fn ring<S: Service>(service: &S, table: &str, partition_key: &str, call: &Call<'_>) -> Answer {
    require_method(call, Resource::Ring)?;
    Query::parse(call.parts.uri.query(), &[])?;
    let table = path::name(table)?
        .filter(|name| service.tables().contains_key(name.as_str()))
        .ok_or_else(Problem::no_such_table)?;
    let key = path::partition_key(partition_key)?;
    let view = service.ring_view(&table, &key).ok_or_else(|| {
        Problem::from(Refusal::NotReady(
            "no layout is known yet; see GET /readyz".to_owned(),
        ))
    })?;
    let preference: Vec<Value> = view
        .preference
        .iter()
        .map(|place| {
            json!({
                "node": place.node.as_ref(),
                "address": place.address.as_ref(),
                "up": place.up,
                "primary": place.primary,
            })
        })
        .collect();
    Ok(super::json(
        StatusCode::OK,
        &json!({
            "table": table,
            "position": view.position.to_string(),
            "partition": view.partition.0,
            "preference_list": preference,
        }),
    ))
}
