//! Templates as clients see them: names, tags, removal.

use http::StatusCode;
use pvm_e2b_wire::ENVD_VERSION;
use pvm_e2b_wire::control::TemplateAlias;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Call;
use super::reply::{Failure, Reply, json as reply, no_content, read};
use super::snapshots::check_name;
use crate::clock::timestamp;
use crate::templates::{TemplateKind, TemplateRecord};

pub(super) fn alias(call: &Call, alias: &str) -> Reply {
    let found = call.engine.templates.resolve(alias, &call.owner).ok_or_else(|| missing(alias))?;
    let is_built_in = call.engine.templates.record(alias, &call.owner).is_none();
    Ok(reply(StatusCode::OK, &TemplateAlias { template_id: found.template_id, public: is_built_in }))
}

fn missing(name: &str) -> Failure {
    Failure::new(StatusCode::NOT_FOUND, format!("template {name:?} was not found"))
}

fn own(call: &Call, id: &str) -> Result<TemplateRecord, Failure> {
    call.engine.templates.record(id, &call.owner).ok_or_else(|| missing(id))
}

pub(super) fn list(call: &Call) -> Reply {
    let records = call.engine.templates.records(&call.owner);
    let rows: Vec<Value> = records
        .iter()
        .filter(|record| record.kind == TemplateKind::Built)
        .map(|record| row(call, record))
        .collect();
    Ok(reply(StatusCode::OK, &rows))
}

pub(super) fn detail(call: &Call, id: &str) -> Reply {
    Ok(reply(StatusCode::OK, &row(call, &own(call, id)?)))
}

fn row(call: &Call, record: &TemplateRecord) -> Value {
    let limits = record.limits.unwrap_or(call.engine.config.limits);
    json!({
        "templateID": record.id,
        "names": record.names,
        "aliases": record.names,
        "tags": record.tags,
        "public": false,
        "cpuCount": limits.cpu_count,
        "memoryMB": limits.memory_mb,
        "diskSizeMB": limits.disk_mb,
        "envdVersion": ENVD_VERSION,
        "createdAt": timestamp(record.created_at_ms),
        "updatedAt": timestamp(record.created_at_ms),
        "buildStatus": "ready",
    })
}

/// Removes a snapshot or built template. Sandboxes made from it go on.
pub(super) fn delete(call: &Call, id: &str) -> Reply {
    let record = own(call, id)?;
    call.engine
        .templates
        .delete(&record.id)
        .map_err(crate::engine::EngineError::at("removing the template's record"))?;
    let engine = std::sync::Arc::clone(&call.engine);
    call.engine.tasks.spawn(async move { engine.remove_unused_layers().await });
    Ok(no_content())
}

pub(super) fn tags(call: &Call, id: &str) -> Reply {
    let record = own(call, id)?;
    let rows: Vec<Value> = record
        .tags
        .iter()
        .map(|tag| json!({ "tag": tag, "buildID": record.id, "createdAt": timestamp(record.created_at_ms) }))
        .collect();
    Ok(reply(StatusCode::OK, &rows))
}

/// Body of `POST /templates/tags`.
#[derive(Debug, Deserialize)]
struct AssignTags {
    /// Name of the template, perhaps with a tag.
    target: String,
    tags: Vec<String>,
}

pub(super) async fn assign_tags(call: Call) -> Reply {
    let (engine, owner) = (call.engine, call.owner);
    let body: AssignTags = read(call.request.into_body()).await?;
    let mut record = engine.templates.record(&body.target, &owner).ok_or_else(|| missing(&body.target))?;
    for tag in body.tags {
        check_name(&tag)?;
        if !record.tags.contains(&tag) {
            record.tags.push(tag);
        }
    }
    let answer = json!({ "buildID": record.id, "tags": record.tags });
    engine.templates.save(record).map_err(crate::engine::EngineError::at("recording the tags"))?;
    Ok(reply(StatusCode::CREATED, &answer))
}

/// Body of `DELETE /templates/tags`.
#[derive(Debug, Deserialize)]
struct DeleteTags {
    name: String,
    tags: Vec<String>,
}

pub(super) async fn delete_tags(call: Call) -> Reply {
    let (engine, owner) = (call.engine, call.owner);
    let body: DeleteTags = read(call.request.into_body()).await?;
    let mut record = engine.templates.record(&body.name, &owner).ok_or_else(|| missing(&body.name))?;
    record.tags.retain(|tag| !body.tags.contains(tag));
    engine.templates.save(record).map_err(crate::engine::EngineError::at("recording the tags"))?;
    Ok(no_content())
}
