//! Snapshots and forks.

use http::StatusCode;
use pvm_e2b_wire::control::{
    ApiError, DEFAULT_TIMEOUT_V2_SECS, ForkResult, ForkSandbox, NewSnapshot, Snapshot,
};

use super::Call;
use super::create::{body_of, checked_timeout};
use super::query::{Query, page};
use super::reply::{Failure, Reply, json, read_optional};
use crate::templates::{TemplateKind, TemplateRecord, plain_name, tag_of};

/// Most forks of one request.
const MAX_FORKS: u32 = 100;
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

/// The caller's snapshots, newest first, in pages.
pub(super) fn list(call: &Call) -> Reply {
    let query = Query::of(&call.request);
    let (from, name) = (query.get("sandboxID"), query.get("name"));
    let mut found = call.engine.templates.records(&call.owner);
    found.retain(|record| match &record.kind {
        TemplateKind::Snapshot { sandbox_id } => {
            from.is_none_or(|from| from == sandbox_id) && name.is_none_or(|name| is_named(record, name))
        }
        TemplateKind::Built => false,
    });
    found.reverse();
    page(found, &query, |record| record.id.as_str(), row)
}

/// Whether a snapshot has a name and, if one is wanted, a tag.
fn is_named(record: &TemplateRecord, wanted: &str) -> bool {
    let (name, tag) = (plain_name(wanted), tag_of(wanted));
    (record.id == name || record.names.iter().any(|known| known == name))
        && tag.is_none_or(|tag| record.tags.contains_key(tag))
}

fn row(record: &TemplateRecord) -> Snapshot {
    Snapshot { names: record.tagged_names(), snapshot_id: record.id.clone() }
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
