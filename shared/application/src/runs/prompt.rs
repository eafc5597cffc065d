//! The system prompt: the agent's own, who else takes part, and the VM block, made from the tools. What the project's
//! records tell of the workspace changes often, so it comes after all messages: providers can cache what is before it.

use std::fmt::Write;

use pvm_domain::agent::AgentDefinition;
use pvm_domain::conversation::{Conversation, Mode, Run};
use pvm_domain::file::{ProjectFile, WORKSPACE, WorkspacePath};
use pvm_domain::limits;
use pvm_domain::project::Project;
use pvm_domain::service::Service;
use pvm_domain::text::head_and_tail;
use pvm_domain::vm::{VmLease, VmStatus};
use serde_json::Value;

use super::shell;
use crate::error::{AppError, AppResult};
use crate::keys;
use crate::ports::{Clock, GetObject, ObjectError};
use crate::ports_tools::ToolDefinition;
use crate::store::{Listing, ReadStore};
use crate::vm::lease;

/// The most files that are listed.
const FILES: u32 = 100;
/// The most of AGENTS.md that is read, in bytes.
const AGENTS_MD_BYTES: usize = 32 * 1024;

/// What the prompt tells of the project.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    pub(crate) project: Project,
    lease: VmLease,
    files: Vec<ProjectFile>,
    more_files: bool,
    services: Vec<Service>,
    agents_md: Option<String>,
}

/// Reads what the prompt tells of the project. AGENTS.md comes from the file store, so that the VM need not run.
///
/// # Errors
/// Of the store.
pub(crate) async fn workspace(
    store: &impl ReadStore,
    objects: &impl GetObject,
    clock: &impl Clock,
    conversation: &Conversation,
) -> AppResult<Workspace> {
    let id = &conversation.project_id;
    let project_key = keys::project(id);
    let path = WorkspacePath::parse("path", "AGENTS.md")?;
    let agents_key = keys::file(id, &path);
    let partition = keys::project_partition(id);
    let (project, lease, files, services, agents_md) = futures::join!(
        store.get::<Project>(&project_key),
        lease::load(store, clock, id),
        store.list::<ProjectFile>(Listing::of(partition.clone(), "F#").page(FILES, None)),
        store.list::<Service>(Listing::of(partition, "SVC#").page(FILES, None)),
        store.get::<ProjectFile>(&agents_key),
    );
    let project = project?.ok_or_else(|| AppError::not_found("project"))?;
    let (files, services) = (files?, services?);
    let agents_md = match agents_md?.filter(|file| file.object_version > 0) {
        Some(file) => read_agents_md(objects, &file).await?,
        None => None,
    };
    let more_files = files.next.is_some();
    Ok(Workspace {
        project,
        lease: lease?,
        files: files.items,
        more_files,
        services: services.items,
        agents_md,
    })
}

/// The text of AGENTS.md; `None` where it was removed meanwhile. A file store that does not answer is no reason to work
/// without the project's rules: the step is tried again.
async fn read_agents_md(objects: &impl GetObject, file: &ProjectFile) -> AppResult<Option<String>> {
    if file.size > limits::JSON_BODY_BYTES as u64 {
        let text =
            format!("(It has {} bytes, too many to be shown here; read it with read_file.)", file.size);
        return Ok(Some(text));
    }
    match objects.get(&file.current_key()).await {
        Ok(bytes) => Ok(Some(head_and_tail(&String::from_utf8_lossy(&bytes), AGENTS_MD_BYTES).0)),
        Err(ObjectError::NotFound) => Ok(None),
        Err(other) => Err(other.into()),
    }
}

/// The whole system prompt of `agent`.
pub(crate) fn system(
    agent: &AgentDefinition,
    others: &[AgentDefinition],
    tools: &[&ToolDefinition],
    workspace: &Workspace,
    conversation: &Conversation,
    run: &Run,
) -> String {
    let mut prompt = String::new();
    let own =
        if agent.system_prompt.is_empty() { "You are a capable assistant." } else { &agent.system_prompt };
    let _ = writeln!(prompt, "{own}\n\nYour name here is {}.", agent.agent_id);
    participants(&mut prompt, agent, others, conversation.mode);
    vm_block(&mut prompt, agent, tools, workspace, run);
    if let Some(text) = &workspace.agents_md {
        let _ = writeln!(prompt, "\n## AGENTS.md of this workspace\n{}", text.trim());
    }
    prompt
}

