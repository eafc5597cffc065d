//! Summaries of the older part of a conversation, so that the rest fits a model's window. The messages themselves stay.

use pvm_domain::conversation::{Author, Compaction, Conversation, Message, Run};
use pvm_domain::text::{encoded_head_and_tail, head_and_tail};

use super::context::{self, Told};
use crate::error::AppResult;
use crate::ports_model::{Block, CallPlace, ModelMessage, ModelRequest, Role};
use crate::store::ReadStore;

/// Of the window, the newest messages that stay as they are take at most this part.
const KEPT_PART: u64 = 4;
/// The most of the material that the summary is made from, in tokens' bytes of the window: half of it, at 4 bytes each.
const MATERIAL_BYTES_PER_TOKEN: u64 = 2;
/// Where the material is too long, the texts of its messages are shortened to the first of these, in bytes, that fits.
const TEXT_BYTES: [usize; 4] = [usize::MAX, 16 * 1024, 4 * 1024, TEXT_BYTES_LEAST];
/// The shortest that they are shortened to before messages are left out of the middle, in bytes.
const TEXT_BYTES_LEAST: usize = 512;
/// The most of a call's arguments and of its result in the material, in bytes each.
const CALL_BYTES: usize = 1500;
/// The most of a summary, in bytes as JSON, which a record is stored as: the conversation's record holds one for each of up to ten agents.
const SUMMARY_BYTES: usize = 24 * 1024;
/// The most tokens of a summary.
const SUMMARY_TOKENS: u32 = 4096;

const INSTRUCTIONS: &str = "You write the hand-over notes of a long working conversation, for the same agent to go on \
from. Keep: what the users want, word for word where it matters; decisions and their reasons; what exists now (files with \
their paths, services with their ports, what was installed); what was tried and failed, with the error; what is still to \
be done, in order. Leave out greetings and output that led nowhere. Invent nothing. Answer with the notes only.";

/// Up to which place messages are summarised: all but the newest that fit the kept part. Where all of them fit it, what
/// fills the window is something else or the estimate is wrong, so all but the last are; `None` where there is no other.
pub(crate) fn boundary(told: &[Told], window: u64) -> Option<u64> {
    let (last, before) = told.split_last()?;
    let mut kept = context::tokens(last);
    let fits = |message: &&Told| {
        kept += context::tokens(message);
        kept <= window / KEPT_PART
    };
    let kept_too = before.iter().rev().take_while(fits).count();
    let summarised = if kept_too < before.len() { before.len() - kept_too } else { before.len() };
    summarised.checked_sub(1).map(|at| before[at].message.place)
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
    let summarised: Vec<&Told> = told.iter().filter(|told| told.message.place <= boundary).collect();
    let most = usize::try_from(window * MATERIAL_BYTES_PER_TOKEN).unwrap_or(usize::MAX);
    ModelRequest {
        model,
        system: INSTRUCTIONS.to_owned(),
        messages: vec![ModelMessage {
            role: Role::User,
            blocks: vec![Block::Text { text: material(&summarised, before, most) }],
        }],
        tools: Vec::new(),
        temperature: None,
        max_tokens: SUMMARY_TOKENS,
        place,
    }
}

/// What the summary is made from, within `most` bytes: rather every message shortened than some left out.
fn material(told: &[&Told], before: Option<&str>, most: usize) -> String {
    let notes = before.map_or_else(String::new, |before| format!("Notes so far:\n{before}\n"));
    let with = |bytes| told.iter().fold(notes.clone(), |all, told| all + &shown(told, bytes));
    let fitting = TEXT_BYTES.into_iter().map(with).find(|all| all.len() <= most);
    fitting.unwrap_or_else(|| head_and_tail(&with(TEXT_BYTES_LEAST), most).0)
}

