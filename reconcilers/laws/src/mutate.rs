//! Values made from other values: a little different, or much larger.
//!
//! Promises: the dice decide alone. Not promised: that a module takes what comes
//! out; cases are built from what it does take, and some that it does not.

use serde_json::{Map, Value as Json};

use crate::dice::Dice;

/// A value a little different from this one: JSON stays JSON, mostly.
pub(crate) fn mutate(dice: &mut Dice, value: &[u8], pool: &[Vec<u8>]) -> Vec<u8> {
    if let Ok(mut json) = serde_json::from_slice::<Json>(value)
        && !dice.once_in(8)
    {
        mutate_json(dice, &mut json, pool);
        return json.to_string().into_bytes();
    }
    let mut bytes = value.to_vec();
    let at = dice.below(bytes.len() + 1);
    match dice.below(5) {
        0 => bytes.insert(at, dice.below(256) as u8),
        1 if at < bytes.len() => bytes[at] = bytes[at].wrapping_add(1),
        2 if at < bytes.len() => {
            bytes.remove(at);
        }
        3 => bytes.truncate(at),
        _ => bytes.extend_from_slice(dice.pick::<Vec<u8>>(pool)),
    }
    bytes
}

/// The same keys with other values, keys that come and go, values of other types.
fn mutate_json(dice: &mut Dice, json: &mut Json, pool: &[Vec<u8>]) {
    match json {
        Json::Object(fields) if !fields.is_empty() && !dice.once_in(8) => {
            let names: Vec<String> = fields.keys().cloned().collect();
            let name = dice.pick(&names).clone();
            match dice.below(6) {
                0 => {
                    fields.remove(&name);
                }
                1 => {
                    let copy = fields[&name].clone();
                    fields.insert(format!("{name}{}", dice.below(3)), copy);
                }
                2 => {
                    // Keys of another value, beside or over its own.
                    let other = serde_json::from_slice(dice.pick::<Vec<u8>>(pool));
                    if let Ok(Json::Object(other)) = other {
                        fields.extend(other);
                    }
                }
                _ => {
                    if let Some(field) = fields.get_mut(&name) {
                        mutate_json(dice, field, pool);
                    }
                }
            }
        }
        Json::Array(items) if !items.is_empty() && !dice.once_in(8) => {
            let at = dice.below(items.len());
            match dice.below(5) {
                0 => {
                    items.remove(at);
                }
                1 => {
                    let copy = items[at].clone();
                    items.push(copy);
                }
                2 => items.reverse(),
                _ => mutate_json(dice, &mut items[at], pool),
            }
        }
        Json::Number(number) => {
            *json = match (number.as_i64(), dice.below(4)) {
                (Some(whole), 0) => Json::from(whole.saturating_add(1)),
                (Some(whole), 1) => Json::from(whole.saturating_sub(1)),
                (Some(whole), 2) if !dice.once_in(4) => Json::from(whole),
                (_, 3) => Json::from(0.1 + dice.below(30) as f64 / 10.0),
                _ => Json::from(dice.below(4)),
            };
        }
        Json::String(text) => match dice.below(3) {
            0 => text.push(char::from(b'a' + dice.below(3) as u8)),
            1 => {
                text.pop();
            }
            _ => *text = char::from(b'a' + dice.below(3) as u8).to_string(),
        },
        other => {
            let kinds = [
                Json::Null,
                Json::from(true),
                Json::from(dice.below(4)),
                Json::from("a"),
                Json::Array(vec![Json::from(1)]),
                Json::Object(Map::new()),
            ];
            *other = dice.pick(&kinds).clone();
        }
    }
}

/// A value of about this many bytes, of the same kind as this one: more keys,
/// more items, more lines.
pub(crate) fn grow(dice: &mut Dice, value: &[u8], bytes: usize) -> Vec<u8> {
    match serde_json::from_slice::<Json>(value) {
        Ok(Json::Object(fields)) if !fields.is_empty() => {
            let first: Vec<(String, Json)> = fields.clone().into_iter().collect();
            let mut grown = fields;
            let mut size = value.len();
            while size < bytes {
                let (name, field) = dice.pick(&first).clone();
                let name = format!("{name}-{}", dice.below(bytes));
                size += name.len() + field.to_string().len() + 4;
                grown.insert(name, field);
            }
            Json::Object(grown).to_string().into_bytes()
        }
        Ok(Json::Array(items)) if !items.is_empty() => {
            let mut grown = items.clone();
            let mut size = value.len();
            while size < bytes {
                let item = match dice.pick(&items) {
                    Json::String(text) => Json::from(format!("{text}-{}", dice.below(bytes))),
                    Json::Number(_) => Json::from(dice.below(bytes)),
                    other => other.clone(),
                };
                size += item.to_string().len() + 1;
                grown.push(item);
            }
            Json::Array(grown).to_string().into_bytes()
        }
        Ok(Json::String(text)) => {
            let mut grown = text;
            while grown.len() < bytes {
                grown.push_str(&format!("-{}", dice.below(bytes)));
            }
            Json::from(grown).to_string().into_bytes()
        }
        // Numbers have one size.
        Ok(_) => value.to_vec(),
        Err(_) => {
            let mut grown = value.to_vec();
            while grown.len() < bytes {
                grown.extend_from_slice(format!("{}\n", dice.below(bytes)).as_bytes());
                grown.extend_from_slice(value);
            }
            grown
        }
    }
}
