//! Each type of state, and how data passes through it.

use pvm_asl::ExecutionStatus;
use serde_json::{Value, json};

use crate::bed::{Bed, output, states, task, with};

/// What a Pass with these fields makes of `input`.
async fn pass(fields: Value, input: Value) -> Value {
    let definition = states("P", json!({ "P": with(json!({ "Type": "Pass", "End": true }), fields) }));
    output(&Bed::automatic().machine(definition).run(input).await)
}

/// What a Task with these fields makes of `input`, its function answering `answer`.
async fn through_task(fields: Value, input: Value, answer: Value) -> (Value, Value) {
    let definition = states(
        "T",
        json!({ "T": with(json!({
            "Type": "Task",
            "Resource": "arn:aws:states:::lambda:invoke",
            "Parameters": { "FunctionName": "f", "Payload.$": "$" },
            "End": true,
        }), fields) }),
    );
    let bed = Bed::automatic().machine(definition).function("f", move |_| Ok(answer.clone()));
    let execution = bed.run(input).await;
    (output(&execution), bed.functions.calls()[0].payload.clone())
}

#[tokio::test]
async fn a_pass_moves_data_as_its_fields_say() {
    let input = || json!({ "a": { "b": 1 }, "c": 2 });
    let cases = [
        (json!({}), json!({ "a": { "b": 1 }, "c": 2 })),
        (json!({ "InputPath": "$.a" }), json!({ "b": 1 })),
        (json!({ "InputPath": null }), json!({})),
        (json!({ "OutputPath": "$.c" }), json!(2)),
        (json!({ "OutputPath": null }), json!({})),
        (json!({ "Result": [1, 2] }), json!([1, 2])),
        (json!({ "Result": "x", "ResultPath": "$.a.d" }), json!({ "a": { "b": 1, "d": "x" }, "c": 2 })),
        (json!({ "Result": "x", "ResultPath": null }), json!({ "a": { "b": 1 }, "c": 2 })),
        (
            json!({ "Parameters": { "n.$": "$.c", "l": [{ "m.$": "$.a.b" }, "lit"] } }),
            json!({ "n": 2, "l": [{ "m": 1 }, "lit"] }),
        ),
        (
            json!({ "InputPath": "$.a", "Parameters": { "x.$": "$.b" }, "ResultPath": "$.r" }),
            json!({ "a": { "b": 1 }, "c": 2, "r": { "x": 1 } }),
        ),
    ];
    for (fields, expected) in cases {
        assert_eq!(pass(fields.clone(), input()).await, expected, "{fields}");
    }
}

#[tokio::test]
async fn a_task_shows_the_functions_answer_as_the_lambda_api_does() {
    let (output, payload) = through_task(json!({}), json!({ "a": 1 }), json!({ "r": 2 })).await;
    assert_eq!(payload, json!({ "a": 1 }));
    assert_eq!(output, json!({ "ExecutedVersion": "$LATEST", "Payload": { "r": 2 }, "StatusCode": 200 }));
}

#[tokio::test]
async fn a_task_moves_data_as_its_fields_say() {
    let input = || json!({ "a": { "b": 1 } });
    let cases = [
        (json!({ "OutputPath": "$.Payload" }), json!({ "r": 2 })),
        (json!({ "ResultPath": null }), json!({ "a": { "b": 1 } })),
        (
            json!({ "ResultSelector": { "only.$": "$.Payload.r", "fixed": true }, "ResultPath": "$.step" }),
            json!({ "a": { "b": 1 }, "step": { "only": 2, "fixed": true } }),
        ),
        (json!({ "ResultPath": "$.t", "OutputPath": "$.t.Payload.r" }), json!(2)),
    ];
    for (fields, expected) in cases {
        let (output, _) = through_task(fields.clone(), input(), json!({ "r": 2 })).await;
        assert_eq!(output, expected, "{fields}");
    }
    let (_, payload) = through_task(json!({ "InputPath": "$.a" }), input(), json!(null)).await;
    assert_eq!(payload, json!({ "b": 1 }));
}

