//! One model call: its request, its streamed text, and its answer in the rules' words.

use std::pin::pin;
use std::time::Duration;

use pvm_domain::agent::AgentDefinition;
use pvm_domain::conversation::answer::{Answer, ToolFacts, VM_LINE_TOOL, WantedCall};
use pvm_domain::conversation::core::{Call, CallFailure, Purpose};
use pvm_domain::conversation::{Conversation, Run, Usage, vm_lines};
use pvm_domain::event::LogId;
use pvm_domain::limits;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::context::Told;
use super::draft::load_run;
use super::{compaction, context, prompt};
use crate::agents::pinned;
use crate::error::AppResult;
use crate::ports::{Ambient, GetObject};
use crate::ports_model::{
    CallModel, CallPlace, ModelAnswer, ModelError, ModelFacts, ModelRequest, ModelTool, OpaqueBlock, Stop,
};
use crate::ports_tools::{ToolDefinition, Tools};
use crate::store::{Delta, WriteStore};

/// While a model speaks, the run is looked at this often, so that a cancel ends the stream.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A context that fills this part of the window is summarised before the agent's next call: 80 %.
const NEARLY_FULL_PERCENT: u64 = 80;
/// Messages that take less than this part of the window are not summarised: where it is full all the same, instructions and
/// tools fill it, and a summary after every step would cost much and help nothing.
const WORTH_PERCENT: u64 = 10;
/// The most of one stored piece of text, in bytes: as JSON it may take six times as much, and an item holds 400 KB.
const DELTA_BYTES: usize = 32 * 1024;
/// Opaque blocks of a provider are kept up to this size, in bytes; a record holds 400 KB.
const OPAQUE_BYTES: usize = 96 * 1024;

/// A call that is ready to be made.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) request: ModelRequest,
    pub(crate) request_hash: String,
    pub(crate) summary_up_to: Option<u64>,
    agent: AgentDefinition,
    facts: ModelFacts,
    /// Which part of the request a summary could stand for.
    shrinkable: Shrinkable,
}

/// A part of a request and the whole, in bytes.
#[derive(Debug, Clone, Copy)]
struct Shrinkable {
    part: u64,
    whole: u64,
}

impl Shrinkable {
    fn of(told: &[Told], request: &ModelRequest) -> Self {
        let part = told.iter().map(context::bytes).sum::<usize>() as u64;
        let whole = json!([request.system, request.messages, request.tools]).to_string().len() as u64;
        Self { part, whole: whole.max(part).max(1) }
    }

    /// The part of these tokens, which the whole took.
    fn tokens_of(self, all: u64) -> u64 {
        (u128::from(all) * u128::from(self.part) / u128::from(self.whole)) as u64
    }
}

impl Prepared {
    /// The part of the model's name before the slash.
    pub(crate) fn provider(&self) -> &str {
        self.request.model.split('/').next().unwrap_or_default()
    }
}

/// How a call ended.
#[derive(Debug)]
pub(crate) enum Spoken {
    /// With an answer.
    Answer(ModelAnswer),
    /// With a failure.
    Failed(CallFailure),
    /// The run ended, or somebody else makes the call now.
    Overtaken,
}

