//! What a model gets to read: the conversation from one agent's side. Its own answers are the assistant's; people, other
//! agents, and the system speak as the user, each under its name.

use pvm_domain::conversation::{Author, CallOrigin, Conversation, Message, Run, ToolCall, lane_run};
use pvm_domain::text::head_and_tail;
use serde_json::Value;

use super::calls;
use crate::error::AppResult;
use crate::keys;
use crate::ports_model::{Block, ModelMessage, Role};
use crate::store::{Listing, ReadStore};

/// Messages read by one request.
const PAGE: u32 = 100;
/// Records read at the same time.
const AT_ONCE: usize = 16;
/// What an agent is shown of another's call, in bytes.
const OTHERS_CALL_BYTES: usize = 400;

/// Messages after `place`, in order.
///
/// # Errors
/// Of the store.
pub(crate) async fn transcript(
    store: &impl ReadStore,
    conversation: &Conversation,
    after: u64,
) -> AppResult<Vec<Message>> {
    let mut found: Vec<Message> = Vec::new();
    let mut position = None;
    loop {
        let listing = Listing::of(keys::conversation_partition(&conversation.conversation_id), "M#")
            .newest_first()
            .page(PAGE, position.take());
        let page = store.list::<Message>(listing).await?;
        let reached = page.items.iter().any(|message| message.place <= after);
        found.extend(page.items.into_iter().filter(|message| message.place > after));
        position = page.next;
        if reached || position.is_none() {
            break;
        }
    }
    found.reverse();
    Ok(found)
}

/// A message with its calls.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    /// The message.
    pub(crate) message: Message,
    /// Its calls, in order.
    pub(crate) calls: Vec<ToolCall>,
}

/// Messages that `run` may see, with their calls.
///
/// # Errors
/// Of the store.
pub(crate) async fn told(
    store: &impl ReadStore,
    conversation: &Conversation,
    run: &Run,
    after: u64,
) -> AppResult<Vec<Told>> {
    let siblings = siblings(run);
    let messages = transcript(store, conversation, after).await?;
    let visible = messages.into_iter().filter(|message| !siblings.contains(&message.run_id));
    let mut told = Vec::new();
    for message in visible {
        let ids: Vec<_> = message.calls.iter().map(|call| call.tool_call_id.clone()).collect();
        let mut calls = Vec::new();
        for some in ids.chunks(AT_ONCE) {
            let loads: Vec<_> =
                some.iter().map(|id| calls::load(store, &conversation.conversation_id, id)).collect();
            calls.extend(futures::future::try_join_all(loads).await?);
        }
        told.push(Told { message, calls });
    }
    Ok(told)
}

/// Runs of the other lanes of the same parallel run: their words come with the merge.
fn siblings(run: &Run) -> Vec<pvm_domain::ids::RunId> {
    let Some(lane) = &run.lane else { return Vec::new() };
    let lanes = u32::try_from(pvm_domain::limits::AGENTS_PER_CONVERSATION).unwrap_or(0);
    (0..lanes).filter(|index| *index != lane.index).map(|index| lane_run(&lane.parent, index)).collect()
}

/// The messages of a request, as `agent_id` sees them.
pub(crate) fn messages(
    told: &[Told],
    agent_id: &str,
    provider: &str,
    summary: Option<&str>,
    several: bool,
) -> Vec<ModelMessage> {
    let mut built = Vec::new();
    if let Some(summary) = summary {
        say(
            &mut built,
            Role::User,
            text(format!("[system] Summary of the conversation before this point:\n{summary}")),
        );
    }
    for Told { message, calls } in told {
        match &message.author {
            Author::Agent { agent_id: author } if author == agent_id => {
                own(&mut built, message, calls, provider);
            }
            Author::Agent { agent_id: author } => {
                say(&mut built, Role::User, text(of_other(author, message, calls)));
            }
            Author::User if several => say(&mut built, Role::User, text(format!("[user] {}", message.text))),
            Author::User => say(&mut built, Role::User, text(message.text.clone())),
            Author::System => say(&mut built, Role::User, text(format!("[system] {}", message.text))),
        }
    }
    // Providers want the first word and the last to be the user's.
    if built.first().is_none_or(|first| first.role == Role::Assistant) {
        built.insert(0, ModelMessage { role: Role::User, blocks: vec![text("[system] Go on.".to_owned())] });
    }
    if built.last().is_some_and(|last| last.role == Role::Assistant) {
        say(&mut built, Role::User, text("[system] It is your turn again.".to_owned()));
    }
    built
}

