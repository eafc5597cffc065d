//! Passing requests on into a sandbox, and answers back, without holding either in memory.

use std::sync::Arc;

use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use pvm_e2b_wire::ENVD_PORT;
use pvm_e2b_wire::control::ApiError;
use pvm_e2b_wire::signature::SignatureError;

use super::access::{self, Access};
use super::refusal::{self, Reader, Refusal};
use super::{Client, Place, Target, to_envd, to_port};
use crate::body::{self, Body};
use crate::engine::{Engine, Runtime, Sandbox};
use crate::hops;
use crate::store::{PauseKind, Phase};

/// Least time a sandbox gets when traffic wakes it, in milliseconds: E2B's five minutes.
const WAKE_AT_LEAST_MS: u64 = 300_000;

/// A data-plane request on its way: where it goes, and who sent it.
#[derive(Debug)]
pub(super) struct Passage {
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) runtime: Arc<Runtime>,
    pub(super) port: u16,
    pub(super) client: Arc<Client>,
    pub(super) reader: Reader,
}

impl Passage {
    /// The answer to a request that goes no further.
    pub(super) fn refuse(&self, refusal: Refusal) -> Response<Body> {
        let target = Target { sandbox_id: self.sandbox.id().to_owned(), port: self.port };
        refusal.answer(&target, self.reader)
    }

    /// Turns an answer from inside into the one for the client; an accepted upgrade becomes a pipe, which is use of the port
    /// for as long as it is open.
    pub(super) fn finish(
        &self,
        mut response: Response<Incoming>,
        upgrade: Option<OnUpgrade>,
    ) -> Response<Body> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(upgrade) = upgrade
        {
            let pipe = hops::pipe(upgrade, &mut response);
            let (ended, client) = (self.runtime.streams.clone(), Arc::clone(&self.client));
            let open = (self.port != ENVD_PORT).then(|| self.sandbox.open_pipe());
            tokio::spawn(async move {
                let _open = open;
                tokio::select! {
                    () = pipe => {}
                    () = client.stream.broken() => {}
                    () = ended.cancelled() => {}
                }
            });
        } else {
            hops::strip(response.headers_mut());
        }
        response.map(body::incoming)
    }
}

/// Answers a data-plane request.
pub(crate) async fn serve(
    engine: &Arc<Engine>,
    place: Place,
    request: Request<Incoming>,
    client: Arc<Client>,
) -> Response<Body> {
    let reader = Reader::of(request.headers());
    let target = match place {
        Place::In(target) => target,
        Place::UnknownSignature => {
            return api_error(StatusCode::UNAUTHORIZED, &SignatureError::Invalid.to_string());
        }
    };
    let Some(sandbox) = engine.sandbox(&target.sandbox_id) else {
        return Refusal::NotFound.answer(&target, reader);
    };
    let cookie = match admitted(engine, &sandbox, target.port, &request) {
        Ok(cookie) => cookie,
        Err(refusal) => return refusal.answer(&target, reader),
    };
    let Some(runtime) = awake(engine, &sandbox).await else {
        return Refusal::NotFound.answer(&target, reader);
    };
    let passage = Passage { sandbox, runtime, port: target.port, client, reader };
    let mut response = if target.port == ENVD_PORT {
        to_envd::pass(engine, &passage, request).await
    } else {
        passage.sandbox.touch(engine.now_ms());
        to_port::pass(&passage, request).await
    };
    if let Some(cookie) = cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// Whether a request may pass to a port, with the cookie by which the next ones may.
fn admitted(
    engine: &Engine,
    sandbox: &Sandbox,
    port: u16,
    request: &Request<Incoming>,
) -> Result<Option<HeaderValue>, Refusal> {
    if port == ENVD_PORT {
        return Ok(None);
    }
    let Some(token) = sandbox.with(|record| record.traffic_token.clone()) else { return Ok(None) };
    let seconds = i64::try_from(engine.now_ms() / 1000).unwrap_or(i64::MAX);
    let void = sandbox.with(|record| record.links_void_up_to_ms.get(&port).copied());
    let (uri, headers) = (request.uri(), request.headers());
    match access::check(&token, sandbox.id(), port, uri, headers, seconds, void) {
        Access::Granted => Ok(None),
        Access::GrantedByLink(cookie) => Ok(Some(cookie)),
        Access::Missing => Err(Refusal::TokenMissing),
        Access::Invalid => Err(Refusal::TokenInvalid),
    }
}

/// The sandbox's processes, woken if traffic may do that.
async fn awake(engine: &Arc<Engine>, sandbox: &Arc<Sandbox>) -> Option<Arc<Runtime>> {
    if let Some(runtime) = sandbox.running() {
        return Some(runtime);
    }
    let wakes = sandbox
        .with(|record| record.auto_resume && record.phase == Phase::Paused(PauseKind::Memory))
        .then(|| sandbox.with(|record| record.timeout_ms.max(WAKE_AT_LEAST_MS)))?;
    // To its end even when the client hangs up: half woken would be neither paused nor running.
    let waking = {
        let (engine, sandbox) = (Arc::clone(engine), Arc::clone(sandbox));
        async move { engine.connect(&sandbox, wakes, true).await }
    };
    match engine.tasks.spawn(waking).await {
        Ok(Ok(_)) => sandbox.running(),
        Ok(Err(error)) => {
            tracing::warn!(sandbox.id = sandbox.id(), %error, "traffic could not wake the sandbox");
            None
        }
        Err(_) => None,
    }
}

/// An error as envd itself would tell it.
pub(super) fn api_error(status: StatusCode, message: &str) -> Response<Body> {
    let error = ApiError::new(status.as_u16(), message);
    refusal::of(status, "application/json", serde_json::to_vec(&error).unwrap_or_default())
}
