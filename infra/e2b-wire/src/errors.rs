//! Bodies of errors: of the control plane, of the daemon's plain endpoints, and of the data-plane proxy.

use serde::{Deserialize, Serialize};

/// Body of every error of the control plane and of the daemon's plain endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ApiError {
    /// The HTTP status.
    pub code: u16,
    /// What went wrong, for people.
    pub message: String,
    /// What went wrong, for programs (`sandbox_create_failed` and the like).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
}

impl ApiError {
    /// An error without an `error_code`.
    pub fn new(code: u16, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), error_code: None }
    }

    /// The same with one.
    #[must_use]
    pub fn with_error_code(mut self, error_code: impl Into<String>) -> Self {
        self.error_code = Some(error_code.into());
        self
    }
}

/// Error of the data-plane proxy (not of the daemon behind it). SDKs tell a dead sandbox from a closed port by
/// the texts of [`ProxyError::sandbox_not_found`] and [`ProxyError::port_closed`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyError {
    /// Which sandbox was meant.
    pub sandbox_id: String,
    /// What went wrong.
    pub message: String,
    /// The HTTP status.
    pub code: u16,
    /// Which port was meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

impl ProxyError {
    /// It is gone, paused, or never was: 502.
    pub fn sandbox_not_found(sandbox_id: impl Into<String>) -> Self {
        Self {
            sandbox_id: sandbox_id.into(),
            message: "The sandbox was not found".into(),
            code: 502,
            port: None,
        }
    }

    /// It runs, but nothing listens there: 502.
    pub fn port_closed(sandbox_id: impl Into<String>, port: u16) -> Self {
        Self {
            sandbox_id: sandbox_id.into(),
            message: "The sandbox is running but port is not open".into(),
            code: 502,
            port: Some(port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn proxy_errors_carry_the_texts_the_sdks_look_for() {
        let gone = serde_json::to_value(ProxyError::sandbox_not_found("i1")).unwrap();
        assert_eq!(gone, json!({"sandboxId": "i1", "message": "The sandbox was not found", "code": 502}));
        let closed = serde_json::to_value(ProxyError::port_closed("i1", 8080)).unwrap();
        assert_eq!(
            closed,
            json!({"sandboxId": "i1", "message": "The sandbox is running but port is not open", "code": 502,
                "port": 8080})
        );
    }
}
