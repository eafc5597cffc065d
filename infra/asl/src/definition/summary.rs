//! What a definition says, in a form that tests can compare with other tables.

use super::{Kind, Processor};

/// The outside of one state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateSummary {
    /// The state's name.
    pub name: String,
    /// `Task`, `Choice`, `Map`, `Wait`, `Pass`, `Succeed` or `Fail`.
    pub kind: &'static str,
    /// The Map it is inside of.
    pub inside_map: Option<String>,
    /// The function that a Task calls, after substitution.
    pub function: Option<String>,
    /// Whether a Task ends by its token.
    pub waits_for_token: bool,
    /// A Task's own timeout, in seconds.
    pub timeout_seconds: Option<u64>,
    /// Every error name in its Retry, in order, with the most retries that the entry allows.
    pub retries: Vec<(String, u64)>,
    /// Every error name in its Catch with the state it leads to.
    pub catches: Vec<(String, String)>,
    /// Every state it can lead to, by Catch, Choice or Next.
    pub targets: Vec<String>,
}

pub(super) fn summarise(processor: &Processor) -> Vec<StateSummary> {
    let mut list = Vec::new();
    collect(processor, None, &mut list);
    list
}

fn collect(processor: &Processor, inside_map: Option<&str>, list: &mut Vec<StateSummary>) {
    for state in processor.states() {
        let task = match &state.kind {
            Kind::Task(task) => Some(task),
            _ => None,
        };
        list.push(StateSummary {
            name: state.name.clone(),
            kind: state.kind.name(),
            inside_map: inside_map.map(ToOwned::to_owned),
            function: task.map(|task| task.function.clone()),
            waits_for_token: task.is_some_and(|task| task.waits_for_token),
            timeout_seconds: task.and_then(|task| task.timeout_seconds),
            retries: state
                .retry
                .iter()
                .flat_map(|retrier| {
                    retrier.error_equals.iter().map(|name| (name.clone(), retrier.backoff.max_attempts))
                })
                .collect(),
            catches: state
                .catch
                .iter()
                .flat_map(|catcher| {
                    catcher.error_equals.iter().map(|name| (name.clone(), catcher.next.clone()))
                })
                .collect(),
            targets: state.targets().into_iter().map(ToOwned::to_owned).collect(),
        });
        if let Kind::Map(map) = &state.kind {
            collect(&map.processor, Some(&state.name), list);
        }
    }
}
