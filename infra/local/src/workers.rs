//! What runs in the background: uploads to sync, workspaces to save, clean-up by the clock, ended executions. In AWS
//! these are a queue, a queue, a schedule and a rule; the handlers are the same.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use pvm_application::archives;
use pvm_application::files::save::{self, Budget};
use pvm_application::keys;
use pvm_application::store::{Index, Listing, ReadStore};
use pvm_application::vm::{end, lease, ready};
use pvm_asl::Execution;
use pvm_domain::ids::{ArchiveId, ProjectId};
use pvm_domain::limits;
use pvm_domain::vm::VmLease;
use pvm_embedded::s3::S3Event;
use pvm_events::execution_status::Ended;
use pvm_events::notification::{QueueBatch, QueueMessage};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::App;
use crate::saver;

/// Tries before a notification is left for the next start.
const TRIES: u32 = 5;
/// Notifications worked off at the same time.
const PARALLEL: usize = 8;

/// What the workers work off.
#[derive(Debug)]
pub struct Queues {
    /// Objects that were made.
    pub uploads: UnboundedReceiver<S3Event>,
    /// Projects whose workspace may have changed.
    pub saves: UnboundedReceiver<ProjectId>,
    /// Archives that were asked for.
    pub archives: UnboundedReceiver<(ProjectId, ArchiveId)>,
}

/// Starts the workers; they end with `stop`.
pub fn start(
    tasks: &TaskTracker,
    stop: &CancellationToken,
    app: &Arc<App>,
    queues: Queues,
    sweep_every: Duration,
) {
    let Queues { uploads, saves, archives } = queues;
    tasks.spawn(sync_uploads(Arc::clone(app), uploads, stop.clone()));
    tasks.spawn(build_archives(Arc::clone(app), archives, stop.clone()));
    let saving = Arc::clone(app);
    tasks.spawn(saver::work(saves, saver::GATHER, stop.clone(), move |project| {
        let app = Arc::clone(&saving);
        async move { save(&app, &project).await }
    }));
    tasks.spawn(sweep(Arc::clone(app), stop.clone(), sweep_every));
}

async fn sync_uploads(app: Arc<App>, mut uploads: UnboundedReceiver<S3Event>, stop: CancellationToken) {
    let places = Arc::new(tokio::sync::Semaphore::new(PARALLEL));
    let under_way = TaskTracker::new();
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => break,
            event = uploads.recv() => match event {
                Some(event) => event,
                None => break,
            },
        };
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
        let (app, stop) = (Arc::clone(&app), stop.clone());
        under_way.spawn(async move {
            let _place = place;
            tokio::select! {
                // Not done: it comes again at the next start.
                () = stop.cancelled() => {}
                () = sync_upload(&app, event) => {}
            }
        });
    }
    under_way.close();
    under_way.wait().await;
}

async fn sync_upload(app: &App, event: S3Event) {
    let body = event.body().to_string();
    for tried in 0..TRIES {
        let message = QueueMessage { message_id: "upload".to_owned(), body: body.clone() };
        let batch = QueueBatch { records: vec![message] };
        let answer =
            pvm_events::sync_files::handle(&app.store, &app.objects, &app.vm, &app.ambient, batch).await;
        if answer.batch_item_failures.is_empty() {
            event.done();
            return;
        }
        tokio::time::sleep(Duration::from_millis(200) * 4u32.pow(tried)).await;
    }
    tracing::error!(body, "an upload could not be synced; it is tried again at the next start");
}

/// Builds archives, one at a time: each is bounded in memory, and the disk is shared.
async fn build_archives(
    app: Arc<App>,
    mut wanted: UnboundedReceiver<(ProjectId, ArchiveId)>,
    stop: CancellationToken,
) {
    loop {
        let (project, archive) = tokio::select! {
            () = stop.cancelled() => return,
            next = wanted.recv() => match next {
                Some(next) => next,
                None => return,
            },
        };
        let built =
            archives::build::build(&app.store, &app.objects, &app.vm, &app.ambient, &project, &archive);
        tokio::select! {
            () = stop.cancelled() => return,
            built = built => if let Err(error) = built {
                tracing::warn!(project.id = %project, ?error, "an archive could not be built");
            },
        }
    }
}

/// Saves a project's workspace where its VM is active.
async fn save(app: &App, project: &ProjectId) {
    let result = async {
        let lease = lease::load(&app.store, &app.ambient, project).await?;
        let Some(vm) = ready::ready_of(&lease) else { return Ok(()) };
        let budget = Budget::unlimited();
        save::reconcile(&app.store, &app.objects, &app.vm, &app.ambient, project, &vm.vm_id, budget).await?;
        Ok::<_, pvm_application::error::AppError>(())
    };
    if let Err(error) = result.await {
        tracing::warn!(project.id = %project, ?error, "the workspace could not be saved; the next change tries again");
    }
}

async fn sweep(app: Arc<App>, stop: CancellationToken, every: Duration) {
    let kept = app.settings.kept();
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let swept = pvm_events::cleanup::handle(
            &app.store,
            &app.objects,
            &app.workflow,
            &app.vm,
            &app.ambient,
            &kept,
        );
        tokio::select! {
            () = stop.cancelled() => return,
            swept = swept => if let Err(error) = swept {
                tracing::warn!(?error, "clean-up failed; it is tried again");
            },
        }
    }
}

/// An execution ended: one that did not succeed must not leave its run or VM hanging.
pub async fn execution_ended(app: &App, execution: &Execution) {
    let status = execution.status.as_str();
    if status == "SUCCEEDED" {
        return;
    }
    let ended = Ended {
        state_machine_arn: execution.machine_arn.clone(),
        name: execution.name.clone(),
        status: status.to_owned(),
        input: Some(execution.input.clone()),
        cause: execution.cause.clone(),
    };
    let handled = pvm_events::execution_status::handle(&app.store, &app.workflow, &app.ambient, &ended).await;
    if let Err(error) = handled {
        tracing::warn!(
            ?error,
            execution = execution.name,
            "an ended execution could not be cleaned up after"
        );
    }
}

/// Builds the `base` template in the background, with progress in the log.
pub fn build_base(tasks: &TaskTracker, template_dir: Option<PathBuf>) {
    tasks.spawn(async {
        let show = |progress: &str| tracing::info!("template base: {progress}");
        let built = crate::template::ensure("base", template_dir, show).await;
        match built {
            Ok(()) => {}
            Err(error) => tracing::warn!(
                error = format!("{error:#}"),
                "the template `base` could not be built; VMs use `host`"
            ),
        }
    });
}

/// Saves and pauses every VM that is active, before the process ends.
pub async fn save_and_pause(app: &App) {
    for shard in 0..keys::SWEEP_SHARDS {
        let partition = keys::sweep_partition(keys::Sweep::Vm, shard);
        let mut after = None;
        loop {
            let listing = Listing::of(&partition, "").from_index(Index::Sweep).page(limits::LIST_MAX, after);
            let page = match app.store.list::<VmLease>(listing).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::warn!(?error, "the VMs could not be listed; they are paused without a save");
                    break;
                }
            };
            futures::stream::iter(page.items)
                .for_each_concurrent(PARALLEL, |lease| save_one(app, lease))
                .await;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
}

async fn save_one(app: &App, lease: VmLease) {
    let project = &lease.project_id;
    let budget = Budget::unlimited();
    let paused = end::pause_now(&app.store, &app.objects, &app.vm, &app.ambient, project, budget).await;
    if let Err(error) = paused {
        tracing::warn!(project.id = %project, ?error, "a VM could not be saved; its files stay with it");
    }
}
