//! Runs a program inside a VM through E2B's own protocol and waits for its end. For short programs of ours: what runs
//! here is neither journaled nor kept.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::Method;
use pvm_application::ports::VmError;
use pvm_e2b_wire::HEADER_KEEPALIVE;
use pvm_e2b_wire::connect::{
    CONTENT_TYPE_STREAM, Code, ConnectError, EndStream, EnvelopeDecoder, encode_message,
};
use pvm_e2b_wire::process::{EndEvent, ProcessConfig, SERVICE, StartRequest, StartResponse};

use crate::client::{REQUEST, VmClient};
use crate::control::unreachable;

/// The most output that is taken, in bytes per stream: the list of a large workspace.
const OUTPUT_MOST: usize = 128 * 1024 * 1024;
/// Seconds after which an idle stream gives a sign of life: proxies on the way end silent ones.
const KEEPALIVE_SECS: u64 = 20;

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) exit_code: i32,
    pub(crate) stdout: Bytes,
    pub(crate) stderr: Bytes,
}

impl VmClient {
    /// Runs `process` as `user`, for up to `wait`.
    pub(crate) async fn run_process(
        &self,
        vm_id: &str,
        user: &str,
        process: ProcessConfig,
        wait: Duration,
    ) -> Result<Finished, VmError> {
        let request = StartRequest { process, stdin: Some(false), ..StartRequest::default() };
        let body = encode_message(&request).map_err(|error| VmError::Refused(error.to_string()))?;
        let path = format!("{SERVICE}Start");
        let answer = self
            .ask_envd(vm_id, |access| {
                let request = self.envd(vm_id, access, user, Method::POST, &path).timeout(wait + REQUEST);
                request
                    .header("content-type", CONTENT_TYPE_STREAM)
                    .header("connect-protocol-version", "1")
                    .header(HEADER_KEEPALIVE, KEEPALIVE_SECS)
                    .body(body.clone())
            })
            .await?;
        let mut pieces = answer.bytes_stream();
        let mut envelopes = EnvelopeDecoder::default();
        let (mut stdout, mut stderr, mut end) = (BytesMut::new(), BytesMut::new(), None::<EndEvent>);
        while let Some(piece) = pieces.next().await {
            envelopes.push(&piece.map_err(unreachable)?);
            while let Some(envelope) = envelopes.next_envelope().map_err(|error| garbled(&error))? {
                if envelope.is_end() {
                    let last: EndStream =
                        serde_json::from_slice(&envelope.payload).map_err(|error| garbled(&error))?;
                    if let Some(error) = last.error {
                        return Err(refusal(error));
                    }
                    continue;
                }
                let message: StartResponse =
                    serde_json::from_slice(&envelope.payload).map_err(|error| garbled(&error))?;
                if let Some(data) = message.event.data {
                    stdout.extend_from_slice(&data.stdout.unwrap_or_default());
                    stderr.extend_from_slice(&data.stderr.unwrap_or_default());
                }
                end = message.event.end.or(end);
                if stdout.len().max(stderr.len()) > OUTPUT_MOST {
                    return Err(VmError::Refused("A program in the VM wrote more than 128 MiB.".to_owned()));
                }
            }
        }
        // Without its end the answer was cut off, and what the program did is not known.
        let Some(end) = end else { return Err(garbled(&"the stream ended before the program did")) };
        Ok(Finished { exit_code: end.exit_code, stdout: stdout.freeze(), stderr: stderr.freeze() })
    }
}

pub(crate) fn garbled(problem: &dyn std::fmt::Display) -> VmError {
    VmError::Unavailable(anyhow::anyhow!("the VM's answer is not whole: {problem}"))
}

pub(crate) fn refusal(error: ConnectError) -> VmError {
    match error.code {
        Code::NotFound => VmError::NotFound(error.message),
        Code::ResourceExhausted => VmError::Busy { retry_after: Duration::from_secs(1) },
        Code::InvalidArgument | Code::FailedPrecondition | Code::PermissionDenied | Code::Unauthenticated => {
            VmError::Refused(error.message)
        }
        _ => VmError::Unavailable(error.into()),
    }
}
