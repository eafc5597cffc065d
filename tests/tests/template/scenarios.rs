//! A scenario is written once and told in both forms: in process, and deployed on the emulator.

use std::fs;

use crate::{root, sources};

/// Scenarios that the AWS form cannot tell, and why.
const IN_PROCESS_ONLY: &[(&str, &str)] = &[
    ("input::other_methods", "API Gateway answers 404 to a method that a path does not have"),
    (
        "commands::raw_output",
        "the emulator does not know the binary media types of a template, so bytes stay in base64",
    ),
    ("commands::reconnect", "reads raw output too, which stays in base64 there"),
    ("fair_use::exact", "sets limits as the embedded install's owner"),
    ("fair_use::raced", "sets limits as the embedded install's owner"),
    ("fair_use::commands", "sets limits as the embedded install's owner"),
    ("fair_use::agents", "sets limits as the embedded install's owner"),
    ("fair_use::running", "sets limits as the embedded install's owner"),
    ("fair_use::storage", "sets limits as the embedded install's owner"),
];

/// The scenarios of `tests/src/scenarios`: public functions of one argument, the API.
fn scenarios() -> Vec<String> {
    let mut found = Vec::new();
    for path in sources("tests/src/scenarios") {
        let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let file = syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap();
        for item in file.items {
            if let syn::Item::Fn(function) = item
                && matches!(function.vis, syn::Visibility::Public(_))
                && function.sig.asyncness.is_some()
                && function.sig.inputs.len() == 1
            {
                found.push(format!("{module}::{}", function.sig.ident));
            }
        }
    }
    found
}

#[test]
fn every_scenario_runs_in_process_and_on_the_emulator() {
    let text = |path: &std::path::PathBuf| fs::read_to_string(path).unwrap();
    let (aws, other): (Vec<_>, Vec<_>) = sources("tests/tests")
        .into_iter()
        .filter(|path| !path.ends_with("template/scenarios.rs"))
        .partition(|path| path.starts_with(root().join("tests/tests/aws_shaped")));
    let aws: String = aws.iter().map(text).collect();
    let other: String = other.iter().map(text).collect();
    // As a whole word: `commands::once` is not told by `commands::once_more`.
    let told = |by: &str, name: &str| {
        by.match_indices(name).any(|(at, _)| {
            let next = by[at + name.len()..].chars().next();
            next.is_none_or(|next| !next.is_ascii_alphanumeric() && next != '_')
        })
    };
    let all = scenarios();
    assert!(all.len() >= 15, "the scenarios were not found: {all:?}");
    let mut problems = Vec::new();
    for name in &all {
        let excused = IN_PROCESS_ONLY.iter().any(|(excused, _)| excused == name);
        if !told(&other, name) {
            problems
                .push(format!("{name} runs in no suite of tests/tests: add it to http.rs or workflow.rs"));
        }
        if told(&aws, name) == excused {
            problems.push(format!(
                "{name}: tests/tests/aws_shaped/main.rs must run it, or IN_PROCESS_ONLY say why not"
            ));
        }
    }
    let stale = IN_PROCESS_ONLY.iter().filter(|(name, _)| !all.iter().any(|it| it == name));
    problems.extend(stale.map(|(name, _)| format!("{name} is excused and does not exist")));
    super::none(problems);
}
