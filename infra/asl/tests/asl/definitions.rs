//! What is refused at load, and in which words.

use std::collections::BTreeMap;

use pvm_asl::Machine;
use serde_json::{Value, json};

use crate::bed::{load, states, task, with};

/// The problems of a definition, one per line; panics if it is accepted.
fn problems(definition: &Value) -> String {
    match Machine::load("machine", &definition.to_string(), &BTreeMap::new()) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("accepted: {definition}"),
    }
}

/// A machine of one Task, `T`, with these fields more.
fn one_task(more: Value) -> Value {
    states("T", json!({ "T": with(with(task("f"), json!({ "End": true })), more) }))
}

fn retry(entry: Value) -> Value {
    one_task(json!({ "Retry": [with(json!({ "ErrorEquals": ["Transient"] }), entry)] }))
}

fn catch(entry: Value) -> Value {
    states(
        "T",
        json!({
            "T": with(task("f"), json!({
                "End": true,
                "Catch": [with(json!({ "ErrorEquals": ["States.ALL"], "Next": "Done" }), entry)],
            })),
            "Done": { "Type": "Succeed" },
        }),
    )
}

/// A Choice, `C`, with one rule that leads to `Done`.
fn choice(rule: Value) -> Value {
    states(
        "C",
        json!({
            "C": { "Type": "Choice", "Choices": [with(rule, json!({ "Next": "Done" }))], "Default": "Done" },
            "Done": { "Type": "Succeed" },
        }),
    )
}

fn map(more: Value) -> Value {
    let item = states("I", json!({ "I": { "Type": "Pass", "End": true } }));
    states("M", json!({ "M": with(json!({ "Type": "Map", "ItemProcessor": item, "End": true }), more) }))
}

