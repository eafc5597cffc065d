//! Whether the states of a machine hang together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::problems::Problems;
use super::state::State;

/// Checks one scope: every target exists, every state can be reached, and the machine can end.
pub(super) fn check(
    start_at: &str,
    names: &BTreeSet<String>,
    states: &BTreeMap<String, Arc<State>>,
    problems: &mut Problems,
) {
    let outer = problems.state.take();
    if !names.contains(start_at) {
        problems.state.clone_from(&outer);
        problems.push(format!("StartAt names {start_at:?}, and there is no such state in its States"));
    }
    for (name, state) in states {
        for target in state.targets() {
            if !target.is_empty() && !names.contains(target) {
                problems.state = Some(name.clone());
                problems.push(format!("it leads to {target:?}, and there is no such state beside it"));
            }
        }
    }
    // A state that could not be read has unknown targets, so what follows would only mislead.
    if states.len() == names.len() && names.contains(start_at) {
        check_reach(start_at, states, outer.as_deref(), problems);
    }
    problems.state = outer;
}

fn check_reach(
    start_at: &str,
    states: &BTreeMap<String, Arc<State>>,
    outer: Option<&str>,
    problems: &mut Problems,
) {
    let mut reached = BTreeSet::new();
    let mut open = vec![start_at];
    while let Some(name) = open.pop() {
        if reached.insert(name)
            && let Some(state) = states.get(name)
        {
            open.extend(state.targets());
        }
    }
    for name in states.keys().filter(|name| !reached.contains(name.as_str())) {
        problems.state = Some(name.clone());
        problems.push("no other state leads to it");
    }
    if !states.values().any(|state| state.is_terminal() && reached.contains(state.name.as_str())) {
        problems.state = outer.map(ToOwned::to_owned);
        problems
            .push("no state ends it: a Succeed, a Fail or an \"End\": true must be reachable from StartAt");
    }
}
