//! The programs and the functions of the template are the same.

use std::collections::BTreeSet;

use crate::template::TEMPLATE;
use crate::{differences, ports};

#[test]
fn every_program_is_a_function_and_every_function_a_program() {
    let programs: BTreeSet<String> = ports::programs().into_keys().collect();
    let functions: BTreeSet<String> = TEMPLATE.functions.values().map(|it| it.binary.clone()).collect();
    super::none(differences(("functions/*/src/bin", &programs), ("template.yaml", &functions)));
    assert_eq!(functions.len(), TEMPLATE.functions.len(), "two functions run the same program");
}

#[test]
fn a_function_is_reached_in_one_way_at_least() {
    let called: String =
        TEMPLATE.of_type("AWS::Serverless::StateMachine").map(|(_, it)| it.to_string()).collect();
    let sources: String =
        TEMPLATE.of_type("AWS::Lambda::EventSourceMapping").map(|(_, it)| it.to_string()).collect();
    let called = called + &sources;
    let authorizers = TEMPLATE.properties("Api")["Auth"]["Authorizers"].to_string();
    // The operator's own call.
    let by_hand = ["IssueKeyFunction"];
    let reached = |id: &str| {
        let events = TEMPLATE.properties(id)["Events"].as_object().is_some_and(|events| !events.is_empty());
        events || called.contains(&format!("\"{id}\"")) || authorizers.contains(id) || by_hand.contains(&id)
    };
    let dead = TEMPLATE.functions.keys().filter(|id| !reached(id));
    super::none(dead.map(|id| format!("nothing calls {id}")).collect());
}