#[test]
fn every_part_outside_the_subset_is_refused_with_its_state() {
    let pass = |more: Value| states("P", json!({ "P": with(json!({ "Type": "Pass", "End": true }), more) }));
    let wait = |more: Value| states("W", json!({ "W": with(json!({ "Type": "Wait", "End": true }), more) }));
    let cases: Vec<(Value, &str, &str)> = vec![
        // Fields.
        (one_task(json!({ "Retries": [] })), "\"T\"", "\"Retries\" is not allowed here"),
        (one_task(json!({ "HeartbeatSeconds": 5 })), "\"T\"", "heartbeats"),
        (one_task(json!({ "TimeoutSecondsPath": "$.t" })), "\"T\"", "literal TimeoutSeconds"),
        (one_task(json!({ "Credentials": {} })), "\"T\"", "not in the subset"),
        (one_task(json!({ "Assign": { "a": 1 } })), "\"T\"", "JSONata and variables"),
        (one_task(json!({ "Arguments": {} })), "\"T\"", "JSONata"),
        (one_task(json!({ "QueryLanguage": "JSONata" })), "\"T\"", "only the machine itself"),
        (one_task(json!({ "Comment": 1 })), "\"T\"", "Comment must be a string"),
        (one_task(json!({ "TimeoutSeconds": 0 })), "\"T\"", "whole number from 1"),
        (one_task(json!({ "TimeoutSeconds": 1.5 })), "\"T\"", "whole number from 1"),
        (one_task(json!({ "Resource": "arn:aws:states:::sqs:sendMessage" })), "\"T\"", "not in the subset"),
        (
            one_task(json!({ "Resource": "arn:aws:lambda:us-east-1:1:function:f" })),
            "\"T\"",
            "not in the subset",
        ),
        (pass(json!({ "Retry": [] })), "\"P\"", "\"Retry\" is not allowed"),
        (pass(json!({ "Result": 1, "Parameters": {} })), "\"P\"", "exclude each other"),
        // Parameters.
        (one_task(json!({ "Parameters": { "FunctionName": "f" } })), "\"T\"", "Payload is missing"),
        (one_task(json!({ "Parameters": { "Payload": {} } })), "\"T\"", "FunctionName is missing"),
        (
            one_task(json!({ "Parameters": { "FunctionName.$": "$.f", "Payload": {} } })),
            "\"T\"",
            "FunctionName is missing",
        ),
        (
            one_task(
                json!({ "Parameters": { "FunctionName": "f", "Payload": {}, "InvocationType": "Event" } }),
            ),
            "\"T\"",
            "\"InvocationType\" is not allowed",
        ),
        (pass(json!({ "Parameters": { "x.$": "States.UUID()" } })), "\"P\"", "intrinsic"),
        (pass(json!({ "Parameters": { "x.$": 1 } })), "\"P\"", "must be a string that holds a path"),
        (pass(json!({ "Parameters": { "x.$": "$.a", "x": 1 } })), "\"P\"", "gives both"),
        (pass(json!({ "Parameters": { "deep": [{ "x.$": "$.a[*]" }] } })), "\"P\"", "only a plain index"),
        (pass(json!({ "Parameters": [] })), "\"P\"", "must be a JSON object"),
        (pass(json!({ "Parameters": { "x.$": "$$.Task.Token" } })), "\"P\"", "waitForTaskToken"),
        (pass(json!({ "Parameters": { "x.$": "$$.Map.Item.Value" } })), "\"P\"", "only inside a Map"),
        (
            pass(json!({ "Parameters": { "x.$": "$$.Execution.Nmae" } })),
            "\"P\"",
            "not a field of the context",
        ),
        (pass(json!({ "Parameters": { "x.$": "$$" } })), "\"P\"", "not a field of the context"),
        // Paths.
        (pass(json!({ "InputPath": "a" })), "\"P\"", "InputPath"),
        (pass(json!({ "OutputPath": "$..a" })), "\"P\"", "OutputPath"),
        (pass(json!({ "ResultPath": "$.a[0]" })), "\"P\"", "ResultPath"),
        (pass(json!({ "ResultPath": "$$.State" })), "\"P\"", "cannot be written"),
        (pass(json!({ "ResultPath": 7 })), "\"P\"", "path or null"),
        // Retry.
        (retry(json!({ "IntervalSecond": 3 })), "\"T\"", "Retry 1: the field \"IntervalSecond\""),
        (retry(json!({ "MaxAttempt": 3 })), "\"T\"", "\"MaxAttempt\" is not allowed"),
        (retry(json!({ "JitterStrategy": "Full" })), "\"T\"", "JitterStrategy must be \"FULL\" or \"NONE\""),
        (retry(json!({ "BackoffRate": 0.5 })), "\"T\"", "BackoffRate"),
        (retry(json!({ "IntervalSeconds": 0 })), "\"T\"", "IntervalSeconds"),
        (retry(json!({ "MaxAttempts": -1 })), "\"T\"", "MaxAttempts"),
        (
            retry(json!({ "IntervalSeconds": 5, "MaxDelaySeconds": 5 })),
            "\"T\"",
            "greater than IntervalSeconds",
        ),
        (retry(json!({ "ErrorEquals": [] })), "\"T\"", "ErrorEquals"),
        (retry(json!({ "ErrorEquals": "Transient" })), "\"T\"", "ErrorEquals"),
        (retry(json!({ "ErrorEquals": ["States.Tiemout"] })), "\"T\"", "no error of States."),
        (retry(json!({ "ErrorEquals": ["States.Runtime"] })), "\"T\"", "always ends the execution"),
        (retry(json!({ "ErrorEquals": ["States.ALL", "X"] })), "\"T\"", "must stand alone"),
        (
            one_task(json!({ "Retry": [{ "ErrorEquals": ["States.ALL"] }, { "ErrorEquals": ["X"] }] })),
            "\"T\"",
            "in the last entry",
        ),
        (one_task(json!({ "Retry": {} })), "\"T\"", "Retry must be a list"),
        // Catch.
        (catch(json!({ "Nxt": "Done" })), "\"T\"", "Catch 1: the field \"Nxt\""),
        (catch(json!({ "Next": "Nowhere" })), "\"T\"", "leads to \"Nowhere\""),
        (catch(json!({ "ResultPath": "error" })), "\"T\"", "Catch 1: ResultPath"),
        // Choice.
        (choice(json!({})), "\"C\"", "exactly one of And, Or, Not"),
        (choice(json!({ "Variable": "$.a" })), "\"C\"", "exactly one comparison"),
        (choice(json!({ "StringEquals": "x" })), "\"C\"", "needs the Variable"),
        (choice(json!({ "Variable": "$.a", "StringEquals": 1 })), "\"C\"", "must be a string"),
        (
            choice(json!({ "Variable": "$.a", "StringMatches": "x*" })),
            "\"C\"",
            "\"StringMatches\" is not allowed",
        ),
        (choice(json!({ "Variable": "$.a", "TimestampEquals": "x" })), "\"C\"", "not allowed"),
        (choice(json!({ "Variable": "$.a", "IsPresent": "yes" })), "\"C\"", "true or false"),
        (choice(json!({ "And": [] })), "\"C\"", "And must be a list"),
        (
            choice(json!({ "Not": { "Variable": "$.a[*]", "IsNull": true } })),
            "\"C\"",
            "Choices 1: Not: Variable",
        ),
        (
            choice(json!({ "And": [{ "Variable": "$.a", "IsNull": true, "Next": "Done" }] })),
            "\"C\"",
            "And 1: the field \"Next\"",
        ),
        // Wait and Map.
        (wait(json!({})), "\"W\"", "exactly one of Seconds and SecondsPath"),
        (wait(json!({ "Seconds": 1, "SecondsPath": "$.a" })), "\"W\"", "exactly one of"),
        (wait(json!({ "Timestamp": "2026-01-01T00:00:00Z" })), "\"W\"", "only Seconds"),
        (wait(json!({ "Seconds": "5" })), "\"W\"", "whole number"),
        (map(json!({ "MaxConcurrencyPath": "$.n" })), "\"M\"", "literal MaxConcurrency"),
        (map(json!({ "ToleratedFailureCount": 1 })), "\"M\"", "distributed Map"),
        (map(json!({ "ItemReader": {} })), "\"M\"", "distributed Map"),
        (map(json!({ "Parameters": {} })), "\"M\"", "\"Parameters\" is not allowed"),
        (map(json!({ "Iterator": {} })), "\"M\"", "old name of ItemProcessor"),
        (map(json!({ "ItemSelector": { "x.$": "$$.Task.Token" } })), "\"M\"", "waitForTaskToken"),
        (
            map(json!({ "ItemProcessor": {
                "ProcessorConfig": { "Mode": "DISTRIBUTED" }, "StartAt": "I",
                "States": { "I": { "Type": "Pass", "End": true } } } })),
            "\"M\"",
            "INLINE",
        ),
        // Types.
        (
            states("X", json!({ "X": { "Type": "Parallel", "Branches": [], "End": true } })),
            "\"X\"",
            "Parallel",
        ),
        (states("X", json!({ "X": { "Type": "Taks", "End": true } })), "\"X\"", "not a type of state"),
        (states("X", json!({ "X": { "End": true } })), "\"X\"", "Type is missing"),
        (states("X", json!({ "X": [] })), "\"X\"", "must be a JSON object"),
        (
            states("F", json!({ "F": { "Type": "Fail", "CausePath": "$.x" } })),
            "\"F\"",
            "only literal Error and Cause",
        ),
        // Next and End.
        (states("P", json!({ "P": { "Type": "Pass" } })), "\"P\"", "neither Next nor"),
        (states("P", json!({ "P": { "Type": "Pass", "End": false } })), "\"P\"", "End must be true"),
        (pass(json!({ "Next": "P" })), "\"P\"", "both Next and End"),
    ];
    for (definition, state, message) in cases {
        let found = problems(&definition);
        let line = found.lines().find(|line| line.contains(state) && line.contains(message));
        assert!(line.is_some(), "wanted state {state} and {message:?}, got {found}\nfor {definition}");
    }
}

