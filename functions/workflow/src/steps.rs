//! The one table of steps: the name of each program, the state machine that calls it, how long it may take, and how to
//! call it in process. The template, the state machines and the programs are checked against it.

use std::pin::Pin;
use std::sync::Arc;

use pvm_application::runs;
use pvm_entry::{StepError, Wiring, call_step};
use serde_json::Value;

use crate::lifecycle::{end, erase, setup};
use crate::run_turn;

/// A step as it is known by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepInfo {
    /// Name of its program; `run-tool` stands for `${RunToolFunction}` in the state machines.
    pub name: &'static str,
    /// The state machine.
    pub machine: &'static str,
    /// Seconds that it may take; the Lambda is ended then. Each state that calls it waits longer.
    pub timeout_secs: u64,
}

/// What calling a step returns.
pub type StepFuture = Pin<Box<dyn Future<Output = Result<Value, StepError>> + Send>>;

/// A step that can be called with the adapters of `P`.
pub struct Step<P> {
    /// What is known about it.
    pub info: StepInfo,
    /// Calls it with the payload that the state machine sends.
    pub call: fn(Arc<P>, Value) -> StepFuture,
}

impl<P> std::fmt::Debug for Step<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Step").field("info", &self.info).finish_non_exhaustive()
    }
}

macro_rules! steps {
    ($($name:literal in $machine:literal within $secs:literal: |$p:ident, $input:ident| $call:expr;)*) => {
        /// Every step.
        pub const STEPS: &[StepInfo] = &[$(StepInfo { name: $name, machine: $machine, timeout_secs: $secs }),*];

        /// The step of this name.
        pub fn find<P: Wiring>(name: &str) -> Option<Step<P>> {
            match name {
                $($name => {
                    let call: fn(Arc<P>, Value) -> StepFuture = |p, payload| Box::pin(async move {
                        let $p = &*p;
                        call_step(payload, |$input| async move { $call.await.map_err(StepError::from) }).await
                    });
                    Some(Step { info: StepInfo { name: $name, machine: $machine, timeout_secs: $secs }, call })
                })*
                _ => None,
            }
        }
    };
}

steps! {
    "begin-run" in "run-turn" within 45: |p, input| runs::begin(p.store(), p.ambient(), input);
    "ensure-vm" in "run-turn" within 300: |p, input| runs::ensure_vm(p.store(), p.workflow(), p.vm(), p.ambient(), input);
    "think" in "run-turn" within 360: |p, input|
        runs::think(p.store(), p.objects(), p.models(), p.tools(), p.ambient(), input);
    "run-tool" in "run-turn" within 90: |p, input|
        run_turn::run_tool(p.store(), p.workflow(), p.vm(), p.tools(), p.saver(), p.ambient(), input);
    "fail-tool" in "run-turn" within 45: |p, input| runs::fail_tool(p.store(), p.ambient(), input);
    "ask-approval" in "run-turn" within 60: |p, input| runs::ask_approval(p.store(), p.workflow(), p.ambient(), input);
    "expire-approval" in "run-turn" within 45: |p, input| runs::expire_approval(p.store(), p.ambient(), input);
    "start-lanes" in "run-turn" within 60: |p, input|
        runs::start_lanes(p.store(), p.workflow(), p.vm(), p.ambient(), input);
    "continue-run" in "run-turn" within 45: |p, input| runs::continue_run(p.store(), p.workflow(), p.ambient(), input);
    "finish-run" in "run-turn" within 75: |p, input| runs::finish_run(p.store(), p.workflow(), p.ambient(), input);
    "provision-vm" in "vm-lifecycle" within 300: |p, input|
        setup::provision(p.store(), p.secrets(), p.vm(), p.ambient(), input);
    "restore-files" in "vm-lifecycle" within 300: |p, input|
        setup::restore_files(p.store(), p.objects(), p.vm(), p.ambient(), input);
    "replay-recipe" in "vm-lifecycle" within 120: |p, input| setup::replay_recipe(p.store(), p.vm(), p.ambient(), input);
    "start-services" in "vm-lifecycle" within 300: |p, input|
        setup::start_services(p.store(), p.objects(), p.vm(), p.ambient(), input);
    "fail-vm" in "vm-lifecycle" within 45: |p, input| setup::fail_vm(p.store(), p.ambient(), input);
    "stop-runs" in "vm-lifecycle" within 75: |p, input|
        erase::stop_runs(p.store(), p.workflow(), p.vm(), p.ambient(), input);
    "save-workspace" in "vm-lifecycle" within 300: |p, input|
        end::save_workspace(p.store(), p.objects(), p.vm(), p.ambient(), input);
    "kill-vm" in "vm-lifecycle" within 75: |p, input| end::kill_vm(p.store(), p.vm(), p.ambient(), input);
    "delete-files" in "vm-lifecycle" within 300: |p, input|
        erase::delete_files(p.store(), p.objects(), p.secrets(), p.ambient(), input);
    "delete-records" in "vm-lifecycle" within 300: |p, input| erase::delete_records(p.store(), p.ambient(), input);
}
