//! Template builds: announced, given files, begun, watched.

use std::path::PathBuf;
use std::sync::Arc;

use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use pvm_e2b_wire::launch::LaunchLimits;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::Call;
use super::query::{Query, Span};
use super::reply::{Failure, Reply, json as reply, read};
use super::snapshots::check_name;
use super::templates::check_tag;
use crate::body;
use crate::engine::{Build, BuildLine, BuildRequest, Engine, EngineError, Step, limits_with};
use crate::templates::{DEFAULT_TAG, StartCommand, plain_name, tag_of};

/// Largest archive of files for one COPY step.
const MAX_ARCHIVE: u64 = 2 * 1024 * 1024 * 1024;
/// Most log lines of one answer.
const MAX_LINES: usize = 100;
/// Most CPUs and memory a template may ask for.
const MAX_CPUS: u32 = 64;
const MAX_MEMORY_MB: u64 = 256 * 1024;
/// Least memory that a sandbox works with, in MiB.
const MIN_MEMORY_MB: u64 = 128;

/// Body of `POST /v3/templates`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewTemplate {
    #[serde(default)]
    name: Option<String>,
    /// The older field for the name.
    #[serde(default)]
    alias: Option<String>,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    cpu_count: Option<u32>,
    #[serde(default, rename = "memoryMB")]
    memory_mb: Option<u64>,
}

/// Gives out the ids of a template to be built. Building under a known name replaces what the name stands for.
pub(super) async fn request(call: Call) -> Reply {
    let (engine, owner) = (call.engine, call.owner);
    let body: NewTemplate = read(call.request.into_body()).await?;
    let limits = body.limits(engine.config.limits)?;
    let (name, tags) = body.name_and_tags()?;
    let known = engine.templates.record(&name, &owner).map(|record| record.id);
    let (template_id, build_id) =
        engine.announce_build(&owner, known, vec![name.clone()], tags.clone(), limits);
    let answer = json!({
        "templateID": template_id,
        "buildID": build_id,
        "public": false,
        "names": [name],
        "aliases": [name],
        "tags": tags,
    });
    Ok(reply(StatusCode::ACCEPTED, &answer))
}

impl NewTemplate {
    /// The limits that were asked for, with the usual ones for what was not.
    fn limits(&self, usual: LaunchLimits) -> Result<LaunchLimits, Failure> {
        if self.cpu_count.is_some_and(|count| !(1..=MAX_CPUS).contains(&count)) {
            return Err(Failure::bad_request(format!("cpuCount must be 1 to {MAX_CPUS}")));
        }
        if self.memory_mb.is_some_and(|size| !(MIN_MEMORY_MB..=MAX_MEMORY_MB).contains(&size)) {
            return Err(Failure::bad_request(format!("memoryMB must be {MIN_MEMORY_MB} to {MAX_MEMORY_MB}")));
        }
        Ok(limits_with(usual, self.cpu_count, self.memory_mb))
    }

    /// The plain name, and the tags of the list and of the name; the usual one when there is none.
    fn name_and_tags(self) -> Result<(String, Vec<String>), Failure> {
        let name = self.name.or(self.alias).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| Failure::bad_request("name is required"))?;
        check_name(&name)?;
        let plain = plain_name(&name).to_owned();
        if matches!(plain.as_str(), "base" | "host") {
            return Err(Failure::bad_request(format!(
                "{plain} is a template of the server; choose another name"
            )));
        }
        let mut tags = self.tags.unwrap_or_default();
        tags.extend(tag_of(&name).map(str::to_owned));
        tags.iter().try_for_each(|tag| check_tag(tag))?;
        if tags.is_empty() {
            tags.push(DEFAULT_TAG.into());
        }
        Ok((plain, tags))
    }
}

/// Tells whether the files of a COPY step are here, and where to send them otherwise.
pub(super) fn file(call: &Call, id: &str, hash: &str) -> Reply {
    check_template(call, id)?;
    let path = archive_path(&call.engine, &call.owner, hash)?;
    if path.is_file() {
        return Ok(reply(StatusCode::CREATED, &json!({ "present": true })));
    }
    let host = call.request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.map_or_else(|| call.engine.domain(), str::to_owned);
    let token = call.engine.uploads.issue(path);
    Ok(reply(
        StatusCode::CREATED,
        &json!({ "present": false, "url": format!("http://{host}/template-files/{token}") }),
    ))
}

fn check_template(call: &Call, id: &str) -> Result<(), Failure> {
    let known = call.engine.builds.is_announced(&call.owner, id)
        || call.engine.templates.record(id, &call.owner).is_some();
    if known {
        Ok(())
    } else {
        Err(Failure::new(StatusCode::NOT_FOUND, format!("template {id:?} was not found")))
    }
}

