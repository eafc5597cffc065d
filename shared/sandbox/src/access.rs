//! Access tokens of sandboxes, learned when they are made or connected to and kept in memory only.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use pvm_e2b_wire::control::Sandbox;
use pvm_e2b_wire::secret::Secret;

/// What opens a sandbox.
#[derive(Debug, Clone, Default)]
pub(crate) struct Access {
    /// For envd; `None` where the sandbox is open.
    pub(crate) envd_token: Option<Secret>,
    /// For its ports, where they are private.
    pub(crate) traffic_token: Option<Secret>,
    /// Whether its envd keeps a run journal itself.
    pub(crate) journal: bool,
}

impl Access {
    pub(crate) fn of(sandbox: &Sandbox, journal: bool) -> Self {
        Self {
            envd_token: sandbox.envd_access_token.clone(),
            traffic_token: sandbox.traffic_access_token.clone(),
            journal,
        }
    }
}

/// Access by sandbox id.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    known: RwLock<HashMap<String, Arc<Access>>>,
}

impl Cache {
    pub(crate) fn get(&self, vm_id: &str) -> Option<Arc<Access>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(vm_id).cloned()
    }

    pub(crate) fn put(&self, vm_id: &str, access: Access) -> Arc<Access> {
        let access = Arc::new(access);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(vm_id.to_owned(), Arc::clone(&access));
        access
    }

    pub(crate) fn forget(&self, vm_id: &str) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).remove(vm_id);
    }
}
