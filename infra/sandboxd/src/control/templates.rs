//! Templates as clients see them: names, tags, removal.

use http::StatusCode;
use pvm_e2b_wire::ENVD_VERSION;
use pvm_e2b_wire::control::TemplateAlias;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Call;
use super::query::{Query, page};
use super::reply::{Failure, Reply, json as reply, no_content, read};
use super::snapshots::check_name;
use crate::clock::timestamp;
use crate::engine::EngineError;
use crate::templates::{DEFAULT_TAG, TemplateBuild, TemplateKind, TemplateRecord, tag_of};

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

#[expect(clippy::unnecessary_wraps, reason = "the table of routes has handlers of one shape")]
pub(super) fn list(call: &Call) -> Reply {
    let rows: Vec<Value> = built(call).iter().map(|record| row(call, record)).collect();
    Ok(reply(StatusCode::OK, &rows))
}

/// The same in pages.
pub(super) fn list_v2(call: &Call) -> Reply {
    let query = Query::of(&call.request);
    page(built(call), &query, |record| record.id.as_str(), |record| row(call, record))
}

fn built(call: &Call) -> Vec<TemplateRecord> {
    let mut records = call.engine.templates.records(&call.owner);
    records.retain(|record| record.kind == TemplateKind::Built);
    records
}

pub(super) fn detail(call: &Call, id: &str) -> Reply {
    let record = own(call, id)?;
    let builds: Vec<Value> = record.builds.iter().rev().map(|build| build_row(call, build)).collect();
    let mut answer = row(call, &record);
    answer["builds"] = json!(builds);
    Ok(reply(StatusCode::OK, &answer))
}

fn row(call: &Call, record: &TemplateRecord) -> Value {
    let latest = record.latest();
    let limits = latest.and_then(|build| build.limits).unwrap_or(call.engine.config.limits);
    let updated_at_ms = latest.map_or(record.created_at_ms, |build| build.created_at_ms);
    json!({
        "templateID": record.id,
        "buildID": latest.map(|build| build.id.as_str()).unwrap_or_default(),
        "names": record.names,
        "aliases": record.names,
        "tags": record.tags.keys().collect::<Vec<_>>(),
        "public": record.public,
        "cpuCount": limits.cpu_count,
        "memoryMB": limits.memory_mb,
        "diskSizeMB": limits.disk_mb,
        "envdVersion": ENVD_VERSION,
        "createdAt": timestamp(record.created_at_ms),
        "updatedAt": timestamp(updated_at_ms),
        "createdBy": null,
        "lastSpawnedAt": record.last_spawned_at_ms.map(timestamp),
        "spawnCount": record.spawn_count,
        "buildCount": record.builds.len(),
        "buildStatus": "ready",
    })
}

fn build_row(call: &Call, build: &TemplateBuild) -> Value {
    let limits = build.limits.unwrap_or(call.engine.config.limits);
    let at = timestamp(build.created_at_ms);
    json!({
        "buildID": build.id,
        "status": "ready",
        "createdAt": at,
        "updatedAt": at,
        "finishedAt": at,
        "cpuCount": limits.cpu_count,
        "memoryMB": limits.memory_mb,
        "diskSizeMB": limits.disk_mb,
        "envdVersion": ENVD_VERSION,
    })
}

/// Body of `PATCH /templates/{id}`.
#[derive(Debug, Deserialize)]
struct Update {
    #[serde(default)]
    public: Option<bool>,
}

pub(super) async fn update(call: Call, id: &str) -> Reply {
    own(&call, id)?;
    let (engine, owner) = (call.engine, call.owner);
    let body: Update = read(call.request.into_body()).await?;
    let edit = engine.templates.edit();
    let mut record = edit.record(id, &owner).ok_or_else(|| missing(id))?;
    if let Some(public) = body.public {
        record.public = public;
    }
    let answer = json!({ "names": record.names });
    edit.save(record).map_err(EngineError::at("recording the template"))?;
    Ok(reply(StatusCode::OK, &answer))
}

/// Removes a snapshot or built template. Sandboxes made from it go on.
pub(super) fn delete(call: &Call, id: &str) -> Reply {
    let edit = call.engine.templates.edit();
    let record = edit.record(id, &call.owner).ok_or_else(|| missing(id))?;
    edit.delete(&record.id).map_err(EngineError::at("removing the template's record"))?;
    call.engine.remove_unused_layers();
    Ok(no_content())
}

pub(super) fn tags(call: &Call, id: &str) -> Reply {
    let record = own(call, id)?;
    let rows: Vec<Value> = record
        .tags
        .iter()
        .map(|(tag, assigned)| {
            json!({ "tag": tag, "buildID": assigned.build_id, "createdAt": timestamp(assigned.at_ms) })
        })
        .collect();
    Ok(reply(StatusCode::OK, &rows))
}

/// Body of `POST /templates/tags`.
#[derive(Debug, Deserialize)]
struct AssignTags {
    /// Name of the template, perhaps with the tag of the build that is meant.
    target: String,
    tags: Vec<String>,
}

pub(super) async fn assign_tags(call: Call) -> Reply {
    let (engine, owner) = (call.engine, call.owner);
    let body: AssignTags = read(call.request.into_body()).await?;
    if body.tags.is_empty() {
        return Err(Failure::bad_request("tags must name at least one tag"));
    }
    for tag in &body.tags {
        check_tag(tag)?;
    }
    let edit = engine.templates.edit();
    let mut record = edit.record(&body.target, &owner).ok_or_else(|| missing(&body.target))?;
    let build = record.build(tag_of(&body.target)).ok_or_else(|| missing(&body.target))?.id.clone();
    let now = engine.now_ms();
    for tag in &body.tags {
        record.assign(tag, &build, now);
    }
    edit.save(record).map_err(EngineError::at("recording the tags"))?;
    Ok(reply(StatusCode::CREATED, &json!({ "buildID": build, "tags": body.tags })))
}

/// A tag stands behind a colon, so it has none itself.
pub(super) fn check_tag(tag: &str) -> Result<(), Failure> {
    if tag.is_empty() || tag.contains([':', '/']) {
        return Err(Failure::bad_request(format!("{tag:?} is not a tag")));
    }
    check_name(tag)
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
    let edit = engine.templates.edit();
    let mut record = edit.record(&body.name, &owner).ok_or_else(|| missing(&body.name))?;
    if let Some(unknown) = body.tags.iter().find(|tag| !record.tags.contains_key(*tag)) {
        return Err(missing(&format!("{}:{unknown}", body.name)));
    }
    if body.tags.iter().any(|tag| tag == DEFAULT_TAG) {
        return Err(Failure::bad_request(format!("the tag {DEFAULT_TAG} cannot be removed")));
    }
    record.tags.retain(|tag, _| !body.tags.contains(tag));
    edit.save(record).map_err(EngineError::at("recording the tags"))?;
    Ok(no_content())
}
