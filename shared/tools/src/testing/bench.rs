//! Where the tools' scripts are tried.

use std::time::Duration;

use pvm_application::ports_tools::{ToolContext, ToolProgress, ToolResult, Tools};
use pvm_domain::limits;
use serde_json::Value;

use super::host_vm::{HostClock, HostVm, NoStore, NoWorkflow};
use crate::registry::Registry;

/// The tools over this machine's shell, in a directory of their own.
pub(super) struct Bench {
    dir: tempfile::TempDir,
    pub(super) vm: HostVm,
    pub(super) registry: Registry<NoStore, NoWorkflow, HostVm, HostClock>,
    calls: u32,
}

impl Bench {
    pub(super) fn new() -> Self {
        let vm = HostVm::default();
        let registry = Registry::new(NoStore, NoWorkflow, vm.clone(), HostClock);
        Self { dir: tempfile::tempdir().unwrap(), vm, registry, calls: 0 }
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_string_lossy().into_owned()
    }

    pub(super) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(std::path::Path::new(&path).parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    pub(super) fn context(&mut self) -> ToolContext {
        self.calls += 1;
        ToolContext { call_id: format!("call_{}", self.calls), ..super::context(&self.path("")) }
    }

    pub(super) async fn with(&self, context: &ToolContext, name: &str, arguments: &Value) -> ToolResult {
        // A bound for what hangs; a busy machine may take its time.
        match self.registry.start(context, name, arguments, Duration::from_mins(5)).await.unwrap() {
            ToolProgress::Done(result) => result,
            ToolProgress::Running { output, .. } => panic!("{name} still runs: {output}"),
        }
    }

    pub(super) async fn call(&mut self, name: &str, arguments: Value) -> ToolResult {
        let context = self.context();
        let result = self.with(&context, name, &arguments).await;
        assert!(result.text.len() <= limits::OUTPUT_TO_MODEL_BYTES, "{name}: {} bytes", result.text.len());
        let data = result.structured.as_ref().map_or(0, |data| data.to_string().len());
        assert!(data <= limits::TOOL_DATA_BYTES, "{name}: {data} bytes");
        result
    }

    pub(super) async fn ok(&mut self, name: &str, arguments: Value) -> Value {
        let result = self.call(name, arguments).await;
        assert!(!result.is_error, "{name}: {}", result.text);
        result.structured.unwrap()
    }

    pub(super) async fn fails(&mut self, name: &str, arguments: Value) -> String {
        let result = self.call(name, arguments).await;
        assert!(result.is_error, "{name}: {}", result.text);
        result.text
    }
}
