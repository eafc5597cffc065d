//! Template builds: a sandbox from the template below, the steps run in it, and its files kept as a new layer.

mod steps;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use pvm_e2b_wire::launch::LaunchLimits;

use super::create::new_id;
use super::{CreateRequest, End, Engine, EngineError, Sandbox};
use crate::templates::{Origin, StartCommand, TemplateBuild, TemplateKind, TemplateRecord, new_uuid};

/// How long a build's sandbox may live.
const BUILD_LIFETIME_MS: u64 = 4 * 3600 * 1000;
/// Log lines kept of one build; the oldest go first.
const MAX_LOG_LINES: usize = 10_000;
/// Builds remembered; the oldest finished ones are forgotten.
const MAX_BUILDS: usize = 1000;

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

impl BuildState {
    /// As clients are told.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Building => "building",
            Self::Ready => "ready",
            Self::Failed => "error",
        }
    }
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
        // Of a build that was not recorded, or of an old one that this one has pushed out.
        self.remove_unused_layers();
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
        self.keep_build(sandbox, request, settings).await
    }

    /// Makes what the steps have left a build of the template.
    async fn keep_build(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        request: &BuildRequest,
        settings: Settings,
    ) -> Result<(), String> {
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
        let (origin, _claim) =
            self.keep_files(sandbox, Some(changed)).await.map_err(|error| error.to_string())?;
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
        self.save_build(request, &build, made).map_err(|error| format!("recording the template: {error}"))
    }

    fn save_build(&self, request: &BuildRequest, build: &Build, made: TemplateBuild) -> std::io::Result<()> {
        let edit = self.templates.edit();
        let template = match edit.record(&request.template_id, &request.owner) {
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
        edit.save(template)
    }
}
