//! Snapshots and forks: the files of a sandbox as a new read-only layer. Memory is not kept; nothing on an ordinary
//! machine can restore it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::create::{blocking, new_id, new_token};
use super::layers::Claim;
use super::network::authority_for;
use super::{Engine, EngineError, Sandbox};
use crate::store::{Phase, Record};
use crate::templates::copy::{Owners, copy_tree};
use crate::templates::{
    DEFAULT_TAG, Origin, TemplateBuild, TemplateKind, TemplateRecord, new_uuid, plain_name, tag_of,
};

/// What of a layer belongs to the one sandbox it comes from: the journal of its commands.
const LEFT_OUT: &str = "var/lib/pvm/runs";

/// A snapshot as it was made.
#[derive(Debug)]
pub(crate) struct Kept {
    /// The template's id.
    pub(crate) id: String,
    /// The name with the tag, if one was asked for.
    pub(crate) names: Vec<String>,
}

/// The right to take a snapshot: of one sandbox one at a time, as E2B has it.
struct SnapshotTurn(Arc<Sandbox>);

impl SnapshotTurn {
    fn take(sandbox: &Arc<Sandbox>) -> Result<Self, EngineError> {
        if sandbox.snapshotting.swap(true, Ordering::SeqCst) {
            let message = format!("a snapshot of sandbox {} is being taken", sandbox.id());
            return Err(EngineError::Conflict(message));
        }
        Ok(Self(Arc::clone(sandbox)))
    }
}

impl Drop for SnapshotTurn {
    fn drop(&mut self) {
        self.0.snapshotting.store(false, Ordering::SeqCst);
    }
}

impl Engine {
    /// Keeps the files of a sandbox as they are now, as a template. A running sandbox stands still while they are
    /// copied and goes on. `name` may carry a tag; an existing snapshot of that name gets a new build.
    pub(crate) async fn snapshot(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        name: Option<String>,
    ) -> Result<Kept, EngineError> {
        let _only = SnapshotTurn::take(sandbox)?;
        let record = sandbox.snapshot();
        let (origin, _claim) = self.keep_files(sandbox, None).await?;
        let build = TemplateBuild {
            id: new_uuid(),
            created_at_ms: self.now_ms(),
            origin,
            env: BTreeMap::new(),
            limits: Some(record.limits),
            start: record.start.clone(),
        };
        let kept = self.save_snapshot(&record, name.as_deref(), build)?;
        sandbox.note(self.now_ms(), "info", "Snapshot created");
        Ok(kept)
    }

    /// Records a snapshot: as a new build of the one of that name, or as a new one.
    fn save_snapshot(
        &self,
        record: &Record,
        name: Option<&str>,
        build: TemplateBuild,
    ) -> Result<Kept, EngineError> {
        let kind = TemplateKind::Snapshot { sandbox_id: record.id.clone() };
        let plain = name.map(|name| plain_name(name).to_owned());
        let tag = name.and_then(tag_of).unwrap_or(DEFAULT_TAG).to_owned();
        let edit = self.templates.edit();
        let known = plain.as_ref().and_then(|plain| edit.record(plain, &record.owner));
        let known = known.filter(|known| matches!(known.kind, TemplateKind::Snapshot { .. }));
        let template = match known {
            Some(mut known) => {
                known.kind = kind;
                known.add_build(build, std::slice::from_ref(&tag));
                known
            }
            None => TemplateRecord::new(
                new_id(),
                record.owner.clone(),
                plain.clone(),
                kind,
                build,
                std::slice::from_ref(&tag),
            ),
        };
        let kept = Kept {
            id: template.id.clone(),
            names: plain.map(|plain| format!("{plain}:{tag}")).into_iter().collect(),
        };
        edit.save(template).map_err(EngineError::at("recording the snapshot"))?;
        Ok(kept)
    }

