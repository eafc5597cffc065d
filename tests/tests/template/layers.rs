//! Who may depend on whom: contracts and domain on nothing above, the use cases on those two, adapters on the use
//! cases, functions on all; the sandbox's server and daemon only on the wire.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// For each layer, in order, its crates. A crate may depend on the layers below its own and on `SIDEWAYS`.
const LAYERS: &[&[&str]] = &[
    &["pvm-domain", "pvm-e2b-wire"],
    &["pvm-contracts"],
    &["pvm-application"],
    &["pvm-aws", "pvm-sandbox", "pvm-models", "pvm-tools"],
    &["pvm-entry"],
    &["pvm-authorizer", "pvm-mcp", "pvm-events", "pvm-workflow", "pvm-api"],
    &["pvm-embedded"],
    &["pvm-local"],
    &["pvm-tests"],
];
/// Crates that know the wire alone, and what they may use of ours.
const APART: &[(&str, &[&str])] =
    &[("pvm-envd", &["pvm-e2b-wire"]), ("pvm-sandboxd", &["pvm-e2b-wire", "pvm-envd"]), ("pvm-asl", &[])];
/// A route's table holds the handlers of the MCP server and asks the authorizer, which are functions like itself.
const SIDEWAYS: &[(&str, &[&str])] = &[("pvm-api", &["pvm-authorizer", "pvm-mcp"])];
/// Not for crates below the adapters.
const FAR: &[&str] = &["aws-", "reqwest", "lambda_", "hyper", "axum", "rusqlite", "dynoxide", "s3s"];

/// Most lines between the braces of a handler: it decodes, calls a use case, and encodes.
const HANDLER_LINES: usize = 25;

#[test]
fn handlers_are_short() {
    let mut problems = Vec::new();
    let mut seen = 0;
    for path in ["functions/api/src", "functions/events/src"].into_iter().flat_map(crate::sources) {
        let text = std::fs::read_to_string(&path).unwrap();
        let mut lines = text.lines().skip_while(|line| !line.starts_with("pub async fn handle"));
        // The arguments end where the body begins.
        if lines.by_ref().all(|line| !line.ends_with('{')) {
            continue;
        }
        seen += 1;
        let length = lines.take_while(|line| *line != "}").count();
        if length > HANDLER_LINES {
            problems.push(format!("{}: {length} lines", path.display()));
        }
    }
    assert!(seen > 50, "only {seen} handlers were found");
    crate::none(problems);
}

/// Names of the direct dependencies (not for tests) of each crate of ours.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(crate::root())
        .output()
        .unwrap();
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .map(|package| {
            let all = package["dependencies"].as_array().unwrap().iter();
            let names =
                all.filter(|it| it["kind"] != "dev").map(|it| it["name"].as_str().unwrap().to_owned());
            (package["name"].as_str().unwrap().to_owned(), names.collect())
        })
        .collect()
}

#[test]
fn dependencies_point_down() {
    let all = dependencies();
    let mut problems = Vec::new();
    for (name, needs) in &all {
        let ours = needs.iter().filter(|need| need.starts_with("pvm-"));
        let allowed: BTreeSet<&str> =
            if let Some((_, allowed)) = APART.iter().find(|(apart, _)| apart == name) {
                allowed.iter().copied().collect()
            } else {
                let Some(layer) = LAYERS.iter().position(|layer| layer.contains(&name.as_str())) else {
                    problems.push(format!("{name} belongs to no layer: add it to this test"));
                    continue;
                };
                let sideways = SIDEWAYS.iter().find(|(from, _)| from == name).map_or(&[][..], |(_, to)| to);
                let apart = APART.iter().map(|(name, _)| name).filter(|_| layer + 2 >= LAYERS.len());
                LAYERS[..layer].iter().copied().flatten().chain(sideways).chain(apart).copied().collect()
            };
        problems.extend(
            ours.filter(|need| !allowed.contains(need.as_str()))
                .map(|need| format!("{name} must not depend on {need}")),
        );
    }
    super::none(problems);
}

#[test]
fn nothing_below_the_adapters_speaks_to_the_outside() {
    let all = dependencies();
    let low = LAYERS[..3].iter().copied().flatten();
    let problems = low.flat_map(|name| {
        let needs = all.get(*name).into_iter().flatten();
        let far = needs.filter(|need| FAR.iter().any(|far| need.starts_with(far)));
        far.map(move |need| format!("{name} must not depend on {need}")).collect::<Vec<_>>()
    });
    super::none(problems.collect());
}

/// Every crate of a build of the programs with its features; `edges` as `cargo tree` names them.
fn resolved(edges: &str) -> BTreeSet<String> {
    let tree = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--workspace",
            "--offline",
            "--prefix",
            "none",
            "--format",
            "{p}|{f}",
            "--edges",
            edges,
        ])
        .current_dir(crate::root())
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let text = String::from_utf8(tree.stdout).unwrap();
    text.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect()
}

/// Otherwise `cargo build` and `cargo test` share nothing, and every cold build takes twice as long.
#[test]
fn tests_switch_on_no_features_that_the_programs_do_without() {
    let (programs, tests) = (resolved("normal,build"), resolved("normal,build,dev"));
    let names: BTreeSet<&str> = programs.iter().filter_map(|line| line.split('|').next()).collect();
    let other =
        tests.difference(&programs).filter(|line| names.contains(line.split('|').next().unwrap_or_default()));
    super::none(
        other
            .map(|line| format!("{line}: make what asks for this an ordinary dependency of pvm-tests"))
            .collect(),
    );
}