#[tokio::test]
async fn the_context_object_tells_where_a_state_is() {
    let parameters = json!({
        "FunctionName": "f",
        "Payload": {
            "name.$": "$$.Execution.Name",
            "id.$": "$$.Execution.Id",
            "input.$": "$$.Execution.Input.x",
            "started.$": "$$.Execution.StartTime",
            "state.$": "$$.State.Name",
            "entered.$": "$$.State.EnteredTime",
            "retries.$": "$$.State.RetryCount",
            "machine.$": "$$.StateMachine.Name",
            "machine_id.$": "$$.StateMachine.Id",
        },
    });
    let (_, payload) =
        through_task(json!({ "Parameters": parameters }), json!({ "x": 5 }), json!(null)).await;
    assert_eq!(
        payload,
        json!({
            "name": "only",
            "id": "arn:aws:states:us-east-1:000000000000:execution:machine:only",
            "input": 5,
            "started": "2026-01-01T00:00:00.000Z",
            "state": "T",
            "entered": "2026-01-01T00:00:00.000Z",
            "retries": 0,
            "machine": "machine",
            "machine_id": "arn:aws:states:us-east-1:000000000000:stateMachine:machine",
        })
    );
}

#[tokio::test]
async fn a_wait_lasts_as_long_as_it_says() {
    let cases = [
        (json!({ "Seconds": 90 }), json!({}), 90),
        (json!({ "SecondsPath": "$.n" }), json!({ "n": 3600 }), 3600),
        (json!({ "SecondsPath": "$.n" }), json!({ "n": 0 }), 0),
    ];
    for (fields, input, seconds) in cases {
        let wait = with(json!({ "Type": "Wait", "End": true }), fields);
        let execution = Bed::automatic().machine(states("W", json!({ "W": wait }))).run(input.clone()).await;
        let lasted = execution.stopped_at.unwrap().duration_since(execution.started_at);
        assert_eq!(lasted.as_secs(), seconds);
        assert_eq!(output(&execution), input, "a Wait passes its input on");
    }
}

#[tokio::test]
async fn succeed_selects_its_output_and_fail_names_its_error() {
    let succeed = states("S", json!({ "S": { "Type": "Succeed", "InputPath": "$.a", "OutputPath": "$.b" } }));
    let execution = Bed::automatic().machine(succeed).run(json!({ "a": { "b": 3 } })).await;
    assert_eq!((execution.status, output(&execution)), (ExecutionStatus::Succeeded, json!(3)));

    let fail = states("F", json!({ "F": { "Type": "Fail", "Error": "Why", "Cause": "because" } }));
    let execution = Bed::automatic().machine(fail).run(json!({})).await;
    assert_eq!(execution.status, ExecutionStatus::Failed);
    assert_eq!((execution.error.as_deref(), execution.cause.as_deref()), (Some("Why"), Some("because")));

    let silent = states("F", json!({ "F": { "Type": "Fail" } }));
    let execution = Bed::automatic().machine(silent).run(json!({})).await;
    assert_eq!((execution.error, execution.cause), (None, None));
}

/// Whether a rule holds for `input`; an error's name if it cannot be said.
async fn decide(rule: Value, input: Value) -> Result<bool, String> {
    let definition = states(
        "C",
        json!({
            "C": { "Type": "Choice", "Choices": [with(rule, json!({ "Next": "Yes" }))], "Default": "No" },
            "Yes": { "Type": "Pass", "Result": true, "End": true },
            "No": { "Type": "Pass", "Result": false, "End": true },
        }),
    );
    let execution = Bed::automatic().machine(definition).run(input).await;
    match execution.status {
        ExecutionStatus::Succeeded => Ok(output(&execution) == json!(true)),
        _ => Err(execution.error.unwrap()),
    }
}

