//! Requests to a sandbox's envd: addressed, authorized, and their failures told apart.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode};
use pvm_application::ports::VmError;
use pvm_e2b_wire::connect::{Code, ConnectError};
use pvm_e2b_wire::control::{Sandbox, SandboxState};
use pvm_e2b_wire::{ENVD_PORT, HEADER_ACCESS_TOKEN, HEADER_JOURNAL, HEADER_SANDBOX_ID, HEADER_SANDBOX_PORT};
use reqwest::{RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::access::Access;
use crate::client::{REQUEST, VmClient};
use crate::control::{TIMEOUT_SECS, unreachable};

/// What a proxy says of a sandbox that it has no way to.
const NOT_FOUND: &str = "was not found";

impl VmClient {
    fn envd_url(&self, vm_id: &str) -> String {
        let config = &self.inner.config;
        match &config.sandbox_url {
            Some(url) => url.clone(),
            None => format!("{}://{ENVD_PORT}-{vm_id}.{}", config.scheme, config.domain),
        }
    }

    /// A request to the envd of `vm_id`, as `user`.
    pub(crate) fn envd(
        &self,
        vm_id: &str,
        access: &Access,
        user: &str,
        method: Method,
        path: &str,
    ) -> RequestBuilder {
        let request = self.inner.http.request(method, format!("{}{path}", self.envd_url(vm_id)));
        let request = request
            .timeout(REQUEST)
            .header(HEADER_SANDBOX_ID, vm_id)
            .header(HEADER_SANDBOX_PORT, ENVD_PORT)
            .header("authorization", format!("Basic {}", STANDARD.encode(format!("{user}:"))));
        match &access.envd_token {
            Some(token) => request.header(HEADER_ACCESS_TOKEN, token.expose()),
            None => request,
        }
    }

    /// What opens the sandbox: known, or learned by connecting.
    pub(crate) async fn access(&self, vm_id: &str) -> Result<Arc<Access>, VmError> {
        if let Some(access) = self.inner.access.get(vm_id) {
            return Ok(access);
        }
        self.connect(vm_id, TIMEOUT_SECS).await?;
        self.inner.access.get(vm_id).ok_or(VmError::Gone)
    }

    /// Keeps a sandbox's tokens, and finds out once what its envd can do.
    pub(crate) async fn learn(&self, sandbox: &Sandbox) -> Result<(), VmError> {
        let vm_id = &sandbox.sandbox_id;
        let known = self.inner.access.get(vm_id).is_some_and(|access| access.journal);
        let mut access = Access::of(sandbox, known);
        if !known && !self.inner.config.script_journal {
            let health = self.envd(vm_id, &access, "user", Method::GET, "/health");
            let answer = health.timeout(Duration::from_secs(10)).send().await.map_err(unreachable)?;
            access.journal = answer.headers().contains_key(HEADER_JOURNAL);
        }
        self.inner.access.put(vm_id, access);
        Ok(())
    }

    /// Sends what `build` makes, once more after a stale token, and answers a success.
    pub(crate) async fn ask_envd(
        &self,
        vm_id: &str,
        build: impl Fn(&Access) -> RequestBuilder + Send + Sync,
    ) -> Result<Response, VmError> {
        let mut tried = false;
        loop {
            let access = self.access(vm_id).await?;
            let response = build(&access).send().await.map_err(unreachable)?;
            if response.status() == StatusCode::UNAUTHORIZED && !tried {
                self.inner.access.forget(vm_id);
                tried = true;
                continue;
            }
            return self.checked(vm_id, response).await;
        }
    }

    /// The answer, if it is a success.
    pub(crate) async fn checked(&self, vm_id: &str, response: Response) -> Result<Response, VmError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let header = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
        let retry_after =
            header.and_then(|text| text.parse().ok()).map_or(Duration::from_secs(1), Duration::from_secs);
        let body = response.bytes().await.unwrap_or_default();
        let error = ConnectError::from_http(status.as_u16(), &body);
        match status.as_u16() {
            // The proxy's answer when there is no such sandbox, and when it is paused. Only then is it sure that nothing was
            // passed on: any other trouble on the way may have come after what was asked for was done.
            502 if error.message.contains(NOT_FOUND) => Err(self.why_not_there(vm_id).await),
            429 if error.is_lasting() => Err(VmError::Refused(error.message)),
            429 | 503 => Err(VmError::Busy { retry_after }),
            404 => Err(VmError::NotFound(error.message)),
            // Its disk is full: a fact about the VM, not a fault of the way there.
            507 => Err(VmError::Refused(format!("The VM's disk is full: {}", error.message))),
            500.. => Err(VmError::Unavailable(anyhow::anyhow!("{status}: {}", error.message))),
            _ if error.code == Code::NotFound => Err(VmError::NotFound(error.message)),
            _ => Err(VmError::Refused(error.message)),
        }
    }

    /// Why a sandbox is not found.
    async fn why_not_there(&self, vm_id: &str) -> VmError {
        match self.detail(vm_id).await {
            Ok(Some(detail)) if detail.listed.state == SandboxState::Running => {
                VmError::Unavailable(anyhow::anyhow!("the sandbox runs, but its daemon does not answer"))
            }
            Ok(Some(_)) => VmError::Paused,
            Ok(None) => {
                self.inner.access.forget(vm_id);
                VmError::Gone
            }
            Err(error) => error,
        }
    }

    /// A unary Connect call.
    pub(crate) async fn rpc<I: Serialize + Sync, O: DeserializeOwned>(
        &self,
        vm_id: &str,
        user: &str,
        path: &str,
        input: &I,
        wait: Duration,
    ) -> Result<O, VmError> {
        let response = self
            .ask_envd(vm_id, |access| {
                let request = self.envd(vm_id, access, user, Method::POST, path).timeout(wait + REQUEST);
                request.header("connect-protocol-version", "1").json(input)
            })
            .await?;
        response.json().await.map_err(unreachable)
    }
}

#[cfg(test)]
mod tests {
    use pvm_e2b_wire::secret::Secret;

    use super::*;
    use crate::VmClientConfig;

    /// Waiting does not empty a disk: what is used up for good is told at once, though its code is that of a busy server.
    #[tokio::test]
    async fn a_full_disk_and_an_endless_listing_are_no_busy_server() {
        let nobody = ([127, 0, 0, 1], 1).into();
        let client = VmClient::new(VmClientConfig::local(nobody, Secret::new("e2b_x"), "test")).unwrap();
        for (message, lasts) in [
            ("error making the directory: No space left on device (os error 28)", true),
            ("error renaming: Disk quota exceeded (os error 122)", true),
            ("more than 200000 entries; list with a smaller depth", true),
            ("the requests being read have more than 64 MiB together", false),
        ] {
            let body = ConnectError::new(Code::ResourceExhausted, message).to_json();
            let answer = http::Response::builder().status(429).body(body).unwrap();
            match client.checked("i1", answer.into()).await {
                Err(VmError::Refused(why)) if lasts => assert_eq!(why, message),
                Err(VmError::Busy { .. }) if !lasts => {}
                other => panic!("{message}: {other:?}"),
            }
        }
    }
}
