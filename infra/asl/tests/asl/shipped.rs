//! The shipped state machines: both load, and go the ways that their README tells.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use pvm_asl::{Execution, ExecutionStatus, Home, InvokeError, Machine};
use serde_json::{Value, json};

use crate::bed::{Bed, event_kinds};

const RUN_STEPS: [&str; 10] = [
    "BeginRun",
    "EnsureVm",
    "Think",
    "RunTool",
    "FailTool",
    "AskApproval",
    "ExpireApproval",
    "StartLanes",
    "ContinueRun",
    "FinishRun",
];
const VM_STEPS: [&str; 10] = [
    "ProvisionVm",
    "RestoreFiles",
    "ReplayRecipe",
    "StartServices",
    "FailVm",
    "StopRuns",
    "SaveWorkspace",
    "KillVm",
    "DeleteFiles",
    "DeleteRecords",
];

fn shipped(name: &str, steps: &[&str]) -> Machine {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../statemachines/{name}.asl.json"));
    let text = std::fs::read_to_string(path).unwrap();
    let names: BTreeMap<String, String> =
        steps.iter().map(|step| (format!("{step}Function"), (*step).to_owned())).collect();
    Machine::load(name, &text, &names).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn both_machines_load_and_call_every_step() {
    for (name, steps) in [("run-turn", RUN_STEPS), ("vm-lifecycle", VM_STEPS)] {
        let machine = shipped(name, &steps);
        let mut expected = steps.map(ToOwned::to_owned).to_vec();
        expected.sort();
        assert_eq!(machine.function_names().into_iter().collect::<Vec<_>>(), expected);
        assert!(machine.timeout_seconds().is_some());
    }
}

#[test]
fn every_task_has_a_timeout_a_catch_of_everything_and_retries_by_name() {
    for machine in [shipped("run-turn", &RUN_STEPS), shipped("vm-lifecycle", &VM_STEPS)] {
        for state in machine.states().into_iter().filter(|state| state.kind == "Task") {
            assert!(state.timeout_seconds.is_some(), "{}", state.name);
            assert_eq!(state.catches.last().unwrap().0, "States.ALL", "{}", state.name);
            let retried: Vec<_> = state.retries.iter().map(|(name, _)| name.as_str()).collect();
            for name in
                ["Transient", "Throttled", "Lambda.ServiceException", "Lambda.Unknown", "Sandbox.Timedout"]
            {
                assert!(retried.contains(&name), "{} does not retry {name}", state.name);
            }
            assert!(!retried.contains(&"Terminal") && !retried.contains(&"States.ALL"), "{}", state.name);
            assert_eq!(retried.contains(&"States.Timeout"), !state.waits_for_token, "{}", state.name);
        }
    }
}

/// The rows of the README's tables, as the cells of each.
fn readme_rows() -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../statemachines/README.md");
    std::fs::read_to_string(path)
        .unwrap()
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect()
}

#[test]
fn the_readme_has_every_task_with_its_function_and_timeout() {
    let rows = readme_rows();
    for machine in [shipped("run-turn", &RUN_STEPS), shipped("vm-lifecycle", &VM_STEPS)] {
        for state in machine.states().into_iter().filter(|state| state.kind == "Task") {
            let base = state.name.trim_end_matches("Parallel");
            let row = rows.iter().find(|row| row[0] == base).unwrap_or_else(|| panic!("no row for {base}"));
            assert_eq!(format!("{}Function", state.function.unwrap()), row[1], "{base}");
            assert_eq!(state.timeout_seconds.unwrap().to_string(), row[3], "{base}");
            let lambda: u64 = row[2].parse().unwrap();
            assert!(lambda < state.timeout_seconds.unwrap(), "{base}: the state outlasts its Lambda");
        }
    }
}

fn run_output(step: Value) -> Value {
    let mut all =
        json!({ "next": "think", "needs_vm": false, "items": [], "approval_id": null, "delay_secs": 0 });
    all.as_object_mut().unwrap().extend(step.as_object().unwrap().clone());
    json!({ "conversation_id": "conv_1", "run_id": "run_1", "segment": 1, "step": all })
}

/// A bed with `run-turn`, whose `think` answers these steps one after the other.
fn thinking(begin: Value, steps: Vec<Value>) -> Bed {
    let steps = Mutex::new(steps.into_iter());
    Bed::automatic()
        .named_machine(shipped("run-turn", &RUN_STEPS))
        .function("BeginRun", move |_| Ok(run_output(begin.clone())))
        .function("EnsureVm", |_| Ok(run_output(json!({}))))
        .function("Think", move |_| {
            Ok(run_output(steps.lock().unwrap().next().expect("an answer for Think")))
        })
        .function("FinishRun", |payload| Ok(json!({ "seen": payload })))
        .function("ContinueRun", |_| Ok(json!({})))
        .function("ExpireApproval", |_| Ok(json!({})))
        .function("FailTool", Ok)
}

