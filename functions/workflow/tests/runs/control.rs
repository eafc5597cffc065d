//! What users do while agents work: send, steer, interrupt, cancel.

use std::sync::atomic::Ordering;

use pvm_application::ports::{Machine, StopExecution};
use pvm_domain::conversation::{CallStatus, ConversationStatus, Delivery, Mode, OutcomeKind, RunStatus};
use pvm_domain::event::EventType;
use serde_json::json;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::rig::models::{Say, say};
use crate::rig::{Mark, Rig, kinds};

#[tokio::test]
async fn a_cancel_ends_the_run_at_once_and_kills_its_command() {
    let rig = Rig::new(|request| match request.place.initial_message.as_str() {
        "Wait" if request.place.agent_step == 0 => say("Waiting.").call("change", json!({"what": "gate"})),
        _ => say("Here I am."),
    })
    .await;
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "Wait").await;
    let gate = rig.vm.gate();
    gate.reached().await;
    assert_eq!(rig.lease().await.holders.len(), 1);
    let left = rig.cancel(&made.conversation_id).await;
    assert_eq!((left.status, left.active_run), (ConversationStatus::Cancelled, None));
    assert_eq!(rig.vm.killed(), ["gate"]);
    let story = rig.events(&made.conversation_id).await;
    assert_eq!(story.last().map(|event| event.kind), Some(EventType::RunFinished));
    assert_eq!(story.last().unwrap().data["outcome"], "cancelled");
    gate.open();
    rig.settle().await;
    assert_eq!(rig.events(&made.conversation_id).await.len(), story.len(), "nothing comes after the end");
    assert_eq!(rig.calls(&made.conversation_id).await[0].status, CallStatus::Cancelled);
    assert!(rig.lease().await.holders.is_empty());
    // Cancelling again changes nothing, and the conversation goes on with the next message.
    rig.cancel(&made.conversation_id).await;
    let next = rig.send(&made.conversation_id, "Hello", Delivery::Queue).await;
    rig.settle().await;
    assert_eq!(rig.transcript(&made.conversation_id).await.last().unwrap(), "dev_agent: Here I am.");
    let run = rig.run(&made.conversation_id, &next.run_id).await;
    assert_eq!(run.outcome.unwrap().kind, OutcomeKind::Completed);
}

#[tokio::test]
async fn a_cancel_stops_the_models_stream_and_keeps_what_was_said() {
    let rig = Rig::new(|_| say("I begin to speak").takes(3).hangs()).await;
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "Talk").await;
    let created = rig.wait_for(&made.conversation_id, EventType::TurnStarted).await;
    assert!(created.seq.is_some());
    let log = pvm_domain::event::LogId::Conversation(made.conversation_id.clone());
    let message =
        rig.wait_for(&made.conversation_id, EventType::MessageCreated).await.data["message_id"].clone();
    for _ in 0..100 {
        use pvm_application::store::ReadStore;
        if !rig.store.deltas(message.as_str().unwrap()).await.unwrap().is_empty() {
            break;
        }
        rig.store.wait_for_append(&log, u64::MAX, std::time::Duration::from_millis(20)).await;
    }
    rig.cancel(&made.conversation_id).await;
    let cancelled = pvm_asl::Clock::now(&rig.clock);
    rig.settle().await;
    let transcript = rig.transcript(&made.conversation_id).await;
    assert_eq!(transcript, ["user: Talk", "dev_agent: I begin to speak (Cut)"]);
    let dropped = rig.models.dropped.lock().unwrap();
    assert_eq!(dropped.len(), 1, "the stream is not left open");
    assert!(dropped[0].duration_since(cancelled).as_secs() <= 2, "{dropped:?}, cancelled at {cancelled}");
}

#[tokio::test]
async fn messages_sent_during_a_run_wait_their_turn() {
    let rig = Rig::new(|request| match request.place.initial_message.as_str() {
        "First" if request.place.agent_step == 0 => say("One.").call("change", json!({"what": "gate"})),
        text => say(&format!("Answer to {text}.")),
    })
    .await;
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "First").await;
    let id = &made.conversation_id;
    let gate = rig.vm.gate();
    gate.reached().await;
    let second = rig.send(id, "Second", Delivery::Queue).await;
    let third = rig.send(id, "Third", Delivery::Queue).await;
    assert_eq!((second.run_status, third.run_status), (RunStatus::Queued, RunStatus::Queued));
    gate.open();
    rig.settle().await;
    assert_eq!(
        rig.transcript(id).await,
        [
            "user: First",
            "dev_agent: One. (ToolCalls)",
            "dev_agent: Answer to First.",
            "user: Second",
            "dev_agent: Answer to Second.",
            "user: Third",
            "dev_agent: Answer to Third.",
        ]
    );
    let story = kinds(&rig.events(id).await);
    assert_eq!(story.iter().filter(|kind| **kind == "run.queued").count(), 2);
    assert_eq!(story.iter().filter(|kind| **kind == "run.finished").count(), 3);
    let conversation = rig.conversation(id).await;
    assert_eq!((conversation.run_count, conversation.status), (3, ConversationStatus::Idle));
    assert_eq!(conversation.usage.model_calls, 4);
}

