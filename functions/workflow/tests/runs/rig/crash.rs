//! Crashes on purpose: every effect on the world passes a point, before and after it is done; at chosen points the step
//! that makes it dies. The step's future is dropped there and the state machine sees what it sees of a dead Lambda.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

tokio::task_local! {
    static DEATH: Arc<Notify>;
}

/// Which points are deadly, counted over all steps of a rig.
#[derive(Debug, Default)]
pub struct Points {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    passed: usize,
    deadly: BTreeSet<usize>,
    names: Vec<&'static str>,
}

impl Points {
    /// Makes the step die at these points, counted from 0.
    pub fn die_at(&self, points: impl IntoIterator<Item = usize>) {
        self.state.lock().unwrap().deadly.extend(points);
    }

    /// The names of the points passed so far.
    pub fn passed(&self) -> Vec<&'static str> {
        self.state.lock().unwrap().names.clone()
    }

    /// An effect of a step is about to be made, or was just made. Outside of steps nothing dies.
    pub async fn pass(&self, name: &'static str) {
        let Ok(death) = DEATH.try_with(Arc::clone) else { return };
        let dies = {
            let mut state = self.state.lock().unwrap();
            let number = state.passed;
            state.passed += 1;
            state.names.push(name);
            state.deadly.remove(&number)
        };
        if dies {
            death.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

/// Runs a step; `None` where it died.
pub async fn mortal<T>(step: impl Future<Output = T>) -> Option<T> {
    let death = Arc::new(Notify::new());
    let dies = Arc::clone(&death);
    tokio::select! {
        biased;
        () = dies.notified() => None,
        done = DEATH.scope(death, step) => Some(done),
    }
}
