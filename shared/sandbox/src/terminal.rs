//! Interactive terminals, through E2B's own PTY: the terminal's id is the process's tag, so that it is found again by
//! any process of ours. What envd keeps of the output (2 MiB) comes again at each attach; other E2B servers send only
//! what nobody has read.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::Method;
use pvm_application::ports::{NewTerminal, TerminalEvent, TerminalSize, TerminalStream, Terminals, VmError};
use pvm_e2b_wire::HEADER_KEEPALIVE;
use pvm_e2b_wire::connect::{CONTENT_TYPE_STREAM, EndStream, EnvelopeDecoder, encode_message};
use pvm_e2b_wire::process::{
    ConnectRequest, ProcessConfig, ProcessInput, ProcessSelector, Pty, PtySize, SERVICE, SendInputRequest,
    SendSignalRequest, Signal, StartRequest, StartResponse, UpdateRequest,
};
use reqwest::Response;
use serde::Serialize;
use serde_json::Value;
use std::collections::VecDeque;
use std::time::Duration;

use crate::client::VmClient;
use crate::control::unreachable;
use crate::process::{garbled, refusal};

/// A terminal's stream may be open this long; whoever watches longer attaches again.
const LONGEST: Duration = Duration::from_hours(24);
/// Seconds after which an idle stream gives a sign of life.
const KEEPALIVE_SECS: u64 = 20;

impl VmClient {
    async fn watch<I: Serialize>(
        &self,
        vm_id: &str,
        user: &str,
        method: &str,
        question: &I,
    ) -> Result<TerminalStream, VmError> {
        let body = encode_message(question).map_err(|error| VmError::Refused(error.to_string()))?;
        let path = format!("{SERVICE}{method}");
        let answer = self
            .ask_envd(vm_id, |access| {
                let request = self.envd(vm_id, access, user, Method::POST, &path).timeout(LONGEST);
                request
                    .header("content-type", CONTENT_TYPE_STREAM)
                    .header("connect-protocol-version", "1")
                    .header(HEADER_KEEPALIVE, KEEPALIVE_SECS)
                    .body(body.clone())
            })
            .await?;
        let mut watch = Watch::new(answer);
        // The first message tells that the process runs; an error comes in its place.
        watch.started().await?;
        Ok(Box::pin(stream::unfold(watch, async |mut watch| {
            let next = watch.next().await?;
            Some((next, watch))
        })))
    }

    async fn tell<I: Serialize + Sync>(
        &self,
        vm_id: &str,
        method: &str,
        question: &I,
    ) -> Result<(), VmError> {
        let path = format!("{SERVICE}{method}");
        self.rpc::<_, Value>(vm_id, "root", &path, question, Duration::ZERO).await.map(|_| ())
    }
}

/// Messages about a process as they come.
struct Watch {
    pieces: stream::BoxStream<'static, reqwest::Result<Bytes>>,
    envelopes: EnvelopeDecoder,
    ready: VecDeque<TerminalEvent>,
    runs: bool,
    over: bool,
}

impl Watch {
    fn new(answer: Response) -> Self {
        let pieces = answer.bytes_stream().boxed();
        Self {
            pieces,
            envelopes: EnvelopeDecoder::default(),
            ready: VecDeque::new(),
            runs: false,
            over: false,
        }
    }

    async fn started(&mut self) -> Result<(), VmError> {
        while !self.runs && self.ready.is_empty() {
            if !self.read().await? {
                return Err(garbled(&"the stream ended before the terminal was there"));
            }
        }
        Ok(())
    }

    async fn next(&mut self) -> Option<Result<TerminalEvent, VmError>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.over |= matches!(event, TerminalEvent::Exit { .. });
                return Some(Ok(event));
            }
            if self.over {
                return None;
            }
            match self.read().await {
                Ok(true) => {}
                Ok(false) => {
                    self.over = true;
                    return Some(Err(garbled(&"the stream ended before the terminal did")));
                }
                Err(error) => {
                    self.over = true;
                    return Some(Err(error));
                }
            }
        }
    }

    /// Takes in the next piece; false at the end.
    async fn read(&mut self) -> Result<bool, VmError> {
        let Some(piece) = self.pieces.next().await else { return Ok(false) };
        self.envelopes.push(&piece.map_err(unreachable)?);
        while let Some(envelope) = self.envelopes.next_envelope().map_err(|error| garbled(&error))? {
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
            self.runs |= message.event.start.is_some();
            if let Some(bytes) = message.event.data.and_then(|data| data.pty) {
                self.ready.push_back(TerminalEvent::Output(bytes));
            }
            if let Some(end) = message.event.end {
                self.ready.push_back(TerminalEvent::Exit { exit_code: end.exit_code });
            }
        }
        Ok(true)
    }
}

fn pty(size: TerminalSize) -> Pty {
    Pty { size: Some(PtySize { cols: size.cols.into(), rows: size.rows.into() }) }
}

impl Terminals for VmClient {
    async fn open_terminal(&self, vm_id: &str, terminal: &NewTerminal) -> Result<TerminalStream, VmError> {
        let environment = [("TERM", "xterm-256color"), ("COLORTERM", "truecolor"), ("LANG", "C.UTF-8")];
        let envs: BTreeMap<String, String> =
            environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let question = StartRequest {
            process: ProcessConfig {
                cmd: "/bin/bash".to_owned(),
                args: vec!["-i".to_owned(), "-l".to_owned()],
                envs,
                cwd: Some(terminal.working_dir.clone()),
            },
            pty: Some(pty(terminal.size)),
            tag: Some(terminal.terminal_id.clone()),
            stdin: None,
        };
        self.watch(vm_id, &terminal.user, "Start", &question).await
    }

    async fn attach_terminal(&self, vm_id: &str, terminal_id: &str) -> Result<TerminalStream, VmError> {
        let question = ConnectRequest { process: ProcessSelector::tag(terminal_id), replay: true };
        self.watch(vm_id, "user", "Connect", &question).await
    }

    async fn type_into(&self, vm_id: &str, terminal_id: &str, bytes: Bytes) -> Result<(), VmError> {
        let question = SendInputRequest {
            process: ProcessSelector::tag(terminal_id),
            input: ProcessInput { pty: Some(bytes), stdin: None },
        };
        self.tell(vm_id, "SendInput", &question).await
    }

    async fn resize_terminal(
        &self,
        vm_id: &str,
        terminal_id: &str,
        size: TerminalSize,
    ) -> Result<(), VmError> {
        let question = UpdateRequest { process: ProcessSelector::tag(terminal_id), pty: Some(pty(size)) };
        self.tell(vm_id, "Update", &question).await
    }

    async fn end_terminal(&self, vm_id: &str, terminal_id: &str) -> Result<(), VmError> {
        let question =
            SendSignalRequest { process: ProcessSelector::tag(terminal_id), signal: Signal::Sigkill };
        match self.tell(vm_id, "SendSignal", &question).await {
            Err(VmError::NotFound(_)) => Ok(()),
            other => other,
        }
    }
}
