//! The sandboxes in memory, by id.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::{EngineError, Sandbox};
use crate::store::Phase;

/// All sandboxes but those that are being made. One that is being removed leaves when nothing of it runs any more.
#[derive(Debug, Default)]
pub(super) struct Registry(RwLock<HashMap<String, Arc<Sandbox>>>);

impl Registry {
    pub(super) fn get(&self, id: &str) -> Option<Arc<Sandbox>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    pub(super) fn insert(&self, sandbox: Arc<Sandbox>) {
        let id = sandbox.id().to_owned();
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(id, sandbox);
    }

    pub(super) fn remove(&self, id: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    pub(super) fn all(&self) -> Vec<Arc<Sandbox>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

impl super::Engine {
    /// A sandbox by its id, whoever owns it: for the proxy, whose callers are known by the sandbox's own tokens.
    pub(crate) fn sandbox(&self, id: &str) -> Option<Arc<Sandbox>> {
        self.registry.get(id)
    }

    /// A sandbox of this owner.
    pub(crate) fn owned(&self, id: &str, owner: &str) -> Result<Arc<Sandbox>, EngineError> {
        let sandbox = self.owned_or_ending(id, owner)?;
        if sandbox.with(|record| record.phase == Phase::Killing) {
            return Err(EngineError::NotFound(sandbox.id().to_owned()));
        }
        Ok(sandbox)
    }

    /// The same, but it may be on its way out: for who tells that from one that is not there.
    pub(crate) fn owned_or_ending(&self, id: &str, owner: &str) -> Result<Arc<Sandbox>, EngineError> {
        // Old clients append a client id.
        let id = id.split_once('-').map_or(id, |(front, _)| front);
        self.registry
            .get(id)
            .filter(|sandbox| sandbox.with(|record| record.owner == owner))
            .ok_or_else(|| EngineError::NotFound(id.to_owned()))
    }

    /// All sandboxes.
    pub(crate) fn sandboxes(&self) -> Vec<Arc<Sandbox>> {
        self.registry.all()
    }
}
