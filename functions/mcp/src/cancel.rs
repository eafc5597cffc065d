//! `notifications/cancelled`, which names a request by an id that means nothing to a server without sessions, and which
//! the protocol library therefore passes over. A client that gave its call an `Idempotency-Key` gives the same one here,
//! and by that the call is found, wherever it runs.

use http::Method;
use http::request::Parts as Head;
use pvm_application::error::{AppError, AppResult, ErrorCode};
use pvm_application::idempotency;
use pvm_application::tool_jobs::{self, JobState, ToolJob};
use pvm_application::vm::ReadyVm;
use pvm_domain::project::Scope;
use pvm_entry::request::IDEMPOTENCY_KEY;
use serde::Deserialize;
use serde_json::Value;

use crate::parts::Parts;
use crate::server::ProjectServer;

/// The longest notification that is looked at, in bytes.
const NOTIFICATION_BYTES: usize = 16 * 1024;

#[derive(Deserialize)]
struct Notification {
    method: String,
}

/// The key of the call that this request takes back, if that is what it does.
pub(crate) fn key_of<'a>(head: &'a Head, body: &[u8]) -> Option<&'a str> {
    let key = head.headers.get(&IDEMPOTENCY_KEY)?.to_str().ok()?;
    if head.method != Method::POST || body.len() > NOTIFICATION_BYTES {
        return None;
    }
    let notification: Notification = serde_json::from_slice(body).ok()?;
    (notification.method == "notifications/cancelled").then_some(key)
}

impl<P: Parts> ProjectServer<P> {
    /// Ends the call that was made with `key`. Notifications have no answer, so trouble is only logged.
    pub(crate) async fn take_back(&self, key: &str) {
        if let Err(error) = self.try_take_back(key).await {
            tracing::warn!(
                code = error.code.as_str(),
                detail = error.detail,
                "a call could not be cancelled"
            );
        }
    }

    async fn try_take_back(&self, key: &str) -> AppResult<()> {
        if self.scope < Scope::Write {
            return Ok(());
        }
        let (owner, now) = (&self.principal.owner, self.now());
        let Some(call_id) = idempotency::made_with(self.store(), owner, key, now).await? else {
            return Ok(());
        };
        // A key of another route has made something else.
        if !pvm_tools::is_command_id(&call_id) {
            return Ok(());
        }
        // A call that still waits for its VM finds this when it gets there.
        let nowhere = ReadyVm { vm_id: String::new(), epoch: 0, boot_id: String::new() };
        let mut early = ToolJob::new(&self.project.project_id, &call_id, "", Value::Null, &nowhere, now);
        early.state = JobState::Cancelled;
        tool_jobs::note(self.store(), early).await?;
        let ended = self.cancel(&call_id).await;
        ended.map_err(|error| AppError::new(ErrorCode::Unavailable, error.message.into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_cancellation_with_a_key_takes_a_call_back() {
        let head = |method: Method, key: Option<&str>| {
            let mut request = http::Request::builder().method(method);
            if let Some(key) = key {
                request = request.header(&IDEMPOTENCY_KEY, key);
            }
            request.body(()).unwrap().into_parts().0
        };
        let cancelled =
            br#"{"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}"#;
        let post = head(Method::POST, Some("k"));
        assert_eq!(key_of(&post, cancelled), Some("k"));
        assert_eq!(key_of(&head(Method::POST, None), cancelled), None);
        assert_eq!(key_of(&head(Method::GET, Some("k")), cancelled), None);
        assert_eq!(key_of(&post, br#"{"method": "tools/call"}"#), None);
        assert_eq!(key_of(&post, b"nonsense"), None);
    }
}
