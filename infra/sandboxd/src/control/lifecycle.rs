//! Changing sandboxes: kill, connect, pause, timeouts, network rules.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{Method, Response, StatusCode};
use pvm_e2b_wire::control::{
    ConnectSandbox, DEFAULT_TIMEOUT_V1_SECS, DEFAULT_TIMEOUT_V2_SECS, PauseSandbox, RefreshSandbox,
    ResumeSandbox, SetTimeout,
};
use pvm_e2b_wire::network::NetworkUpdate;

use super::Call;
use super::create::{body_of, check_map, checked_timeout, within_limit};
use super::reply::{Failure, Reply, json, no_content, read, read_optional};
use crate::body::Body;
use crate::engine::{Connected, Engine, Sandbox};
use crate::store::{PauseKind, Phase};

/// Least extension by a refresh, in seconds.
const REFRESH_FLOOR: i64 = 15;
/// Most extension by a refresh, in seconds.
const REFRESH_CEILING: i64 = 3600;

pub(super) async fn kill(call: &Call, id: &str) -> Reply {
    let sandbox = call.engine.owned(id, &call.owner)?;
    call.engine.kill(&sandbox).await?;
    Ok(no_content())
}

pub(super) async fn connect_v1(call: Call, id: &str) -> Reply {
    let (engine, owner) = (call.engine, call.owner);
    let body: ConnectSandbox = read_optional(call.request.into_body()).await?;
    let seconds = body.timeout.ok_or_else(|| Failure::bad_request("timeout is required"))?;
    connect(&engine, &owner, id, seconds, body.memory).await
}

pub(super) async fn connect_v2(call: Call, id: &str) -> Reply {
    let (engine, owner) = (call.engine, call.owner);
    let body: ConnectSandbox = read_optional(call.request.into_body()).await?;
    let seconds = body.timeout.unwrap_or(DEFAULT_TIMEOUT_V2_SECS);
    connect(&engine, &owner, id, seconds, body.memory).await
}

async fn connect(engine: &Arc<Engine>, owner: &str, id: &str, seconds: i64, memory: Option<bool>) -> Reply {
    let sandbox = engine.owned_or_ending(id, owner)?;
    let timeout = checked_timeout(engine, seconds)?;
    let connected = engine.connect(&sandbox, timeout, memory.unwrap_or(true)).await?;
    Ok(answer(engine, &sandbox, connected))
}

fn answer(engine: &Engine, sandbox: &Sandbox, connected: Connected) -> Response<Body> {
    let status = match connected {
        Connected::Running => StatusCode::OK,
        Connected::Resumed => StatusCode::CREATED,
    };
    json(status, &body_of(engine, sandbox))
}

pub(super) async fn resume(call: Call, id: &str) -> Reply {
    let body: ResumeSandbox = read_optional(call.request.into_body()).await?;
    let sandbox = call.engine.owned_or_ending(id, &call.owner)?;
    if sandbox.with(|record| record.phase == Phase::Running) {
        return Err(Failure::new(StatusCode::CONFLICT, format!("sandbox {id} is running already")));
    }
    let timeout = checked_timeout(&call.engine, body.timeout.unwrap_or(DEFAULT_TIMEOUT_V1_SECS))?;
    call.engine.connect(&sandbox, timeout, body.memory.unwrap_or(true)).await?;
    if let Some(auto_pause) = body.auto_pause {
        call.engine.set_auto_pause(&sandbox, auto_pause.then_some(PauseKind::Memory))?;
    }
    Ok(json(StatusCode::CREATED, &body_of(&call.engine, &sandbox)))
}

