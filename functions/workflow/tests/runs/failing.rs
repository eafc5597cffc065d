//! Every step of the machine fails once and twice, by every error that its state retries (each error in one of the two
//! ways): nothing of it is to be seen in the end. Which errors those are is read from the shipped machine.

use std::collections::{BTreeMap, BTreeSet};

use pvm_domain::conversation::{ConversationStatus, Mode};
use serde_json::Value;

use crate::crashes::{Scene, Story, play_on, start};

/// Steps by the errors that every state calling them retries.
fn retried() -> BTreeMap<String, BTreeSet<String>> {
    let text = include_str!("../../../../statemachines/run-turn.asl.json");
    let machine: Value = serde_json::from_str(text).unwrap();
    let mut steps = BTreeMap::new();
    collect(&machine["States"], &mut steps);
    steps
}

fn collect(states: &Value, steps: &mut BTreeMap<String, BTreeSet<String>>) {
    for state in states.as_object().unwrap().values() {
        let items = &state["ItemProcessor"]["States"];
        if items.is_object() {
            collect(items, steps);
        }
        let Some(function) = state["Parameters"]["FunctionName"].as_str() else { continue };
        let errors = state["Retry"].as_array().unwrap().iter();
        let errors = errors.flat_map(|retrier| retrier["ErrorEquals"].as_array().unwrap());
        let errors: BTreeSet<String> = errors.map(|error| error.as_str().unwrap().to_owned()).collect();
        let kept = steps.entry(step_name(function)).or_insert_with(|| errors.clone());
        kept.retain(|error| errors.contains(error));
    }
}

/// `${RunToolFunction}` stands for `run-tool`.
fn step_name(function: &str) -> String {
    let name = function.trim_start_matches("${").trim_end_matches("Function}");
    let mut step = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !step.is_empty() {
            step.push('-');
        }
        step.extend(letter.to_lowercase());
    }
    step
}

/// Plays a scene in which these steps fail so often; answers the story and the steps that were called.
async fn play(scene: Scene, failing: &[(&str, u32, &str)]) -> (Story, BTreeSet<String>) {
    let rig = start(scene).await;
    let failing_now =
        failing.iter().map(|(step, count, error)| ((*step).to_owned(), (*count, (*error).to_owned())));
    rig.failing.lock().unwrap().extend(failing_now);
    let story = play_on(&rig, scene, &format!("{scene:?} with {failing:?}")).await;
    let called = rig.called.lock().unwrap().clone();
    let left = rig.failing.lock().unwrap().values().map(|(left, _)| *left).sum::<u32>();
    assert_eq!(left, 0, "{scene:?}: {failing:?} did not come to pass");
    rig.close().await;
    (story, called)
}

/// Every step of the machine but `continue-run`, which takes 200 steps to come to: `talk` has that.
#[tokio::test(flavor = "multi_thread")]
async fn each_step_may_fail_once_and_twice_by_each_error_that_is_retried() {
    let mut tried = BTreeSet::from(["continue-run".to_owned()]);
    // A tool call that fails for good brings its own step.
    let broken = [("run-tool", 1, "Terminal")];
    let scenes = [
        (Scene::Talk(Mode::RoundRobin), [].as_slice()),
        (Scene::Approval, [].as_slice()),
        (Scene::Silence, [].as_slice()),
        (Scene::Talk(Mode::Parallel), [].as_slice()),
        (Scene::Alone, broken.as_slice()),
    ];
    let retried = retried();
    for (scene, always) in scenes {
        let (calm, called) = play(scene, always).await;
        assert_eq!((calm.status, calm.holders), (ConversationStatus::Idle, 0), "{calm:?}");
        for step in called {
            if !tried.insert(step.clone()) {
                continue;
            }
            for (at, error) in retried[&step].iter().enumerate() {
                // Each error both ways would take twice as long and show the same.
                let count = 1 + u32::try_from(at % 2).unwrap();
                let failing = [always, &[(step.as_str(), count, error.as_str())]].concat();
                assert_eq!(
                    play(scene, &failing).await.0,
                    calm,
                    "{scene:?}: {step} fails {count} times by {error}"
                );
            }
        }
    }
    assert_eq!(tried, retried.into_keys().collect(), "steps that no scene has");
}

/// An error that nobody retries ends the run with that reason, and the VM is free.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fails_for_good_ends_the_run_and_frees_the_vm() {
    for step in ["begin-run", "ensure-vm", "think"] {
        let (story, _) = play(Scene::Talk(Mode::RoundRobin), &[(step, 1, "Terminal")]).await;
        assert_eq!((story.status, story.holders), (ConversationStatus::Failed, 0), "{step}: {story:?}");
    }
}