/// Archives are kept per owner: knowing a hash is no right to the contents.
fn archive_path(engine: &Engine, owner: &str, hash: &str) -> Result<PathBuf, Failure> {
    use sha2::{Digest as _, Sha256};
    let is_hash = (16..=128).contains(&hash.len()) && hash.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !is_hash {
        return Err(Failure::bad_request("not a hash of files"));
    }
    let owner = hex::encode(&Sha256::digest(owner.as_bytes())[..8]);
    Ok(engine.layout.template_files().join(format!("{owner}-{hash}.tar")))
}

/// `PUT` of an archive to the URL that [`file`] gave out.
pub(super) async fn receive_file(engine: &Arc<Engine>, token: &str, request: Request<Incoming>) -> Reply {
    if request.method() != http::Method::PUT {
        return Err(Failure::new(StatusCode::METHOD_NOT_ALLOWED, "send the files with PUT"));
    }
    let unknown = || Failure::new(StatusCode::FORBIDDEN, "the upload URL is not valid any more");
    let path = engine.uploads.redeem(token).ok_or_else(unknown)?;
    let saving = EngineError::at("keeping the uploaded files");
    save(request.into_body(), &path).await.map_err(|error| match error {
        SaveError::TooLarge => {
            Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "the archive is larger than 2 GiB")
        }
        SaveError::BrokeOff => Failure::bad_request("the upload broke off"),
        SaveError::Io(error) => Failure::from(saving(error)),
    })?;
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::OK;
    Ok(response)
}

enum SaveError {
    TooLarge,
    BrokeOff,
    Io(std::io::Error),
}

impl From<std::io::Error> for SaveError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// Writes a body to a file that appears when it is whole.
async fn save(mut incoming: Incoming, path: &std::path::Path) -> Result<(), SaveError> {
    let beside = path.with_extension(format!("part-{}", crate::engine::new_id()));
    let result = async {
        let mut file = tokio::fs::File::create(&beside).await?;
        let mut written = 0_u64;
        while let Some(frame) = incoming.frame().await {
            let Ok(data) = frame.map_err(|_| SaveError::BrokeOff)?.into_data() else { continue };
            written += data.len() as u64;
            if written > MAX_ARCHIVE {
                return Err(SaveError::TooLarge);
            }
            file.write_all(&data).await?;
        }
        file.flush().await?;
        tokio::fs::rename(&beside, path).await?;
        Ok(())
    }
    .await;
    if result.is_err() {
        tokio::fs::remove_file(&beside).await.ok();
    }
    result
}

/// Body of `POST /v2/templates/{id}/builds/{buildID}`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StartBuild {
    #[serde(default)]
    from_image: Option<String>,
    #[serde(default)]
    from_template: Option<String>,
    #[serde(default)]
    steps: Option<Vec<StepBody>>,
    #[serde(default)]
    start_cmd: Option<String>,
    #[serde(default)]
    ready_cmd: Option<String>,
}

/// One step as it comes in.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StepBody {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    args: Option<Vec<String>>,
    #[serde(default)]
    files_hash: Option<String>,
}

pub(super) async fn start(call: Call, id: &str, build: &str) -> Reply {
    known_build(&call, id, build)?;
    let (engine, owner) = (call.engine, call.owner);
    let body: StartBuild = read(call.request.into_body()).await?;
    let from = source(&engine, &owner, &body)?;
    let steps = body
        .steps
        .unwrap_or_default()
        .into_iter()
        .map(|step| checked_step(&engine, &owner, step))
        .collect::<Result<Vec<_>, _>>()?;
    let text = |value: Option<String>| value.filter(|value| !value.trim().is_empty());
    let commands = StartCommand { start: text(body.start_cmd), ready: text(body.ready_cmd) };
    let start = Some(commands).filter(|commands| commands.start.is_some() || commands.ready.is_some());
    engine.begin_build(BuildRequest {
        owner,
        template_id: id.to_owned(),
        build_id: build.to_owned(),
        from,
        steps,
        start,
    })?;
    Ok(reply(StatusCode::ACCEPTED, &json!({})))
}

/// The template to build on. Images are not pulled: one is usable when its name is that of a root file system here.
fn source(engine: &Engine, owner: &str, body: &StartBuild) -> Result<String, Failure> {
    let given = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
    let known = |name: &str| engine.templates.resolve(name, owner).is_some();
    match (given(&body.from_template), given(&body.from_image)) {
        (Some(template), None) => {
            if known(&template) {
                Ok(template)
            } else {
                Err(Failure::bad_request(format!("fromTemplate: template {template:?} was not found")))
            }
        }
        (None, Some(image)) => {
            if known(&image) {
                Ok(image)
            } else {
                Err(Failure::bad_request(format!(
                    "fromImage: {image:?} would have to be pulled from a registry, which this server does not do; \
                     import its root file system, or build from the templates base or host"
                )))
            }
        }
        (None, None) => Ok("base".into()),
        (Some(_), Some(_)) => Err(Failure::bad_request("name fromTemplate or fromImage, not both")),
    }
}

