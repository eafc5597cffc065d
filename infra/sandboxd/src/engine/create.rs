//! Making sandboxes.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use pvm_e2b_wire::launch::LaunchLimits;
use pvm_e2b_wire::network::NetworkConfig;
use pvm_e2b_wire::secret::Secret;

use super::network::authority_for;
use super::{Engine, EngineError, Sandbox};
use crate::isolation::ids::IdRange;
use crate::store::{Layout, PauseKind, Phase, Record, SandboxFolder, append_json};
use crate::templates::Resolved;

/// Characters of a sandbox id behind its first one.
const ID_RANDOM: usize = 20;
/// Random bytes of a token; written as hex.
const TOKEN_BYTES: usize = 32;

/// What happens when a sandbox's time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It is removed.
    Kill,
    /// It is paused.
    Pause(PauseKind),
}

/// A checked request for a sandbox.
#[derive(Debug, Clone)]
pub(crate) struct CreateRequest {
    pub(crate) owner: String,
    pub(crate) template: String,
    pub(crate) timeout_ms: u64,
    pub(crate) end: End,
    pub(crate) auto_resume: bool,
    pub(crate) secure: bool,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) env_vars: BTreeMap<String, String>,
    pub(crate) network: Option<NetworkConfig>,
    pub(crate) allow_internet_access: Option<bool>,
    /// The caller's name for this request: repeating it makes nothing new.
    pub(crate) idempotency_key: Option<String>,
}

impl CreateRequest {
    /// What tells one request from another under the same key; nothing without a key, since nobody asks then.
    fn digest(&self) -> Option<String> {
        use sha2::{Digest as _, Sha256};
        self.idempotency_key.as_ref()?;
        let text = format!(
            "{:?}",
            (
                (&self.template, self.timeout_ms, self.end, self.auto_resume, self.secure),
                (&self.metadata, self.allow_internet_access, serde_json::to_string(&self.network).ok()),
                &self.env_vars,
            )
        );
        Some(hex::encode(&Sha256::digest(text)[..16]))
    }
}

impl Engine {
    /// Makes a sandbox and waits until it serves.
    pub(crate) async fn create(
        self: &Arc<Self>,
        request: CreateRequest,
    ) -> Result<Arc<Sandbox>, EngineError> {
        let Some(key) = request.idempotency_key.clone() else { return self.create_new(request).await };
        // One at a time, so that a repeated request waits for the first one's sandbox.
        let _turn = self.keyed.take((request.owner.clone(), key.clone())).await;
        let made = self.sandboxes().into_iter().find(|sandbox| {
            sandbox.with(|record| {
                record.owner == request.owner
                    && record.idempotency_key.as_ref() == Some(&key)
                    && record.phase != Phase::Killing
            })
        });
        let Some(sandbox) = made else { return self.create_new(request).await };
        if sandbox.with(|record| record.request_digest == request.digest()) {
            Ok(sandbox)
        } else {
            Err(EngineError::KeyReused(key))
        }
    }

    async fn create_new(self: &Arc<Self>, request: CreateRequest) -> Result<Arc<Sandbox>, EngineError> {
        let (resolved, _claim) = self.claims.claim(
            || self.templates.resolve(&request.template, &request.owner),
            |found| found.as_ref().map(|found| found.origin.layers.clone()).unwrap_or_default(),
        );
        let resolved = resolved.ok_or_else(|| EngineError::TemplateNotFound(request.template.clone()))?;
        let record = self.new_record(request, resolved)?;
        let sandbox = self.make(record).await?;
        self.templates.count_spawn(&sandbox.with(|record| record.template_id.clone()), self.now_ms());
        self.run_start_command(&sandbox).await;
        Ok(sandbox)
    }

