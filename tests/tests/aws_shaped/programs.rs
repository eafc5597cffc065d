//! The deployed programs by themselves, against a stand-in for Lambda's runtime interface.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use pvm_tests::aws::AwsStack;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

/// A bound for a hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// A function's program with the variables that Lambda gives, and ours from `settings`.
fn program(aws: &AwsStack, function: &str, runtime: &str, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(aws.program(function));
    command
        .env_clear()
        .env("AWS_LAMBDA_RUNTIME_API", runtime)
        .env("AWS_LAMBDA_FUNCTION_NAME", function)
        .env("AWS_LAMBDA_FUNCTION_VERSION", "1")
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
        .env("AWS_LAMBDA_LOG_GROUP_NAME", "test")
        .env("AWS_LAMBDA_LOG_STREAM_NAME", "test")
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env("AWS_ENDPOINT_URL", &aws.endpoint)
        .env("AWS_LAMBDA_HTTP_IGNORE_STAGE_IN_PATH", "true")
        .envs(settings.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// A function without a variable that it needs says which, and exits.
pub(crate) async fn missing_variable(aws: &AwsStack) {
    let mut command = program(aws, "GetProjectFunction", "127.0.0.1:9", &[("PVM_TABLE_APP", "app")]);
    let ended = tokio::time::timeout(PATIENCE, command.output()).await.unwrap().unwrap();
    assert!(!ended.status.success());
    let said =
        format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(said.contains("PVM_TABLE_EVENTS") && !said.contains("PVM_TABLE_APP"), "{said}");
}

/// The next request of a program: its first line, headers in lower case, and where to answer.
async fn next(listener: &TcpListener) -> (String, Vec<String>, BufReader<TcpStream>) {
    let (stream, _) = tokio::time::timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).await.unwrap();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).await.unwrap();
        if line.trim().is_empty() {
            return (first, headers, reader);
        }
        headers.push(line.trim().to_lowercase());
    }
}

/// The pieces of a chunked body.
async fn pieces(reader: &mut BufReader<TcpStream>) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let mut size = String::new();
        reader.read_line(&mut size).await.unwrap();
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let mut piece = vec![0; size + 2];
        reader.read_exact(&mut piece).await.unwrap();
        piece.truncate(size);
        if size == 0 {
            return all;
        }
        all.push(piece);
    }
}

/// Gives a program its first event.
async fn give(listener: &TcpListener, event: &str) {
    let (first, _, mut stream) = next(listener).await;
    assert!(first.contains("/invocation/next"), "{first}");
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\nlambda-runtime-aws-request-id: one\r\n\
         lambda-runtime-deadline-ms: 99999999999999\r\n\r\n{event}",
        event.len()
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
}

/// A DynamoDB that throttles every read; counts them.
async fn throttling() -> (String, Arc<AtomicUsize>) {
    async fn refuse(State(reads): State<Arc<AtomicUsize>>, headers: HeaderMap) -> (StatusCode, &'static str) {
        if headers.get("x-amz-target").is_some_and(|target| target.as_bytes().starts_with(b"DynamoDB_")) {
            reads.fetch_add(1, Ordering::SeqCst);
        }
        let refusal = r#"{"__type":"com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException","message":"slow down"}"#;
        (StatusCode::BAD_REQUEST, refusal)
    }
    let reads = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(refuse).with_state(Arc::clone(&reads));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (url, reads)
}