#[tokio::test]
async fn two_messages_at_the_same_instant_are_both_kept_and_one_is_queued() {
    let rig = Rig::new(|request| say(&format!("Answer to {}.", request.place.initial_message))).await;
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "Hello").await;
    rig.settle().await;
    let id = &made.conversation_id;
    let (one, two) = futures::join!(rig.send(id, "A", Delivery::Queue), rig.send(id, "B", Delivery::Queue));
    assert_ne!(one.run_id, two.run_id);
    rig.settle().await;
    let transcript = rig.transcript(id).await;
    assert_eq!(transcript.len(), 6);
    for text in ["user: A", "dev_agent: Answer to A.", "user: B", "dev_agent: Answer to B."] {
        assert!(transcript.iter().any(|line| line == text), "{transcript:?}");
    }
    rig.events(id).await;
}

#[tokio::test]
async fn a_steering_message_joins_the_run_before_its_next_call() {
    let rig = Rig::new(|request| {
        if request.place.agent_step == 0 {
            say("On it.").call("change", json!({"what": "gate"}))
        } else {
            let heard = serde_json::to_string(&request.messages).unwrap().contains("in blue");
            say(if heard { "In blue, then." } else { "In red." })
        }
    })
    .await;
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "Paint it").await;
    let id = &made.conversation_id;
    let gate = rig.vm.gate();
    gate.reached().await;
    let steered = rig.send(id, "Make it in blue", Delivery::Steer).await;
    assert_eq!(steered.run_id, made.run_id);
    gate.open();
    rig.settle().await;
    assert_eq!(
        rig.transcript(id).await,
        [
            "user: Paint it",
            "dev_agent: On it. (ToolCalls)",
            "user: Make it in blue",
            "dev_agent: In blue, then."
        ]
    );
    assert_eq!(rig.conversation(id).await.run_count, 1);
}

#[tokio::test]
async fn an_interrupting_message_ends_the_run_and_is_worked_off_first() {
    let rig = Rig::new(|request| match request.place.initial_message.as_str() {
        "Old" => say("Old work.").call("change", json!({"what": "gate"})),
        text => say(&format!("Answer to {text}.")),
    })
    .await;
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "Old").await;
    let id = &made.conversation_id;
    let gate = rig.vm.gate();
    gate.reached().await;
    rig.send(id, "Later", Delivery::Queue).await;
    rig.send(id, "Now", Delivery::Interrupt).await;
    gate.open();
    rig.settle().await;
    assert_eq!(
        rig.transcript(id).await,
        [
            "user: Old",
            "dev_agent: Old work. (ToolCalls)",
            "user: Now",
            "dev_agent: Answer to Now.",
            "user: Later",
            "dev_agent: Answer to Later.",
        ]
    );
    let old = rig.run(id, &made.run_id).await;
    assert_eq!(old.outcome.unwrap().reason.as_deref(), Some("interrupted"));
    assert_eq!(rig.vm.killed(), ["gate"]);
    rig.events(id).await;
}

#[tokio::test]
async fn a_cancel_also_ends_what_waits_and_keeps_its_messages() {
    let rig = Rig::new(|_| say("Hm.").call("change", json!({"what": "gate"}))).await;
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "First").await;
    let id = &made.conversation_id;
    let gate = rig.vm.gate();
    gate.reached().await;
    rig.send(id, "Second", Delivery::Queue).await;
    let left = rig.cancel(id).await;
    assert!(left.queued.is_empty());
    gate.open();
    rig.settle().await;
    assert_eq!(rig.transcript(id).await, ["user: First", "dev_agent: Hm. (ToolCalls)", "user: Second"]);
    let story = kinds(&rig.events(id).await);
    assert_eq!(story.iter().filter(|kind| **kind == "run.finished").count(), 2);
}

#[tokio::test]
async fn a_start_that_was_lost_is_made_up_for() {
    let rig = Rig::new(|_| say("At last.")).await;
    rig.flow.loses_next_start.store(true, std::sync::atomic::Ordering::SeqCst);
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "Hello").await;
    rig.settle().await;
    assert_eq!(rig.transcript(&made.conversation_id).await, ["user: Hello", "dev_agent: At last."]);
}

