//! What sandboxes did and use: logs and metrics.

use std::sync::Arc;

use futures::future::join_all;
use http::StatusCode;
use pvm_e2b_wire::control::{
    SandboxLog, SandboxLogLine, SandboxLogs, SandboxLogsV1, SandboxMetric, SandboxesMetrics,
};

use super::Call;
use super::query::{Query, Span};
use super::reply::{Failure, Reply, json};
use crate::engine::{Engine, EngineError, Sandbox};

/// Most ids of one request for metrics.
const MAX_IDS: usize = 100;
/// Most log lines of one answer.
const MAX_LINES: usize = 1000;

pub(super) async fn metrics(call: &Call, id: &str) -> Reply {
    let sandbox = call.engine.owned(id, &call.owner)?;
    let query = Query::of(&call.request);
    let time = |name: &str| match query.number(name, "Unix seconds")? {
        Some(time) if time < 0 => Err(Failure::bad_request(format!("{name} must be Unix seconds"))),
        time => Ok(time),
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
    let query = Query::of(&call.request);
    let ids: Vec<&str> =
        query.get("sandbox_ids").unwrap_or_default().split(',').filter(|id| !id.is_empty()).collect();
    if ids.is_empty() || ids.len() > MAX_IDS {
        return Err(Failure::bad_request(format!("sandbox_ids must name 1 to {MAX_IDS} sandboxes")));
    }
    // Side by side: one that has no sample yet is measured for a moment.
    let mut latest = Vec::new();
    for id in ids {
        if let Ok(sandbox) = call.engine.owned(id, &call.owner) {
            latest.push(latest_metric(Arc::clone(&call.engine), sandbox));
        }
    }
    let sandboxes = join_all(latest).await.into_iter().flatten().collect();
    Ok(json(StatusCode::OK, &SandboxesMetrics { sandboxes }))
}

async fn latest_metric(engine: Arc<Engine>, sandbox: Arc<Sandbox>) -> Option<(String, SandboxMetric)> {
    let latest = engine.metrics(&sandbox, None, None).await.pop()?;
    Some((sandbox.id().to_owned(), latest))
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
    let query = Query::of(&call.request);
    let span = Span::of(&query, MAX_LINES)?;
    let least = query.get("level").map(severity);
    let wanted = query.get("search").unwrap_or_default();
    let text = match tokio::fs::read_to_string(sandbox.folder.log()).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        other => other.map_err(EngineError::at("reading the sandbox's log"))?,
    };
    let lines = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &SandboxLog| least.is_none_or(|least| severity(&line.level) >= least))
        .filter(|line| line.message.contains(wanted));
    Ok(span.pick(lines, |line| line.timestamp.as_millisecond()))
}

fn severity(level: &str) -> u8 {
    match level {
        "debug" => 0,
        "warn" | "warning" => 2,
        "error" => 3,
        _ => 1,
    }
}
