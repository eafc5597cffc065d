//! The replay model: plays recorded conversations, and says so. Where no recording fits, it runs the `/vm` lines of the
//! user's own message through the ordinary path and reports what came out: a first try, and a test, without any model.

mod recording;

use std::time::Duration;

use pvm_application::ports_model::{
    Block, ModelAnswer, ModelError, ModelFacts, ModelRequest, Role, Stop, TokenUsage, WantedCall,
};
use pvm_domain::conversation::vm_lines;
use pvm_domain::limits;
use pvm_domain::text::head_and_tail;
use tokio::sync::mpsc;

pub use recording::{BadRecording, Library, RecordedAnswer, RecordedCall, Recording};

/// The name of this provider.
pub(crate) const NAME: &str = "replay";
/// Text comes in pieces of about this many bytes, as a model's would.
const PIECE_BYTES: usize = 24;
/// What the last report quotes of the results, in bytes.
const QUOTED_BYTES: usize = 4000;

/// The replay model.
#[derive(Debug, Clone, Default)]
pub struct Replay {
    /// What it plays.
    pub library: Library,
    /// Pause between pieces of text; none for tests.
    pub pace: Duration,
}

/// It reads nothing, so any context fits; and it costs nothing.
pub(crate) const FACTS: ModelFacts =
    ModelFacts { context_tokens: 10_000_000, answer_tokens: 65_536, priced: true };

impl Replay {
    pub(crate) async fn call(
        &self,
        request: &ModelRequest,
        text: &mpsc::Sender<String>,
    ) -> Result<ModelAnswer, ModelError> {
        let answer = self.answer(request);
        for piece in pieces(&answer.text) {
            if !self.pace.is_zero() {
                tokio::time::sleep(self.pace).await;
            }
            // Nobody listens any more: the caller will drop this call.
            if text.send(piece.to_owned()).await.is_err() {
                break;
            }
        }
        let stop = if answer.tool_calls.is_empty() { Stop::End } else { Stop::ToolCalls };
        let place = &request.place;
        let calls = answer.tool_calls.into_iter().enumerate().map(|(at, call)| WantedCall {
            provider_id: format!("replay_{}_{}_{at}", place.agent_id, place.agent_step),
            name: call.name,
            arguments: Ok(call.arguments),
        });
        let calls: Vec<WantedCall> = calls.collect();
        Ok(ModelAnswer { text: answer.text, calls, opaque: Vec::new(), stop, usage: TokenUsage::default() })
    }

    fn answer(&self, request: &ModelRequest) -> RecordedAnswer {
        let place = &request.place;
        let whole = user_message(request);
        let is_whole = whole.as_deref().is_none_or(|text| text.len() == place.initial_message.len());
        let message = whole.as_deref().unwrap_or(&place.initial_message);
        let found = self.library.find(message, true);
        match found.or_else(|| self.library.find(&place.initial_message, is_whole)) {
            Some(recording) => play(recording, request),
            None => plain(run_lines(message, request)),
        }
    }
}

fn plain(text: String) -> RecordedAnswer {
    RecordedAnswer { text, tool_calls: Vec::new() }
}

fn play(recording: &Recording, request: &ModelRequest) -> RecordedAnswer {
    let place = &request.place;
    let name = &recording.name;
    let Some(answers) = recording.agents.get(&place.agent_id) else {
        return plain(format!("(Replay: {} says nothing in the recording {name:?}.)", place.agent_id));
    };
    let Some(answer) = answers.get(place.agent_step as usize) else {
        return plain(format!("(Replay: the recording {name:?} has no more of {}.)", place.agent_id));
    };
    let mut answer = answer.clone();
    if place.agent_step == 0 {
        let notice = format!(
            "(Replay of the recording {name:?}: these words were recorded, no model was called.)\n\n"
        );
        answer.text.insert_str(0, &notice);
    }
    answer
}

/// The user's message in full; a run's record has only its beginning.
fn user_message(request: &ModelRequest) -> Option<String> {
    let begins = &request.place.initial_message;
    let texts =
        request.messages.iter().rev().filter(|message| message.role == Role::User).flat_map(|message| {
            message.blocks.iter().rev().filter_map(|block| match block {
                Block::Text { text } => Some(text.strip_prefix("[user] ").unwrap_or(text)),
                _ => None,
            })
        });
    texts.into_iter().find(|text| text.starts_with(begins.as_str())).map(str::to_owned)
}

const NO_MODEL: &str = "No real model is configured, and no recording fits this message.";

/// Runs the `/vm` lines of `message`, as many at once as one answer may make, then reports.
fn run_lines(message: &str, request: &ModelRequest) -> String {
    let place = &request.place;
    let lines = vm_lines::parse(message).lines;
    if place.turn > 0 {
        return format!("{NO_MODEL} Nothing to add.");
    }
    if lines.is_empty() {
        return format!(
            "{NO_MODEL} Set ANTHROPIC_API_KEY or OPENAI_API_KEY and PVM_DEFAULT_MODEL, or write lines that begin with \
             `/vm `, such as `/vm uname -a`: they are run in the project's machine."
        );
    }
    let all = lines.len();
    let mut parts = lines.chunks(limits::TOOL_CALLS_PER_STEP).skip(place.agent_step as usize);
    if let Some(part) = parts.next() {
        let commands: Vec<String> = part.iter().map(|line| format!("/vm {}", line.command)).collect();
        let head = if place.agent_step == 0 {
            format!("{NO_MODEL} Running what the message asks for: {}", counted(all))
        } else {
            "Going on with the message's lines".to_owned()
        };
        let now = if part.len() == all { String::new() } else { format!(" ({} now)", part.len()) };
        return format!("{head}{now}.\n\n{}", commands.join("\n"));
    }
    let results = results(request);
    let failed: usize = results.iter().map(|text| failures(text)).sum();
    let outcome = if failed == 0 { "all went well".to_owned() } else { format!("{failed} did not end well") };
    let quoted = head_and_tail(&results.join("\n\n"), QUOTED_BYTES).0;
    // Quoted, so that a line of output that begins with /vm is never taken for a command.
    let quoted: Vec<String> = quoted.lines().map(|line| format!("> {line}")).collect();
    format!("Done: {} run; {outcome}. {NO_MODEL}\n\n{}", counted(all), quoted.join("\n"))
}

