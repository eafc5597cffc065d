//! AWS's own checkers have nothing to say.

use std::process::Command;

use pvm_tests::aws::tools;

fn quiet(command: &mut Command) {
    let shown = format!("{command:?}");
    let ran = command.current_dir(crate::root()).env("AWS_DEFAULT_REGION", "us-east-1").output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{shown}:\n{said}");
}

#[test]
fn cfn_lint_finds_nothing() {
    quiet(Command::new(tools().join("sam/bin/cfn-lint")).arg("template.yaml"));
}

#[test]
fn sam_validate_finds_nothing() {
    let mut sam = Command::new(tools().join("sam/bin/sam"));
    // It calls cfn-lint again; what it adds is that SAM itself can read the template.
    quiet(sam.args(["validate", "--template-file", "template.yaml"]).env("SAM_CLI_TELEMETRY", "0"));
}

#[test]
fn asl_validator_finds_nothing() {
    let validator = tools().join("asl/node_modules/.bin/asl-validator");
    assert!(validator.exists(), "asl-validator is not installed: npm is missing (apt-get install npm)");
    for machine in ["run-turn", "vm-lifecycle"] {
        quiet(Command::new(&validator).arg(format!("--json-path=statemachines/{machine}.asl.json")));
    }
}
