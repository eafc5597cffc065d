//! Saving workspaces soon after they changed: many requests within two seconds make one save. In AWS a delayed queue
//! message does the same.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use pvm_domain::ids::ProjectId;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long changes are gathered: a burst of tool calls makes one save, and a reader of the files waits little.
pub const GATHER: Duration = Duration::from_secs(2);

/// Saves of different projects that go on at the same time: a large workspace must not hold up the others.
const PARALLEL: usize = 4;

/// Works off requests until `stop`: gathers those of a project for `gather`, then calls `save`, once per burst. A
/// project whose request comes while it is being saved is saved again after; never twice at once.
pub async fn work<F>(
    mut requests: mpsc::UnboundedReceiver<ProjectId>,
    gather: Duration,
    stop: CancellationToken,
    mut save: impl FnMut(ProjectId) -> F,
) where
    F: Future<Output = ()>,
{
    let mut due: HashMap<ProjectId, Instant> = HashMap::new();
    let mut saving: HashSet<ProjectId> = HashSet::new();
    let mut under_way = FuturesUnordered::new();
    loop {
        let waiting = due.iter().filter(|(project, _)| saving.len() < PARALLEL && !saving.contains(*project));
        let next = waiting.min_by_key(|(_, at)| **at).map(|(project, at)| (project.clone(), *at));
        tokio::select! {
            () = stop.cancelled() => return,
            Some(project) = under_way.next() => {
                saving.remove(&project);
            }
            request = requests.recv() => match request {
                Some(project) => {
                    due.entry(project).or_insert_with(|| Instant::now() + gather);
                }
                None => return,
            },
            () = until(next.as_ref().map(|(_, at)| *at)) => {
                if let Some((project, _)) = next {
                    due.remove(&project);
                    saving.insert(project.clone());
                    let done = save(project.clone());
                    under_way.push(async move {
                        done.await;
                        project
                    });
                }
            }
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use pvm_domain::ids::PrefixedId;

    use super::*;

    #[tokio::test]
    async fn a_burst_makes_one_save_per_project() {
        let (ask, requests) = mpsc::unbounded_channel();
        let (tell, mut saved) = mpsc::unbounded_channel();
        let (one, two) = (ProjectId::from_parts(1, 1), ProjectId::from_parts(2, 2));
        // All of the burst is there before the worker looks.
        for _ in 0..10 {
            ask.send(one.clone()).unwrap();
        }
        ask.send(two.clone()).unwrap();
        let stop = CancellationToken::new();
        let worker = tokio::spawn(work(requests, Duration::from_millis(500), stop.clone(), move |project| {
            tell.send(project).unwrap();
            std::future::ready(())
        }));
        assert_eq!((saved.recv().await, saved.recv().await), (Some(one.clone()), Some(two)));
        ask.send(one.clone()).unwrap();
        assert_eq!(saved.recv().await, Some(one));
        stop.cancel();
        worker.await.unwrap();
        assert_eq!(saved.recv().await, None, "nothing was saved twice");
    }

    #[tokio::test]
    async fn a_slow_save_holds_up_its_own_project_only() {
        let (ask, requests) = mpsc::unbounded_channel();
        let (tell, mut started) = mpsc::unbounded_channel();
        let (slow, quick) = (ProjectId::from_parts(1, 1), ProjectId::from_parts(2, 2));
        let open = CancellationToken::new();
        let (stop, gate) = (CancellationToken::new(), open.clone());
        let worker = tokio::spawn(work(requests, Duration::ZERO, stop.clone(), {
            let slow = slow.clone();
            move |project| {
                tell.send(project.clone()).unwrap();
                let waits = (project == slow).then(|| gate.clone());
                async move {
                    if let Some(gate) = waits {
                        gate.cancelled().await;
                    }
                }
            }
        }));
        ask.send(slow.clone()).unwrap();
        assert_eq!(started.recv().await, Some(slow.clone()));
        ask.send(slow.clone()).unwrap();
        ask.send(quick.clone()).unwrap();
        assert_eq!(started.recv().await, Some(quick), "the other project does not wait");
        assert!(started.try_recv().is_err(), "the same project is never saved twice at once");
        open.cancel();
        assert_eq!(started.recv().await, Some(slow), "what came in between is saved after");
        stop.cancel();
        worker.await.unwrap();
    }
}
