//! A sandbox's place at the way out: its rules as they are now, its open connections, and how many there may be.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio_util::sync::CancellationToken;

use super::policy::{Policy, Target};

/// One for each sandbox.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    policy: RwLock<Arc<Policy>>,
    open: Mutex<HashMap<u64, (Target, CancellationToken)>>,
    next: AtomicU64,
}

/// An open connection; leaves the list when dropped.
#[derive(Debug)]
pub(super) struct Passage {
    gate: Arc<Gate>,
    number: u64,
    /// Cancelled when the rules no longer allow the connection.
    pub(super) revoked: CancellationToken,
}

impl Gate {
    pub(crate) fn new(policy: Policy) -> Arc<Self> {
        let gate = Self::default();
        *gate.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
        Arc::new(gate)
    }

    pub(super) fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts new rules in force, and ends what they do not allow.
    pub(super) fn set_policy(&self, policy: Policy) {
        let policy = Arc::new(policy);
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&policy);
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for (target, revoked) in open.values() {
            // A host that has a rule now must be intercepted, so a tunnel to it cannot stay either.
            if !policy.allows(target) || policy.headers(&target.host).is_some() {
                revoked.cancel();
            }
        }
    }

    /// Notes a connection, if there is room for another one.
    pub(super) fn enter(self: &Arc<Self>, target: Target, most: usize) -> Option<Passage> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= most {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let revoked = CancellationToken::new();
        open.insert(number, (target, revoked.clone()));
        Some(Passage { gate: Arc::clone(self), number, revoked })
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.gate.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}