fn participants(prompt: &mut String, agent: &AgentDefinition, others: &[AgentDefinition], mode: Mode) {
    if others.is_empty() {
        return;
    }
    prompt.push_str("\n## Who takes part\nBeside the user, whose words come as [user]:\n");
    for other in others {
        let _ = writeln!(prompt, "- {}: {}", other.agent_id, first_sentence(&other.description));
    }
    prompt.push_str(match mode {
        Mode::RoundRobin => {
            "Everybody has one turn, in order. To hand something over, write @name in the last message of your turn; that \
             agent then gets a further turn. Mention nobody when nothing is left to do.\n"
        }
        Mode::Mention => {
            "Whoever is written to as @name in the last message of a turn speaks next. When nothing is left to do, \
             mention nobody: that ends the work.\n"
        }
        Mode::Moderator => {
            "The first agent leads: it writes @name to the one who speaks next and speaks again after each of them. The \
             work ends when the leader mentions nobody.\n"
        }
        Mode::Parallel => {
            "All work at the same time, each in a copy of the workspace; the copies are merged afterwards. Keep to your own \
             part of the files.\n"
        }
    });
    if let Some(allowed) = &agent.may_talk_to {
        let _ = writeln!(prompt, "You may hand over to: {}.", allowed.join(", "));
    }
    prompt.push_str(
        "Text in brackets at the start of a message names its author. Do not write such brackets yourself.\n",
    );
}

fn first_sentence(text: &str) -> String {
    head_and_tail(text.trim(), 300).0.replace('\n', " ")
}

fn vm_block(
    prompt: &mut String,
    agent: &AgentDefinition,
    tools: &[&ToolDefinition],
    workspace: &Workspace,
    run: &Run,
) {
    if tools.is_empty() {
        return;
    }
    let place = match &run.lane {
        Some(lane) => format!(
            "Work only in {}, your own copy of the workspace, and never in {WORKSPACE} itself: your copy is merged into it \
             when all are done. Give paths relative to your copy.",
            lane.worktree
        ),
        None => format!("Work in {WORKSPACE}; what is saved there outlives the machine."),
    };
    let _ = write!(
        prompt,
        "\n## Your computer\nYou have a Linux machine of your own project, \"{}\", with a shell, files and the network. \
         It starts by itself when you first use it. {place} You are \
         the user `user` and may use sudo without a password. Network access goes through a proxy that is set up: package \
         registries, git hosts and web sites work, other protocols than HTTP do not.\n",
        workspace.project.name
    );
    prompt.push_str("\nTools:\n");
    for tool in tools {
        let arguments = argument_names(&tool.input_schema);
        let _ = writeln!(prompt, "- {}({arguments}): {}", tool.name, first_sentence(&tool.description));
    }
    if agent.may_use(pvm_domain::conversation::answer::VM_LINE_TOOL) {
        prompt.push_str(
            "\nBesides calling tools you can write shell commands into your message: each line that begins with /vm is run, \
             in order, and you get a message \"VM Execution Results\" before you go on. Here-documents work:\n\
             /vm mkdir -p app && cd app\n\
             /vm cat > hello.py <<'EOF'\n\
             print('hello')\n\
             EOF\n\
             /vm python3 hello.py\n\
             From line to line your working directory and exported variables stay, also a sourced virtual environment; \
             execute_command starts afresh each time. Do not put /vm lines into code fences, and do not guess their \
             results: stop writing after them and wait.\n",
        );
        let most = shell::TIMEOUT_SECS;
        let _ = writeln!(
            prompt,
            "A /vm line is ended after {most} seconds. For longer work call execute_command with timeout_secs: it is \
             waited for, for hours too, and you get its exit code. Or give it background=true, go on with something \
             else, and look with get_command."
        );
    }
    let most = limits::TOOL_CALLS_PER_STEP;
    let _ = writeln!(
        prompt,
        "At most {most} calls and lines in one message. A program that must keep running belongs into a service."
    );
}

/// `command, working_dir?`: what a model sees in the schema too, in one line.
fn argument_names(schema: &Value) -> String {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let names = schema["properties"].as_object().into_iter().flat_map(|fields| fields.keys());
    let shown: Vec<String> = names
        .map(|name| if required.contains(&name.as_str()) { name.clone() } else { format!("{name}?") })
        .collect();
    shown.join(", ")
}

/// The state of the workspace, for the end of the context.
pub(crate) fn state(workspace: &Workspace, conversation: &Conversation) -> String {
    let mut prompt = String::new();
    let vm = match workspace.lease.state {
        VmStatus::Active => "running",
        VmStatus::Paused => "paused, and resumes when it is used",
        VmStatus::Starting => "starting",
        _ => "not running, and starts when it is used",
    };
    let _ = writeln!(prompt, "[system] State of the workspace now. The machine is {vm}.");
    if workspace.files.is_empty() {
        prompt.push_str("No files are saved yet.\n");
    } else {
        prompt.push_str("Files (paths relative to the workspace, bytes):\n");
        for file in &workspace.files {
            let pointed = if conversation.file_ids.contains(&file.file_id) {
                "  <- the user points to this"
            } else {
                ""
            };
            let _ = writeln!(prompt, "- {} ({}){pointed}", file.path, file.size);
        }
        if workspace.more_files {
            prompt.push_str("- and more; list the directory to see them\n");
        }
    }
    for service in &workspace.services {
        let port = service.port.map_or_else(String::new, |port| format!(" on port {port}"));
        let status = serde_json::to_value(service.status).unwrap_or_default();
        let status = status.as_str().unwrap_or("unknown").to_owned();
        let _ = writeln!(
            prompt,
            "Service {}{port}: {status} ({})",
            service.name,
            head_and_tail(&service.command, 200).0
        );
    }
    prompt
}
