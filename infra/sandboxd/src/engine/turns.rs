//! Turns by name: who asks for the same thing waits, who asks for another does not.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

/// See the module.
#[derive(Debug)]
pub(super) struct Turns<K>(Mutex<HashMap<K, Weak<tokio::sync::Mutex<()>>>>);

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Turns<K> {
    /// Waits for the turn of this key, which lasts until the answer is dropped.
    pub(super) async fn take(&self, key: K) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody has or waits for.
            turns.retain(|_, turn| turn.strong_count() > 0);
            let known = turns.get(&key).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let turn = Arc::default();
                turns.insert(key, Arc::downgrade(&turn));
                turn
            })
        };
        turn.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn only_the_same_key_waits() {
        let turns = Turns::default();
        let first = turns.take(("ann", "k")).await;
        let mut second = Box::pin(turns.take(("ann", "k")));
        assert!(second.as_mut().now_or_never().is_none());
        let other = turns.take(("bob", "k")).now_or_never().expect("another's key is free");
        drop(first);
        drop((second.await, other));
        drop(turns.take(("ann", "other")).await);
        assert_eq!(turns.0.lock().unwrap().len(), 1, "what is over is forgotten");
    }
}
