//! Summaries of the older part of a conversation, so that the rest fits a model's window. The messages themselves stay.

use pvm_domain::conversation::{Author, Compaction, Conversation, Message, Run};
use pvm_domain::text::head_and_tail;

use super::context::{self, Told};
use crate::error::AppResult;
use crate::ports_model::{Block, CallPlace, ModelMessage, ModelRequest, Role};
use crate::store::ReadStore;

/// Of the window, the newest messages that stay as they are take at most this part.
const KEPT_PART: u64 = 4;
/// The most of the material that the summary is made from, in tokens' bytes of the window: half of it, at 4 bytes each.
const MATERIAL_BYTES_PER_TOKEN: u64 = 2;
/// The most of a summary, in bytes: the conversation's record holds one for each of up to ten agents.
const SUMMARY_BYTES: usize = 24 * 1024;
/// The most tokens of a summary.
const SUMMARY_TOKENS: u32 = 4096;

const INSTRUCTIONS: &str = "You write the hand-over notes of a long working conversation, for the same agent to go on \
from. Keep: what the users want, word for word where it matters; decisions and their reasons; what exists now (files with \
their paths, services with their ports, what was installed); what was tried and failed, with the error; what is still to \
be done, in order. Leave out greetings and output that led nowhere. Invent nothing. Answer with the notes only.";

/// Up to which place messages are summarised: all but the newest that fit the kept part, and always all but the last.
pub(crate) fn boundary(told: &[Told], window: u64) -> u64 {
    let mut kept = 0;
    let mut boundary = 0;
    for (at, message) in told.iter().enumerate().rev() {
        kept += context::tokens(message);
        let is_last = at + 1 == told.len();
        if !is_last && kept > window / KEPT_PART {
            boundary = message.message.place;
            break;
        }
    }
    boundary
}

/// The request for a summary of what comes up to `boundary`.
pub(crate) fn request(
    told: &[Told],
    before: Option<&str>,
    boundary: u64,
    model: String,
    window: u64,
    place: CallPlace,
) -> ModelRequest {
    let mut material = String::new();
    if let Some(before) = before {
        material.push_str("Notes so far:\n");
        material.push_str(before);
        material.push('\n');
    }
    for Told { message, calls } in told.iter().filter(|told| told.message.place <= boundary) {
        material.push_str(&format!("\n{}: {}\n", name(message), message.text));
        for call in calls {
            let result = call.result.as_ref().map_or("", |result| result.text.as_str());
            let (arguments, result) = (call.arguments.to_string(), head_and_tail(result, 1500).0);
            material.push_str(&format!(
                "  {} {}\n  -> {result}\n",
                call.name,
                head_and_tail(&arguments, 1500).0
            ));
        }
    }
    let most = usize::try_from(window * MATERIAL_BYTES_PER_TOKEN).unwrap_or(usize::MAX);
    let material = head_and_tail(&material, most).0;
    ModelRequest {
        model,
        system: INSTRUCTIONS.to_owned(),
        messages: vec![ModelMessage { role: Role::User, blocks: vec![Block::Text { text: material }] }],
        tools: Vec::new(),
        temperature: None,
        max_tokens: SUMMARY_TOKENS,
        place,
    }
}

fn name(message: &Message) -> &str {
    match &message.author {
        Author::User => "user",
        Author::System => "system",
        Author::Agent { agent_id } => agent_id,
    }
}

/// The record of a summary; where a model made none, one is made of what people said and the last words of agents.
///
/// # Errors
/// Of the store.
pub(crate) async fn summary(
    store: &impl ReadStore,
    conversation: &Conversation,
    agent_id: &str,
    summary: Option<String>,
    up_to: u64,
) -> AppResult<Compaction> {
    let before = conversation.compacted.get(agent_id);
    // Nothing can be left out but the whole of it: then at least the tool traffic goes.
    let up_to = if up_to == 0 { conversation.message_count.saturating_sub(1) } else { up_to };
    if let Some(summary) = summary {
        return Ok(Compaction { up_to, summary: head_and_tail(&summary, SUMMARY_BYTES).0 });
    }
    let messages = context::transcript(store, conversation, before.map_or(0, |before| before.up_to)).await?;
    Ok(Compaction { up_to, summary: plain(before.map(|before| before.summary.as_str()), &messages, up_to) })
}

fn plain(before: Option<&str>, messages: &[Message], up_to: u64) -> String {
    let mut all =
        String::from("(The older messages were shortened without a model: tool results are left out.)\n");
    all.push_str(before.unwrap_or_default());
    for message in messages.iter().filter(|message| message.place <= up_to) {
        let most = if message.author == Author::User { 4000 } else { 600 };
        all.push_str(&format!("\n{}: {}", name(message), head_and_tail(&message.text, most).0));
    }
    head_and_tail(&all, SUMMARY_BYTES).0
}

/// What `run`'s agent has of the conversation: after its summary, and that summary.
///
/// # Errors
/// Of the store.
pub(crate) async fn remembered(
    store: &impl ReadStore,
    conversation: &Conversation,
    run: &Run,
    agent_id: &str,
) -> AppResult<(Vec<Told>, Option<String>)> {
    let compaction = conversation.compacted.get(agent_id);
    let told = context::told(store, conversation, run, compaction.map_or(0, |known| known.up_to)).await?;
    Ok((told, compaction.map(|known| known.summary.clone())))
}