pub(super) async fn pause(call: Call, id: &str) -> Reply {
    let body: PauseSandbox = read_optional(call.request.into_body()).await?;
    let sandbox = call.engine.owned(id, &call.owner)?;
    let kind = if body.memory.unwrap_or(true) { PauseKind::Memory } else { PauseKind::Filesystem };
    // Without memory a daemon that does not answer could not be told to end its processes in order.
    if (body.require_healthy_guest == Some(true) || kind == PauseKind::Filesystem)
        && let Some(runtime) = sandbox.running()
        && !runtime.envd.is_healthy().await
    {
        let failure = Failure::new(StatusCode::SERVICE_UNAVAILABLE, "the sandbox's daemon does not answer");
        return Err(failure.with_error_code("sandbox_snapshot_guest_agent_unresponsive"));
    }
    call.engine.pause(&sandbox, kind).await?;
    Ok(no_content())
}

/// Sets the end absolutely; 0 ends the sandbox now.
pub(super) async fn set_timeout(call: Call, id: &str) -> Reply {
    let body: SetTimeout = read(call.request.into_body()).await?;
    let sandbox = call.engine.owned(id, &call.owner)?;
    let timeout = within_limit(&call.engine, body.timeout)?;
    must_run(&sandbox)?;
    call.engine.move_end(&sandbox, call.engine.now_ms() + timeout, body.extend_only)?;
    Ok(no_content())
}

/// Only ever extends.
pub(super) async fn refresh(call: Call, id: &str) -> Reply {
    let body: RefreshSandbox = read_optional(call.request.into_body()).await?;
    let sandbox = call.engine.owned(id, &call.owner)?;
    let seconds = body.duration.unwrap_or(REFRESH_FLOOR);
    if !(0..=REFRESH_CEILING).contains(&seconds) {
        return Err(Failure::bad_request(format!("duration must be 0 to {REFRESH_CEILING}")));
    }
    must_run(&sandbox)?;
    let end = call.engine.now_ms() + within_limit(&call.engine, seconds.max(REFRESH_FLOOR))?;
    call.engine.move_end(&sandbox, end, true)?;
    Ok(no_content())
}

pub(super) async fn update_network(call: Call, id: &str) -> Reply {
    let body: NetworkUpdate = read_optional(call.request.into_body()).await?;
    let sandbox = call.engine.owned(id, &call.owner)?;
    must_run(&sandbox)?;
    call.engine.update_network(&sandbox, body).await?;
    Ok(no_content())
}

/// OUR extension: voids every link to a port that was made up to now. Works for paused sandboxes too.
pub(super) async fn revoke_links(call: &Call, id: &str, port: &str) -> Reply {
    let Ok(port) = port.parse::<u16>() else {
        return Err(Failure::bad_request(format!("{port:?} is not a port: it must be 1 to 65535")));
    };
    let sandbox = call.engine.owned(id, &call.owner)?;
    call.engine.revoke_links(&sandbox, port).await?;
    Ok(no_content())
}

/// Labels to set, and with nothing or an empty text to remove.
type MetadataPatch = BTreeMap<String, Option<String>>;

/// `PUT` replaces all labels, `PATCH` changes the ones it names.
pub(super) async fn update_metadata(call: Call, id: &str) -> Reply {
    let replaces = call.request.method() == Method::PUT;
    let patch: MetadataPatch = read_optional(call.request.into_body()).await?;
    let sandbox = call.engine.owned(id, &call.owner)?;
    call.engine.change_metadata(&sandbox, |metadata| {
        if replaces {
            metadata.clear();
        }
        for (key, value) in patch {
            match value.filter(|value| replaces || !value.is_empty()) {
                Some(value) => drop(metadata.insert(key, value)),
                None => drop(metadata.remove(&key)),
            }
        }
        check_map("metadata", metadata)
    })?;
    Ok(no_content())
}

/// A paused sandbox has no end to move and no connections to judge: to callers it is not there.
fn must_run(sandbox: &Sandbox) -> Result<(), Failure> {
    if sandbox.with(|record| record.phase == Phase::Running) {
        Ok(())
    } else {
        Err(Failure::new(StatusCode::NOT_FOUND, format!("sandbox {:?} is not running", sandbox.id())))
    }
}
