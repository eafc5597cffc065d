//! Prints how fast the engine goes from state to state on this machine.
//!
//! `cargo run -p pvm-asl --example transitions [executions] [loops]`

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Instant;

use pvm_asl::{EngineBuilder, InvokeError, Invoker, Machine};
use serde_json::{Value, json};

/// Counts a loop down.
struct CountDown;

impl Invoker for CountDown {
    async fn invoke(&self, _function_name: &str, payload: Value) -> Result<Value, InvokeError> {
        let left = payload["left"].as_i64().unwrap_or_default();
        Ok(json!({ "left": left - 1 }))
    }
}

/// A loop of four states, like the one of a run with one tool call: Task, Choice, Map, Task.
fn machine() -> Value {
    let call = |function: &str, next: Value| {
        let mut task = json!({
            "Type": "Task",
            "Resource": "arn:aws:states:::lambda:invoke",
            "Parameters": { "FunctionName": function, "Payload.$": "$" },
            "OutputPath": "$.Payload",
            "TimeoutSeconds": 60,
        });
        task.as_object_mut()
            .into_iter()
            .for_each(|task| task.extend(next.as_object().cloned().unwrap_or_default()));
        task
    };
    json!({
        "StartAt": "Think",
        "States": {
            "Think": call("think", json!({ "Next": "Route" })),
            "Route": {
                "Type": "Choice",
                "Choices": [{ "Variable": "$.left", "NumericGreaterThan": 0, "Next": "Act" }],
                "Default": "Done",
            },
            "Act": {
                "Type": "Map",
                "ItemsPath": "$$.Execution.Input.items",
                "MaxConcurrency": 1,
                "ItemProcessor": { "StartAt": "RunTool", "States": { "RunTool": call("tool", json!({ "End": true })) } },
                "ResultPath": null,
                "Next": "Think",
            },
            "Done": { "Type": "Succeed" },
        },
    })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>());
    let executions = arguments.next().transpose()?.unwrap_or(500);
    let loops = arguments.next().transpose()?.unwrap_or(10);
    let folder = tempfile::tempdir()?;
    let machine = Machine::load("bench", &machine().to_string(), &BTreeMap::new())?;
    let engine =
        EngineBuilder::new(folder.path().join("bench.sqlite"), CountDown).machine(machine).open().await?;
    let arn = engine.home().machine_arn("bench");
    let input = json!({ "left": loops, "items": [{ "left": 0 }] }).to_string();

    let mut out = std::io::stdout();
    for count in [1, executions] {
        let begun = Instant::now();
        let mut started = Vec::with_capacity(count);
        for _ in 0..count {
            started.push(engine.start_execution(&arn, None, &input).await?.arn);
        }
        let mut transitions = 0;
        for arn in started {
            transitions += engine.wait_for_end(&arn).await?.transitions;
        }
        let took = begun.elapsed();
        writeln!(
            out,
            "{count} executions at once: {transitions} transitions in {took:.2?}, {:.0} per second, {:.3} ms each",
            transitions as f64 / took.as_secs_f64(),
            took.as_secs_f64() * 1000.0 / transitions as f64,
        )?;
    }
    engine.shutdown().await;
    Ok(())
}
