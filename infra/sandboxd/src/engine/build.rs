//! Template builds: a sandbox from the template below, the steps run in it, and its files kept as a new layer.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::{Method, Request, header};
use jiff::Timestamp;
use pvm_e2b_wire::HEADER_ACCESS_TOKEN;
use pvm_e2b_wire::journal::{ReadRun, RunReport, RunState, SERVICE, StartRun};
use pvm_e2b_wire::launch::LaunchLimits;
use pvm_e2b_wire::process::ProcessConfig;

use super::create::new_id;
use super::{CreateRequest, End, Engine, EngineError, Sandbox};
use crate::body;
use crate::envd::EnvdError;
use crate::templates::{Origin, StartCommand, TemplateBuild, TemplateKind, TemplateRecord, new_uuid};

/// How long one step may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(3600);
/// How long one call waits for a step's end.
const STEP_POLL: Duration = Duration::from_secs(20);
/// How long a start command's own check may need until it succeeds.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause between two checks.
const READY_EVERY: Duration = Duration::from_millis(250);
/// How long a build's sandbox may live.
const BUILD_LIFETIME_MS: u64 = 4 * 3600 * 1000;
/// Log lines kept of one build; the oldest go first.
const MAX_LOG_LINES: usize = 10_000;
/// Builds remembered; the oldest finished ones are forgotten.
const MAX_BUILDS: usize = 1000;
/// User that a build's commands run as until a step says otherwise.
const BUILD_USER: &str = "root";

/// One step of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Runs a shell command.
    Run { command: String, user: Option<String> },
    /// Puts files from an uploaded archive in place.
    Copy { archive: PathBuf, source: String, target: String, user: Option<String>, mode: Option<String> },
    /// Sets variables for later steps and for the template's sandboxes.
    Env(Vec<(String, String)>),
    /// Sets the working directory for later steps and for the template's sandboxes.
    Workdir(String),
    /// Sets the user for later steps and for the template's sandboxes.
    User(String),
}

/// A checked request for a build.
#[derive(Debug, Clone)]
pub(crate) struct BuildRequest {
    pub(crate) owner: String,
    pub(crate) template_id: String,
    pub(crate) build_id: String,
    /// Template to start from.
    pub(crate) from: String,
    pub(crate) steps: Vec<Step>,
    pub(crate) start: Option<StartCommand>,
}

/// Where a build is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BuildState {
    /// Its steps have not been sent.
    Waiting,
    /// Its steps are run.
    Building,
    /// The template can be used.
    Ready,
    /// A step failed.
    Failed,
}

/// A line of a build's log.
#[derive(Debug, Clone)]
pub(crate) struct BuildLine {
    pub(crate) at: Timestamp,
    pub(crate) level: &'static str,
    pub(crate) message: String,
    /// Number of the step, from 1 on.
    pub(crate) step: Option<usize>,
}

/// A build.
#[derive(Debug, Clone)]
pub(crate) struct Build {
    pub(crate) owner: String,
    pub(crate) template_id: String,
    pub(crate) names: Vec<String>,
    pub(crate) tags: Vec<String>,
    pub(crate) limits: LaunchLimits,
    pub(crate) state: BuildState,
    pub(crate) lines: Vec<BuildLine>,
    /// Why it failed.
    pub(crate) reason: Option<String>,
    /// Number of the step that failed.
    pub(crate) failed_step: Option<usize>,
    begun_at_ms: u64,
}

/// Builds by id. Not stored: a build does not outlive its server, its result does.
#[derive(Debug, Default)]
pub(crate) struct Builds(Mutex<HashMap<String, Build>>);

impl Builds {
    /// A build of `owner` for a template.
    pub(crate) fn find(&self, owner: &str, template_id: &str, build_id: &str) -> Option<Build> {
        let builds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        builds.get(build_id).filter(|build| build.owner == owner && build.template_id == template_id).cloned()
    }

    /// Whether the template id was given out to `owner` and has no result yet.
    pub(crate) fn is_announced(&self, owner: &str, template_id: &str) -> bool {
        let builds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        builds.values().any(|build| build.owner == owner && build.template_id == template_id)
    }

