//! Looking at sandboxes: `GET /sandboxes/{id}`, `GET /v2/sandboxes` and its older form.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderValue, StatusCode};
use pvm_e2b_wire::control::{Lifecycle, ListedSandbox, OnTimeout, PauseMode, SandboxDetail, SandboxState};
use pvm_e2b_wire::list_query::{ListQuery, MAX_LIMIT, SortOrder};
use pvm_e2b_wire::network::NetworkConfig;
use pvm_e2b_wire::{ENVD_VERSION, HEADER_NEXT_TOKEN, HEADER_TOTAL_RUNNING};

use super::Call;
use super::create::client_id;
use super::reply::{Failure, Reply, json};
use crate::clock::timestamp;
use crate::store::{PauseKind, Phase, Record};

pub(super) fn detail(call: &Call, id: &str) -> Reply {
    let sandbox = call.engine.owned(id, &call.owner)?;
    let last_traffic_at = sandbox.last_traffic_ms(call.engine.now_ms()).map(timestamp);
    let detail = sandbox.with(|record| SandboxDetail {
        listed: listed(record),
        envd_access_token: record.envd_token.clone(),
        allow_internet_access: record.allow_internet_access,
        domain: Some(call.engine.domain()),
        network: record.network.as_ref().map(NetworkConfig::without_secrets),
        lifecycle: Some(Lifecycle {
            auto_resume: record.auto_resume,
            on_timeout: if record.auto_pause.is_some() { OnTimeout::Pause } else { OnTimeout::Kill },
        }),
        pause_mode: match record.phase {
            Phase::Paused(PauseKind::Memory) => Some(PauseMode::Full),
            Phase::Paused(PauseKind::Filesystem) => Some(PauseMode::Filesystem),
            Phase::Creating | Phase::Running | Phase::Killing => None,
        },
        last_traffic_at,
    });
    Ok(json(StatusCode::OK, &detail))
}

/// Running ones only, all at once.
pub(super) fn v1(call: &Call) -> Reply {
    let query = parse(call)?;
    let mut found = matching(call, &query);
    found.retain(|record| state(record) == SandboxState::Running);
    let rows: Vec<_> = found.iter().map(listed).collect();
    Ok(json(StatusCode::OK, &rows))
}

/// In pages.
pub(super) fn v2(call: &Call) -> Reply {
    let query = parse(call)?;
    let after = query.next_token.as_deref().map(parse_cursor).transpose()?;
    let mut found = matching(call, &query);
    let running = found.iter().filter(|record| state(record) == SandboxState::Running).count();
    if !query.states.is_empty() {
        found.retain(|record| query.states.contains(&state(record)));
    }
    if let Some(after) = after {
        found.retain(|record| match query.order {
            SortOrder::Ascending => place(record) > after,
            SortOrder::Descending => place(record) < after,
        });
    }
    let limit = query.limit.unwrap_or(MAX_LIMIT) as usize;
    let more = found.len() > limit;
    found.truncate(limit);
    let rows: Vec<_> = found.iter().map(listed).collect();
    let mut response = json(StatusCode::OK, &rows);
    let headers = response.headers_mut();
    headers.insert(HEADER_TOTAL_RUNNING, HeaderValue::from(running));
    if more
        && let Some(last) = found.last()
        && let Ok(value) = HeaderValue::from_str(&cursor(last))
    {
        headers.insert(HEADER_NEXT_TOKEN, value);
    }
    Ok(response)
}

fn parse(call: &Call) -> Result<ListQuery, Failure> {
    ListQuery::parse(call.request.uri().query().unwrap_or_default())
        .map_err(|error| Failure::bad_request(error.to_string()))
}

/// The caller's sandboxes that fit, in order; states are left to the caller, who counts them.
fn matching(call: &Call, query: &ListQuery) -> Vec<Record> {
    let mut found: Vec<Record> = call
        .engine
        .sandboxes()
        .into_iter()
        .filter(|sandbox| sandbox.with(|record| record.owner == call.owner && fits(record, query)))
        .map(|sandbox| sandbox.snapshot())
        .filter(|record| matches!(record.phase, Phase::Running | Phase::Paused(_)))
        .collect();
    found.sort_by_key(place);
    if query.order == SortOrder::Descending {
        found.reverse();
    }
    found
}

fn fits(record: &Record, query: &ListQuery) -> bool {
    let labels = query.metadata.iter().all(|(key, value)| record.metadata.get(key) == Some(value));
    let template = query
        .template
        .as_ref()
        .is_none_or(|wanted| *wanted == record.template_id || record.alias.as_ref() == Some(wanted));
    let late_enough = query.started_after.is_none_or(|time| timestamp(record.started_at_ms) >= time);
    labels && template && late_enough
}

/// Where a sandbox stands in a list.
fn place(record: &Record) -> (u64, String) {
    (record.started_at_ms, record.id.clone())
}

fn cursor(record: &Record) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}__{}", record.started_at_ms, record.id))
}

fn parse_cursor(text: &str) -> Result<(u64, String), Failure> {
    URL_SAFE_NO_PAD
        .decode(text)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .and_then(|text| {
            let (time, id) = text.split_once("__")?;
            Some((time.parse().ok()?, id.to_owned()))
        })
        .ok_or_else(|| Failure::bad_request("nextToken is not one that this server gave out"))
}

fn state(record: &Record) -> SandboxState {
    match record.phase {
        Phase::Paused(_) => SandboxState::Paused,
        Phase::Creating | Phase::Running | Phase::Killing => SandboxState::Running,
    }
}

fn listed(record: &Record) -> ListedSandbox {
    ListedSandbox {
        template_id: record.template_id.clone(),
        alias: record.alias.clone(),
        sandbox_id: record.id.clone(),
        client_id: client_id().into(),
        started_at: timestamp(record.started_at_ms),
        end_at: timestamp(record.end_at_ms),
        cpu_count: record.limits.cpu_count,
        memory_mb: record.limits.memory_mb,
        disk_size_mb: record.limits.disk_mb,
        metadata: record.metadata.clone(),
        state: state(record),
        envd_version: ENVD_VERSION.into(),
        volume_mounts: Vec::new(),
    }
}