async fn run_turn(bed: &Bed) -> (Execution, Vec<String>) {
    let engine = bed.open().await;
    let input = json!({ "conversation_id": "conv_1", "run_id": "run_1", "segment": 1 }).to_string();
    let started =
        engine.start_execution(&Home::default().machine_arn("run-turn"), Some("r"), &input).await.unwrap();
    let execution = engine.wait_for_end(&started.arn).await.unwrap();
    let kinds = event_kinds(&engine, &started.arn).await;
    engine.shutdown().await;
    (execution, kinds)
}

fn called(bed: &Bed) -> Vec<String> {
    bed.functions.calls().into_iter().map(|call| call.function).collect()
}

fn tool(status: &str, polls: u64) -> Value {
    json!({
        "conversation_id": "conv_1", "run_id": "run_1", "tool_call_id": "t1",
        "status": status, "delay_secs": 5, "polls": polls,
    })
}

#[tokio::test]
async fn a_run_thinks_acts_and_finishes() {
    let act = json!({ "next": "act", "items": [{ "tool_call_id": "t1" }, { "tool_call_id": "t2" }] });
    let steps = vec![json!({ "next": "ensure_vm" }), act, json!({ "next": "finish" })];
    let bed = thinking(json!({}), steps).function("RunTool", |_| Ok(tool("done", 0)));
    let (execution, _) = run_turn(&bed).await;
    assert_eq!(execution.status, ExecutionStatus::Succeeded, "{execution:?}");
    assert_eq!(
        called(&bed),
        ["BeginRun", "Think", "EnsureVm", "Think", "RunTool", "RunTool", "Think", "FinishRun"]
    );
    let calls = bed.functions.calls();
    assert_eq!(calls[0].payload["execution"], "r");
    assert_eq!(
        calls[4].payload,
        json!({ "conversation_id": "conv_1", "run_id": "run_1", "tool_call_id": "t1", "polls": 0 })
    );
    assert_eq!(calls[7].payload, json!({ "conversation_id": "conv_1", "run_id": "run_1", "segment": 1 }));
}

#[tokio::test]
async fn a_loop_with_one_tool_is_four_transitions() {
    let act = || json!({ "next": "act", "items": [{ "tool_call_id": "t1" }] });
    let transitions = |loops: usize| async move {
        let mut steps = vec![act(); loops];
        steps.push(json!({ "next": "finish" }));
        let bed = thinking(json!({}), steps).function("RunTool", |_| Ok(tool("done", 0)));
        run_turn(&bed).await.0.transitions
    };
    assert_eq!(transitions(2).await - transitions(1).await, 4, "Think, Route, Act, RunTool");
}

#[tokio::test]
async fn a_tool_that_goes_on_is_polled() {
    let act = json!({ "next": "act", "items": [{ "tool_call_id": "t1" }] });
    let bed = thinking(json!({}), vec![act, json!({ "next": "finish" })]).function("RunTool", |payload| {
        match payload["polls"].as_u64().unwrap() {
            0 => Err(InvokeError::new("ToolRunning", "the command goes on")),
            3 => Ok(tool("done", 3)),
            polls => Ok(tool("running", polls + 1)),
        }
    });
    let (execution, _) = run_turn(&bed).await;
    assert_eq!(execution.status, ExecutionStatus::Succeeded, "{execution:?}");
    let polls: Vec<_> =
        bed.functions.calls().iter().filter_map(|call| call.payload["polls"].as_u64()).collect();
    assert_eq!(polls, [0, 1, 2, 3]);
    assert_eq!(bed.functions.times("RunTool"), [0.0, 3.0, 8.0, 13.0]);
}

#[tokio::test]
async fn a_broken_tool_is_a_failed_result_and_not_a_dead_run() {
    for next in ["act", "act_parallel"] {
        let act = json!({ "next": next, "items": [{ "tool_call_id": "t1" }, { "tool_call_id": "t2" }] });
        let bed = thinking(json!({}), vec![act, json!({ "next": "finish" })])
            .function("RunTool", |_| Err(InvokeError::new("Terminal", "no such tool")));
        let (execution, _) = run_turn(&bed).await;
        assert_eq!(execution.status, ExecutionStatus::Succeeded, "{execution:?}");
        let failed: Vec<_> =
            bed.functions.calls().into_iter().filter(|call| call.function == "FailTool").collect();
        assert_eq!(failed.len(), 2);
        assert_eq!(failed[0].payload["error"], "Terminal");
        assert!(failed[0].payload["cause"].as_str().unwrap().contains("no such tool"));
    }
}

