//! Which layers are needed, and removing the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Engine;

/// Layers that are being made, or that something is being made of: no record names them yet. By id, with how many need
/// them.
#[derive(Debug, Default)]
pub(super) struct Claims {
    layers: Mutex<BTreeMap<String, usize>>,
    /// Whether there are records that cannot be read, and so may need any layer.
    all: AtomicBool,
}

/// The right to find these layers where they are, until dropped.
#[derive(Debug)]
pub(super) struct Claim {
    claims: Arc<Claims>,
    layers: Vec<String>,
}

impl Claims {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps every layer there is: a record that cannot be read, which may be mended, may need it.
    pub(super) fn keep_all(&self) {
        self.all.store(true, Ordering::Relaxed);
    }

    /// Looks something up, and claims the layers that `layers` finds in it. No layer is removed in between.
    pub(super) fn claim<T>(
        self: &Arc<Self>,
        look: impl FnOnce() -> T,
        layers: impl FnOnce(&T) -> Vec<String>,
    ) -> (T, Claim) {
        let mut claimed = self.lock();
        let found = look();
        let layers = layers(&found);
        for layer in &layers {
            *claimed.entry(layer.clone()).or_default() += 1;
        }
        (found, Claim { claims: Arc::clone(self), layers })
    }

    /// Claims a layer that does not exist yet.
    pub(super) fn claim_new(self: &Arc<Self>, layer: &str) -> Claim {
        self.claim(|| (), |()| vec![layer.to_owned()]).1
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claimed = self.claims.lock();
        for layer in &self.layers {
            if let Some(count) = claimed.get_mut(layer) {
                *count -= 1;
                if *count == 0 {
                    claimed.remove(layer);
                }
            }
        }
    }
}

impl Engine {
    /// Removes, in the background, layers that neither a template nor a sandbox is made of.
    pub(crate) fn remove_unused_layers(self: &Arc<Self>) {
        let engine = Arc::clone(self);
        self.tasks.spawn_blocking(move || {
            for trash in engine.discard_unused_layers() {
                if let Err(error) = crate::store::remove_tree(&trash) {
                    tracing::warn!(path = %trash.display(), %error, "removed at the next start");
                }
            }
        });
    }

    /// Takes the unused layers out of sight and tells where they are now.
    fn discard_unused_layers(&self) -> Vec<std::path::PathBuf> {
        if self.claims.all.load(Ordering::Relaxed) || self.templates.has_unreadable() {
            return Vec::new();
        }
        // Held until all are out of sight, so that nobody claims one of them meanwhile.
        let claimed = self.claims.lock();
        let mut used: BTreeSet<String> = claimed.keys().cloned().collect();
        used.extend(self.templates.layers_in_use());
        for sandbox in self.sandboxes() {
            used.extend(sandbox.with(|record| record.origin.layers.clone()));
        }
        let Ok(entries) = std::fs::read_dir(self.layout.layers()) else { return Vec::new() };
        entries
            .flatten()
            .filter(|entry| entry.file_name().into_string().is_ok_and(|name| !used.contains(&name)))
            .filter_map(|entry| match self.layout.discard(&entry.path()) {
                Ok(trash) => trash,
                Err(error) => {
                    tracing::warn!(path = %entry.path().display(), %error, "an unused layer stays");
                    None
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_claimed_until_the_last_one_lets_go() {
        let claims = Arc::new(Claims::default());
        let first = claims.claim_new("a");
        let ((), second) = claims.claim(|| (), |()| vec!["a".into(), "b".into()]);
        drop(first);
        assert_eq!(claims.lock().keys().collect::<Vec<_>>(), ["a", "b"]);
        drop(second);
        assert!(claims.lock().is_empty());
    }
}