#[tokio::test]
async fn choice_rules_hold_as_on_aws() {
    let input = || json!({ "s": "m", "t": "m", "n": 5, "f": 5.0, "m": 7, "b": true, "z": null });
    let test = |variable: &str, name: &str, value: Value| json!({ "Variable": variable, name: value });
    let cases = [
        (test("$.s", "StringEquals", json!("m")), true),
        (test("$.s", "StringEquals", json!("M")), false),
        (test("$.n", "StringEquals", json!("5")), false),
        (test("$.s", "StringEqualsPath", json!("$.t")), true),
        (test("$.s", "StringLessThan", json!("n")), true),
        (test("$.s", "StringLessThanEquals", json!("m")), true),
        (test("$.s", "StringGreaterThan", json!("m")), false),
        (test("$.s", "StringGreaterThanEquals", json!("m")), true),
        (test("$.n", "NumericEquals", json!(5)), true),
        (test("$.f", "NumericEquals", json!(5)), true),
        (test("$.s", "NumericEquals", json!(5)), false),
        (test("$.n", "NumericEqualsPath", json!("$.f")), true),
        (test("$.n", "NumericLessThan", json!(5)), false),
        (test("$.n", "NumericLessThanPath", json!("$.m")), true),
        (test("$.n", "NumericLessThanEquals", json!(5)), true),
        (test("$.n", "NumericGreaterThan", json!(4.5)), true),
        (test("$.n", "NumericGreaterThanEquals", json!(6)), false),
        (test("$.b", "BooleanEquals", json!(true)), true),
        (test("$.s", "BooleanEquals", json!(true)), false),
        (test("$.n", "IsPresent", json!(true)), true),
        (test("$.z", "IsPresent", json!(true)), true),
        (test("$.gone", "IsPresent", json!(true)), false),
        (test("$.gone.deep", "IsPresent", json!(false)), true),
        (test("$.z", "IsNull", json!(true)), true),
        (test("$.n", "IsNull", json!(false)), true),
        (test("$.s", "IsString", json!(true)), true),
        (test("$.n", "IsNumeric", json!(true)), true),
        (test("$.n", "IsBoolean", json!(true)), false),
        (test("$$.State.Name", "StringEquals", json!("C")), true),
        (json!({ "Not": test("$.n", "NumericEquals", json!(5)) }), false),
        (
            json!({ "And": [test("$.n", "NumericEquals", json!(5)), test("$.b", "BooleanEquals", json!(false))] }),
            false,
        ),
        (
            json!({ "Or": [test("$.n", "NumericEquals", json!(6)), test("$.b", "BooleanEquals", json!(true))] }),
            true,
        ),
        // What is not reached is not looked at.
        (
            json!({ "And": [test("$.gone", "IsPresent", json!(true)), test("$.gone", "StringEquals", json!("x"))] }),
            false,
        ),
        (
            json!({ "Or": [test("$.b", "BooleanEquals", json!(true)), test("$.gone", "StringEquals", json!("x"))] }),
            true,
        ),
    ];
    for (rule, expected) in cases {
        assert_eq!(decide(rule.clone(), input()).await, Ok(expected), "{rule}");
    }
    for name in ["StringEquals", "IsNull", "IsString"] {
        let value = if name == "StringEquals" { json!("x") } else { json!(true) };
        assert_eq!(
            decide(test("$.gone", name, value), input()).await,
            Err("States.Runtime".to_owned()),
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_choice_takes_the_first_rule_that_holds() {
    let rule = |value: &str, next: &str| json!({ "Variable": "$.x", "StringEquals": value, "Next": next });
    let end = |result: i32| json!({ "Type": "Pass", "Result": result, "End": true });
    let definition = states(
        "C",
        json!({
            "C": { "Type": "Choice", "Choices": [rule("a", "One"), rule("a", "Two"), rule("b", "Two")], "Default": "Three" },
            "One": end(1), "Two": end(2), "Three": end(3),
        }),
    );
    for (input, expected) in [("a", 1), ("b", 2), ("c", 3)] {
        let execution = Bed::automatic().machine(definition.clone()).run(json!({ "x": input })).await;
        assert_eq!(output(&execution), json!(expected));
    }
}

#[tokio::test]
async fn states_follow_each_other_with_one_output_becoming_the_next_input() {
    let definition = states(
        "A",
        json!({
            "A": with(task("double"), json!({ "Next": "B" })),
            "B": with(task("double"), json!({ "Next": "C" })),
            "C": { "Type": "Wait", "Seconds": 1, "Next": "D" },
            "D": with(task("double"), json!({ "End": true })),
        }),
    );
    let bed = Bed::automatic()
        .machine(definition)
        .function("double", |payload| Ok(json!(payload.as_i64().unwrap() * 2)));
    let execution = bed.run(json!(1)).await;
    assert_eq!(output(&execution), json!(8));
    assert_eq!(execution.transitions, 4);
}