    fn change(&self, build_id: &str, change: impl FnOnce(&mut Build)) {
        if let Some(build) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(build_id) {
            change(build);
        }
    }

    fn log(&self, build_id: &str, level: &'static str, step: Option<usize>, text: &str) {
        self.change(build_id, |build| {
            for line in text.lines().filter(|line| !line.trim().is_empty()) {
                if build.lines.len() == MAX_LOG_LINES {
                    build.lines.remove(0);
                }
                build.lines.push(BuildLine { at: Timestamp::now(), level, message: line.to_owned(), step });
            }
        });
    }
}

/// What steps have set so far.
struct Settings {
    env: BTreeMap<String, String>,
    workdir: Option<String>,
    user: Option<String>,
}

impl Engine {
    /// Gives out the ids of a template to be built.
    pub(crate) fn announce_build(
        &self,
        owner: &str,
        template_id: Option<String>,
        names: Vec<String>,
        tags: Vec<String>,
        limits: LaunchLimits,
    ) -> (String, String) {
        let template_id = template_id.unwrap_or_else(new_id);
        let build_id = new_uuid();
        let build = Build {
            owner: owner.to_owned(),
            template_id: template_id.clone(),
            names,
            tags,
            limits,
            state: BuildState::Waiting,
            lines: Vec::new(),
            reason: None,
            failed_step: None,
            begun_at_ms: self.now_ms(),
        };
        let mut builds = self.builds.0.lock().unwrap_or_else(PoisonError::into_inner);
        if builds.len() >= MAX_BUILDS {
            let oldest = builds
                .iter()
                .filter(|(_, build)| build.state != BuildState::Building)
                .min_by_key(|(_, build)| build.begun_at_ms)
                .map(|(id, _)| id.clone());
            if let Some(oldest) = oldest {
                builds.remove(&oldest);
            }
        }
        builds.insert(build_id.clone(), build);
        (template_id, build_id)
    }

    /// Runs an announced build in the background.
    pub(crate) fn begin_build(self: &Arc<Self>, request: BuildRequest) -> Result<(), EngineError> {
        let mut begun = false;
        self.builds.change(&request.build_id, |build| {
            begun = build.state == BuildState::Waiting;
            build.state = BuildState::Building;
        });
        if !begun {
            return Err(EngineError::Conflict(format!("build {} has begun already", request.build_id)));
        }
        let engine = Arc::clone(self);
        self.tasks.spawn(async move {
            let build_id = request.build_id.clone();
            let result = tokio::select! {
                result = engine.build(request) => result,
                () = engine.stopping.cancelled() => Err("the server was stopped".into()),
            };
            match result {
                Ok(()) => {
                    engine.builds.log(&build_id, "info", None, "Build finished");
                    engine.builds.change(&build_id, |build| build.state = BuildState::Ready);
                }
                Err(reason) => {
                    engine.builds.log(&build_id, "error", None, &reason);
                    engine.builds.change(&build_id, |build| {
                        build.state = BuildState::Failed;
                        build.reason = Some(reason);
                    });
                }
            }
        });
        Ok(())
    }

    async fn build(self: &Arc<Self>, request: BuildRequest) -> Result<(), String> {
        self.builds.log(&request.build_id, "info", None, &format!("Building from {}", request.from));
        let sandbox = self
            .create(CreateRequest {
                owner: request.owner.clone(),
                template: request.from.clone(),
                timeout_ms: BUILD_LIFETIME_MS,
                end: End::Kill,
                auto_resume: false,
                secure: true,
                metadata: BTreeMap::from([("pvm.build".into(), request.build_id.clone())]),
                env_vars: BTreeMap::new(),
                network: None,
                allow_internet_access: None,
                idempotency_key: None,
            })
            .await
            .map_err(|error| error.to_string())?;
        let result = self.build_in(&sandbox, &request).await;
        if let Err(error) = self.kill(&sandbox).await {
            tracing::warn!(sandbox.id = sandbox.id(), %error, "a build's sandbox was not removed");
        }
        result
    }

