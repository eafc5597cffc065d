//! Spare shells: envd waiting in new namespaces and groups, with no root, no id map and no command. Making them is
//! most of the cost of a create, and it does not depend on what is asked for.
//!
//! They are made several at a time: joining a control group waits for every processor once, however many processes
//! join right after each other.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use pvm_e2b_wire::launch::LaunchLimits;

use super::cgroup::{Group, Groups};
use super::clone::{Cloner, Shell};
use super::spawner::{discard, own_mounts};

/// Shells kept ready. Each costs half a megabyte.
const KEPT: usize = 8;
/// When no more than this many are left, new ones are made.
const REFILL_AT: usize = 4;

/// A shell in groups of its own that have the usual limits.
#[derive(Debug)]
pub(super) struct Spare {
    pub(super) shell: Shell,
    pub(super) group: Group,
}

#[derive(Debug, Default)]
struct Shelf {
    ready: VecDeque<io::Result<Spare>>,
    /// Somebody waits for one.
    wanted: bool,
    stopped: bool,
}

/// The shells and the thread that makes them.
#[derive(Debug)]
pub(super) struct Spares {
    shelf: Mutex<Shelf>,
    changed: Condvar,
    groups: Groups,
    limits: LaunchLimits,
}

impl Spares {
    /// Makes the first shell, which shows that it is possible, and starts the thread.
    pub(super) fn start(
        image: &OwnedFd,
        log: Option<&OwnedFd>,
        groups: Groups,
        limits: LaunchLimits,
    ) -> io::Result<Arc<Self>> {
        let mut cloner = Cloner::new(image, log)?;
        let spares = Arc::new(Self { shelf: Mutex::default(), changed: Condvar::new(), groups, limits });
        let maker = Arc::clone(&spares);
        let (ready, answer) = std::sync::mpsc::channel();
        std::thread::Builder::new().name("sandbox-spares".into()).spawn(move || {
            block_signals();
            let first = own_mounts().and_then(|()| maker.make(&mut cloner, 1).remove(0));
            match first {
                Ok(first) => {
                    maker.put(vec![Ok(first)]);
                    // The starter waits for exactly this; if it is gone, it has stopped us as well.
                    ready.send(Ok(())).ok();
                    maker.refill_continually(&mut cloner);
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        })?;
        answer.recv().map_err(io::Error::other)??;
        Ok(spares)
    }

    /// The limits that a spare's groups have.
    pub(super) fn limits(&self) -> &LaunchLimits {
        &self.limits
    }

    /// A shell; waits for one when none is ready.
    pub(super) fn take(&self) -> io::Result<Spare> {
        let mut shelf = self.lock();
        loop {
            if let Some(spare) = shelf.ready.pop_front() {
                if shelf.ready.len() <= REFILL_AT {
                    self.changed.notify_all();
                }
                return spare;
            }
            if shelf.stopped {
                return Err(io::Error::other("the server is stopping"));
            }
            shelf.wanted = true;
            self.changed.notify_all();
            shelf = self.changed.wait(shelf).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends the thread and the shells.
    pub(super) fn stop(&self) {
        let mut shelf = self.lock();
        shelf.stopped = true;
        let left = std::mem::take(&mut shelf.ready);
        drop(shelf);
        self.changed.notify_all();
        for spare in left.into_iter().flatten() {
            discard(&spare.shell.pidfd, &spare.group);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refill_continually(&self, cloner: &mut Cloner) {
        loop {
            let count = {
                let mut shelf = self.lock();
                while shelf.ready.len() > REFILL_AT && !shelf.wanted && !shelf.stopped {
                    shelf = self.changed.wait(shelf).unwrap_or_else(PoisonError::into_inner);
                }
                if shelf.stopped {
                    return;
                }
                KEPT - shelf.ready.len().min(KEPT - 1)
            };
            let made = self.make(cloner, count);
            let failed = made.iter().any(Result::is_err);
            if !self.put(made) {
                return;
            }
            if failed {
                // Out of processes or memory: what waits is told, and trying again at once would not help.
                std::thread::sleep(AFTER_FAILURE);
            }
        }
    }

    /// Puts shells on the shelf; false when nobody wants them any more.
    fn put(&self, made: Vec<io::Result<Spare>>) -> bool {
        let mut shelf = self.lock();
        if shelf.stopped {
            drop(shelf);
            for spare in made.into_iter().flatten() {
                discard(&spare.shell.pidfd, &spare.group);
            }
            return false;
        }
        // A failure is for somebody who waits; otherwise it would meet somebody else much later.
        let wanted = std::mem::take(&mut shelf.wanted);
        for spare in made {
            match spare {
                Ok(spare) => shelf.ready.push_back(Ok(spare)),
                Err(error) if wanted && shelf.ready.is_empty() => shelf.ready.push_back(Err(error)),
                Err(error) => tracing::warn!(%error, "no spare sandbox process could be started"),
            }
        }
        drop(shelf);
        self.changed.notify_all();
        true
    }

    /// Makes shells: first all processes, then all their memberships.
    fn make(&self, cloner: &mut Cloner, count: usize) -> Vec<io::Result<Spare>> {
        let shells: Vec<_> = (0..count)
            .map(|_| {
                let group = self.groups.make(&self.limits)?;
                match cloner.spawn() {
                    Ok(shell) => Ok(Spare { group: group.around(shell.pid)?, shell }),
                    Err(error) => {
                        group.remove()?;
                        Err(error)
                    }
                }
            })
            .collect();
        shells
            .into_iter()
            .map(|spare: io::Result<Spare>| {
                let spare = spare?;
                match spare.group.add(spare.shell.pid) {
                    Ok(()) => Ok(spare),
                    Err(error) => {
                        discard(&spare.shell.pidfd, &spare.group);
                        Err(error)
                    }
                }
            })
            .collect()
    }
}

/// Pause after a failure.
const AFTER_FAILURE: std::time::Duration = std::time::Duration::from_millis(200);

/// Signals are for the server's other threads; see `Cloner::spawn` for why none may arrive here.
#[expect(unsafe_code, reason = "blocking all signals of a thread has no safe wrapper")]
fn block_signals() {
    // SAFETY: only this thread's mask changes; the set is a local.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
    }
}
