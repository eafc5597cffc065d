//! Variables that the template sets are settings that programs read.

use pvm_entry::Settings;
use serde_json::Value;

use crate::template::TEMPLATE;

/// Read by the AWS libraries, not by us.
const OTHERS: &[&str] = &["AWS_LAMBDA_HTTP_IGNORE_STAGE_IN_PATH"];
/// What a deployed function must be told and cannot default.
const NEEDED: &[&str] = &["PVM_TABLE_APP", "PVM_TABLE_EVENTS", "PVM_BUCKET", "PVM_ACCOUNT", "PVM_LOG_FORMAT"];

#[test]
fn every_variable_of_the_template_is_a_setting() {
    let global = TEMPLATE.whole["Globals"]["Function"]["Environment"]["Variables"].as_object().unwrap();
    let own = TEMPLATE.of_type("AWS::Serverless::Function");
    let own = own.filter_map(|(_, properties)| properties["Environment"]["Variables"].as_object());
    let names: Vec<&String> = own.flat_map(|map| map.keys()).chain(global.keys()).collect();
    let known = |name: &str| OTHERS.contains(&name) || Settings::VARIABLES.iter().any(|it| it.name == name);
    let unknown = names.iter().filter(|name| !known(name));
    super::none(unknown.map(|name| format!("{name} is set by the template and read by nobody")).collect());
    let missing = NEEDED.iter().filter(|name| !global.contains_key(**name));
    super::none(missing.map(|name| format!("{name} is not set for all functions")).collect());
}

/// Variables that are no settings of an install: set inside VMs, or read by programs of their own.
const ELSEWHERE: &[&str] = &[
    "PVM_ENVD_LOG",
    "PVM_SERVICE_BEGUN",
    "PVM_SERVICE_COMMAND",
    "PVM_SERVICE_NEEDS",
    "PVM_SERVICE_PORT",
    "PVM_SHELL",
    "PVM_WORKSPACE",
];

/// Whoever starts `pvm` with a variable that is not in the table is warned of a misspelt name.
#[test]
fn every_variable_that_the_install_reads_is_in_the_table_of_settings() {
    let name = regex::Regex::new("\"(PVM_[A-Z0-9_]+)\"").unwrap();
    let mut problems = Vec::new();
    for folder in ["infra/sandboxd/src", "infra/local/src", "infra/embedded/src", "infra/asl/src", "shared"] {
        for path in crate::sources(folder) {
            let shown = path.display().to_string();
            if shown.contains("/bin/") || shown.contains("/tests/") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            // What stands in tests of the file itself may be anything.
            let text = text.split("#[cfg(test)]").next().unwrap_or_default();
            for found in name.captures_iter(text) {
                let known = Settings::VARIABLES.iter().any(|variable| variable.name == &found[1]);
                if !known && !ELSEWHERE.contains(&&found[1]) {
                    problems.push(format!("{shown} reads {}, which no setting is called", &found[1]));
                }
            }
        }
    }
    super::none(problems);
}

#[test]
fn no_variable_of_the_template_holds_a_secret() {
    let global = TEMPLATE.whole["Globals"]["Function"]["Environment"]["Variables"].as_object().unwrap();
    // Secrets go by reference; `{{resolve:...}}` would put their text into the function's configuration.
    let told = |(name, value): (&String, &Value)| {
        let secret = ["_KEY", "_TOKEN", "_PASSWORD"].iter().any(|end| name.ends_with(end));
        secret || value.to_string().contains("resolve:")
    };
    super::none(global.iter().filter(|it| told(*it)).map(|(name, _)| name.clone()).collect());
}
