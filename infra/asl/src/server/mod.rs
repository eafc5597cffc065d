//! The AWS JSON 1.0 protocol of Step Functions over HTTP, so that `aws-sdk-sfn` talks to the engine.

mod wire;

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::engine::{ApiError, Engine, HistoryQuery, ListFilter};
use crate::limits;

const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/x-amz-json-1.0");
const TARGET_PREFIX: &str = "AWSStepFunctions.";

/// How the server behaves.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    /// If given, only requests signed with this access key id are answered. The engine listens on loopback,
    /// where every user of the machine could otherwise start executions. The signature itself is not
    /// checked: an access key id made at random for this process is known to nobody else.
    pub access_key_id: Option<String>,
}

/// The server, to be mounted at the root of a loopback listener.
pub fn router(engine: Engine, options: ServerOptions) -> Router {
    let shared = Arc::new(Shared { engine, options });
    Router::new()
        .route("/", post(answer))
        .layer(DefaultBodyLimit::max(limits::MAX_REQUEST_BYTES))
        .with_state(shared)
}

struct Shared {
    engine: Engine,
    options: ServerOptions,
}

/// A refused request.
struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Refusal {
    fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code, message: message.into() }
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        let status = match &error {
            // The SDK tries such an answer again.
            ApiError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_REQUEST,
        };
        Self { status, code: error.code(), message: error.to_string() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "__type": self.code, "message": self.message }).to_string();
        (self.status, [(header::CONTENT_TYPE, CONTENT_TYPE)], body).into_response()
    }
}

async fn answer(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    match dispatch(&shared, &headers, &body).await {
        Ok(body) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], body).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

async fn dispatch(shared: &Shared, headers: &HeaderMap, body: &[u8]) -> Result<String, Refusal> {
    check_access(&shared.options, headers)?;
    let target = headers.get("x-amz-target").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let engine = &shared.engine;
    match target.strip_prefix(TARGET_PREFIX).unwrap_or_default() {
        "StartExecution" => {
            let request: wire::StartExecution = parse(body)?;
            let input = request.input.as_deref().unwrap_or("{}");
            let started =
                engine.start_execution(&request.state_machine_arn, request.name.as_deref(), input).await?;
            print(&wire::Started::from(started))
        }
        "StopExecution" => {
            let request: wire::StopExecution = parse(body)?;
            let at = engine.stop_execution(&request.execution_arn, request.error, request.cause).await?;
            print(&wire::Stopped { stop_date: wire::seconds(at) })
        }
        "DescribeExecution" => {
            let request: wire::ExecutionArn = parse(body)?;
            print(&wire::Described::from(engine.describe_execution(&request.execution_arn).await?))
        }
        "ListExecutions" => {
            let request: wire::ListExecutions = parse(body)?;
            let filter = ListFilter {
                status: request.status_filter.map(|status| status.parse()).transpose()?,
                limit: request.max_results,
                next_token: request.next_token,
            };
            print(&wire::Listed::from(engine.list_executions(&request.state_machine_arn, filter).await?))
        }
        "GetExecutionHistory" => {
            let request: wire::GetExecutionHistory = parse(body)?;
            let query = HistoryQuery {
                newest_first: request.reverse_order,
                limit: request.max_results,
                next_token: request.next_token,
            };
            let page = engine.execution_history(&request.execution_arn, query).await?;
            print(&wire::history(page, request.include_execution_data))
        }
        "SendTaskSuccess" => {
            let request: wire::TaskSuccess = parse(body)?;
            engine.send_task_success(&request.task_token, &request.output).await?;
            Ok("{}".to_owned())
        }
        "SendTaskFailure" => {
            let request: wire::TaskFailure = parse(body)?;
            let (error, cause) = (request.error.as_deref(), request.cause.as_deref());
            engine.send_task_failure(&request.task_token, error, cause).await?;
            Ok("{}".to_owned())
        }
        "SendTaskHeartbeat" => {
            let request: wire::TaskToken = parse(body)?;
            engine.send_task_heartbeat(&request.task_token).await?;
            Ok("{}".to_owned())
        }
        "DescribeStateMachine" => {
            let request: wire::MachineArn = parse(body)?;
            let (machine, loaded_at) = engine.describe_machine(&request.state_machine_arn)?;
            print(&wire::machine(engine.home(), &machine, loaded_at))
        }
        _ => Err(Refusal::bad_request(
            "UnknownOperationException",
            format!("the local Step Functions engine does not know the operation {target:?}"),
        )),
    }
}

fn check_access(options: &ServerOptions, headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(expected) = &options.access_key_id else { return Ok(()) };
    let authorization =
        headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let found = authorization.split("Credential=").nth(1).and_then(|rest| rest.split('/').next());
    if found == Some(expected) {
        return Ok(());
    }
    Err(Refusal {
        status: StatusCode::FORBIDDEN,
        code: "UnrecognizedClientException",
        message: "the request is not signed with this engine's access key".to_owned(),
    })
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        Refusal::bad_request("ValidationException", format!("the request is malformed: {error}"))
    })
}

fn print<T: Serialize>(answer: &T) -> Result<String, Refusal> {
    serde_json::to_string(answer).map_err(|error| Refusal {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        code: "InternalServerError",
        message: format!("the answer cannot be written: {error}"),
    })
}
