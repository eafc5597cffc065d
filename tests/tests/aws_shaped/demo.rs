//! The demo against the deployed stack, as `make demo PVM_URL=...` runs it.

use std::process::Stdio;

use pvm_tests::aws::AwsStack;
use pvm_tests::process::{command, free_ports};

/// The same program and the same checks as in process; where the emulator holds streams back, long poll brings the events.
pub(crate) async fn holds(aws: &AwsStack) {
    let mut demo = command(&aws.home.join("demo"), free_ports(), "demo");
    demo.env("PVM_URL", &aws.api.url).env("PVM_API_KEY", &aws.api.key).stdout(Stdio::piped());
    let output = demo.output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("login works at") && said.contains("All facts hold"), "{said}");
}