#[tokio::test]
async fn read_only_tools_run_together() {
    let items: Vec<_> = (0..10).map(|n| json!({ "tool_call_id": format!("t{n}") })).collect();
    let act = json!({ "next": "act_parallel", "items": items });
    let bed =
        thinking(json!({}), vec![act, json!({ "next": "finish" })])
            .slow_function("RunTool", 30, |_| Ok(tool("done", 0)));
    let (execution, _) = run_turn(&bed).await;
    assert_eq!(execution.stopped_at.unwrap().duration_since(execution.started_at).as_secs(), 30);
}

#[tokio::test]
async fn an_approval_that_nobody_decides_expires_after_fourteen_days() {
    let ask = json!({ "next": "approve", "approval_id": "apr_1" });
    let bed = thinking(json!({}), vec![ask, json!({ "next": "finish" })]).function("AskApproval", Ok);
    let (execution, _) = run_turn(&bed).await;
    assert_eq!(execution.status, ExecutionStatus::Succeeded, "{execution:?}");
    // A call that is not allowed needs no VM.
    assert_eq!(called(&bed), ["BeginRun", "Think", "AskApproval", "ExpireApproval", "Think", "FinishRun"]);
    let calls = bed.functions.calls();
    assert_eq!(calls[2].payload["approval_id"], "apr_1");
    assert_eq!(calls[3].payload["approval_id"], "apr_1");
    assert_eq!(calls[3].at, 14.0 * 86_400.0);
}

#[tokio::test]
async fn waits_segments_and_early_ends_lead_where_they_should() {
    let wait = json!({ "next": "wait", "delay_secs": 20 });
    let bed = thinking(json!({ "needs_vm": true }), vec![wait, json!({ "next": "continue" })]);
    let (execution, _) = run_turn(&bed).await;
    assert_eq!(execution.status, ExecutionStatus::Succeeded);
    assert_eq!(called(&bed), ["BeginRun", "EnsureVm", "Think", "Think", "ContinueRun"]);
    assert_eq!(bed.functions.times("Think"), [0.0, 20.0]);

    let bed = thinking(json!({ "next": "finish" }), Vec::new());
    run_turn(&bed).await;
    assert_eq!(called(&bed), ["BeginRun", "FinishRun"], "a run that was cancelled before it began");
}

#[tokio::test]
async fn every_step_that_fails_for_good_ends_the_run_as_failed() {
    let act = json!({ "next": "act", "items": [{ "tool_call_id": "t1" }] });
    // Which way the run goes past the step; a tool that fails is a result, so it is not among them.
    let way = |broken: &str| match broken {
        "StartLanes" => vec![json!({ "next": "lanes" })],
        "FinishRun" => vec![json!({ "next": "finish" })],
        _ => vec![
            json!({ "next": "ensure_vm" }),
            act.clone(),
            json!({ "next": "approve", "approval_id": "apr_1" }),
            json!({ "next": "continue" }),
        ],
    };
    for broken in RUN_STEPS.into_iter().filter(|step| *step != "RunTool") {
        let bed = thinking(json!({}), way(broken))
            .function("RunTool", |_| Err(InvokeError::new("Terminal", "a tool")))
            .function("AskApproval", Ok)
            .function(broken, |_| Err(InvokeError::new("Terminal", "x")));
        let (execution, _) = run_turn(&bed).await;
        assert_eq!(execution.status, ExecutionStatus::Failed, "{broken}");
        assert_eq!(execution.error.as_deref(), Some("RunFailed"), "{broken}");
        let calls = bed.functions.calls();
        assert!(calls.iter().any(|call| call.function == broken), "{broken} was reached");
        let last = calls.last().unwrap();
        assert_eq!(last.function, "FinishRun", "{broken}");
        let expected = if broken == "FailTool" { "ToolUnrecorded" } else { "Terminal" };
        assert_eq!(last.payload["error"], expected, "{broken}");
    }
}

#[tokio::test]
async fn an_answer_that_the_machine_does_not_know_fails_the_run_with_a_reason() {
    let bed = thinking(json!({}), vec![json!({ "next": "dance" })]);
    let (execution, _) = run_turn(&bed).await;
    assert_eq!(execution.error.as_deref(), Some("RunFailed"));
    assert_eq!(bed.functions.calls().pop().unwrap().payload["error"], "UnknownStep");
}

#[tokio::test]
async fn an_overloaded_model_is_asked_again_later() {
    let bed = thinking(json!({}), Vec::new())
        .function("Think", |_| Err(InvokeError::new("ModelOverloaded", "529")));
    let (execution, _) = run_turn(&bed).await;
    assert_eq!(execution.error.as_deref(), Some("RunFailed"));
    assert_eq!(bed.functions.times("Think").len(), 9);
}