    async fn build_in(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        request: &BuildRequest,
    ) -> Result<(), String> {
        let mut settings = Settings { env: BTreeMap::new(), workdir: None, user: None };
        for (index, step) in request.steps.iter().enumerate() {
            let number = index + 1;
            if let Err(reason) = self.take_step(sandbox, request, number, step, &mut settings).await {
                self.builds.change(&request.build_id, |build| build.failed_step = Some(number));
                return Err(format!("step {number} failed: {reason}"));
            }
        }
        let build = self
            .builds
            .find(&request.owner, &request.template_id, &request.build_id)
            .ok_or_else(|| "the build was forgotten".to_owned())?;
        let before = sandbox.snapshot();
        let changed = Origin {
            user: settings.user.unwrap_or_else(|| before.origin.user.clone()),
            workdir: settings.workdir.or_else(|| before.origin.workdir.clone()),
            ..before.origin
        };
        let origin = self.keep_files(sandbox, Some(changed)).await.map_err(|error| error.to_string())?;
        let mut env = before.env_vars;
        env.extend(settings.env);
        let made = TemplateBuild {
            id: request.build_id.clone(),
            created_at_ms: self.now_ms(),
            origin,
            env,
            limits: Some(build.limits),
            start: request.start.clone(),
        };
        let known = self.templates.record(&request.template_id, &request.owner);
        let template = match known {
            Some(mut known) => {
                known.add_build(made, &build.tags);
                known
            }
            None => TemplateRecord::new(
                request.template_id.clone(),
                request.owner.clone(),
                build.names.first().cloned(),
                TemplateKind::Built,
                made,
                &build.tags,
            ),
        };
        self.templates.save(template).map_err(|error| format!("recording the template: {error}"))
    }

