//! `make demo`: the main job on real input, over HTTP only, as a user would do it. Every fact it tells is checked; it
//! fails with the first that does not hold.

mod client;
mod print;
mod seen;
mod stack;

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use client::Client;
use print::{fact, say, step};
use seen::Seen;
use stack::Stack;
use tokio::signal::unix::{SignalKind, signal};

/// The message that the recording with the package registry answers to.
const ONLINE: &str = "Build a Flask web app with user authentication";
/// The message of the recording that needs no registry.
const OFFLINE: &str = "Build a web app with user authentication from the Python standard library";
/// Daily weather of Seattle, 2012 to 2015 (NOAA).
const CSV: &[u8] = include_bytes!("../../demo/seattle-weather.csv");
const CSV_DAYS: usize = 1461;
/// How long the conversation may take: a venv and two packages from a registry on a busy machine.
const RUN_WITHIN: Duration = Duration::from_mins(10);

/// What the demo works with.
#[derive(Debug, Clone)]
pub struct Options {
    /// A running stack; absent means to look at the default address and to start one if nothing answers.
    pub url: Option<String>,
    /// Its key; absent means the one in the state folder.
    pub api_key: Option<String>,
    /// Leave the project (and a stack that was started) running at the end.
    pub keep: bool,
}

/// Runs the demo.
///
/// # Errors
/// Says which fact did not hold.
pub async fn run(options: Options) -> anyhow::Result<()> {
    say(
        "The models' words in this demo are a recording (provider `replay`, infra/local/demo/); all that the agents do is real.",
    );
    let started = Instant::now();
    let interrupted = interrupted()?;
    tokio::pin!(interrupted);
    // Dropped in the middle of it, a stack that is just being started ends.
    let stack = tokio::select! {
        found = stack::find_or_start(&options) => found?,
        () = &mut interrupted => bail!("interrupted"),
    };
    let (result, keep) = tokio::select! {
        result = main_job(&stack, options.keep) => (result, options.keep),
        () = &mut interrupted => (Err(anyhow::anyhow!("interrupted")), false),
    };
    match &result {
        Ok(()) => say(&format!("All facts hold ({:.0} s).", started.elapsed().as_secs_f64())),
        Err(error) => say(&format!("FAILED: {error:#}")),
    }
    if keep {
        stack.leave();
    } else {
        stack.stop().await?;
    }
    result
}

/// Ends at the first Ctrl-C, request to end, or loss of the terminal.
fn interrupted() -> anyhow::Result<impl Future<Output = ()>> {
    let [mut interrupt, mut terminate, mut hangup] =
        [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?];
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}

async fn main_job(stack: &Stack, keep: bool) -> anyhow::Result<()> {
    let client = &stack.client()?;
    let has_base = stack.has_base().await;
    step("Create a project with its own VM");
    let project = client
        .post("/api/projects", &json!({"name": "AI Web App", "description": "Building a web app with agents", "auto_setup_vm": true}))
        .await?;
    let id = text(&project, "project_id")?.to_owned();
    let base = format!("/api/projects/{id}");
    let result = in_project(client, &base, has_base).await;
    if result.is_ok() && !keep {
        step("Delete the project");
        client.delete(&base).await?;
        ensure!(client.status_of(&base).await? == 404, "the project is still there after its deletion");
        fact("the project is gone (404)");
    } else {
        say(&format!("The project stays for a look: {id}"));
    }
    result
}

async fn in_project(client: &Client, base: &str, has_base: bool) -> anyhow::Result<()> {
    let status = until(Duration::from_mins(2), "the VM to become active", async || {
        let status = client.get(&format!("{base}/status")).await?;
        match text(&status, "vm_status")? {
            "active" => Ok(Some(status)),
            "failed" => bail!("the VM could not be set up: {}", status["reason"]),
            _ => Ok(None),
        }
    })
    .await?;
    ensure!(!has_base || status["template"] == "base", "the VM has the template {}", status["template"]);
    fact(&format!("the VM is active (template {}, isolation {})", status["template"], status["isolation"]));

    step("Upload a real CSV, which syncs into the VM");
    let file = client.upload(&format!("{base}/files?path=data/seattle-weather.csv"), CSV).await?;
    ensure!(file["size"] == CSV.len(), "the stored size is {}", file["size"]);
    let path = format!("{base}/files/{}", text(&file, "file_id")?);
    until(Duration::from_secs(30), "the file to be in the VM", async || {
        Ok((client.get(&path).await?["sync_status"] == "synced").then_some(()))
    })
    .await?;
    let lines = command(client, base, "wc -l < data/seattle-weather.csv").await?;
    ensure!(lines.trim() == (CSV_DAYS + 1).to_string(), "the VM counts {} lines", lines.trim());
    fact(&format!("the VM has all {CSV_DAYS} days of it"));

    step("Is a package registry in reach of the VM?");
    let reach = "pip download --quiet --no-deps --no-cache-dir -d /tmp/reach itsdangerous 2>&1 || true; ls /tmp/reach 2>/dev/null";
    let online = command(client, base, reach).await?.contains("itsdangerous");
    let message = if online { ONLINE } else { OFFLINE };
    if online {
        fact("yes: flask will come from the registry, through the VM's egress proxy");
    } else {
        say("  no registry in reach: running the variant with the Python standard library only");
    }

    step(&format!("Conversation of dev_agent and designer_agent: \"{message}\""));
    let conversation = client
        .post(
            &format!("{base}/conversations"),
            &json!({"agent_ids": ["dev_agent", "designer_agent"], "initial_message": message}),
        )
        .await?;
    let mut seen = Seen::default();
    let finished = follow(client, base, text(&conversation, "conversation_id")?, &mut seen).await?;
    ensure!(finished["data"]["outcome"] == "completed", "the run ended with {}", finished["data"]);

    step("Check what the agents made");
    seen.check()?;
    checks(client, base, online).await?;
    step("The status document");
    let status = client.get(&format!("{base}/status")).await?;
    say(&serde_json::to_string_pretty(&status)?);
    ensure!(status["files"]["total"].as_u64() >= Some(5), "too few files are recorded");
    ensure!(status["files"]["total"] == status["files"]["synced"], "not all files are synced");
    let services = status["services"].as_array();
    let is_told = services.is_some_and(|all| {
        all.iter().any(|service| service["name"] == "web-app" && service["status"] == "running")
    });
    ensure!(is_told, "the status document does not tell of the running service");
    ensure!(status["last_activity"].is_string(), "last_activity is missing");
    Ok(())
}

