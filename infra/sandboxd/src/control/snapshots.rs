//! Snapshots and forks.

use http::StatusCode;
use pvm_e2b_wire::HEADER_NEXT_TOKEN;
use pvm_e2b_wire::control::{
    ApiError, DEFAULT_TIMEOUT_V2_SECS, ForkResult, ForkSandbox, NewSnapshot, Snapshot,
};
use pvm_e2b_wire::list_query::parameters;

use super::Call;
use super::create::{body_of, checked_timeout};
use super::reply::{Failure, Reply, json, read_optional};
use crate::templates::{TemplateKind, TemplateRecord, plain_name, tag_of};

/// Most forks of one request.
const MAX_FORKS: u32 = 100;
/// Rows of a page when the request names none, and the most it can name.
const MAX_ROWS: usize = 100;
/// Longest name of a snapshot.
const MAX_NAME: usize = 128;

pub(super) async fn create(call: Call, id: &str) -> Reply {
    let body: NewSnapshot = read_optional(call.request.into_body()).await?;
    let sandbox = call.engine.owned(id, &call.owner)?;
    let name = body.name.filter(|name| !name.is_empty());
    if let Some(name) = &name {
        check_name(name)?;
    }
    let kept = call.engine.snapshot(&sandbox, name).await?;
    Ok(json(StatusCode::CREATED, &Snapshot { snapshot_id: kept.id, names: kept.names }))
}

/// Names of templates and snapshots: what can stand in a URL, with an optional tag.
pub(super) fn check_name(name: &str) -> Result<(), Failure> {
    let good = name.len() <= MAX_NAME
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte));
    if good {
        Ok(())
    } else {
        Err(Failure::bad_request(format!("a name has at most {MAX_NAME} letters, digits and -_.:/")))
    }
}

pub(super) fn list(call: &Call) -> Reply {
    let mut sandbox_id = None;
    let mut name = None;
    let mut limit = MAX_ROWS;
    let mut after = None;
    for (key, value) in parameters(call.request.uri().query().unwrap_or_default()) {
        match key.as_str() {
            "sandboxID" if !value.is_empty() => sandbox_id = Some(value),
            "name" if !value.is_empty() => name = Some(value),
            "limit" => {
                limit = value
                    .parse()
                    .ok()
                    .filter(|limit| (1..=MAX_ROWS).contains(limit))
                    .ok_or_else(|| Failure::bad_request(format!("limit must be 1 to {MAX_ROWS}")))?;
            }
            "nextToken" if !value.is_empty() => after = Some(value),
            _ => {}
        }
    }
    let mut found: Vec<TemplateRecord> = call
        .engine
        .templates
        .records(&call.owner)
        .into_iter()
        .filter(|record| match &record.kind {
            TemplateKind::Snapshot { sandbox_id: from } => {
                sandbox_id.as_ref().is_none_or(|wanted| wanted == from)
            }
            TemplateKind::Built => false,
        })
        .filter(|record| name.as_ref().is_none_or(|wanted| is_named(record, wanted)))
        .collect();
    found.reverse();
    if let Some(after) = after {
        let place = found.iter().position(|record| record.id == after);
        let place =
            place.ok_or_else(|| Failure::bad_request("nextToken is not one that this server gave out"))?;
        found.drain(..=place);
    }
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).and_then(|record| record.id.parse().ok());
    let rows: Vec<_> = found.into_iter().map(row).collect();
    let mut response = json(StatusCode::OK, &rows);
    if let Some(next) = next {
        response.headers_mut().insert(HEADER_NEXT_TOKEN, next);
    }
    Ok(response)
}

/// Whether a snapshot has a name and, if one is wanted, a tag.
fn is_named(record: &TemplateRecord, wanted: &str) -> bool {
    let (name, tag) = (plain_name(wanted), tag_of(wanted));
    (record.id == name || record.names.iter().any(|known| known == name))
        && tag.is_none_or(|tag| record.tags.contains_key(tag))
}

fn row(record: TemplateRecord) -> Snapshot {
    Snapshot { names: record.tagged_names(), snapshot_id: record.id }
}

pub(super) async fn fork(call: Call, id: &str) -> Reply {
    let body: ForkSandbox = read_optional(call.request.into_body()).await?;
    let sandbox = call.engine.owned(id, &call.owner)?;
    let count = body.count.unwrap_or(1);
    if !(1..=MAX_FORKS).contains(&count) {
        return Err(Failure::bad_request(format!("count must be 1 to {MAX_FORKS}")));
    }
    let timeout = checked_timeout(&call.engine, body.timeout.unwrap_or(DEFAULT_TIMEOUT_V2_SECS))?;
    let forks = call.engine.fork(&sandbox, count, timeout).await?;
    let rows: Vec<ForkResult> = forks
        .into_iter()
        .map(|fork| match fork {
            Ok(sandbox) => ForkResult { sandbox: Some(body_of(&call.engine, &sandbox)), error: None },
            Err(error) => ForkResult {
                sandbox: None,
                error: Some(ApiError::new(500, error.to_string()).with_error_code("sandbox_create_failed")),
            },
        })
        .collect();
    Ok(json(StatusCode::CREATED, &rows))
}
