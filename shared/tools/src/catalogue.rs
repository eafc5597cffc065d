//! What is known of every tool without running it, and the views of it: definitions for agents (of which each sees what its
//! own definition allows, and which the providers' adapters write in each provider's form), and tools of MCP for a token.

use std::sync::LazyLock;

use pvm_application::ports_tools::ToolDefinition;
use pvm_domain::Invalid;
use pvm_domain::agent::AgentDefinition;
use pvm_domain::project::Scope;
use serde_json::{Value, json};

/// What a tool does to the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It changes nothing.
    Reads,
    /// It changes something; twice is the same as once.
    Converges,
    /// It changes something; twice may be more than once.
    Acts,
}

/// A tool's definition, written once in the tool's own file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spec {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) description: &'static str,
    pub(crate) arguments: fn() -> Value,
    pub(crate) result: fn() -> Value,
    pub(crate) effect: Effect,
    /// It may destroy something that cannot be had back.
    pub(crate) destructive: bool,
    /// It reaches beyond the VM, to hosts of the internet.
    pub(crate) open_world: bool,
    pub(crate) needs_vm: bool,
    /// It runs a program in the VM for its caller, which counts as a command.
    pub(crate) runs_command: bool,
    pub(crate) may_change_files: bool,
    /// It often takes longer than a client waits.
    pub(crate) long: bool,
}

/// A tool with everything that a view may need.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The definition, as agents and the workflow see it.
    pub definition: ToolDefinition,
    /// A short name for people.
    pub title: &'static str,
    /// It reaches beyond the VM.
    pub open_world: bool,
    /// It often takes longer than a client waits: MCP clients that know tasks get one.
    pub long: bool,
}

impl Entry {
    fn new(spec: &Spec) -> Self {
        Self {
            definition: ToolDefinition {
                name: spec.name.to_owned(),
                description: spec.description.split_whitespace().collect::<Vec<_>>().join(" "),
                input_schema: (spec.arguments)(),
                output_schema: (spec.result)(),
                read_only: spec.effect == Effect::Reads,
                destructive: spec.destructive,
                idempotent: spec.effect != Effect::Acts,
                needs_vm: spec.needs_vm,
                runs_command: spec.runs_command,
                may_change_files: spec.may_change_files,
            },
            title: spec.title,
            open_world: spec.open_world,
            long: spec.long,
        }
    }

    /// The scope that a token needs to use the tool.
    pub fn scope(&self) -> Scope {
        if self.definition.read_only { Scope::Read } else { Scope::Write }
    }

    /// The tool as MCP describes it.
    pub fn for_mcp(&self) -> Value {
        let d = &self.definition;
        json!({
            "name": d.name,
            "title": self.title,
            "description": d.description,
            "inputSchema": d.input_schema,
            "outputSchema": d.output_schema,
            "annotations": {
                "title": self.title,
                "readOnlyHint": d.read_only,
                "destructiveHint": d.destructive,
                "idempotentHint": d.idempotent,
                "openWorldHint": self.open_world,
            },
        })
    }
}

static ENTRIES: LazyLock<Vec<Entry>> =
    LazyLock::new(|| crate::registry::SPECS.iter().map(Entry::new).collect());

/// Every tool, in the order in which they are shown.
pub fn entries() -> &'static [Entry] {
    &ENTRIES
}

/// A tool by name.
pub fn entry(name: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| entry.definition.name == name)
}

/// The tools that a token of this scope may use.
pub fn for_scope(scope: Scope) -> impl Iterator<Item = &'static Entry> {
    ENTRIES.iter().filter(move |entry| entry.scope() <= scope)
}

/// Names of `agent`'s tool lists that are no tools.
pub fn unknown_tools(agent: &AgentDefinition) -> Vec<String> {
    // A rule of approval may have a pattern: `execute_command(rm *)`.
    let rules =
        agent.approvals.keys().map(|rule| rule.split_once('(').map_or(rule.as_str(), |(tool, _)| tool));
    let listed = agent.tools.iter().flatten().chain(&agent.denied_tools).map(String::as_str).chain(rules);
    listed.filter(|name| entry(name).is_none()).map(str::to_owned).collect()
}

/// Refuses an agent with tools that are none, so that a misspelt one does not go missing in silence.
///
/// # Errors
/// Names the tools that there are.
pub fn check_tools(agent: &AgentDefinition) -> Result<(), Invalid> {
    let unknown = unknown_tools(agent);
    if unknown.is_empty() {
        return Ok(());
    }
    let shown = pvm_domain::text::head_and_tail(&unknown.join(", "), 200).0;
    let known: Vec<&str> = ENTRIES.iter().map(|entry| entry.definition.name.as_str()).collect();
    Err(Invalid::new("tools", format!("names {shown}, and the tools are {}", known.join(", "))))
}
