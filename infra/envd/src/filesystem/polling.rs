//! Watchers that are asked for events: `CreateWatcher`, `GetWatcherEvents`, `RemoveWatcher`.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pvm_e2b_wire::connect::{Code, ConnectError};
use pvm_e2b_wire::filesystem::FilesystemEvent;
use tokio::task::JoinHandle;

use super::watching::Watching;

/// Watchers at one time.
const MAX_WATCHERS: usize = 256;
/// Events kept for one watcher that nobody asks.
const MAX_EVENTS: usize = 65_536;

/// All watchers.
#[derive(Debug, Default)]
pub struct Watchers {
    by_id: Mutex<HashMap<String, Watcher>>,
    names: RandomState,
    made: std::sync::atomic::AtomicU64,
}

#[derive(Debug)]
struct Watcher {
    collected: Arc<Mutex<Collected>>,
    collecting: JoinHandle<()>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.collecting.abort();
    }
}

#[derive(Debug, Default)]
struct Collected {
    events: Vec<FilesystemEvent>,
    error: Option<ConnectError>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watchers {
    /// Adds a watcher and returns its id.
    ///
    /// # Errors
    /// [`Code::ResourceExhausted`] when there are too many.
    pub fn add(&self, mut watching: Watching) -> Result<String, ConnectError> {
        let mut watchers = lock(&self.by_id);
        if watchers.len() >= MAX_WATCHERS {
            let message = format!("there are {MAX_WATCHERS} watchers; remove some first");
            return Err(ConnectError::new(Code::ResourceExhausted, message));
        }
        let collected = Arc::new(Mutex::new(Collected::default()));
        let collecting = tokio::spawn({
            let collected = Arc::clone(&collected);
            async move {
                loop {
                    let event = watching.next().await;
                    let mut collected = lock(&collected);
                    match event {
                        Ok(event) if collected.events.len() < MAX_EVENTS => collected.events.push(event),
                        Ok(_) => {
                            let message = "more events than are kept were not asked for; make a new watcher";
                            collected.error = Some(ConnectError::new(Code::ResourceExhausted, message));
                            return;
                        }
                        Err(error) => {
                            collected.error = Some(error);
                            return;
                        }
                    }
                }
            }
        });
        let number = self.made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let watcher_id = format!("w{number:x}{:016x}", self.names.hash_one(number));
        watchers.insert(watcher_id.clone(), Watcher { collected, collecting });
        Ok(watcher_id)
    }

    /// The events since the last call.
    ///
    /// # Errors
    /// [`Code::NotFound`], or why the watcher sees nothing any more.
    pub fn take_events(&self, watcher_id: &str) -> Result<Vec<FilesystemEvent>, ConnectError> {
        let watchers = lock(&self.by_id);
        let watcher = watchers.get(watcher_id).ok_or_else(|| not_found(watcher_id))?;
        let mut collected = lock(&watcher.collected);
        // What was seen before the fault still counts.
        if collected.events.is_empty()
            && let Some(error) = &collected.error
        {
            return Err(error.clone());
        }
        Ok(std::mem::take(&mut collected.events))
    }

    /// Ends a watcher.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub fn remove(&self, watcher_id: &str) -> Result<(), ConnectError> {
        lock(&self.by_id).remove(watcher_id).map(drop).ok_or_else(|| not_found(watcher_id))
    }
}

fn not_found(watcher_id: &str) -> ConnectError {
    ConnectError::new(Code::NotFound, format!("watcher with id {watcher_id} not found"))
}
