//! `POST /sandboxes` and `POST /v2/sandboxes`.

use std::collections::BTreeMap;
use std::time::Duration;

use http::StatusCode;
use pvm_e2b_wire::ENVD_VERSION;
use pvm_e2b_wire::control::{
    DEFAULT_TIMEOUT_V1_SECS, DEFAULT_TIMEOUT_V2_SECS, NewSandbox, Sandbox as SandboxBody,
};
use pvm_e2b_wire::network::NetworkConfig;

use super::Call;
use super::reply::{Failure, Reply, json, read};
use crate::egress;
use crate::engine::{CreateRequest, End, Engine, Sandbox};
use crate::store::PauseKind;

/// Most bytes of labels, and of variables, of one sandbox: both are kept in memory and answered in lists.
const MAX_MAP_BYTES: usize = 256 * 1024;
/// What every sandbox answers as its client id; only old clients look at it.
const CLIENT_ID: &str = "local";
/// Longest idempotency key.
const MAX_IDEMPOTENCY_KEY: usize = 255;

pub(super) async fn v1(call: Call) -> Reply {
    let body: NewSandbox = read(call.request.into_body()).await?;
    let secure = body.secure.unwrap_or(false);
    let request = check(&call.engine, call.owner, body, secure, DEFAULT_TIMEOUT_V1_SECS)?;
    create(&call.engine, request).await
}

pub(super) async fn v2(call: Call) -> Reply {
    let key = idempotency_key(&call)?;
    let body: NewSandbox = read(call.request.into_body()).await?;
    let mut request = check(&call.engine, call.owner, body, true, DEFAULT_TIMEOUT_V2_SECS)?;
    request.idempotency_key = key;
    create(&call.engine, request).await
}

fn idempotency_key(call: &Call) -> Result<Option<String>, Failure> {
    let Some(value) = call.request.headers().get("idempotency-key") else { return Ok(None) };
    let key = value.to_str().unwrap_or_default();
    let good = !key.is_empty()
        && key.len() <= MAX_IDEMPOTENCY_KEY
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if good {
        Ok(Some(key.to_owned()))
    } else {
        Err(Failure::bad_request("Idempotency-Key must be 1 to 255 letters, digits or dashes"))
    }
}

async fn create(engine: &std::sync::Arc<Engine>, request: CreateRequest) -> Reply {
    match engine.create(request).await {
        Ok(sandbox) => Ok(json(StatusCode::CREATED, &body_of(engine, &sandbox))),
        Err(error) => {
            let failure = Failure::from(error);
            let is_ours = failure.is_server_fault();
            Err(if is_ours { failure.with_error_code("sandbox_create_failed") } else { failure })
        }
    }
}

/// Checks everything that can be checked before anything is made.
fn check(
    engine: &Engine,
    owner: String,
    body: NewSandbox,
    secure: bool,
    default_timeout: i64,
) -> Result<CreateRequest, Failure> {
    if body.template_id.trim().is_empty() {
        return Err(Failure::bad_request("templateID is required"));
    }
    let timeout_ms = checked_timeout(engine, body.timeout.unwrap_or(default_timeout))?;
    let (end, auto_resume) = checked_end(&body)?;
    refuse_cloud_features(&body)?;
    check_map("metadata", &body.metadata).map_err(Failure::bad_request)?;
    check_variables(&body.env_vars)?;
    if let Some(network) = &body.network {
        check_network(network, secure)?;
    }
    Ok(CreateRequest {
        owner,
        template: body.template_id,
        timeout_ms,
        end,
        auto_resume,
        secure,
        metadata: body.metadata,
        env_vars: body.env_vars,
        network: body.network,
        allow_internet_access: body.allow_internet_access,
        idempotency_key: None,
    })
}

/// What happens at the end of its time, and whether traffic wakes it then.
fn checked_end(body: &NewSandbox) -> Result<(End, bool), Failure> {
    let auto_pause = body.auto_pause.unwrap_or(false);
    let keeps_memory = body.auto_pause_memory.unwrap_or(true);
    let auto_resume = body.auto_resume.as_ref().is_some_and(|resume| resume.enabled);
    if !keeps_memory && !auto_pause {
        return Err(Failure::bad_request("autoPauseMemory=false needs autoPause"));
    }
    if !keeps_memory && auto_resume {
        return Err(Failure::bad_request("autoPauseMemory=false cannot be combined with autoResume"));
    }
    let kind = if keeps_memory { PauseKind::Memory } else { PauseKind::Filesystem };
    Ok((if auto_pause { End::Pause(kind) } else { End::Kill }, auto_resume))
}

