//! Crashes on purpose: every effect on the world passes a point, before and after it is made; at chosen points whoever
//! makes it dies, in one of the ways of [`Death`].

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pvm_asl::{Clock as _, Loan, SimClock};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// How somebody dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Death {
    /// The function ends there: its future is dropped, and the state machine sees what it sees of a dead Lambda.
    Function,
    /// The state machine gives the function up and tries again, but the function goes on behind its back after so many
    /// seconds, as a Lambda does that only lost its connection.
    Lingering(u64),
    /// The whole process ends there, the interpreter and all other functions with it, and is started again.
    Process,
}

/// What the dying future is told, and whether it only waits for time to pass.
#[derive(Debug, Default)]
struct Mortal {
    dies: Notify,
    lingers: Notify,
    sleepers: AtomicUsize,
    loan: Mutex<Option<Loan>>,
}

/// Counts a sleep while it lasts.
struct Sleeping<'a>(&'a Mortal);

impl Drop for Sleeping<'_> {
    fn drop(&mut self) {
        self.0.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Lets simulated time pass. A function may have several sleeps under way and only one mark: it lends that whenever it is
/// parked with a sleep under way, see [`Points::mortal`]. Others hold a mark for each of their sleeps.
pub(crate) async fn sleep(clock: &SimClock, time: Duration) {
    let Ok(mortal) = MORTAL.try_with(Arc::clone) else { return clock.elapse(time).await };
    let at = clock.now().saturating_add(time).unwrap();
    let wake = clock.sleep_until(at);
    mortal.sleepers.fetch_add(1, Ordering::SeqCst);
    let sleeping = Sleeping(&mortal);
    let woken = wake.await;
    drop(sleeping);
    drop(woken);
}

tokio::task_local! {
    static MORTAL: Arc<Mortal>;
}

/// Takes what a function lent back when it goes, so that its mark, which goes next, is not counted as gone twice: time
/// would run on although somebody else is still at work.
struct GivesBack(Arc<Mortal>);

impl Drop for GivesBack {
    fn drop(&mut self) {
        drop(self.0.loan.lock().unwrap().take());
    }
}

/// Which points are deadly, counted over all functions of a rig.
#[derive(Debug, Default)]
pub(crate) struct Points {
    state: Mutex<State>,
    process: Notify,
    clock: Mutex<Option<SimClock>>,
}

#[derive(Debug, Default)]
struct State {
    deadly: BTreeMap<usize, Death>,
    names: Vec<&'static str>,
    /// Functions that go on although they were given up.
    lingering: Vec<JoinHandle<()>>,
}

impl Points {
    /// The clock by which functions linger.
    pub(crate) fn use_clock(&self, clock: &SimClock) {
        *self.clock.lock().unwrap() = Some(clock.clone());
    }

    /// Makes these points deadly, counted from 0.
    pub(crate) fn die_at(&self, points: impl IntoIterator<Item = (usize, Death)>) {
        self.state.lock().unwrap().deadly.extend(points);
    }

    /// The names of the points passed so far.
    pub(crate) fn passed(&self) -> Vec<&'static str> {
        self.state.lock().unwrap().names.clone()
    }

    /// The process is to die.
    pub(crate) fn kill_process(&self) {
        self.process.notify_one();
    }

    /// Waits until the process is to die.
    pub(crate) async fn process_dies(&self) {
        self.process.notified().await;
    }

    /// Ends every function that lingers: the process that it ran in is gone.
    pub(crate) fn end_lingering(&self) {
        for task in std::mem::take(&mut self.state.lock().unwrap().lingering) {
            task.abort();
        }
    }

    /// Waits until no function lingers; answers whether any did.
    pub(crate) async fn no_more_lingering(&self) -> bool {
        let mut any = false;
        loop {
            {
                // They stay in the list: the process may die while they are waited for.
                let lingering = &mut self.state.lock().unwrap().lingering;
                any |= !lingering.is_empty();
                lingering.retain(|task| !task.is_finished());
                if lingering.is_empty() {
                    return any;
                }
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// An effect is about to be made, or was just made. Outside of what is mortal nothing dies.
    pub(crate) async fn pass(&self, name: &'static str) {
        let Ok(mortal) = MORTAL.try_with(Arc::clone) else { return };
        let death = {
            let mut state = self.state.lock().unwrap();
            let number = state.names.len();
            state.names.push(name);
            state.deadly.remove(&number)
        };
        match death {
            None => {}
            Some(Death::Function) => {
                mortal.dies.notify_one();
                std::future::pending::<()>().await;
            }
            Some(Death::Process) => {
                self.kill_process();
                std::future::pending::<()>().await;
            }
            // The caller's timers would ring unheard meanwhile, and each holds simulated time until it is heard.
            Some(Death::Lingering(_)) if name.ends_with("piece of text") => {}
            Some(Death::Lingering(secs)) => {
                let clock = self.clock.lock().unwrap().clone().unwrap();
                mortal.lingers.notify_one();
                // Polled again only as a task of its own, which holds a mark of its own.
                tokio::task::yield_now().await;
                sleep(&clock, Duration::from_secs(secs)).await;
            }
        }
    }

    /// Runs something mortal that holds one mark of the clock; `None` where it died or was given up.
    pub(crate) async fn mortal<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let mortal = Arc::new(Mortal::default());
        let clock = self.clock.lock().unwrap().clone().unwrap();
        let (lender, lends) = (Arc::clone(&mortal), clock.clone());
        let mut inner = Box::pin(MORTAL.scope(Arc::clone(&mortal), work));
        let mut work: Pin<Box<dyn Future<Output = T> + Send>> =
            Box::pin(std::future::poll_fn(move |context| {
                drop(lender.loan.lock().unwrap().take());
                let polled = inner.as_mut().poll(context);
                if polled.is_pending() && lender.sleepers.load(Ordering::SeqCst) > 0 {
                    *lender.loan.lock().unwrap() = Some(lends.lend());
                }
                polled
            }));
        tokio::select! {
            biased;
            () = mortal.dies.notified() => None,
            () = mortal.lingers.notified() => {
                // It can still die: a pair of deaths may hit the same function twice.
                let dying = Arc::clone(&mortal);
                let held = (work, GivesBack(Arc::clone(&mortal)), clock.work());
                let task = tokio::spawn(async move {
                    let mut held = held;
                    tokio::select! {
                        biased;
                        () = dying.dies.notified() => {}
                        _ = &mut held.0 => {}
                    }
                });
                self.state.lock().unwrap().lingering.push(task);
                None
            }
            done = &mut work => Some(done),
        }
    }
}
