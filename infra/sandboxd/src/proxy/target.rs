//! Which sandbox and port a request is for.

use http::{HeaderMap, Method, Uri, header};
use pvm_e2b_wire::list_query::parameters;
use pvm_e2b_wire::signature::{Operation, SignatureError, verify};
use pvm_e2b_wire::{ENVD_PORT, HEADER_SANDBOX_ID, HEADER_SANDBOX_PORT};

use crate::engine::Engine;

/// What a data-plane request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A sandbox, which may not be there.
    In(Target),
    /// A file behind a signature that no sandbox's token made.
    UnknownSignature,
}

/// Where a data-plane request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) sandbox_id: String,
    pub(crate) port: u16,
}

/// Finds the target of a request; nothing when the request is for the control plane.
///
/// The host name decides when its first label is `<port>-<sandbox id>`, else the routing headers, else, for a
/// signed `/files` URL (which names no sandbox), the sandbox whose token made the signature.
pub(crate) fn target_of(engine: &Engine, method: &Method, uri: &Uri, headers: &HeaderMap) -> Option<Place> {
    let host = uri.host().or_else(|| headers.get(header::HOST)?.to_str().ok());
    if let Some(target) = host.and_then(from_host) {
        return Some(Place::In(target));
    }
    if let Some(id) = headers.get(HEADER_SANDBOX_ID) {
        let id = id.to_str().unwrap_or_default();
        let port = headers
            .get(HEADER_SANDBOX_PORT)
            .and_then(|port| port.to_str().ok())
            .map_or(Some(ENVD_PORT), |port| port.parse().ok());
        // A port that is no number is answered as a sandbox that is not there.
        let id = if port.is_some() { id } else { "" };
        return Some(Place::In(Target { sandbox_id: id.to_owned(), port: port.unwrap_or(ENVD_PORT) }));
    }
    if uri.path() == "/files" && matches!(*method, Method::GET | Method::HEAD | Method::POST) {
        return from_signature(engine, method, uri);
    }
    None
}

fn from_host(host: &str) -> Option<Target> {
    let (label, _) = host.split_once('.')?;
    let (port, id) = label.split_once('-')?;
    let is_id = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    is_id.then(|| port.parse().ok()).flatten().map(|port| Target { sandbox_id: id.to_owned(), port })
}

/// Tokens are unique, so at most one sandbox's fits.
fn from_signature(engine: &Engine, method: &Method, uri: &Uri) -> Option<Place> {
    let (mut path, mut user, mut signature, mut expires) = (String::new(), String::new(), None, None);
    for (key, value) in parameters(uri.query().unwrap_or_default()) {
        match key.as_str() {
            "path" => path = value,
            "username" => user = value,
            "signature" => signature = Some(value),
            "signature_expiration" => expires = value.parse().ok(),
            _ => {}
        }
    }
    signature.as_ref()?;
    let operation = if *method == Method::POST { Operation::Write } else { Operation::Read };
    let now = i64::try_from(engine.now_ms() / 1000).ok()?;
    let fits = |token: &str| {
        let verdict = verify(signature.as_deref(), &path, operation, &user, token, expires, now);
        // envd itself tells the client that the time is over.
        matches!(verdict, Ok(()) | Err(SignatureError::Expired))
    };
    let sandbox = engine.sandboxes().into_iter().find(|sandbox| {
        sandbox.with(|record| record.envd_token.as_ref().is_some_and(|token| fits(token.expose())))
    });
    Some(sandbox.map_or(Place::UnknownSignature, |sandbox| {
        Place::In(Target { sandbox_id: sandbox.id().to_owned(), port: ENVD_PORT })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_name_port_and_sandbox() {
        let target = from_host("3000-iabc123.localhost:8788").unwrap();
        assert_eq!(target, Target { sandbox_id: "iabc123".into(), port: 3000 });
        for host in
            ["localhost:8788", "127.0.0.1:8788", "api.e2b.app", "x-iabc.localhost", "70000-iabc.localhost"]
        {
            assert_eq!(from_host(host), None, "{host}");
        }
    }
}