fn refuse_cloud_features(body: &NewSandbox) -> Result<(), Failure> {
    for (field, is_set) in [
        ("mcp", body.mcp.as_ref().is_some_and(|value| !value.is_null())),
        ("iam", body.iam.as_ref().is_some_and(|value| !value.is_null())),
        ("volumeMounts", !body.volume_mounts.is_empty()),
    ] {
        if is_set {
            return Err(Failure::bad_request(format!(
                "{field} is a cloud feature that this server does not have"
            )));
        }
    }
    Ok(())
}

fn check_variables(variables: &BTreeMap<String, String>) -> Result<(), Failure> {
    check_map("envVars", variables).map_err(Failure::bad_request)?;
    match variables.keys().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
        Some(name) => Err(Failure::bad_request(format!("envVars: {name:?} is not a variable's name"))),
        None => Ok(()),
    }
}

fn check_network(network: &NetworkConfig, secure: bool) -> Result<(), Failure> {
    egress::check_rules(&network.egress)
        .map_err(|problem| Failure::bad_request(format!("network: {problem}")))?;
    if network.allow_public_traffic == Some(false) && !secure {
        return Err(Failure::bad_request("allowPublicTraffic=false needs a secure sandbox"));
    }
    match &network.mask_request_host {
        Some(host) if !is_host_mask(host) => Err(Failure::bad_request(format!(
            "maskRequestHost: {host:?} is not a host name with an optional port or ${{PORT}}"
        ))),
        _ => Ok(()),
    }
}

/// Tells what is wrong with labels or variables.
pub(super) fn check_map(field: &str, map: &BTreeMap<String, String>) -> Result<(), String> {
    let bytes: usize = map.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > MAX_MAP_BYTES {
        return Err(format!("{field} is larger than {MAX_MAP_BYTES} bytes"));
    }
    if map.values().any(|value| value.contains('\0')) {
        return Err(format!("{field} contains a NUL character"));
    }
    Ok(())
}

/// A host name or address as it stands in a `Host` header, where `${PORT}` means the port.
fn is_host_mask(mask: &str) -> bool {
    let plain = mask.replace("${PORT}", "1");
    let Ok(authority) = plain.parse::<http::uri::Authority>() else { return false };
    let host = authority.host();
    let is_name = host.split('.').all(|label| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    });
    let is_address = host.starts_with('[') && host.ends_with(']');
    (is_name || is_address) && !authority.as_str().contains('@')
}

/// A timeout in seconds as milliseconds.
pub(super) fn checked_timeout(engine: &Engine, seconds: i64) -> Result<u64, Failure> {
    if seconds <= 0 {
        return Err(Failure::bad_request("Timeout must be greater than 0"));
    }
    within_limit(engine, seconds)
}

/// The same, where 0 is possible too.
pub(super) fn within_limit(engine: &Engine, seconds: i64) -> Result<u64, Failure> {
    let most = engine.config.max_timeout;
    let seconds = u64::try_from(seconds).map_err(|_| Failure::bad_request("Timeout must not be negative"))?;
    if Duration::from_secs(seconds) > most {
        let hours = most.as_secs_f64() / 3600.0;
        return Err(Failure::bad_request(format!("Timeout cannot be greater than {hours} hours")));
    }
    Ok(seconds * 1000)
}

/// What create, connect and resume answer.
pub(super) fn body_of(engine: &Engine, sandbox: &Sandbox) -> SandboxBody {
    sandbox.with(|record| SandboxBody {
        template_id: record.template_id.clone(),
        sandbox_id: record.id.clone(),
        client_id: CLIENT_ID.into(),
        envd_version: ENVD_VERSION.into(),
        alias: record.alias.clone(),
        envd_access_token: record.envd_token.clone(),
        traffic_access_token: record.traffic_token.clone(),
        domain: Some(engine.domain()),
    })
}

pub(super) const fn client_id() -> &'static str {
    CLIENT_ID
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_mask_is_a_host_with_an_optional_port() {
        for good in ["localhost", "localhost:${PORT}", "a.example:80", "127.0.0.1", "[::1]:${PORT}"] {
            assert!(is_host_mask(good), "{good}");
        }
        for bad in ["", "-https://abcd", "http://a", "a b", "-a", "a@b", "a/b"] {
            assert!(!is_host_mask(bad), "{bad}");
        }
    }
}
