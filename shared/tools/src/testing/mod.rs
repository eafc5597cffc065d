//! What the tests of the tools run on: this machine's shell in a temporary directory instead of a VM, and no store.

mod bench;
mod environments;
mod host_vm;
mod long_output;
mod tools_on_a_shell;

use std::collections::BTreeMap;

use pvm_application::ports_tools::ToolContext;
use pvm_domain::ids::{PrefixedId, ProjectId};

/// A context whose relative paths start at `working_dir`.
pub(crate) fn context(working_dir: &str) -> ToolContext {
    ToolContext {
        project_id: ProjectId::from_parts(1, 1),
        vm_id: "vm".to_owned(),
        epoch: 1,
        call_id: "call_1".to_owned(),
        conversation_id: None,
        agent_id: Some("dev_agent".to_owned()),
        working_dir: working_dir.to_owned(),
        env: BTreeMap::new(),
    }
}