    async fn take_step(
        &self,
        sandbox: &Arc<Sandbox>,
        request: &BuildRequest,
        number: usize,
        step: &Step,
        settings: &mut Settings,
    ) -> Result<(), String> {
        let say = |text: &str| self.builds.log(&request.build_id, "info", Some(number), text);
        match step {
            Step::Env(variables) => {
                say(&format!(
                    "ENV {}",
                    variables.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" ")
                ));
                settings.env.extend(variables.iter().cloned());
                Ok(())
            }
            Step::Workdir(path) => {
                say(&format!("WORKDIR {path}"));
                let user = settings
                    .user
                    .clone()
                    .unwrap_or_else(|| sandbox.with(|record| record.origin.user.clone()));
                let script = format!("mkdir -p -- {0} && chown {1} -- {0}", quoted(path), quoted(&user));
                self.run_step(sandbox, request, number, BUILD_USER, &script, settings).await?;
                settings.workdir = Some(path.clone());
                Ok(())
            }
            Step::User(user) => {
                say(&format!("USER {user}"));
                self.run_step(
                    sandbox,
                    request,
                    number,
                    BUILD_USER,
                    &format!("id -- {}", quoted(user)),
                    settings,
                )
                .await?;
                settings.user = Some(user.clone());
                Ok(())
            }
            Step::Run { command, user } => {
                say(&format!("RUN {command}"));
                let user = user.clone().or_else(|| settings.user.clone());
                let user = user.unwrap_or_else(|| sandbox.with(|record| record.origin.user.clone()));
                self.run_step(sandbox, request, number, &user, command, settings).await
            }
            Step::Copy { archive, source, target, user, mode } => {
                say(&format!("COPY {source} {target}"));
                self.upload(sandbox, archive, &format!("/tmp/.pvm-copy-{number}")).await?;
                let owner = user.clone().or_else(|| settings.user.clone());
                let owner = owner.unwrap_or_else(|| sandbox.with(|record| record.origin.user.clone()));
                let script = copy_script(number, source, target, &owner, mode.as_deref());
                self.run_step(sandbox, request, number, BUILD_USER, &script, settings).await
            }
        }
    }

    /// Runs a command of a step to its end, with its output in the build's log.
    async fn run_step(
        &self,
        sandbox: &Arc<Sandbox>,
        request: &BuildRequest,
        number: usize,
        user: &str,
        script: &str,
        settings: &Settings,
    ) -> Result<(), String> {
        let start = StartRun {
            // Unique for each command of a step: user changes and the like have one as well.
            run_id: format!("build-{number}-{}", new_id()),
            process: ProcessConfig {
                cmd: "/bin/bash".into(),
                args: vec!["-l".into(), "-c".into(), script.to_owned()],
                envs: settings.env.clone(),
                cwd: settings.workdir.clone(),
            },
            timeout_ms: u64::try_from(STEP_TIMEOUT.as_millis()).ok(),
            wait_ms: u64::try_from(STEP_POLL.as_millis()).ok(),
            ..StartRun::default()
        };
        let mut report =
            run_call(sandbox, "Start", &start, Some(user)).await.map_err(|error| error.to_string())?;
        let (mut stdout, mut stderr) = (0, 0);
        loop {
            for (chunk, level) in [(&report.stdout, "info"), (&report.stderr, "info")] {
                self.builds.log(
                    &request.build_id,
                    level,
                    Some(number),
                    &String::from_utf8_lossy(&chunk.data),
                );
            }
            let done = report.stdout.next >= report.stdout.total && report.stderr.next >= report.stderr.total;
            if report.state.is_final() && done {
                break;
            }
            (stdout, stderr) = (report.stdout.next.max(stdout), report.stderr.next.max(stderr));
            let read = ReadRun {
                run_id: start.run_id.clone(),
                stdout_offset: stdout,
                stderr_offset: stderr,
                wait_ms: start.wait_ms,
                ..ReadRun::default()
            };
            report = run_call(sandbox, "Read", &read, Some(user)).await.map_err(|error| error.to_string())?;
        }
        match (report.state, report.exit_code) {
            (RunState::Exited, Some(0)) => Ok(()),
            (RunState::Exited, Some(code)) => Err(format!("the command exited with status {code}")),
            (state, _) => Err(format!(
                "the command ended as {} ({})",
                state.as_str(),
                report.reason.or(report.signal).unwrap_or_default()
            )),
        }
    }

    async fn upload(&self, sandbox: &Sandbox, archive: &PathBuf, path: &str) -> Result<(), String> {
        let contents =
            tokio::fs::read(archive).await.map_err(|error| format!("the uploaded files: {error}"))?;
        let runtime = sandbox.running().ok_or("the build's sandbox has ended")?;
        let token = sandbox.with(|record| record.envd_token.clone()).unwrap_or_default();
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("/files?path={path}&username=root"))
            .header(header::HOST, "envd")
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(HEADER_ACCESS_TOKEN, token.expose())
            .body(body::full(contents))
            .map_err(|error| error.to_string())?;
        runtime
            .envd
            .control_request(request, STEP_TIMEOUT)
            .await
            .map(|_| ())
            .map_err(|error| error.to_string())
    }

    /// Starts what a built template runs in its sandboxes, and waits a while until it is ready. That it is not is
    /// noted; the sandbox is there all the same.
    pub(super) async fn run_start_command(&self, sandbox: &Arc<Sandbox>, start: &StartCommand) {
        let shell = |script: &str| ProcessConfig {
            cmd: "/bin/bash".into(),
            args: vec!["-l".into(), "-c".into(), script.to_owned()],
            ..ProcessConfig::default()
        };
        let run =
            StartRun { run_id: "template-start".into(), process: shell(&start.start), ..StartRun::default() };
        if let Err(error) = run_call(sandbox, "Start", &run, None).await {
            sandbox.note(
                self.now_ms(),
                "error",
                &format!("The template's start command was not started: {error}"),
            );
            return;
        }
        let Some(ready) = &start.ready else { return };
        let limit = tokio::time::Instant::now() + READY_TIMEOUT;
        while tokio::time::Instant::now() < limit {
            let check = StartRun {
                run_id: format!("template-ready-{}", new_id()),
                process: shell(ready),
                wait_ms: Some(10_000),
                timeout_ms: Some(10_000),
                ..StartRun::default()
            };
            match run_call(sandbox, "Start", &check, None).await {
                Ok(report) if report.exit_code == Some(0) => return,
                Ok(_) => tokio::time::sleep(READY_EVERY).await,
                Err(_) => break,
            }
        }
        sandbox.note(self.now_ms(), "warn", "The template's start command is not ready");
    }
}

