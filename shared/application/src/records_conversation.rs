//! Which record of a conversation is stored where.

use pvm_domain::conversation::{
    Approval, Conversation, ConversationAlias, InboxEntry, Message, Run, RunStatus, Step, ToolCall,
};
use pvm_domain::fair_use::Resource;

use crate::keys;
use crate::records::record;

record!(Conversation, "conversation", |r| keys::conversation(&r.conversation_id),
    owner: Some(keys::conversation_listing(&r.project_id, &r.conversation_id)),
    count: {
        let running = u64::from(r.active_run.is_some());
        r.counted.count(Resource::ConversationsRunning, Some(&r.owner), running)
    },
    uncount: r.counted.uncount(Resource::ConversationsRunning, Some(&r.owner)));
record!(ConversationAlias, "conversation_alias", |r| keys::conversation_alias(&r.owner, &r.alias));
record!(Message, "message", |r| keys::message(&r.conversation_id, r.place));
record!(Step, "step", |r| keys::step(&r.conversation_id, &r.run_id, r.number));
record!(ToolCall, "tool_call", |r| keys::tool_call(&r.conversation_id, &r.tool_call_id));
record!(InboxEntry, "inbox", |r| keys::inbox(&r.conversation_id, r.message_id.as_str()));
record!(Approval, "approval", |r| keys::approval(&r.conversation_id, &r.approval_id));
// A queued run needs nothing; an ended one needs the sweep only while it still holds the VM or runs something in it.
record!(Run, "run", |r| keys::run(&r.conversation_id, &r.run_id),
    sweep: match r.status {
        RunStatus::Queued => false,
        RunStatus::Finished => r.vm_epoch.is_some() || !r.unkilled.is_empty(),
        RunStatus::Running | RunStatus::Waiting => true,
    }.then(|| keys::sweep(keys::Sweep::Run, r.due_at, r.run_id.as_str())));