#[test]
fn a_machine_that_does_not_hang_together_is_refused() {
    let pass = |next: &str| json!({ "Type": "Pass", "Next": next });
    let done = json!({ "Type": "Succeed" });
    let cases = [
        (states("Nowhere", json!({ "Done": done })), "StartAt names \"Nowhere\""),
        (states("A", json!({ "A": pass("B") })), "leads to \"B\""),
        (
            states("A", json!({ "A": pass("Done"), "Lost": pass("Done"), "Done": done })),
            "no other state leads",
        ),
        (states("A", json!({ "A": pass("B"), "B": pass("A") })), "no state ends it"),
        (json!({ "StartAt": "A", "States": {} }), "at least one state"),
        (json!({ "States": { "Done": done } }), "StartAt is missing"),
        (with(states("D", json!({ "D": done })), json!({ "Timeout": 5 })), "\"Timeout\" is not allowed"),
        (with(states("D", json!({ "D": done })), json!({ "QueryLanguage": "JSONata" })), "JSONata"),
        (with(states("D", json!({ "D": done })), json!({ "Version": "2.0" })), "Version"),
        (with(states("D", json!({ "D": done })), json!({ "TimeoutSeconds": "5" })), "TimeoutSeconds"),
    ];
    for (definition, message) in cases {
        let found = problems(&definition);
        assert!(found.contains(message), "wanted {message:?}, got {found}");
    }
}