    /// Makes `count` sandboxes that start with the files of this one.
    pub(crate) async fn fork(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        count: u32,
        timeout_ms: u64,
    ) -> Result<Vec<Result<Arc<Sandbox>, EngineError>>, EngineError> {
        if matches!(sandbox.with(|record| record.phase), Phase::Paused(_)) {
            let message = format!("sandbox {} is paused: connect to it before it is forked", sandbox.id());
            return Err(EngineError::Conflict(message));
        }
        let _only = SnapshotTurn::take(sandbox)?;
        let (origin, claim) = self.keep_files(sandbox, None).await?;
        let parent = sandbox.snapshot();
        let mut forks = Vec::new();
        for _ in 0..count {
            let made = match self.forked(&parent, &origin, timeout_ms) {
                Ok(record) => self.make(record).await,
                Err(error) => Err(error),
            };
            forks.push(made);
        }
        drop(claim);
        // Where none came to be, nothing is made of it.
        self.remove_unused_layers();
        let starts = forks.iter().flatten().cloned().map(|fork| {
            let engine = Arc::clone(self);
            async move { engine.run_start_command(&fork).await }
        });
        futures::future::join_all(starts.collect::<Vec<_>>()).await;
        Ok(forks)
    }

    fn forked(&self, parent: &Record, origin: &Origin, timeout_ms: u64) -> Result<Record, EngineError> {
        let now = self.now_ms();
        let id = new_id();
        // A certificate authority is one sandbox's alone; its certificate in the copied files opens nothing.
        let authority = parent.authority.as_ref().map(|_| authority_for(&id)).transpose()?;
        Ok(Record {
            id,
            origin: origin.clone(),
            phase: Phase::Creating,
            started_at_ms: now,
            end_at_ms: now.saturating_add(timeout_ms),
            timeout_ms,
            envd_token: parent.envd_token.as_ref().map(|_| new_token()),
            traffic_token: parent.traffic_token.as_ref().map(|_| new_token()),
            // Last: from here on nothing can fail, and `make` gives it back.
            range: self.take_range()?,
            process: None,
            group: None,
            idempotency_key: None,
            request_digest: None,
            authority,
            ..parent.clone()
        })
    }

    /// Copies the sandbox's own layer to a new read-only one and returns what a sandbox on top of it is made of, with
    /// the claim to the layer: to be kept until a record names it.
    pub(super) async fn keep_files(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        changed: Option<Origin>,
    ) -> Result<(Origin, Claim), EngineError> {
        let _turn = sandbox.transition.lock().await;
        let record = sandbox.snapshot();
        if matches!(record.phase, Phase::Creating | Phase::Killing) {
            return Err(EngineError::NotFound(record.id));
        }
        let step = "copying the sandbox's files";
        let running = record.phase == Phase::Running;
        let group = record.group.clone().filter(|_| running);
        if let Some(group) = group.clone() {
            blocking(move || group.freeze()).await.map_err(EngineError::at(step))?;
        }
        let layer = new_id();
        let claim = self.claims.claim_new(&layer);
        let copied = {
            let (engine, sandbox, layer) = (Arc::clone(self), Arc::clone(sandbox), layer.clone());
            blocking(move || engine.copy_layer(&sandbox, &record, &layer)).await
        };
        if let Some(group) = group {
            group.thaw().map_err(EngineError::at(step))?;
        }
        if let Err(error) = copied {
            let folder = self.layout.layer(&layer);
            blocking(move || crate::store::remove_tree(&folder)).await.ok();
            return Err(EngineError::at(step)(error));
        }
        let mut origin = changed.unwrap_or_else(|| sandbox.with(|record| record.origin.clone()));
        origin.layers.insert(0, layer);
        Ok((origin, claim))
    }

    fn copy_layer(&self, sandbox: &Sandbox, record: &Record, layer: &str) -> io::Result<()> {
        let target = self.layout.layer(layer);
        std::fs::create_dir(&target)?;
        let parts = self.templates.parts(&record.origin)?.len();
        for part in 0..parts {
            copy_tree(
                &sandbox.folder.upper(part),
                &target.join(part.to_string()),
                Owners::FromRange(record.range.base()),
                &|path| path.starts_with(Path::new(LEFT_OUT)),
            )?;
        }
        Ok(())
    }
}