/// Calls the sandbox's run journal.
async fn run_call(
    sandbox: &Sandbox,
    method: &str,
    message: &impl serde::Serialize,
    user: Option<&str>,
) -> Result<RunReport, EnvdError> {
    let runtime = sandbox.running().ok_or(EnvdError::Unresponsive)?;
    let document = serde_json::to_vec(message).map_err(|_| EnvdError::Unresponsive)?;
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(format!("{SERVICE}{method}"))
        .header(header::HOST, "envd")
        .header(header::CONTENT_TYPE, "application/json");
    if let Some(user) = user {
        let credentials = base64::engine::general_purpose::STANDARD.encode(format!("{user}:"));
        request = request.header(header::AUTHORIZATION, format!("Basic {credentials}"));
    }
    let request = request.body(body::full(document)).map_err(EnvdError::Request)?;
    let answer: Bytes = runtime.envd.control_request(request, STEP_POLL * 2).await?;
    serde_json::from_slice(&answer).map_err(|_| EnvdError::Unresponsive)
}

/// A word for the shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Unpacks the archive of a COPY step and puts what it names in place, as `cp` in a Dockerfile would.
fn copy_script(number: usize, source: &str, target: &str, owner: &str, mode: Option<&str>) -> String {
    let archive = format!("/tmp/.pvm-copy-{number}");
    let chmod = mode
        .filter(|mode| !mode.is_empty())
        .map_or(String::new(), |mode| format!("chmod -R {} -- \"$staged\"/*\n", quoted(mode)));
    // The source may contain wildcards: it is expanded, each word by itself.
    let pattern: String = source
        .trim_start_matches('/')
        .chars()
        .flat_map(|character| {
            let plain = character.is_alphanumeric() || "*?[]./_-".contains(character);
            if plain { vec![character] } else { vec!['\\', character] }
        })
        .collect();
    format!(
        "set -e\nunpacked=$(mktemp -d)\nstaged=$(mktemp -d)\ntrap 'rm -rf \"$unpacked\" \"$staged\" {archive}' EXIT\n\
         tar -xf {archive} -C \"$unpacked\"\ncd \"$unpacked\"\nshopt -s dotglob nullglob\n\
         target={target}\nitems=( {pattern} )\n\
         if [ ${{#items[@]}} -eq 0 ]; then echo 'nothing matches the source of COPY' >&2; exit 1; fi\n\
         single=\nif [ ${{#items[@]}} -eq 1 ] && [ ! -d \"${{items[0]}}\" ]; then single=1; fi\n\
         for item in \"${{items[@]}}\"; do\n\
           if [ -d \"$item\" ]; then cp -a -- \"$item\"/. \"$staged\"/; else cp -a -- \"$item\" \"$staged\"/; fi\ndone\n\
         chown -R {owner} -- \"$staged\"\n{chmod}\
         case $target in */) is_folder=1 ;; *) is_folder= ;; esac\n\
         if [ -n \"$single\" ] && [ -z \"$is_folder\" ] && [ ! -d \"$target\" ]; then\n\
           mkdir -p -- \"$(dirname -- \"$target\")\"\n  for item in \"$staged\"/*; do cp -a -- \"$item\" \"$target\"; done\n\
         else\n  [ -d \"$target\" ] || {{ mkdir -p -- \"$target\"; chown {owner} -- \"$target\"; }}\n\
           for item in \"$staged\"/*; do cp -a -- \"$item\" \"$target\"/; done\nfi\n",
        target = quoted(target),
        owner = quoted(owner),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_the_shell() {
        assert_eq!(quoted("a'b"), "'a'\\''b'");
    }

    #[test]
    fn a_copy_script_is_valid_shell() {
        let script = copy_script(1, "dir name/*.txt", "/app/'x'/", "user", Some("644"));
        let status = std::process::Command::new("bash").arg("-n").arg("-c").arg(&script).status().unwrap();
        assert!(status.success(), "{script}");
        assert!(script.contains("items=( dir\\ name/*.txt )"));
    }
}