/// Shows the events of the run as they stream; answers its `run.finished`.
async fn follow(client: &Client, base: &str, conversation: &str, seen: &mut Seen) -> anyhow::Result<Value> {
    let path = format!("{base}/conversations/{conversation}/events");
    let work = client.events(&path, |event| {
        print::event(event);
        seen.note(event);
        event["type"] == "run.finished"
    });
    tokio::time::timeout(RUN_WITHIN, work).await.context("the run did not finish in 10 minutes")?
}

async fn checks(client: &Client, base: &str, online: bool) -> anyhow::Result<()> {
    if online {
        let venv = command(
            client,
            base,
            "app/venv/bin/python -c 'import sys; print(sys.prefix != sys.base_prefix)'",
        )
        .await?;
        ensure!(venv.trim() == "True", "there is no venv in /workspace/app/venv");
        let packages = command(client, base, "app/venv/bin/pip list --format=freeze").await?.to_lowercase();
        ensure!(packages.contains("flask=="), "flask is not installed: {packages}");
        ensure!(packages.contains("flask-login=="), "flask-login is not installed: {packages}");
        fact("a venv with flask and flask-login from the registry");
    }
    let summary = command(client, base, "cat summary.csv").await?;
    let days: usize =
        summary.lines().skip(1).filter_map(|line| line.split(',').nth(1)?.parse::<usize>().ok()).sum();
    ensure!(days == CSV_DAYS, "the summary counts {days} days");
    fact("summary.csv, made by a python script in the VM, counts every day of the CSV");
    // What the agents wrote is saved shortly after; the status document must then count it.
    until(Duration::from_secs(30), "the files to be saved", async || {
        let files = client.get(&format!("{base}/files?limit=1000")).await?;
        let has = |path: &str| {
            files["items"].as_array().is_some_and(|all| all.iter().any(|file| file["path"] == path))
        };
        Ok((has("app/app.py") && has("app/templates/base.html") && has("summary.csv")).then_some(()))
    })
    .await?;
    fact("app.py and the templates are stored outside the VM too");
    let service = until(Duration::from_secs(30), "the service to run", async || {
        let services = client.get(&format!("{base}/services")).await?;
        let found = services["items"]
            .as_array()
            .and_then(|all| all.iter().find(|one| one["name"] == "web-app").cloned());
        Ok(found.filter(|service| service["status"] == "running"))
    })
    .await?;
    fact(&format!("the service `web-app` runs on port {}", service["port"]));
    let url = text(&service, "url")?;
    client.log_in(url, "ada", "correct horse battery").await?;
    fact(&format!("login works at {}", url.split('?').next().unwrap_or(url)));
    Ok(())
}

/// Runs a shell line in the VM, which must succeed; answers its standard output.
async fn command(client: &Client, base: &str, line: &str) -> anyhow::Result<String> {
    let mut done =
        client.post(&format!("{base}/vm/command"), &json!({"command": line, "timeout_secs": 120})).await?;
    let id = text(&done, "command_id")?.to_owned();
    while done["status"] == "running" {
        done = client.get(&format!("{base}/vm/commands/{id}?wait=20")).await?;
    }
    ensure!(done["exit_code"] == 0, "`{line}` ended with {}: {}", done["exit_code"], done["stderr"]);
    Ok(text(&done, "stdout")?.to_owned())
}

fn text<'a>(value: &'a Value, field: &str) -> anyhow::Result<&'a str> {
    value[field].as_str().with_context(|| format!("the answer has no `{field}`: {value}"))
}

/// Looks again until there is something.
async fn until<T>(
    within: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        ensure!(start.elapsed() < within, "waited {} s for {what}", within.as_secs());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
