//! Messages of a unit of work: told, and given their places.

use pvm_domain::Timestamp;
use pvm_domain::conversation::core::OpenMessage;
use pvm_domain::conversation::{Author, InboxEntry, Message, MessageEnd, Run};
use pvm_domain::event::EventType;
use pvm_domain::ids::MessageId;
use pvm_domain::text;
use serde_json::json;

use super::Draft;
use crate::error::AppResult;
use crate::keys;
use crate::store::WriteStore;

impl<S: WriteStore> Draft<'_, S> {
    /// Gives a message its place.
    pub(crate) fn place(&mut self, mut message: Message) {
        self.conversation.message_count += 1;
        message.place = self.conversation.message_count;
        self.write(|tx| tx.create(&mut message));
    }

    /// A user's message: told at once, placed when a run takes it up.
    pub(crate) fn tell_user_message(&mut self, entry: &InboxEntry) {
        let id = &entry.message_id;
        let created = json!({"message_id": id, "author": "user", "run_id": entry.run_id});
        self.tell_of(EventType::MessageCreated, None, created);
        let completed = json!({"message_id": id, "author": "user", "run_id": entry.run_id, "text": entry.text,
            "end": MessageEnd::Complete, "tool_calls": []});
        self.tell_of(EventType::MessageCompleted, None, completed);
    }

    /// Places a message of the system, and tells it.
    pub(crate) fn place_of_system(&mut self, run: &Run, message_id: MessageId, text: &str) {
        let text = text::as_message(text).0;
        let created = json!({"message_id": message_id, "author": "system", "run_id": run.run_id});
        self.tell_of(EventType::MessageCreated, None, created);
        let told = json!({"message_id": message_id, "author": "system", "run_id": run.run_id, "text": text,
            "end": MessageEnd::Complete, "tool_calls": []});
        self.tell_of(EventType::MessageCompleted, None, told);
        self.place(self.message(run, message_id, Author::System, text, MessageEnd::Complete));
    }

    pub(super) fn message(
        &self,
        run: &Run,
        id: MessageId,
        author: Author,
        text: String,
        end: MessageEnd,
    ) -> Message {
        Message {
            lane: run.lane.as_ref().map(|lane| lane.index),
            end,
            ..Message::new(run.conversation_id.clone(), id, run.run_id.clone(), author, text, self.now)
        }
    }

    /// Places the message that a queued run would have worked off.
    ///
    /// # Errors
    /// Of the store.
    pub(crate) async fn place_message_of(&mut self, run: &Run) -> AppResult<()> {
        self.place_waiting(&run.message_id).await
    }

    /// A user's message that waited joins the conversation.
    pub(super) async fn place_waiting(&mut self, id: &MessageId) -> AppResult<()> {
        let key = keys::inbox(&self.conversation.conversation_id, id.as_str());
        if let Some(entry) = self.store.get::<InboxEntry>(&key).await? {
            self.write(|tx| tx.remove(key));
            self.place(user_message(entry, self.now));
        }
        Ok(())
    }

    /// What was streamed of a message stays, marked as cut.
    pub(super) async fn close_message(&mut self, run: &Run, open: OpenMessage) -> AppResult<()> {
        let deltas = self.store.deltas(open.message_id.as_str()).await?;
        let text: String = deltas
            .iter()
            .filter(|delta| delta.attempt == open.attempt)
            .map(|delta| delta.text.as_str())
            .collect();
        let text = text::as_message(&text).0;
        let told = json!({"message_id": open.message_id, "author": "agent", "run_id": run.run_id, "text": text,
            "end": MessageEnd::Cut, "tool_calls": []});
        self.tell_of(EventType::MessageCompleted, Some(&open.agent_id), told);
        let author = Author::Agent { agent_id: open.agent_id };
        self.place(self.message(run, open.message_id, author, text, MessageEnd::Cut));
        Ok(())
    }
}

pub(super) fn user_message(entry: InboxEntry, now: Timestamp) -> Message {
    Message::new(entry.conversation_id, entry.message_id, entry.run_id, Author::User, entry.text, now)
}