#[test]
fn the_states_inside_a_map_are_checked_as_strictly() {
    let inner = |processor: Value| map(json!({ "ItemProcessor": processor }));
    let lost = inner(states("I", json!({ "I": { "Type": "Pass", "Next": "M" } })));
    assert!(problems(&lost).contains("state \"I\": it leads to \"M\""), "an iteration cannot leave its Map");
    let endless = inner(states("I", json!({ "I": { "Type": "Pass", "Next": "I" } })));
    assert!(problems(&endless).contains("state \"M\": no state ends it"));
    let twice = inner(states("M", json!({ "M": { "Type": "Pass", "End": true } })));
    assert!(problems(&twice).contains("same name"));
}

#[test]
fn a_task_that_waits_for_a_token_must_give_it_away() {
    let definition = one_task(json!({ "Resource": "arn:aws:states:::lambda:invoke.waitForTaskToken" }));
    assert!(problems(&definition).contains("state \"T\": it waits for a task token"));
}

#[test]
fn broken_json_and_doubled_fields_are_refused() {
    let refused = |text: &str| Machine::load("m", text, &BTreeMap::new()).unwrap_err().to_string();
    assert!(refused("{").contains("not valid JSON"));
    assert!(refused("[]").contains("must be a JSON object"));
    let doubled = r#"{"StartAt": "A", "States": {"A": {"Type": "Succeed"}, "A": {"Type": "Fail"}}}"#;
    assert!(refused(doubled).contains("\"A\" appears twice in one object"), "{}", refused(doubled));
    let bad_name =
        Machine::load("no blanks", r#"{"StartAt":"A","States":{"A":{"Type":"Succeed"}}}"#, &BTreeMap::new());
    assert!(bad_name.unwrap_err().to_string().contains("its name"));
}

#[test]
fn every_problem_is_told_at_once() {
    let definition = states(
        "A",
        json!({
            "A": { "Type": "Pass", "Next": "B", "Retry": [] },
            "B": { "Type": "Wait", "Seconds": 0, "Next": "C" },
            "Done": { "Type": "Succeed" },
        }),
    );
    let error = Machine::load("machine", &definition.to_string(), &BTreeMap::new()).unwrap_err();
    let states: Vec<_> = error.problems.iter().filter_map(|problem| problem.state.as_deref()).collect();
    assert!(states.contains(&"A") && states.contains(&"B"), "{error}");
    assert!(error.problems.len() >= 3, "{error}");
}

#[test]
fn substitutions_are_filled_or_refused() {
    let definition = json!({
        "StartAt": "T",
        "States": { "T": with(task("${ThinkFunction}"), json!({ "End": true, "Comment": "a ${Word} b ${Word}" })) },
    })
    .to_string();
    let names = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let machine =
        Machine::load("m", &definition, &names(&[("ThinkFunction", "think"), ("Word", "w")])).unwrap();
    assert_eq!(machine.function_names().into_iter().collect::<Vec<_>>(), ["think"]);
    assert!(machine.definition().contains("a w b w"));
    let error = Machine::load("m", &definition, &names(&[("Word", "w")])).unwrap_err().to_string();
    assert!(
        error.contains("state \"T\": no value is given for the substitution ${ThinkFunction}"),
        "{error}"
    );
    let open = definition.replace("${Word} b", "${Word");
    assert!(Machine::load("m", &open, &names(&[("ThinkFunction", "think")])).is_err());
}

#[test]
fn a_loaded_machine_describes_itself() {
    let definition = states(
        "T",
        json!({
            "T": with(task("f"), json!({
                "TimeoutSeconds": 9,
                "Retry": [{ "ErrorEquals": ["A", "B"], "MaxAttempts": 2 }],
                "Catch": [{ "ErrorEquals": ["States.ALL"], "Next": "Bad" }],
                "Next": "M",
            })),
            "M": { "Type": "Map", "End": true, "ItemProcessor": states("I", json!({ "I": { "Type": "Succeed" } })) },
            "Bad": { "Type": "Fail" },
        }),
    );
    let machine = load(&definition);
    let states = machine.states();
    let task = states.iter().find(|state| state.name == "T").unwrap();
    assert_eq!(task.function.as_deref(), Some("f"));
    assert_eq!(task.timeout_seconds, Some(9));
    assert_eq!(task.retries, [("A".to_owned(), 2), ("B".to_owned(), 2)]);
    assert_eq!(task.catches, [("States.ALL".to_owned(), "Bad".to_owned())]);
    let inner = states.iter().find(|state| state.name == "I").unwrap();
    assert_eq!(inner.inside_map.as_deref(), Some("M"));
    assert_eq!(Machine::load("machine", machine.definition(), &BTreeMap::new()).unwrap().states(), states);
}
