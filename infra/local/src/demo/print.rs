//! What the demo prints. This is a program's output, not a log.
#![expect(clippy::print_stdout, reason = "the demo talks to the person at the terminal")]

use serde_json::Value;

/// A plain line.
pub(super) fn say(text: &str) {
    println!("{text}");
}

/// The headline of a step.
pub(super) fn step(text: &str) {
    println!("\n== {text}");
}

/// A fact that was checked.
pub(super) fn fact(text: &str) {
    println!("  ok: {text}");
}

/// An event of the conversation, in one or a few lines.
pub(super) fn event(event: &Value) {
    let agent = event["agent_id"].as_str().map(|agent| format!(" {agent}")).unwrap_or_default();
    let kind = event["type"].as_str().unwrap_or("?");
    let data = &event["data"];
    let shown = match kind {
        // The whole text follows with message.completed.
        "delta" => return,
        "message.completed" | "message.created" => data["text"].as_str().map(|text| indent(text, 14)),
        "tool.started" => {
            Some(short(&format!("{} {}", data["name"].as_str().unwrap_or(""), data["arguments"]), 160))
        }
        "tool.finished" => {
            let text = data["result"]["text"].as_str().or_else(|| data["text"].as_str()).unwrap_or("");
            Some(format!("{}{}", data["status"].as_str().unwrap_or(""), indent(text, 4)))
        }
        "run.finished" => Some(data.to_string()),
        _ => Some(short(&data.to_string(), 160)),
    };
    let seq = event["seq"].as_u64().map(|seq| format!("{seq:>3}")).unwrap_or_default();
    println!("  {seq} {kind}{agent}: {}", shown.unwrap_or_default());
}

fn short(text: &str, most: usize) -> String {
    let line = text.replace('\n', " ");
    match line.char_indices().nth(most) {
        Some((end, _)) => format!("{} ...", &line[..end]),
        None => line,
    }
}

fn indent(text: &str, most: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut shown: String =
        lines.iter().take(most).map(|line| format!("\n        {}", short(line, 120))).collect();
    if lines.len() > most {
        shown.push_str(&format!("\n        ... {} more lines", lines.len() - most));
    }
    shown
}