    /// The record of a sandbox that does not exist yet, with a fresh id and id range.
    fn new_record(&self, request: CreateRequest, resolved: Resolved) -> Result<Record, EngineError> {
        let private =
            request.network.as_ref().is_some_and(|network| network.allow_public_traffic == Some(false));
        let now = self.now_ms();
        let request_digest = request.digest();
        let id = new_id();
        let needs_authority =
            request.network.as_ref().is_some_and(|network| !network.egress.rules.is_empty());
        let authority = needs_authority.then(|| authority_for(&id)).transpose()?;
        let mut env_vars = resolved.env;
        env_vars.extend(request.env_vars);
        Ok(Record {
            id,
            owner: request.owner,
            template_id: resolved.template_id,
            alias: resolved.alias,
            origin: resolved.origin,
            start: resolved.start,
            phase: Phase::Creating,
            started_at_ms: now,
            end_at_ms: now.saturating_add(request.timeout_ms),
            auto_pause: match request.end {
                End::Kill => None,
                End::Pause(kind) => Some(kind),
            },
            auto_resume: request.auto_resume,
            timeout_ms: request.timeout_ms,
            metadata: request.metadata,
            env_vars,
            envd_token: request.secure.then(new_token),
            traffic_token: private.then(new_token),
            links_void_up_to_ms: std::collections::BTreeMap::new(),
            network: request.network,
            allow_internet_access: request.allow_internet_access,
            limits: resolved.limits.unwrap_or(self.config.limits),
            // Last: from here on nothing can fail, and `make` gives it back.
            range: self.take_range()?,
            host_boot_id: self.host_boot_id.clone(),
            process: None,
            group: None,
            authority,
            request_digest,
            idempotency_key: request.idempotency_key,
        })
    }

    /// A free id range. Taken when nothing can fail any more before [`Self::make`], which gives it back with the rest.
    pub(super) fn take_range(&self) -> Result<IdRange, EngineError> {
        let free = self.ranges.lock().unwrap_or_else(PoisonError::into_inner).take();
        free.ok_or_else(|| EngineError::Capacity("all id ranges are in use: kill sandboxes first".into()))
    }

    /// Makes the sandbox that the record describes. Whatever fails, nothing of it is left.
    pub(super) async fn make(self: &Arc<Self>, record: Record) -> Result<Arc<Sandbox>, EngineError> {
        let folder = self.layout.sandbox(&record.id);
        let limits = record.limits;
        let sandbox = Sandbox::new(record, folder, None);
        let begun = {
            let (sandbox, engine) = (Arc::clone(&sandbox), Arc::clone(self));
            blocking(move || begin(&engine.layout, &sandbox.folder, &sandbox.snapshot())).await
        };
        let started = match begun {
            Ok(()) => self.start(&sandbox, &limits).await,
            Err(error) => Err(EngineError::at("making the sandbox's folder")(error)),
        };
        if let Err(error) = started {
            self.undo(&sandbox).await;
            return Err(error);
        }
        self.registry.insert(Arc::clone(&sandbox));
        sandbox.note(self.now_ms(), "info", "Sandbox created");
        Ok(sandbox)
    }

    /// Removes a sandbox that never came to be.
    async fn undo(self: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        if let Err(error) = self.remove_all(sandbox).await {
            tracing::error!(sandbox.id = sandbox.id(), %error, "remains of a failed start could not be removed");
        }
    }
}

/// The first trace of a sandbox on disk is its record: what comes later is found by it.
fn begin(layout: &Layout, folder: &SandboxFolder, record: &Record) -> std::io::Result<()> {
    folder.create().map_err(|error| {
        std::io::Error::new(error.kind(), format!("{}: {error}", layout.sandboxes().display()))
    })?;
    append_json(&folder.record(), record)
}

/// Runs file system work where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

/// `i` and 20 characters of `[a-z0-9]`: what E2B's proxies accept as a host name label.
pub(crate) fn new_id() -> String {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut id = String::with_capacity(ID_RANDOM + 1);
    id.push('i');
    for _ in 0..ID_RANDOM {
        id.push(char::from(ALPHABET[rand::random_range(0..ALPHABET.len())]));
    }
    id
}

/// A token that cannot be guessed.
pub(crate) fn new_token() -> Secret {
    Secret::new(hex::encode(rand::random::<[u8; TOKEN_BYTES]>()))
}

/// Limits with the caller's wishes, for templates.
pub(crate) fn limits_with(
    base: LaunchLimits,
    cpu_count: Option<u32>,
    memory_mb: Option<u64>,
) -> LaunchLimits {
    LaunchLimits {
        cpu_count: cpu_count.unwrap_or(base.cpu_count),
        memory_mb: memory_mb.unwrap_or(base.memory_mb),
        ..base
    }
}