/// A message with its calls, each text shortened to `bytes`.
fn shown(Told { message, calls }: &Told, bytes: usize) -> String {
    let short = |text: &str, most: usize| head_and_tail(text, most.min(bytes)).0;
    let mut all = format!("\n{}: {}\n", name(message), short(&message.text, bytes));
    for call in calls {
        let arguments = short(&call.arguments.to_string(), CALL_BYTES);
        let result = call.result.as_ref().map_or("", |result| result.text.as_str());
        all.push_str(&format!("  {} {arguments}\n  -> {}\n", call.name, short(result, CALL_BYTES)));
    }
    all
}

fn name(message: &Message) -> &str {
    match &message.author {
        Author::User => "user",
        Author::System => "system",
        Author::Agent { agent_id } => agent_id,
    }
}

/// The record of a summary; where a model made none, one is made of what people said and the last words of agents. `None`
/// where there is nothing to summarise: what is known stays.
///
/// # Errors
/// Of the store.
pub(crate) async fn summary(
    store: &impl ReadStore,
    conversation: &Conversation,
    agent_id: &str,
    summary: Option<String>,
    up_to: Option<u64>,
) -> AppResult<Option<Compaction>> {
    let Some(up_to) = up_to else { return Ok(None) };
    let before = conversation.compacted.get(agent_id);
    let text = if let Some(summary) = summary {
        summary
    } else {
        let messages =
            context::transcript(store, conversation, before.map_or(0, |before| before.up_to)).await?;
        plain(before.map(|before| before.summary.as_str()), &messages, up_to)
    };
    Ok(Some(Compaction { up_to, summary: encoded_head_and_tail(&text, SUMMARY_BYTES).0 }))
}

fn plain(before: Option<&str>, messages: &[Message], up_to: u64) -> String {
    let mut all =
        String::from("(The older messages were shortened without a model: tool results are left out.)\n");
    all.push_str(before.unwrap_or_default());
    for message in messages.iter().filter(|message| message.place <= up_to) {
        let most = if message.author == Author::User { 4000 } else { 600 };
        all.push_str(&format!("\n{}: {}", name(message), head_and_tail(&message.text, most).0));
    }
    all
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

#[cfg(test)]
mod tests {
    use pvm_domain::ids::{ConversationId, MessageId, PrefixedId, RunId};

    use super::*;

    fn told(lengths: &[usize]) -> Vec<Told> {
        let message = |(place, length): (u64, &usize)| {
            let text = format!("{place}{}{place}", "x".repeat(*length));
            let (conversation, run) = (ConversationId::from_parts(1, 1), RunId::from_parts(1, 1));
            let id = MessageId::from_parts(1, place.into());
            let now = pvm_domain::Timestamp::UNIX_EPOCH;
            let message = Message::new(conversation, id, run, Author::User, text, now);
            Told { message: Message { place, ..message }, calls: Vec::new() }
        };
        (1..).zip(lengths).map(message).collect()
    }

    #[test]
    fn the_newest_messages_that_fit_a_quarter_of_the_window_stay() {
        assert_eq!(boundary(&told(&[4000, 4000, 400, 400]), 1000), Some(2));
        assert_eq!(boundary(&told(&[40, 40, 40_000]), 1000), Some(2), "the last one stays, however long");
        assert_eq!(boundary(&told(&[40_000, 40]), 1000), Some(1));
    }

    #[test]
    fn where_all_would_stay_all_but_the_last_are_summarised_and_none_is_unread() {
        let few = told(&[4, 4, 4]);
        assert_eq!(boundary(&few, 100_000), Some(2));
        assert_eq!(boundary(&few[..1], 100_000), None);
        assert_eq!(boundary(&[], 100_000), None);
    }

    #[test]
    fn every_message_is_in_the_material_shortened_where_it_is_long() {
        let all = told(&[100_000, 20, 100_000, 20, 100_000, 20, 100_000]);
        let all: Vec<&Told> = all.iter().collect();
        let material = material(&all, Some("what was before"), 40_000);
        assert!(material.len() <= 40_000 && material.contains("what was before"));
        for place in 1..=7 {
            assert!(
                material.contains(&format!("user: {place}x")) && material.contains(&format!("x{place}\n"))
            );
        }
    }
}
