//! Task tokens: made here, given to functions, and answered by whoever the function passed them to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::clock::Work;

/// Bytes of chance in a token: not to be guessed.
const SECRET_BYTES: usize = 24;

/// A new token. It carries its execution's number, so that a token that is over can be told from one that
/// never was.
pub(super) fn new_token(execution: i64) -> String {
    let mut bytes = [0_u8; 8 + SECRET_BYTES];
    bytes[..8].copy_from_slice(&execution.to_be_bytes());
    rand::Rng::fill(&mut rand::rng(), &mut bytes[8..]);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The execution that a token was made for; None if it is no token.
pub(super) fn execution_of(token: &str) -> Option<i64> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    if bytes.len() != 8 + SECRET_BYTES {
        return None;
    }
    bytes[..8].try_into().ok().map(i64::from_be_bytes)
}

/// What came for a token. This is also its form in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Success { output: String },
    Failure { error: String, cause: String },
}

/// The branches that wait in this process, by token.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    branches: Arc<Mutex<Branches>>,
}

/// A branch's place among the waiting; given up on drop.
#[derive(Debug)]
pub(super) struct Place {
    token: String,
    branches: Arc<Mutex<Branches>>,
}

impl Waiting {
    /// Enters a branch. Must be done before its token can be known to anybody.
    pub(super) fn enter(&self, token: &str) -> (Place, oneshot::Receiver<(Answer, Work)>) {
        let (sender, receiver) = oneshot::channel();
        lock(&self.branches).insert(token.to_owned(), sender);
        (Place { token: token.to_owned(), branches: Arc::clone(&self.branches) }, receiver)
    }

    /// Wakes the branch that waits for `token`, if it is here; otherwise it finds the answer in the store.
    pub(super) fn wake(&self, token: &str, answer: Answer, work: Work) {
        let sender = lock(&self.branches).remove(token);
        if let Some(sender) = sender {
            // Fails if the branch went away; then nobody wants the answer.
            drop(sender.send((answer, work)));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(lock(&self.branches).remove(&self.token));
    }
}

type Branches = HashMap<String, oneshot::Sender<(Answer, Work)>>;

fn lock(branches: &Mutex<Branches>) -> MutexGuard<'_, Branches> {
    branches.lock().unwrap_or_else(PoisonError::into_inner)
}