fn checked_step(engine: &Engine, owner: &str, step: StepBody) -> Result<Step, Failure> {
    let kind = step.kind.to_ascii_uppercase();
    let mut arguments = step.args.unwrap_or_default().into_iter();
    let mut next = || arguments.next().filter(|argument| !argument.is_empty());
    let incomplete = || Failure::bad_request(format!("step {kind}: arguments are missing"));
    match kind.as_str() {
        "RUN" => Ok(Step::Run { command: next().ok_or_else(incomplete)?, user: next() }),
        "WORKDIR" => Ok(Step::Workdir(next().ok_or_else(incomplete)?)),
        "USER" => Ok(Step::User(next().ok_or_else(incomplete)?)),
        "ENV" => {
            let words: Vec<String> = arguments.collect();
            if words.is_empty()
                || !words.len().is_multiple_of(2)
                || words.iter().step_by(2).any(String::is_empty)
            {
                return Err(Failure::bad_request("step ENV: arguments must be names and values in turn"));
            }
            Ok(Step::Env(words.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()))
        }
        "COPY" | "ADD" => {
            let (source, target) = (next().ok_or_else(incomplete)?, next().ok_or_else(incomplete)?);
            let (user, mode) = (arguments.next(), arguments.next());
            let given = |value: Option<String>| value.filter(|value| !value.is_empty());
            let hash =
                step.files_hash.ok_or_else(|| Failure::bad_request("step COPY: filesHash is missing"))?;
            let archive = archive_path(engine, owner, &hash)?;
            if !archive.is_file() {
                return Err(Failure::bad_request("step COPY: its files have not been uploaded"));
            }
            Ok(Step::Copy { archive, source, target, user: given(user), mode: given(mode) })
        }
        other => {
            Err(Failure::bad_request(format!("step {other} is not one of RUN, COPY, ENV, WORKDIR, USER")))
        }
    }
}

fn known_build(call: &Call, id: &str, build: &str) -> Result<Build, Failure> {
    call.engine.builds.find(&call.owner, id, build).ok_or_else(|| missing(id, build))
}

fn missing(id: &str, build: &str) -> Failure {
    Failure::new(StatusCode::NOT_FOUND, format!("build {build:?} of template {id:?} was not found"))
}

/// Where a build is, with a part of its log.
pub(super) fn status(call: &Call, id: &str, build_id: &str) -> Reply {
    let build = known_build(call, id, build_id)?;
    let query = Query::of(&call.request);
    let offset = query.number("logsOffset", "a number")?.unwrap_or(0);
    let offset = usize::try_from(offset).map_err(|_| Failure::bad_request("logsOffset must be a number"))?;
    let lines = build.lines.iter().skip(offset).take(query.limit(MAX_LINES)?);
    let mut answer = json!({
        "templateID": id,
        "buildID": build_id,
        "status": build.state.name(),
        "logs": lines.clone().map(|line| line.message.as_str()).collect::<Vec<_>>(),
        "logEntries": lines.map(entry).collect::<Vec<_>>(),
    });
    if let Some(reason) = build.reason {
        answer["reason"] =
            json!({ "message": reason, "logEntries": failed_lines(&build.lines, build.failed_step) });
        if let Some(step) = build.failed_step {
            answer["reason"]["step"] = json!(step.to_string());
        }
    }
    Ok(reply(StatusCode::OK, &answer))
}

/// The last lines of the step that failed.
fn failed_lines(lines: &[BuildLine], step: Option<usize>) -> Vec<Value> {
    let of_step: Vec<&BuildLine> = lines.iter().filter(|line| step.is_some() && line.step == step).collect();
    of_step.iter().skip(of_step.len().saturating_sub(MAX_LINES)).map(|line| entry(line)).collect()
}

fn entry(line: &BuildLine) -> Value {
    let mut entry = json!({ "timestamp": line.at, "message": line.message, "level": line.level });
    if let Some(step) = line.step {
        entry["step"] = json!(step.to_string());
    }
    entry
}

/// Lines of a build's log from a cursor in Unix milliseconds on.
pub(super) fn logs(call: &Call, id: &str, build_id: &str) -> Reply {
    let build = known_build(call, id, build_id)?;
    let span = Span::of(&Query::of(&call.request), MAX_LINES)?;
    let lines = span.pick(build.lines.iter(), |line| line.at.as_millisecond());
    let entries: Vec<Value> = lines.into_iter().map(entry).collect();
    Ok(reply(StatusCode::OK, &json!({ "logs": entries })))
}
