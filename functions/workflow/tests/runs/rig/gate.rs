//! A gate holds something in the middle, and simulated time with it, until a test has done what it wants to do then.

use std::sync::{Arc, Mutex};

use pvm_asl::{Clock as _, SimClock, Work};
use tokio::sync::Notify;

/// More marks than sleeps that one step can have under way: with all of them held, no sleep moves the clock.
const MARKS: usize = 8;

#[derive(Debug, Clone)]
pub(crate) struct Gate {
    clock: SimClock,
    reached: Arc<Notify>,
    open: Arc<Notify>,
    marks: Arc<Mutex<Vec<Work>>>,
}

impl Gate {
    pub(crate) fn new(clock: &SimClock) -> Self {
        let (reached, open, marks) = (Arc::default(), Arc::default(), Arc::default());
        Self { clock: clock.clone(), reached, open, marks }
    }

    /// Passes the gate: waits until it is opened.
    pub(crate) async fn pass(&self) {
        let marks = (0..MARKS).map(|_| self.clock.work()).collect();
        *self.marks.lock().unwrap() = marks;
        self.reached.notify_one();
        self.open.notified().await;
    }

    /// Waits until somebody stands before the gate.
    pub(crate) async fn reached(&self) {
        self.reached.notified().await;
    }

    /// Lets time pass again, with somebody still before the gate.
    pub(crate) fn release_time(&self) {
        let marks = std::mem::take(&mut *self.marks.lock().unwrap());
        drop(marks);
    }

    /// Opens the gate.
    pub(crate) fn open(&self) {
        self.release_time();
        self.open.notify_one();
    }
}
