//! State machines, their functions and the table of steps.

use std::collections::{BTreeMap, BTreeSet};

use pvm_entry::StepErrorName;
use pvm_workflow::steps::STEPS;
use serde_json::{Map, Value};

use crate::differences;
use crate::template::TEMPLATE;

/// Machine's name, its resource in the template.
const MACHINES: &[(&str, &str)] = &[("run-turn", "RunTurnMachine"), ("vm-lifecycle", "VmLifecycleMachine")];
/// Error names that Step Functions and Lambda give, of which ours must keep clear.
const FOREIGN: &[&str] = &["States.", "Lambda.", "Sandbox.", "Runtime."];

fn definition(machine: &str) -> Value {
    serde_json::from_str(&super::text(&format!("statemachines/{machine}.asl.json"))).unwrap()
}

/// All states of a machine, those inside a Map too.
fn states(machine: &str) -> BTreeMap<String, Value> {
    fn collect(states: &Map<String, Value>, into: &mut BTreeMap<String, Value>) {
        for (name, state) in states {
            into.insert(name.clone(), state.clone());
            if let Some(inner) = state["ItemProcessor"]["States"].as_object() {
                collect(inner, into);
            }
        }
    }
    let mut all = BTreeMap::new();
    collect(definition(machine)["States"].as_object().unwrap(), &mut all);
    all
}

/// The substitution that a task calls: `RunToolFunction` for `${RunToolFunction}`.
fn called(state: &Value) -> Option<String> {
    let name = state["Parameters"]["FunctionName"].as_str()?;
    Some(name.strip_prefix("${")?.strip_suffix('}')?.to_owned())
}

fn id_of(step: &str) -> String {
    let words = step.split('-').map(|word| word[..1].to_uppercase() + &word[1..]);
    words.collect::<String>() + "Function"
}

#[test]
fn the_machines_call_exactly_the_steps() {
    let mut problems = Vec::new();
    for (machine, resource) in MACHINES {
        let steps: BTreeSet<String> =
            STEPS.iter().filter(|step| step.machine == *machine).map(|step| id_of(step.name)).collect();
        let called: BTreeSet<String> = states(machine).values().filter_map(called).collect();
        problems.extend(differences(("steps.rs", &steps), (machine, &called)));
        let properties = TEMPLATE.properties(resource);
        let given = properties["DefinitionSubstitutions"].as_object().unwrap();
        problems.extend(differences((machine, &called), (resource, &given.keys().cloned().collect())));
        for (name, value) in given {
            if *value != serde_json::json!({"Fn::GetAtt": [name, "Arn"]}) {
                problems.push(format!("{resource}: {name} is {value}"));
            }
        }
        let invoked = properties["Policies"][0]["Statement"][0]["Resource"].as_array().unwrap();
        let invoked = invoked.iter().map(|arn| arn["Fn::GetAtt"][0].as_str().unwrap().to_owned()).collect();
        problems.extend(differences((machine, &called), (&format!("{resource}'s policy"), &invoked)));
        assert_eq!(properties["DefinitionUri"], format!("statemachines/{machine}.asl.json"));
        assert_eq!(properties["Name"]["Fn::Sub"], format!("${{AWS::StackName}}-{machine}"));
    }
    super::none(problems);
}

#[test]
fn a_task_ends_after_its_function_and_can_fail_without_ending_the_machine() {
    let mut problems = Vec::new();
    for (machine, _) in MACHINES {
        for (name, state) in states(machine).iter().filter(|(_, state)| state["Type"] == "Task") {
            let mut say = |what: String| problems.push(format!("{machine}, {name}: {what}"));
            let Some(seconds) = state["TimeoutSeconds"].as_u64() else {
                say("no TimeoutSeconds".to_owned());
                continue;
            };
            let function = called(state).and_then(|id| TEMPLATE.functions.get(&id));
            let Some(function) = function else {
                say("calls no function of the template".to_owned());
                continue;
            };
            if function.timeout >= seconds {
                say(format!("ends after {seconds} s, its function after {} s", function.timeout));
            }
            if state["Retry"].as_array().is_none_or(Vec::is_empty) {
                say("no Retry".to_owned());
            }
            // The tasks that record a failure have nothing left to catch with: their machine fails.
            let last = ["FailRun", "SetupFailed", "TeardownFailed"].contains(&name.as_str());
            if !last && state["Catch"].as_array().is_none_or(Vec::is_empty) {
                say("no Catch".to_owned());
            }
        }
    }
    super::none(problems);
}

