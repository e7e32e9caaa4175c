//! How `kinfold get --explain` shows an explanation: the story in a sentence, then
//! who held what, then what came of it.

use serde_json::Value;

use super::error::CliError;
use super::output::{Output, cell, decode, list, preview};

/// How much of a dot is shown, in characters of its node and of its epoch: enough
/// to tell apart the versions of one item.
const SHORT_PART_CHARS: usize = 4;

/// A dot in short: node, epoch, counter. The whole is in the JSON.
fn short_dot(dot: &Value) -> String {
    let text = cell(dot);
    let Some((actor, counter)) = text.rsplit_once(':') else {
        return text;
    };
    let short = |part: &str| part.chars().take(SHORT_PART_CHARS).collect::<String>();
    match actor.split_once('.') {
        Some((node, epoch)) => format!("{}.{}:{counter}", short(node), short(epoch)),
        None => text,
    }
}

fn names(value: &Value, key: &str) -> String {
    let names: Vec<String> = list(value, key).iter().map(cell).collect();
    if names.is_empty() {
        "-".to_owned()
    } else {
        names.join(" ")
    }
}

/// Shows it to a person.
pub fn show(output: &Output, explanation: &Value) -> Result<(), CliError> {
    output.line(&cell(&explanation["story"]))?;
    let plain = match explanation["code"].as_str() {
        Some(code) => format!("{} {code}", cell(&explanation["status"])),
        None => cell(&explanation["status"]),
    };
    output.line(&format!("A plain read answers {plain}."))?;
    let siblings: Vec<Vec<String>> = list(explanation, "siblings")
        .iter()
        .map(|sibling| {
            vec![
                short_dot(&sibling["dot"]),
                cell(&sibling["node"]),
                cell(&sibling["written_at"]),
                if sibling["deleted"] == true {
                    "deleted".to_owned()
                } else {
                    cell(&sibling["size_bytes"])
                },
                cell(&sibling["content_type"]),
                names(sibling, "held_by"),
            ]
        })
        .collect();
    if !siblings.is_empty() {
        output.line("")?;
        let header = [
            "sibling",
            "written through",
            "at",
            "bytes",
            "type",
            "held by",
        ];
        output.table(&header, siblings)?;
    }
    let replicas: Vec<Vec<String>> = list(explanation, "replicas")
        .iter()
        .map(|replica| {
            let saw = match replica["saw"].as_str() {
                Some("state") => {
                    let dots: Vec<String> =
                        list(replica, "siblings").iter().map(short_dot).collect();
                    dots.join(" ")
                }
                Some("nothing") => "never heard of it".to_owned(),
                Some("failed") => "could not be asked".to_owned(),
                _ => "no answer yet, and none was needed".to_owned(),
            };
            vec![
                cell(&replica["node"]),
                if replica["primary"] == true {
                    "primary".to_owned()
                } else {
                    "fallback".to_owned()
                },
                saw,
                replica["state"]
                    .as_str()
                    .map_or("-", |hash| &hash[..8.min(hash.len())])
                    .to_owned(),
            ]
        })
        .collect();
    if !replicas.is_empty() {
        output.line("")?;
        output.table(&["replica", "place", "holds", "state"], replicas)?;
    }
    output.line("")?;
    if let Some(name) = explanation["reconciler"]["name"].as_str() {
        let digest = cell(&explanation["reconciler"]["digest"]);
        output.line(&format!("module  {name}@{digest}"))?;
    }
    if !explanation["fuel"].is_null() {
        output.line(&format!(
            "cost    {} fuel, {} µs",
            cell(&explanation["fuel"]),
            cell(&explanation["time_us"])
        ))?;
    }
    if let Some(reason) = explanation["reason"].as_str() {
        output.line(&format!("reason  {reason}"))?;
    }
    let value = &explanation["value"];
    if value.is_null() && explanation["content_type"].is_null() {
        return Ok(());
    }
    let shown = match value.as_str() {
        Some(text) if explanation["value_base64"] == true => {
            preview(&decode(text).unwrap_or_default())
        }
        _ => value.to_string(),
    };
    output.line(&format!("value   {shown}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn dots_are_short_enough_to_compare() {
        let dot = json!("0123456789abcdef.fedcba9876543210:17");
        assert_eq!(short_dot(&dot), "0123.fedc:17");
        assert_eq!(short_dot(&json!("odd")), "odd");
    }
}
