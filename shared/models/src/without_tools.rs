//! Providers refuse a history with tool calls where the request offers no tools, as for an agent whose tools were taken
//! away. The calls are then told as text.

use std::borrow::Cow;

use pvm_application::ports_model::{Block, ModelRequest};

/// The request as a provider takes it.
pub(crate) fn readable(request: &ModelRequest) -> Cow<'_, ModelRequest> {
    let has_calls = request
        .messages
        .iter()
        .flat_map(|message| &message.blocks)
        .any(|block| matches!(block, Block::ToolUse { .. } | Block::ToolResult { .. }));
    if !request.tools.is_empty() || !has_calls {
        return Cow::Borrowed(request);
    }
    let mut told = request.clone();
    for block in told.messages.iter_mut().flat_map(|message| &mut message.blocks) {
        let text = match block {
            Block::ToolUse { name, arguments, .. } => format!("(called {name} {arguments})"),
            Block::ToolResult { text, is_error: true, .. } => format!("(the call failed: {text})"),
            Block::ToolResult { text, .. } => format!("(the call's result: {text})"),
            Block::Text { .. } | Block::Opaque { .. } => continue,
        };
        *block = Block::Text { text };
    }
    Cow::Owned(told)
}
