//! A real process, killed with SIGKILL again and again while it runs executions on the real clock.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use pvm_asl::{ApiError, Engine, EngineBuilder, ExecutionStatus, InvokeError, Invoker, Machine};
use serde_json::{Value, json};

use crate::bed::{MACHINE, execution_arn, machine_arn, output, states, task, with};

/// Where the child finds the store; also what tells it that it is the child.
const STORE: &str = "PVM_ASL_TEST_STORE";
const EXECUTIONS: usize = 30;
const LOOPS: i64 = 20;

struct CountDown;

impl Invoker for CountDown {
    async fn invoke(&self, _function_name: &str, payload: Value) -> Result<Value, InvokeError> {
        tokio::task::yield_now().await;
        Ok(
            json!({ "left": payload["left"].as_i64().unwrap() - 1, "sum": payload["sum"].as_i64().unwrap() + 1 }),
        )
    }
}

/// Counts down by a Task and, in a Map, by another one.
fn machine() -> Machine {
    let more = json!({ "Variable": "$.left", "NumericGreaterThan": 0, "Next": "Beside" });
    let definition = states(
        "Count",
        json!({
            "Count": with(task("count"), json!({ "Next": "More" })),
            "More": { "Type": "Choice", "Choices": [more], "Default": "Done" },
            "Beside": {
                "Type": "Map", "ItemsPath": "$$.Execution.Input.items", "ResultPath": null, "Next": "Count",
                "ItemProcessor": states("Item", json!({ "Item": with(task("count"), json!({ "End": true })) })),
            },
            "Done": { "Type": "Succeed" },
        }),
    );
    Machine::load(MACHINE, &definition.to_string(), &BTreeMap::new()).unwrap()
}

async fn open(store: &Path) -> Engine {
    EngineBuilder::new(store, CountDown).machine(machine()).open().await.unwrap()
}

async fn start_all(engine: &Engine) {
    let item = json!({ "left": 1, "sum": 0 });
    let input = json!({ "left": LOOPS, "sum": 0, "items": [item, item] }).to_string();
    for number in 0..EXECUTIONS {
        match engine.start_execution(&machine_arn(), Some(&format!("e{number}")), &input).await {
            Ok(_) | Err(ApiError::ExecutionAlreadyExists(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
#[ignore = "the process that the other test starts and kills"]
async fn the_process_to_be_killed() {
    let Some(store) = std::env::var_os(STORE) else { return };
    let engine = open(Path::new(&store)).await;
    start_all(&engine).await;
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn executions_survive_a_process_that_is_killed_again_and_again() {
    let folder = tempfile::TempDir::new().unwrap();
    let store = folder.path().join("workflows.sqlite");
    for round in 1..=6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "killed::the_process_to_be_killed", "--ignored", "--nocapture"])
            .env(STORE, &store)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Whatever the child has come to by then is good; the rounds only differ in it.
        tokio::time::sleep(Duration::from_millis(60 * round)).await;
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let engine = open(&store).await;
    start_all(&engine).await;
    for number in 0..EXECUTIONS {
        let execution = engine.wait_for_end(&execution_arn(&format!("e{number}"))).await.unwrap();
        assert_eq!(execution.status, ExecutionStatus::Succeeded, "{execution:?}");
        assert_eq!(output(&execution), json!({ "left": 0, "sum": LOOPS }));
        assert_eq!(execution.transitions, 4 * (LOOPS as u64 - 1) + LOOPS as u64 + 2, "counted once each");
    }
    engine.shutdown().await;
}
