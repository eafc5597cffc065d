//! What sandboxes did and use: logs and metrics.

use std::collections::BTreeMap;

use http::StatusCode;
use pvm_e2b_wire::control::{SandboxLog, SandboxLogLine, SandboxLogs, SandboxLogsV1, SandboxesMetrics};
use pvm_e2b_wire::list_query::parameters;

use super::Call;
use super::reply::{Failure, Reply, json};

/// Most ids of one request for metrics.
const MAX_IDS: usize = 100;
/// Most log lines of one answer.
const MAX_LINES: usize = 1000;

pub(super) async fn metrics(call: &Call, id: &str) -> Reply {
    let sandbox = call.engine.owned(id, &call.owner)?;
    let query = query(call);
    let time = |name: &str| -> Result<Option<i64>, Failure> {
        let Some(text) = query.get(name) else { return Ok(None) };
        let parsed = text.parse().ok().filter(|time| *time >= 0);
        parsed.map(Some).ok_or_else(|| Failure::bad_request(format!("{name} must be Unix seconds")))
    };
    let (start, end) = (time("start")?, time("end")?);
    if let (Some(start), Some(end)) = (start, end)
        && start > end
    {
        return Err(Failure::bad_request("start is after end"));
    }
    Ok(json(StatusCode::OK, &call.engine.metrics(&sandbox, start, end).await))
}

pub(super) async fn metrics_of_many(call: &Call) -> Reply {
    let query = query(call);
    let ids = query.get("sandbox_ids").map(String::as_str).unwrap_or_default();
    let ids: Vec<&str> = ids.split(',').filter(|id| !id.is_empty()).collect();
    if ids.is_empty() || ids.len() > MAX_IDS {
        return Err(Failure::bad_request(format!("sandbox_ids must name 1 to {MAX_IDS} sandboxes")));
    }
    let mut sandboxes = BTreeMap::new();
    for id in ids {
        if let Ok(sandbox) = call.engine.owned(id, &call.owner)
            && let Some(latest) = call.engine.metrics(&sandbox, None, None).await.pop()
        {
            sandboxes.insert(sandbox.id().to_owned(), latest);
        }
    }
    Ok(json(StatusCode::OK, &SandboxesMetrics { sandboxes }))
}

/// Lines of the sandbox's log, from a cursor in Unix milliseconds on, forwards or backwards.
pub(super) async fn v2(call: &Call, id: &str) -> Reply {
    Ok(json(StatusCode::OK, &SandboxLogs { logs: lines(call, id).await? }))
}

/// The older form: each line both as text and taken apart.
pub(super) async fn v1(call: &Call, id: &str) -> Reply {
    let entries = lines(call, id).await?;
    let logs = entries
        .iter()
        .map(|entry| SandboxLogLine { timestamp: entry.timestamp, line: entry.message.clone() })
        .collect();
    Ok(json(StatusCode::OK, &SandboxLogsV1 { logs, log_entries: entries }))
}

async fn lines(call: &Call, id: &str) -> Result<Vec<SandboxLog>, Failure> {
    let sandbox = call.engine.owned(id, &call.owner)?;
    let query = query(call);
    let limit = match query.get("limit") {
        Some(text) => text
            .parse()
            .ok()
            .filter(|limit| (1..=MAX_LINES).contains(limit))
            .ok_or_else(|| Failure::bad_request(format!("limit must be 1 to {MAX_LINES}")))?,
        None => MAX_LINES,
    };
    let cursor: Option<i64> = match query.get("cursor").or_else(|| query.get("start")) {
        Some(text) => {
            Some(text.parse().map_err(|_| Failure::bad_request("cursor must be Unix milliseconds"))?)
        }
        None => None,
    };
    let backward = query.get("direction").is_some_and(|direction| direction == "backward");
    let least = query.get("level").map(|level| severity(level));
    let text = match tokio::fs::read_to_string(sandbox.folder.log()).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        other => other.map_err(crate::engine::EngineError::at("reading the sandbox's log"))?,
    };
    let mut lines: Vec<SandboxLog> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &SandboxLog| least.is_none_or(|least| severity(&line.level) >= least))
        .filter(|line| query.get("search").is_none_or(|wanted| line.message.contains(wanted.as_str())))
        .filter(|line| {
            let at = line.timestamp.as_millisecond();
            cursor.is_none_or(|cursor| if backward { at <= cursor } else { at >= cursor })
        })
        .collect();
    if backward {
        lines.reverse();
    }
    lines.truncate(limit);
    Ok(lines)
}

fn severity(level: &str) -> u8 {
    match level {
        "debug" => 0,
        "warn" | "warning" => 2,
        "error" => 3,
        _ => 1,
    }
}

fn query(call: &Call) -> BTreeMap<String, String> {
    parameters(call.request.uri().query().unwrap_or_default()).collect()
}