/// Puts the request together.
///
/// # Errors
/// Of the store. A model that cannot be called is the inner error.
#[expect(clippy::too_many_arguments, reason = "five ports and the three things they are used for")]
pub(crate) async fn prepare<S, O, M, T, A>(
    store: &S,
    objects: &O,
    models: &M,
    tools: &T,
    ambient: &A,
    conversation: &Conversation,
    run: &Run,
    call: &Call,
) -> AppResult<Result<Prepared, CallFailure>>
where
    S: WriteStore,
    O: GetObject,
    M: CallModel,
    T: Tools,
    A: Ambient,
{
    let mut agent = None;
    let mut others = Vec::new();
    for pin in &run.agents {
        let definition = pinned(store, &conversation.owner, pin).await?;
        if pin.agent_id == call.agent_id {
            agent = Some(definition);
        } else {
            others.push(definition);
        }
    }
    let Some(agent) = agent else {
        let detail = format!("{} takes no part in this run.", call.agent_id);
        return Ok(Err(CallFailure::NotConfigured { detail }));
    };
    let model = agent.model.clone().unwrap_or_else(|| models.default_model().to_owned());
    let facts = match models.facts(&model) {
        Ok(facts) => facts,
        Err(error) => return Ok(Err(failure(&error))),
    };
    let place = CallPlace {
        conversation_id: conversation.conversation_id.clone(),
        run_id: run.run_id.clone(),
        agent_id: agent.agent_id.clone(),
        initial_message: run.initial_message.clone(),
        turn: run.core.turn.as_ref().map_or(0, |turn| turn.number.saturating_sub(1)),
        agent_step: run.core.steps_by_agent.get(&agent.agent_id).copied().unwrap_or(0),
    };
    let (told, summary) = compaction::remembered(store, conversation, run, &agent.agent_id).await?;
    let (request, summary_up_to) = if call.purpose == Purpose::Summarise {
        let window = facts.context_tokens;
        let Some(boundary) = compaction::boundary(&told, window) else {
            return Ok(Err(CallFailure::ContextOverflow));
        };
        (compaction::request(&told, summary.as_deref(), boundary, model, window, place), Some(boundary))
    } else {
        let workspace = prompt::workspace(store, objects, ambient, conversation).await?;
        let usable: Vec<&ToolDefinition> =
            tools.definitions().iter().filter(|tool| agent.may_use(&tool.name)).collect();
        let provider = model.split('/').next().unwrap_or_default();
        let several = !others.is_empty();
        let mut messages = context::messages(&told, &agent.agent_id, provider, summary.as_deref(), several);
        context::say_last(&mut messages, prompt::state(&workspace, conversation));
        let request = ModelRequest {
            system: prompt::system(&agent, &others, &usable, &workspace, conversation, run),
            messages,
            tools: usable.iter().map(|tool| as_model_tool(tool)).collect(),
            temperature: agent.temperature,
            max_tokens: agent.max_tokens.unwrap_or(facts.answer_tokens),
            model,
            place,
        };
        (request, None)
    };
    let (request_hash, shrinkable) = (hash(&request), Shrinkable::of(&told, &request));
    Ok(Ok(Prepared { request, request_hash, summary_up_to, agent, facts, shrinkable }))
}

fn as_model_tool(tool: &ToolDefinition) -> ModelTool {
    ModelTool {
        name: tool.name.clone(),
        description: tool.description.clone(),
        input_schema: tool.input_schema.clone(),
    }
}

fn hash(request: &ModelRequest) -> String {
    let text = json!([request.model, request.system, request.messages, request.tools, request.max_tokens]);
    hex::encode(Sha256::digest(text.to_string()))
}

/// Makes the call. Its text is stored in pieces as it comes, for those who watch.
///
/// # Errors
/// Of the store.
pub(crate) async fn speak<S: WriteStore, M: CallModel, A: Ambient>(
    store: &S,
    models: &M,
    ambient: &A,
    run: &Run,
    call: &Call,
    prepared: &Prepared,
) -> AppResult<Spoken> {
    let log = LogId::Conversation(run.conversation_id.clone());
    let shows = call.purpose == Purpose::Speak;
    let (sender, mut pieces) = mpsc::channel::<String>(64);
    let mut answer = pin!(models.call(&prepared.request, sender));
    let most_secs = prepared.agent.call_secs();
    let mut end = pin!(ambient.sleep(Duration::from_secs(most_secs)));
    let mut look = pin!(ambient.sleep(LOOK_EVERY));
    let mut flush = pin!(ambient.sleep(Duration::from_millis(limits::DELTA_FLUSH_MILLIS)));
    let mut deltas = Deltas { text: String::new(), chunk: 0 };
    let mut open = true;
    loop {
        tokio::select! {
            // Text before the end: the answer's future ends only after its last piece was sent.
            biased;
            piece = pieces.recv(), if open => match piece {
                Some(piece) if shows => {
                    deltas.text.push_str(&piece);
                    if deltas.text.len() >= limits::DELTA_FLUSH_BYTES {
                        deltas.flush(store, ambient, &log, call).await;
                    }
                }
                Some(_) => {}
                None => open = false,
            },
            answered = &mut answer => {
                return Ok(match answered {
                    Ok(answer) => Spoken::Answer(answer),
                    Err(error) => Spoken::Failed(failure(&error)),
                });
            }
            () = &mut flush => {
                deltas.flush(store, ambient, &log, call).await;
                flush.set(ambient.sleep(Duration::from_millis(limits::DELTA_FLUSH_MILLIS)));
            }
            () = &mut look => {
                let now = load_run(store, &run.conversation_id, &run.run_id).await?;
                if is_overtaken(&now, call) {
                    return Ok(Spoken::Overtaken);
                }
                look.set(ambient.sleep(LOOK_EVERY));
            }
            () = &mut end => {
                let detail = format!("no end within {most_secs} seconds");
                return Ok(Spoken::Failed(CallFailure::Broken { detail }));
            }
        }
    }
}

fn is_overtaken(run: &Run, call: &Call) -> bool {
    match &run.core.phase {
        pvm_domain::conversation::core::Phase::Calling(now) => {
            (now.step, now.attempt) != (call.step, call.attempt)
        }
        _ => true,
    }
}

