//! The shipped state machines, as deployed: the same files, with names of functions put in.

use std::collections::BTreeMap;

use anyhow::Context;
use pvm_asl::Machine;

/// Name of the machine that works off one user message.
pub const RUN_TURN: &str = "run-turn";
/// Name of the machine that sets VMs up and tears them down.
pub const VM_LIFECYCLE: &str = "vm-lifecycle";

const FILES: [(&str, &str); 2] = [
    (RUN_TURN, include_str!("../../../statemachines/run-turn.asl.json")),
    (VM_LIFECYCLE, include_str!("../../../statemachines/vm-lifecycle.asl.json")),
];

/// Loads both. `${ThinkFunction}` becomes `think`: the name of the step's program.
///
/// # Errors
/// A definition that the engine refuses; the message names the state.
pub fn load() -> anyhow::Result<Vec<Machine>> {
    let substitutions: BTreeMap<String, String> = pvm_workflow::steps::STEPS
        .iter()
        .map(|step| (substitution(step.name), step.name.to_owned()))
        .collect();
    FILES
        .iter()
        .map(|(name, text)| {
            Machine::load(name, text, &substitutions).with_context(|| format!("{name}.asl.json"))
        })
        .collect()
}

/// `run-tool` is put in for `${RunToolFunction}`.
fn substitution(step: &str) -> String {
    let mut name = String::new();
    for word in step.split('-') {
        let mut letters = word.chars();
        name.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        name.push_str(letters.as_str());
    }
    name.push_str("Function");
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_put_in_by_its_name() {
        assert_eq!(substitution("run-tool"), "RunToolFunction");
        assert_eq!(substitution("think"), "ThinkFunction");
    }

    #[test]
    fn the_shipped_machines_load() {
        assert_eq!(load().unwrap().len(), 2);
    }
}