fn error_names(state: &Value, field: &str) -> BTreeSet<String> {
    let all = state[field].as_array().into_iter().flatten();
    let names = all.flat_map(|rule| rule["ErrorEquals"].as_array().unwrap().iter());
    names.map(|name| name.as_str().unwrap().to_owned()).collect()
}

#[test]
fn errors_are_those_that_steps_raise_and_all_passing_ones_are_retried() {
    let ours: BTreeSet<String> = StepErrorName::ALL.iter().map(|name| name.as_str().to_owned()).collect();
    let mut problems = Vec::new();
    let mut retried = BTreeSet::new();
    for (machine, _) in MACHINES {
        for (name, state) in states(machine) {
            let mut named = error_names(&state, "Retry");
            retried.extend(named.clone());
            named.extend(error_names(&state, "Catch"));
            let unknown = named.iter().filter(|error| {
                !ours.contains(*error) && !FOREIGN.iter().any(|prefix| error.starts_with(prefix))
            });
            problems.extend(unknown.map(|error| format!("{machine}, {name}: {error} is raised by nobody")));
            if error_names(&state, "Retry").contains("Terminal") {
                problems.push(format!("{machine}, {name}: Terminal is retried"));
            }
        }
    }
    // Neither is a passing fault: nothing mends the one, and the other says that a tool goes on.
    let passing = |name: &str| !["Terminal", "ToolRunning"].contains(&name);
    let never = ours.iter().filter(|name| passing(name) && !retried.contains(*name));
    problems.extend(never.map(|name| format!("{name} is never retried")));
    super::none(problems);
}

#[test]
fn a_step_in_process_may_take_as_long_as_its_lambda() {
    let differs = |step: &&pvm_workflow::steps::StepInfo| {
        TEMPLATE.functions.get(&id_of(step.name)).map(|function| function.timeout) != Some(step.timeout_secs)
    };
    super::none(
        STEPS.iter().filter(differs).map(|step| format!("{}: {} s", step.name, step.timeout_secs)).collect(),
    );
}

#[test]
fn a_step_of_the_lifecycle_is_over_before_its_operation_is_taken_for_dead() {
    for (name, state) in states("vm-lifecycle") {
        if let Some(seconds) = state["TimeoutSeconds"].as_u64() {
            assert!(seconds < pvm_domain::limits::VM_STEP_SECS, "{name} may take {seconds} s");
        }
    }
}

#[test]
fn the_page_about_the_machines_has_the_times_of_the_template() {
    let page = super::text("statemachines/README.md");
    let mut problems = Vec::new();
    for row in page.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let Some(function) = cells.get(1).and_then(|id| TEMPLATE.functions.get(*id)) else { continue };
        if cells[2] != function.timeout.to_string() {
            problems.push(format!(
                "{}: {} s on the page, {} s in the template",
                cells[0], cells[2], function.timeout
            ));
        }
        let state = MACHINES.iter().find_map(|(machine, _)| states(machine).remove(cells[0]));
        let state = state.unwrap_or_else(|| panic!("no machine has a state called {}", cells[0]));
        let seconds = state["TimeoutSeconds"].to_string();
        if cells[3] != seconds {
            problems.push(format!("{}: {} s on the page, {seconds} s in the machine", cells[0], cells[3]));
        }
    }
    super::none(problems);
}

#[test]
fn the_page_about_the_machines_names_every_state() {
    let page = super::text("statemachines/README.md");
    let missing = MACHINES.iter().flat_map(|(machine, _)| states(machine).into_keys());
    let words: BTreeSet<&str> = page.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    let missing = missing.filter(|state| !words.contains(state.trim_end_matches("Parallel")));
    super::none(missing.map(|state| format!("statemachines/README.md does not tell of {state}")).collect());
}
