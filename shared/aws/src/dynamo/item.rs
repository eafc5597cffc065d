//! Records, events and deltas as items.
//!
//! A record's scalar fields become attributes of their own, so that an operator can read and filter them. Its nested
//! fields and fractions are kept as exact JSON text (a map with the one entry `json`): DynamoDB's own maps forget the
//! order of keys, turn 1.0 into 1, and refuse more than 32 levels, and tool arguments have all of these.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use pvm_application::keys;
use pvm_application::store::{Delta, IndexKey, Key, Record, StoreError};
use pvm_domain::Timestamp;
use pvm_domain::event::{Event, LogId};
use serde_json::{Map, Value};

use crate::schema::{KIND, PK, SK, TTL};

/// An item as the SDK has it.
pub(super) type Item = HashMap<String, AttributeValue>;

const JSON: &str = "json";
const ADAPTER_ATTRIBUTES: [&str; 8] = [
    PK,
    SK,
    crate::schema::GSI1PK,
    crate::schema::GSI1SK,
    crate::schema::GSI2PK,
    crate::schema::GSI2SK,
    KIND,
    TTL,
];

pub(super) fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

pub(super) fn number(value: impl ToString) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

pub(super) fn key_item(key: &Key) -> Item {
    Item::from([(PK.to_owned(), text(&key.pk)), (SK.to_owned(), text(&key.sk))])
}

/// Epoch seconds, rounded up: an item must not vanish before its time.
pub(super) fn ttl(at: Timestamp) -> AttributeValue {
    number(at.as_second() + i64::from(at.subsec_nanosecond() > 0))
}

/// The item of a record.
pub(super) fn record_item(
    key: &Key,
    kind: &str,
    body: Value,
    owner_index: Option<&IndexKey>,
    sweep_index: Option<&IndexKey>,
    expires_at: Option<Timestamp>,
) -> Result<Item, StoreError> {
    let Value::Object(fields) = body else {
        return Err(StoreError::Broken(format!("the {kind} record at {key:?} has no fields")));
    };
    let mut item = key_item(key);
    item.insert(KIND.to_owned(), text(kind));
    for (names, index) in [
        ((crate::schema::GSI1PK, crate::schema::GSI1SK), owner_index),
        ((crate::schema::GSI2PK, crate::schema::GSI2SK), sweep_index),
    ] {
        if let Some(index) = index {
            item.insert(names.0.to_owned(), text(&index.pk));
            item.insert(names.1.to_owned(), text(&index.sk));
        }
    }
    if let Some(at) = expires_at {
        item.insert(TTL.to_owned(), ttl(at));
    }
    for (name, value) in fields {
        if ADAPTER_ATTRIBUTES.contains(&name.as_str()) {
            let problem =
                format!("the {kind} record has a field `{name}`, which is an attribute of the store");
            return Err(StoreError::Broken(problem));
        }
        item.insert(name, attribute(value)?);
    }
    Ok(item)
}

fn attribute(value: Value) -> Result<AttributeValue, StoreError> {
    Ok(match value {
        Value::Null => AttributeValue::Null(true),
        Value::Bool(value) => AttributeValue::Bool(value),
        Value::String(value) => AttributeValue::S(value),
        Value::Number(value) if value.is_u64() || value.is_i64() => number(value),
        nested => {
            let exact = serde_json::to_string(&nested)
                .map_err(|error| StoreError::Broken(format!("a field has no JSON text: {error}")))?;
            AttributeValue::M(Item::from([(JSON.to_owned(), AttributeValue::S(exact))]))
        }
    })
}

fn value(attribute: AttributeValue) -> Result<Value, String> {
    match attribute {
        AttributeValue::Null(_) => Ok(Value::Null),
        AttributeValue::Bool(value) => Ok(Value::Bool(value)),
        AttributeValue::S(value) => Ok(Value::String(value)),
        AttributeValue::N(value) => serde_json::from_str(&value).map_err(|error| error.to_string()),
        AttributeValue::M(mut map) => match map.remove(JSON) {
            Some(AttributeValue::S(exact)) => serde_json::from_str(&exact).map_err(|error| error.to_string()),
            _ => Err("a map that this store did not write".to_owned()),
        },
        other => Err(format!("an attribute of a type that this store does not write: {other:?}")),
    }
}

fn text_of<'a>(item: &'a Item, name: &str) -> &'a str {
    item.get(name).and_then(|value| value.as_s().ok()).map_or("", String::as_str)
}

fn place(item: &Item) -> String {
    format!("{} / {}", text_of(item, PK), text_of(item, SK))
}

/// The record in an item.
pub(super) fn read_record<R: Record>(item: Item) -> Result<R, StoreError> {
    let (place, kind) = (place(&item), text_of(&item, KIND).to_owned());
    if kind != R::KIND {
        return Err(StoreError::Broken(format!(
            "the item at {place} is of kind `{kind}`, not `{}`",
            R::KIND
        )));
    }
    let wrong = |error: String| StoreError::Broken(format!("the {kind} at {place} cannot be read: {error}"));
    let mut fields = Map::with_capacity(item.len());
    for (name, attribute) in item {
        if !ADAPTER_ATTRIBUTES.contains(&name.as_str()) {
            fields.insert(name, value(attribute).map_err(wrong)?);
        }
    }
    serde_json::from_value(Value::Object(fields)).map_err(|error| wrong(error.to_string()))
}

/// The item of event `seq`; the event itself is exact JSON text.
pub(super) fn event_item(log: &LogId, seq: u64, event: &Event) -> Result<Item, StoreError> {
    let mut item = key_item(&keys::event(log, seq));
    item.insert("event".to_owned(), json_text(event)?);
    Ok(item)
}

/// The event in an item.
pub(super) fn read_event(item: &Item) -> Result<Event, StoreError> {
    read_json(item, "event")
}

/// The item of a delta.
pub(super) fn delta_item(delta: &Delta) -> Result<Item, StoreError> {
    let mut item = key_item(&keys::delta(&delta.message_id, delta.attempt, delta.chunk));
    item.insert("delta".to_owned(), json_text(delta)?);
    item.insert(TTL.to_owned(), ttl(delta.expires_at));
    Ok(item)
}

/// The delta in an item.
pub(super) fn read_delta(item: &Item) -> Result<Delta, StoreError> {
    read_json(item, "delta")
}

fn json_text(value: &impl serde::Serialize) -> Result<AttributeValue, StoreError> {
    serde_json::to_string(value)
        .map(AttributeValue::S)
        .map_err(|error| StoreError::Broken(format!("an event has no JSON text: {error}")))
}

fn read_json<T: serde::de::DeserializeOwned>(item: &Item, name: &str) -> Result<T, StoreError> {
    serde_json::from_str(text_of(item, name))
        .map_err(|error| StoreError::Broken(format!("the {name} at {} cannot be read: {error}", place(item))))
}
