//! Two agents at the same file.

use std::time::Duration;

use pvm_application::edits::{self, Writer, Wrote};
use pvm_application::store::ReadStore;
use pvm_domain::conversation::Mode;
use pvm_domain::event::{EventType, LogId};
use pvm_domain::ids::ConversationId;

use crate::rig::Rig;
use crate::rig::models::say;

fn writer(id: &ConversationId, agent: &str, call: &str) -> Writer {
    Writer { conversation_id: Some(id.clone()), agent_id: Some(agent.to_owned()), call_id: call.to_owned() }
}

fn written(before: &str, now: &str) -> Wrote {
    Wrote::Written { before: before.to_owned(), now: now.to_owned() }
}

#[tokio::test]
async fn two_agents_at_one_file_both_hear_of_it_once() {
    let rig = Rig::new(|_| say("Hello.")).await;
    let one = rig.create(&["dev_agent"], Mode::RoundRobin, "Go").await.conversation_id;
    let two = rig.create(&["designer_agent"], Mode::RoundRobin, "Go").await.conversation_id;
    rig.settle().await;
    let note = async |writer: Writer, wrote: Wrote, named: bool| {
        edits::note(&rig.store, &rig.ambient, &rig.project_id, "/workspace/a", &writer, &wrote, named)
            .await
            .unwrap()
    };
    let conflicts = async |id: &ConversationId| {
        let events = rig.store.events(&LogId::Conversation(id.clone()), 0, 1000).await.unwrap();
        let of_kind = events.into_iter().filter(|event| event.kind == EventType::FileConflict);
        of_kind.map(|event| event.data["reason"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    // The same agent may write as often as it likes, and so may one that names what it read.
    assert_eq!(note(writer(&one, "dev_agent", "1"), written("absent", "v1"), false).await, None);
    assert_eq!(note(writer(&one, "dev_agent", "2"), written("v1", "v2"), false).await, None);
    assert_eq!(note(writer(&two, "designer_agent", "3"), written("v2", "v3"), true).await, None);
    assert!(conflicts(&one).await.is_empty() && conflicts(&two).await.is_empty());
    // Over the other's fresh work, without a word of having read it: done, and told to both, once.
    for _ in 0..2 {
        let other = note(writer(&one, "dev_agent", "4"), written("v3", "v4"), false).await;
        assert!(other.is_none_or(|other| other == "designer_agent"));
    }
    assert_eq!((conflicts(&one).await.len(), conflicts(&two).await.len()), (1, 1));
    // A write for an older version: refused, and told to both, once.
    for _ in 0..2 {
        let refused = Wrote::Refused { found: "v4".to_owned() };
        assert_eq!(note(writer(&two, "designer_agent", "5"), refused, true).await, None);
    }
    assert_eq!(conflicts(&one).await, ["overwritten", "stale_write"]);
    assert_eq!(conflicts(&two).await, ["overwritten", "stale_write"]);
    // Later it is no race any more.
    rig.clock.advance(Duration::from_mins(2));
    note(writer(&two, "designer_agent", "6"), written("v4", "v6"), false).await;
    assert_eq!(conflicts(&one).await.len(), 2);
}