/// A bed with `vm-lifecycle` whose steps answer `more` as often as said, with a delay.
fn lifecycle(batches: &'static [(&'static str, u64, u64)]) -> Bed {
    VM_STEPS.iter().fold(Bed::automatic().named_machine(shipped("vm-lifecycle", &VM_STEPS)), |bed, step| {
        let (more, delay) =
            batches.iter().find(|(name, ..)| name == step).map_or((0, 0), |(_, more, delay)| (*more, *delay));
        let left = Mutex::new(more);
        bed.function(step, move |_| {
            let mut left = left.lock().unwrap();
            let more = *left > 0;
            *left = left.saturating_sub(1);
            Ok(json!({ "more": more, "delay_secs": if more { delay } else { 0 } }))
        })
    })
}

async fn run_lifecycle(bed: &Bed, action: &str) -> Execution {
    let engine = bed.open().await;
    let input = json!({ "project_id": "prj_1", "operation_id": "op_1", "action": action }).to_string();
    let arn = Home::default().machine_arn("vm-lifecycle");
    let started = engine.start_execution(&arn, Some("op_1"), &input).await.unwrap();
    let execution = engine.wait_for_end(&started.arn).await.unwrap();
    engine.shutdown().await;
    execution
}

#[tokio::test]
async fn a_set_up_goes_through_its_steps_in_batches() {
    let bed = lifecycle(&[("RestoreFiles", 2, 0), ("ReplayRecipe", 3, 5)]);
    let execution = run_lifecycle(&bed, "setup").await;
    assert_eq!(execution.status, ExecutionStatus::Succeeded, "{execution:?}");
    assert_eq!(
        called(&bed),
        [
            "ProvisionVm",
            "RestoreFiles",
            "RestoreFiles",
            "RestoreFiles",
            "ReplayRecipe",
            "ReplayRecipe",
            "ReplayRecipe",
            "ReplayRecipe",
            "StartServices",
        ]
    );
    assert_eq!(bed.functions.times("ReplayRecipe"), [0.0, 5.0, 10.0, 15.0]);
    let payload = &bed.functions.calls()[0].payload;
    assert_eq!(payload, &json!({ "project_id": "prj_1", "operation_id": "op_1" }));
}

#[tokio::test]
async fn a_teardown_saves_and_a_deletion_erases() {
    let bed = lifecycle(&[("SaveWorkspace", 1, 2)]);
    assert_eq!(run_lifecycle(&bed, "teardown").await.status, ExecutionStatus::Succeeded);
    assert_eq!(called(&bed), ["StopRuns", "SaveWorkspace", "SaveWorkspace", "KillVm"]);

    let bed = lifecycle(&[("DeleteFiles", 1, 0), ("DeleteRecords", 2, 0)]);
    assert_eq!(run_lifecycle(&bed, "delete").await.status, ExecutionStatus::Succeeded);
    assert_eq!(
        called(&bed),
        [
            "StopRuns",
            "KillVm",
            "DeleteFiles",
            "DeleteFiles",
            "DeleteRecords",
            "DeleteRecords",
            "DeleteRecords"
        ]
    );
}

#[tokio::test]
async fn a_lifecycle_step_that_fails_is_noted_with_its_reason() {
    let setup = ["ProvisionVm", "RestoreFiles", "ReplayRecipe", "StartServices"];
    let delete = ["StopRuns", "KillVm", "DeleteFiles", "DeleteRecords"];
    let cases = setup
        .map(|step| (step, "setup", "VmSetupFailed"))
        .into_iter()
        .chain(delete.map(|step| (step, "delete", "VmTeardownFailed")))
        .chain([("SaveWorkspace", "teardown", "VmTeardownFailed")]);
    for (broken, action, error) in cases {
        let bed = lifecycle(&[]).function(broken, |_| Err(InvokeError::new("Terminal", "the disk is gone")));
        let execution = run_lifecycle(&bed, action).await;
        assert_eq!(execution.error.as_deref(), Some(error), "{broken}");
        let last = bed.functions.calls().pop().unwrap();
        assert_eq!(last.function, "FailVm", "{broken}");
        assert_eq!(last.payload["error"], "Terminal");
        assert!(last.payload["cause"].as_str().unwrap().contains("the disk is gone"));
    }
    let bed = lifecycle(&[]);
    assert_eq!(run_lifecycle(&bed, "explode").await.status, ExecutionStatus::Failed);
    assert_eq!(bed.functions.calls().pop().unwrap().payload["error"], "UnknownAction");
}