/// Adds a user's last word.
pub(crate) fn say_last(built: &mut Vec<ModelMessage>, last: String) {
    say(built, Role::User, text(last));
}

fn text(text: String) -> Block {
    Block::Text { text }
}

/// Adds a block, joined to the message before where that is of the same role.
fn say(built: &mut Vec<ModelMessage>, role: Role, block: Block) {
    match built.last_mut() {
        Some(last) if last.role == role => last.blocks.push(block),
        _ => built.push(ModelMessage { role, blocks: vec![block] }),
    }
}

fn own(built: &mut Vec<ModelMessage>, message: &Message, calls: &[ToolCall], provider: &str) {
    let mut uses = Vec::new();
    let mut results = Vec::new();
    for (place, call) in message.calls.iter().zip(calls) {
        let Some(id) = place.provider_id.clone() else { continue };
        let (name, arguments) = (callable(&call.name), call.arguments.clone());
        uses.push(Block::ToolUse { id: id.clone(), name, arguments });
        results.push(match &call.result {
            Some(result) => Block::ToolResult { id, text: shown(&result.text), is_error: result.is_error },
            None => Block::ToolResult { id, text: "(no result)".to_owned(), is_error: true },
        });
    }
    for block in in_their_places(message, uses, provider) {
        say(built, Role::Assistant, block);
    }
    for block in results {
        say(built, Role::User, block);
    }
    if let Some(note) = &message.note {
        say(built, Role::User, text(format!("[system] {note}")));
    }
}

/// The parts of an answer in the order in which the provider gave them: it wants its own blocks back where they were.
/// Text comes before calls. A block after calls that were not taken up has no place any more.
fn in_their_places(message: &Message, uses: Vec<Block>, provider: &str) -> Vec<Block> {
    let is_theirs = message.provider.as_deref() == Some(provider);
    let opaque = if is_theirs { message.opaque.as_slice() } else { &[] };
    let (mut rest, all, mut uses) = (message.text.as_str(), uses.len(), uses.into_iter());
    let mut blocks = Vec::new();
    for (at, value) in opaque.iter().enumerate() {
        let after = message.opaque_after.get(at).copied().unwrap_or_default();
        if after.calls > all {
            continue;
        }
        let said = message.text.len() - rest.len();
        let more = if after.calls > 0 { rest.len() } else { after.text.saturating_sub(said).min(rest.len()) };
        let (now, later) = rest.split_at(rest.floor_char_boundary(more));
        blocks.extend((!now.trim().is_empty()).then(|| text(now.to_owned())));
        rest = later;
        let called = all - uses.len();
        blocks.extend(uses.by_ref().take(after.calls.saturating_sub(called)));
        blocks.push(Block::Opaque { provider: provider.to_owned(), value: value.clone() });
    }
    blocks.extend((!rest.trim().is_empty()).then(|| text(rest.to_owned())));
    blocks.extend(uses);
    blocks
}

/// The name of a call as every provider takes it back, `[a-zA-Z0-9_-]{1,64}`. Models make up others, and a history that
/// holds one would be refused for ever; the call's result tells the name as it was.
fn callable(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' };
    let name: String = name.chars().map(plain).take(64).collect();
    if name.is_empty() { "unnamed".to_owned() } else { name }
}

/// Providers refuse an empty result.
fn shown(text: &str) -> String {
    if text.trim().is_empty() { "(no output)".to_owned() } else { text.to_owned() }
}