/// Nineteen looks at ten things each: more than a segment of the workflow has.
fn much(request: &pvm_application::ports_model::ModelRequest) -> Say {
    match request.place.agent_step {
        step @ 0..19 => {
            (0..10).fold(say("More."), |say, at| say.call("look", json!({"what": format!("{step} {at}")})))
        }
        _ => say("Enough."),
    }
}

#[tokio::test]
async fn a_later_segment_whose_start_fails_or_is_lost_is_made_up_for() {
    // Once: the step is tried again. Every time: the execution fails, and the clean-up starts the next.
    for failures in [1, 10] {
        let rig = Rig::new(much).await;
        rig.flow.fails_second_segments.store(failures, Ordering::SeqCst);
        let made = rig.create(&["dev_agent"], Mode::RoundRobin, "Look").await;
        rig.settle().await;
        let run = rig.run(&made.conversation_id, &made.run_id).await;
        assert_eq!((run.outcome.unwrap().kind, run.segment), (OutcomeKind::Completed, 2), "{failures}");
        assert_eq!(rig.vm.starts().len(), 190);
        assert!(rig.lease().await.holders.is_empty());
        rig.events(&made.conversation_id).await;
    }
}

#[tokio::test]
async fn a_segment_that_fails_to_hand_over_is_tried_again_or_ends_the_run() {
    for (error, outcome) in [("Transient", OutcomeKind::Completed), ("Terminal", OutcomeKind::Failed)] {
        let rig = Rig::new(much).await;
        rig.failing.lock().unwrap().insert("continue-run".to_owned(), (2, error.to_owned()));
        let made = rig.create(&["dev_agent"], Mode::RoundRobin, "Look").await;
        rig.settle().await;
        let run = rig.run(&made.conversation_id, &made.run_id).await;
        assert_eq!(run.outcome.unwrap().kind, outcome, "{error}");
        assert!(rig.lease().await.holders.is_empty());
        rig.events(&made.conversation_id).await;
    }
}

/// Waits for an event of this kind; until the mark is dropped, no time passes.
async fn told(heard: &mut UnboundedReceiver<(EventType, Mark)>, kind: EventType) -> Mark {
    loop {
        let (told, mark) = heard.recv().await.unwrap();
        if told == kind {
            return mark;
        }
    }
}

#[tokio::test]
async fn a_run_whose_execution_is_gone_without_a_word_is_ended_and_its_command_killed() {
    let rig = Rig::new(|request| match request.place.initial_message.as_str() {
        "Wait" => say("Waiting.").call("change", json!({"what": "slow 50000"})),
        _ => say("Here I am."),
    })
    .await;
    let mut heard = rig.store.watch.listen();
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "Wait").await;
    let id = &made.conversation_id;
    let mark = told(&mut heard, EventType::ToolOutput).await;
    drop(heard);
    rig.deaf.store(true, Ordering::SeqCst);
    let name = rig.run(id, &made.run_id).await.execution_name();
    rig.flow.stop(Machine::RunTurn, &name, "for the test").await.unwrap();
    drop(mark);
    rig.settle().await;
    let run = rig.run(id, &made.run_id).await;
    let outcome = run.outcome.unwrap();
    assert_eq!((outcome.kind, outcome.reason.as_deref()), (OutcomeKind::Failed, Some("workflow_ended")));
    assert_eq!(rig.vm.killed(), ["slow 50000"]);
    assert!(rig.lease().await.holders.is_empty() && run.unkilled.is_empty());
    rig.send(id, "Hello", Delivery::Queue).await;
    rig.settle().await;
    assert_eq!(rig.transcript(id).await.last().unwrap(), "dev_agent: Here I am.");
    rig.events(id).await;
}

#[tokio::test]
async fn a_kill_that_fails_at_a_cancel_is_made_up_for() {
    let rig = Rig::new(|_| say("Waiting.").call("change", json!({"what": "slow 50000"}))).await;
    let mut heard = rig.store.watch.listen();
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "Wait").await;
    let id = &made.conversation_id;
    let mark = told(&mut heard, EventType::ToolOutput).await;
    drop(heard);
    // Whoever watches the call may try too.
    rig.vm.fail_kills(4);
    rig.cancel(id).await;
    assert!(rig.vm.killed().is_empty());
    let run = rig.run(id, &made.run_id).await;
    assert_eq!((run.status, run.unkilled.len()), (RunStatus::Finished, 1));
    drop(mark);
    rig.settle().await;
    assert_eq!(rig.vm.killed(), ["slow 50000"]);
    assert!(rig.run(id, &made.run_id).await.unkilled.is_empty());
}