struct Deltas {
    text: String,
    chunk: u32,
}

impl Deltas {
    /// Stores what has come. A piece that cannot be stored is only missed by those who watch: the message has it all.
    async fn flush<S: WriteStore, A: Ambient>(&mut self, store: &S, ambient: &A, log: &LogId, call: &Call) {
        let mut text = std::mem::take(&mut self.text);
        while !text.is_empty() {
            let rest = text.split_off(text.floor_char_boundary(DELTA_BYTES));
            self.store(store, ambient, log, call, text).await;
            text = rest;
        }
    }

    async fn store<S: WriteStore, A: Ambient>(
        &mut self,
        store: &S,
        ambient: &A,
        log: &LogId,
        call: &Call,
        text: String,
    ) {
        let keep = jiff::SignedDuration::from_secs(limits::DELTA_TTL_SECS.cast_signed());
        let delta = Delta {
            message_id: call.message_id.to_string(),
            attempt: call.attempt,
            chunk: self.chunk,
            agent_id: call.agent_id.clone(),
            text,
            expires_at: ambient.now().saturating_add(keep).unwrap_or_else(|_| ambient.now()),
        };
        self.chunk += 1;
        if let Err(error) = store.put_delta(log, &delta).await {
            tracing::debug!(%error, "a piece of text could not be stored");
        }
    }
}

fn failure(error: &ModelError) -> CallFailure {
    match error {
        ModelError::Overloaded { retry_after } | ModelError::RateLimited { retry_after } => {
            // Rounded up: coming back too early costs a further wait.
            CallFailure::Busy {
                retry_after_secs: retry_after.map(|wait| wait.as_millis().div_ceil(1000) as u64),
            }
        }
        ModelError::Refused(detail) => CallFailure::Refused { detail: detail.clone() },
        ModelError::ContextOverflow => CallFailure::ContextOverflow,
        ModelError::NotConfigured(detail) => CallFailure::NotConfigured { detail: detail.clone() },
        ModelError::Broken(detail) => CallFailure::Broken { detail: detail.clone() },
    }
}

/// Blocks that go back to the provider, where a record can hold them.
pub(crate) fn kept_opaque(answer: &ModelAnswer) -> Option<Vec<OpaqueBlock>> {
    let size: usize = answer.opaque.iter().map(|block| block.value.to_string().len()).sum();
    (size > 0 && size <= OPAQUE_BYTES).then(|| answer.opaque.clone())
}

/// Puts an answer into the rules' words: which tools there are for this agent, and what its definition says of each
/// call.
pub(crate) fn read(prepared: &Prepared, tools: &[ToolDefinition], answer: ModelAnswer) -> Answer {
    let agent = &prepared.agent;
    let facts = |name: &str, arguments: &serde_json::Value| {
        let tool = tools.iter().find(|tool| tool.name == name).filter(|_| agent.may_use(name))?;
        let policy = agent.policy(name, tool.subject(), arguments);
        Some(ToolFacts { read_only: tool.read_only, needs_vm: tool.needs_vm, policy })
    };
    let calls = answer.calls.into_iter().map(|call| {
        let facts = match &call.arguments {
            Ok(arguments) => facts(&call.name, arguments),
            Err(_) => facts(&call.name, &serde_json::Value::Null),
        };
        WantedCall { provider_id: call.provider_id, name: call.name, arguments: call.arguments, facts }
    });
    let calls = calls.collect();
    // A `/vm` line runs without the tool's own code, so it is there even where the registry lacks the tool.
    let vm_line = agent.may_use(VM_LINE_TOOL).then(|| ToolFacts {
        read_only: false,
        needs_vm: true,
        policy: agent.policy(VM_LINE_TOOL, None, &serde_json::Value::Null),
    });
    let lines = vm_lines::parse(&answer.text).lines;
    let line_policy = |line: &vm_lines::VmLine| {
        agent.policy(VM_LINE_TOOL, Some("command"), &json!({"command": line.command}))
    };
    let vm_line_policies = lines.iter().map(line_policy).collect();
    let used = answer.usage;
    let window = prepared.facts.context_tokens;
    Answer {
        text: answer.text,
        calls,
        vm_line,
        vm_line_policies,
        cut: answer.stop == Stop::MaxTokens,
        refused: answer.stop == Stop::Refusal,
        usage: Usage {
            input_tokens: used.input,
            output_tokens: used.output,
            cache_read_tokens: used.cache_read,
            cost_microusd: used.cost_microusd,
            ..Usage::default()
        },
        nearly_full: (used.input + used.output) * 100 >= window * NEARLY_FULL_PERCENT
            && (prepared.shrinkable.tokens_of(used.input) + used.output) * 100 >= window * WORTH_PERCENT,
    }
}