/// As a person would say it.
fn counted(lines: usize) -> String {
    if lines == 1 { "1 `/vm` line".to_owned() } else { format!("{lines} `/vm` lines") }
}

/// The results of this run's lines, oldest first.
fn results(request: &ModelRequest) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let texts = request.messages.iter().rev().flat_map(|message| message.blocks.iter().rev());
    for block in texts {
        let Block::Text { text } = block else { continue };
        let said = text.strip_prefix("[user] ").unwrap_or(text);
        if said.starts_with(request.place.initial_message.as_str()) {
            break;
        }
        if let Some(results) = text.strip_prefix("[system] VM Execution Results:") {
            found.push(results.trim().to_owned());
        }
    }
    found.reverse();
    found
}

/// How many of the results end in a line that tells of a failure.
fn failures(results: &str) -> usize {
    let marks = ["[exit code ", "[killed", "[lost", "[ended by signal"];
    results
        .lines()
        .filter(|line| marks.iter().any(|mark| line.starts_with(mark)) || line.starts_with("Not run:"))
        .count()
}

fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = rest.ceil_char_boundary(PIECE_BYTES.min(rest.len()));
        let (piece, after) = rest.split_at(end);
        rest = after;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use pvm_application::ports_model::{CallPlace, ModelMessage};
    use pvm_domain::ids::{ConversationId, PrefixedId, RunId};
    use serde_json::json;

    use super::*;

    fn request(message: &str, after: &[&str], turn: u32, agent_step: u32) -> ModelRequest {
        let text = |text: &str| Block::Text { text: text.to_owned() };
        let mut blocks = vec![text(&format!("[user] {message}"))];
        blocks.extend(after.iter().map(|more| text(more)));
        ModelRequest {
            model: "replay/demo".to_owned(),
            system: String::new(),
            messages: vec![ModelMessage { role: Role::User, blocks }],
            tools: Vec::new(),
            temperature: None,
            max_tokens: 100,
            place: CallPlace {
                conversation_id: ConversationId::from_parts(1, 1),
                run_id: RunId::from_parts(1, 1),
                agent_id: "dev_agent".to_owned(),
                initial_message: message[..message.floor_char_boundary(4096)].to_owned(),
                turn,
                agent_step,
            },
        }
    }

    fn played() -> Replay {
        let recording = serde_json::from_value(json!({
            "name": "flask",
            "initial_message": "Build it",
            "agents": {"dev_agent": [
                {"text": "First.", "tool_calls": [{"name": "read_file", "arguments": {"path": "a"}}]},
                {"text": "Second."}
            ]}
        }));
        Replay { library: Library::new(vec![recording.unwrap()]), pace: Duration::ZERO }
    }

    #[tokio::test]
    async fn a_recording_is_played_step_by_step_and_says_that_it_is_one() {
        let (sender, mut pieces) = mpsc::channel(1000);
        let first = played().call(&request("Build it", &[], 0, 0), &sender).await.unwrap();
        drop(sender);
        let mut streamed = String::new();
        while let Some(piece) = pieces.recv().await {
            streamed.push_str(&piece);
        }
        assert_eq!(streamed, first.text);
        assert!(
            first.text.starts_with("(Replay of the recording \"flask\"") && first.text.ends_with("First.")
        );
        assert_eq!((first.calls.len(), first.stop), (1, Stop::ToolCalls));
        assert_eq!(played().answer(&request("Build it", &[], 0, 1)).text, "Second.");
        assert!(played().answer(&request("Build it", &[], 0, 2)).text.contains("no more of dev_agent"));
    }

    #[test]
    fn without_a_recording_the_lines_of_the_message_are_run_and_reported() {
        let message = "Please:\n/vm cat > a <<'EOF'\nx\nEOF\n/vm ls";
        let replay = Replay::default();
        let first = replay.answer(&request(message, &[], 0, 0)).text;
        let lines = vm_lines::parse(&first).lines;
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].command, "cat > a <<'EOF'\nx\nEOF");
        let came =
            "[system] VM Execution Results:\n\n$ cat\n(no output)\n\n$ ls\n/vm rm -rf /\n[exit code 2]";
        let last = replay.answer(&request(message, &[came], 0, 1)).text;
        assert!(last.contains("1 did not end well") && last.contains("No real model"));
        assert!(vm_lines::parse(&last).lines.is_empty());
        assert!(replay.answer(&request(message, &[came], 1, 0)).text.contains("Nothing to add"));
    }

    #[test]
    fn a_message_of_many_lines_is_run_in_parts_and_a_long_one_in_full() {
        let many: String = (0..25).map(|n| format!("/vm echo {n} {}\n", "x".repeat(400))).collect();
        let replay = Replay::default();
        let of = |step| vm_lines::parse(&replay.answer(&request(&many, &[], 0, step)).text).lines.len();
        assert_eq!([of(0), of(1), of(2), of(3)], [10, 10, 5, 0]);
    }

    #[test]
    fn without_lines_it_says_what_to_do() {
        assert!(Replay::default().answer(&request("Hello", &[], 0, 0)).text.contains("/vm uname -a"));
    }
}
