//! How big the shipped Lambda programs are, how soon they ask for work, and how much memory they hold after their first
//! request: `bench_lambda [--rounds N] PROGRAM...`. A stand-in for Lambda's runtime interface gives each program one
//! event; what the program then needs (DynamoDB and so on) is not there, so its answer is an error, told at once.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a bench talks to the person at the terminal and fails by panicking"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The longest wait for anything: a program that hangs is a failure, not a figure.
const PATIENCE: Duration = Duration::from_secs(30);
/// An API Gateway request of no route in particular: every program can read it and answer.
const HTTP_EVENT: &str = r#"{"resource":"/healthz","path":"/healthz","httpMethod":"GET","headers":{},"multiValueHeaders":{},
"queryStringParameters":null,"multiValueQueryStringParameters":null,"pathParameters":null,"stageVariables":null,
"requestContext":{"resourcePath":"/healthz","httpMethod":"GET","path":"/live/healthz","stage":"live","identity":{},
"requestId":"bench","accountId":"123456789012","apiId":"bench","resourceId":"bench"},"body":null,"isBase64Encoded":false}"#;

struct Figures {
    to_first_poll: Duration,
    rss_kib: u64,
}

/// One run of a program, from its start to the answer to its first event.
fn run(program: &Path, listener: &TcpListener) -> Figures {
    let api = listener.local_addr().unwrap().to_string();
    let started = Instant::now();
    let mut child = start(program, &api);
    let polled = request(listener);
    let to_first_poll = started.elapsed();
    assert!(polled.0.contains("/invocation/next"), "{}", polled.0);
    respond(
        polled.1,
        &[("Lambda-Runtime-Aws-Request-Id", "bench"), ("Lambda-Runtime-Deadline-Ms", "99999999999999")],
        HTTP_EVENT,
    );
    let answered = request(listener);
    assert!(answered.0.contains("/invocation/bench/"), "{}", answered.0);
    let rss_kib = resident(child.id());
    drop(answered);
    child.kill().unwrap();
    child.wait().unwrap();
    Figures { to_first_poll, rss_kib }
}

fn start(program: &Path, api: &str) -> Child {
    Command::new(program)
        .env_clear()
        .envs([
            ("AWS_LAMBDA_RUNTIME_API", api),
            ("AWS_LAMBDA_FUNCTION_NAME", "bench"),
            ("AWS_LAMBDA_FUNCTION_VERSION", "1"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
            ("AWS_LAMBDA_LOG_GROUP_NAME", "bench"),
            ("AWS_LAMBDA_LOG_STREAM_NAME", "bench"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "bench"),
            ("AWS_SECRET_ACCESS_KEY", "bench"),
            // Nothing listens there: a call fails at once.
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
            ("PVM_TABLE_APP", "bench"),
            ("PVM_TABLE_EVENTS", "bench"),
            ("PVM_BUCKET", "bench"),
            ("PVM_ACCOUNT", "123456789012"),
            ("PVM_SIGNING_KEY", "0123456789abcdef0123456789abcdef"),
            ("PVM_SAVE_QUEUE_URL", "http://127.0.0.1:9/queue"),
            ("E2B_API_KEY", "bench"),
            ("PVM_LOG_FORMAT", "json"),
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}

/// The first line of the next request, and where to answer it.
fn request(listener: &TcpListener) -> (String, TcpStream) {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut first = String::new();
    reader.read_line(&mut first).unwrap();
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        if header.trim().is_empty() {
            break;
        }
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    (first, stream)
}

fn respond(mut stream: TcpStream, headers: &[(&str, &str)], body: &str) {
    // Closing after each answer keeps this server to one connection at a time.
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n", body.len()).unwrap();
    for (name, value) in headers {
        write!(stream, "{name}: {value}\r\n").unwrap();
    }
    write!(stream, "\r\n{body}").unwrap();
}

fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// How long this machine takes to start any program: the baseline of the ratios.
fn plain_start() -> Duration {
    let started = Instant::now();
    Command::new("/bin/true").status().unwrap();
    started.elapsed()
}

fn median<T: Copy + Ord>(mut values: Vec<T>) -> T {
    values.sort_unstable();
    values[values.len() / 2]
}

fn main() {
    let mut rounds = 21;
    let mut programs = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--rounds" {
            rounds = arguments.next().and_then(|count| count.parse().ok()).expect("--rounds takes a number");
        } else {
            programs.push(argument);
        }
    }
    assert!(!programs.is_empty(), "name at least one program");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let baseline = median((0..rounds).map(|_| plain_start()).collect());
    println!(
        "baseline: starting /bin/true takes {:.2} ms (median of {rounds})",
        baseline.as_secs_f64() * 1000.0
    );
    println!("{:<28} {:>9} {:>14} {:>7} {:>12}", "program", "size", "to first poll", "ratio", "RSS after 1");
    for program in programs {
        let path = Path::new(&program);
        let size = std::fs::metadata(path).unwrap_or_else(|error| panic!("{program}: {error}")).len();
        let figures: Vec<Figures> = (0..rounds).map(|_| run(path, &listener)).collect();
        let first = median(figures.iter().map(|it| it.to_first_poll).collect());
        let rss = median(figures.iter().map(|it| it.rss_kib).collect());
        println!(
            "{:<28} {:>6.2} MB {:>11.2} ms {:>6.1}x {:>9.1} MB",
            path.file_name().unwrap().to_string_lossy(),
            size as f64 / 1e6,
            first.as_secs_f64() * 1000.0,
            first.as_secs_f64() / baseline.as_secs_f64(),
            rss as f64 / 1024.0
        );
    }
}