fn of_other(author: &str, message: &Message, calls: &[ToolCall]) -> String {
    let mut all = format!("[{author}] {}", message.text);
    for call in calls.iter().filter(|call| call.origin == CallOrigin::Tool) {
        let arguments = short(&call.arguments);
        let outcome = match &call.result {
            Some(result) if result.is_error => "failed",
            Some(_) => "done",
            None => "no result",
        };
        let said = call.result.as_ref().map_or("", |result| result.text.as_str());
        let said = head_and_tail(said.trim(), OTHERS_CALL_BYTES).0;
        all.push_str(&format!("\n({author} called {} {arguments}: {outcome})\n{said}", call.name));
    }
    all
}

fn short(arguments: &Value) -> String {
    head_and_tail(&arguments.to_string(), OTHERS_CALL_BYTES).0.replace('\n', " ")
}

/// A guess of the tokens of a message with its calls: four bytes each.
pub(crate) fn tokens(told: &Told) -> u64 {
    bytes(told) as u64 / 4 + 8
}

/// The bytes of a message with its calls.
pub(crate) fn bytes(told: &Told) -> usize {
    let calls: usize = told
        .calls
        .iter()
        .map(|call| {
            call.arguments.to_string().len() + call.result.as_ref().map_or(0, |result| result.text.len())
        })
        .sum();
    told.message.text.len() + calls
}

#[cfg(test)]
mod tests {
    use pvm_domain::Timestamp;
    use pvm_domain::conversation::{BlockPlace, MessageEnd};
    use pvm_domain::ids::{ConversationId, MessageId, PrefixedId, RunId};
    use serde_json::json;

    use super::*;

    fn answer(said: &str, opaque: &[(usize, usize)]) -> Message {
        Message {
            conversation_id: ConversationId::from_parts(1, 1),
            place: 1,
            message_id: MessageId::from_parts(1, 1),
            run_id: RunId::from_parts(1, 1),
            author: Author::Agent { agent_id: "a".to_owned() },
            text: said.to_owned(),
            calls: Vec::new(),
            lane: None,
            note: None,
            provider: Some("p".to_owned()),
            opaque: (0..opaque.len()).map(|at| json!(at)).collect(),
            opaque_after: opaque
                .iter()
                .map(|(text, calls)| BlockPlace { text: *text, calls: *calls })
                .collect(),
            end: MessageEnd::Complete,
            created_at: Timestamp::UNIX_EPOCH,
            version: 1,
        }
    }

    fn order(message: &Message, calls: usize, provider: &str) -> String {
        let uses = (0..calls).map(|at| Block::ToolUse {
            id: at.to_string(),
            name: "x".to_owned(),
            arguments: json!({}),
        });
        let shown = in_their_places(message, uses.collect(), provider).into_iter().map(|block| match block {
            Block::Text { text } => text,
            Block::ToolUse { id, .. } => format!("call{id}"),
            Block::Opaque { value, .. } => format!("own{value}"),
            Block::ToolResult { .. } => panic!("no results here"),
        });
        shown.collect::<Vec<_>>().join("|")
    }

    #[test]
    fn a_providers_own_blocks_stand_where_they_were() {
        let between = answer("onetwo", &[(0, 0), (3, 0), (6, 0), (6, 1)]);
        assert_eq!(order(&between, 2, "p"), "own0|one|own1|two|own2|call0|own3|call1");
        assert_eq!(order(&between, 2, "other"), "onetwo|call0|call1");
        // The call before the last block was not taken up, and the text is shorter than it was.
        assert_eq!(order(&between, 0, "p"), "own0|one|own1|two|own2");
        assert_eq!(order(&answer("é", &[(1, 0), (99, 0)]), 1, "p"), "own0|é|own1|call0");
        // Records of before have no places.
        let mut old = answer("one", &[(0, 0)]);
        old.opaque_after = Vec::new();
        assert_eq!(order(&old, 1, "p"), "own0|one|call0");
        assert_eq!(order(&answer(" ", &[(0, 0)]), 1, "p"), "own0|call0");
    }

    #[test]
    fn a_made_up_name_goes_back_as_one_that_providers_take() {
        assert_eq!(callable("execute_command"), "execute_command");
        assert_eq!(callable("functions.exec command:0/é"), "functions_exec_command_0__");
        assert_eq!(callable(""), "unnamed");
        assert_eq!(callable(&"x".repeat(100)).len(), 64);
    }
}
