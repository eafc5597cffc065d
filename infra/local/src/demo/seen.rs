//! What the conversation's events showed, against what the demo promises.

use std::collections::BTreeSet;

use anyhow::ensure;
use serde_json::Value;

use super::print::fact;

/// Who spoke, and how files came about.
#[derive(Debug, Default)]
pub(super) struct Seen {
    speakers: BTreeSet<String>,
    written_by_tool: usize,
    written_by_line: usize,
}

impl Seen {
    /// Takes note of one event.
    pub(super) fn note(&mut self, event: &Value) {
        let data = &event["data"];
        match event["type"].as_str() {
            Some("message.completed") => {
                self.speakers.extend(event["agent_id"].as_str().map(str::to_owned));
            }
            Some("tool.started") if data["name"] == "write_file" => self.written_by_tool += 1,
            Some("tool.started") if data["origin"] == "vm_line" => {
                let line = data["arguments"]["command"].as_str().unwrap_or_default();
                self.written_by_line += usize::from(line.contains("<<") && line.contains("cat >"));
            }
            _ => {}
        }
    }

    /// # Errors
    /// Says what did not happen.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        for agent in ["dev_agent", "designer_agent"] {
            ensure!(self.speakers.contains(agent), "{agent} said nothing");
        }
        ensure!(self.written_by_tool > 0, "no file was written by a tool call");
        ensure!(self.written_by_line > 0, "no file was written by a /vm line");
        fact(&format!(
            "both agents spoke; {} files were written by tool calls and {} by `/vm` lines",
            self.written_by_tool, self.written_by_line
        ));
        Ok(())
    }
}