/// A table that throttles is asked again; when that does not help, the caller is told to come back, and when.
pub(crate) async fn throttled(aws: &AwsStack) {
    let (dynamodb, reads) = throttling().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let runtime = listener.local_addr().unwrap().to_string();
    let settings = [
        ("PVM_TABLE_APP", "app"),
        ("PVM_TABLE_EVENTS", "events"),
        ("PVM_EARLY_CONNECTION", "false"),
        ("PVM_LOG_FORMAT", "json"),
        ("AWS_ENDPOINT_URL", dynamodb.as_str()),
    ];
    let mut running = program(aws, "GetProjectFunction", &runtime, &settings).spawn().unwrap();
    let id = "prj_00000000000000000000000000";
    give(&listener, &event("/api/projects/{project_id}", &format!("/api/projects/{id}"), id, "operator"))
        .await;
    let (first, headers, mut stream) = next(&listener).await;
    assert!(first.contains("/invocation/one/response"), "{first}");
    let length = headers.iter().find_map(|header| header.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    let answer: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(answer["statusCode"], 503, "{answer}");
    assert_eq!(answer["multiValueHeaders"]["retry-after"], json!(["1"]), "{answer}");
    let problem: Value = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
    assert_eq!(problem["code"], "unavailable", "{problem}");
    assert!(reads.load(Ordering::SeqCst) >= 3, "it was not tried again");

    // An invocation is one line of its own in the log, within its span.
    let mut log = running.stderr.take().unwrap();
    running.kill().await.unwrap();
    let mut lines = String::new();
    log.read_to_string(&mut lines).await.unwrap();
    let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let answered: Vec<Value> = lines.filter(|line| line["message"] == "answered").collect();
    assert_eq!(answered.len(), 1, "{answered:?}");
    assert_eq!(answered[0]["status"], 503, "{answered:?}");
    assert!(answered[0]["duration_ms"].is_f64(), "{answered:?}");
    assert_eq!(answered[0]["span"]["function.name"], "get-project", "{answered:?}");
    assert_eq!(answered[0]["span"]["request.id"], "one", "{answered:?}");
}

/// What the emulator cannot show: the program streams, in the form that API Gateway takes.
pub(crate) async fn streams(aws: &AwsStack) {
    let project = aws.api.project("streamed").await;
    let id = project.rsplit('/').next().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let runtime = listener.local_addr().unwrap().to_string();
    let settings = [
        ("PVM_TABLE_APP", aws.outputs["AppTableName"].as_str()),
        ("PVM_TABLE_EVENTS", aws.outputs["EventsTableName"].as_str()),
    ];
    let mut running = program(aws, "ReadProjectEventsFunction", &runtime, &settings).spawn().unwrap();

    give(
        &listener,
        &event("/api/projects/{project_id}/events", &format!("{project}/events"), id, &aws.owner),
    )
    .await;

    let (first, headers, mut stream) = next(&listener).await;
    assert!(first.contains("/invocation/one/response"), "{first}");
    for needed in [
        "lambda-runtime-function-response-mode: streaming",
        "content-type: application/vnd.awslambda.http-integration-response",
        "transfer-encoding: chunked",
    ] {
        assert!(headers.iter().any(|header| header == needed), "no {needed}: {headers:?}");
    }
    let body: Vec<u8> = pieces(&mut stream).await.concat();
    let end = body.windows(8).position(|window| window == [0; 8]).unwrap();
    let prelude: Value = serde_json::from_slice(&body[..end]).unwrap();
    assert_eq!(prelude["statusCode"], 200, "{prelude}");
    let told: Value = serde_json::from_slice(&body[end + 8..]).unwrap();
    assert!(told["events"].is_array(), "{told}");
    running.kill().await.unwrap();
}

/// A request as API Gateway gives it to a function.
fn event(route: &str, path: &str, project: &str, owner: &str) -> String {
    json!({
        "resource": route,
        "path": path,
        "httpMethod": "GET",
        "headers": {"accept": "application/json"},
        "multiValueHeaders": {"accept": ["application/json"]},
        "queryStringParameters": {"after": "0"},
        "multiValueQueryStringParameters": {"after": ["0"]},
        "pathParameters": {"project_id": project},
        "stageVariables": null,
        "requestContext": {
            "resourcePath": route,
            "httpMethod": "GET",
            "path": format!("/live{path}"),
            "stage": "live",
            "identity": {},
            "requestId": "one",
            "accountId": "000000000000",
            "apiId": "test",
            "resourceId": "test",
            "authorizer": {"principalId": owner, "owner": owner, "scope": "admin"},
        },
        "body": null,
        "isBase64Encoded": false,
    })
    .to_string()
}
