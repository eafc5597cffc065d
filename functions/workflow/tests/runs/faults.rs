//! What models, VMs and people do wrong, and where it ends.

use std::time::Duration;

use pvm_application::ports_model::{ModelError, Stop, TokenUsage};
use pvm_application::store::{ReadStore, Tx, WriteStore};
use pvm_contracts::conversations::CreateConversation;
use pvm_domain::conversation::{Budget, CallStatus, ConversationStatus, Delivery, Mode, OutcomeKind};
use serde_json::json;

use crate::rig::models::{Say, say};
use crate::rig::{Rig, kinds};

async fn outcome(
    rig: &Rig,
    made: &pvm_contracts::conversations::MessageAccepted,
) -> (OutcomeKind, Option<String>) {
    let outcome = rig.run(&made.conversation_id, &made.run_id).await.outcome.unwrap();
    (outcome.kind, outcome.reason)
}

#[tokio::test]
async fn what_a_model_gets_wrong_becomes_results_that_it_can_read() {
    let rig = Rig::new(|request| match request.place.agent_step {
        0 => {
            let mut answer = say("").call("no such/tool", json!({})).call("look", json!("text"));
            answer.calls.push(("look".to_owned(), Err("expected `:` at column 5".to_owned())));
            answer
        }
        _ => say("I see."),
    })
    .await;
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "Go").await;
    rig.settle().await;
    assert_eq!(outcome(&rig, &made).await, (OutcomeKind::Completed, None));
    assert!(rig.calls(&made.conversation_id).await.iter().all(|call| call.status == CallStatus::Failed));
    assert!(rig.vm.starts().is_empty());
    let requests = rig.models.requests.lock().unwrap();
    let read = serde_json::to_string(&requests[1].messages).unwrap();
    for part in ["there is no tool \\\"no such/tool\\\"", "must be a JSON object", "expected `:` at column 5"]
    {
        assert!(read.contains(part), "{read}");
    }
    // Every provider refuses a history with a name of other characters.
    assert!(read.contains(r#""name":"no_such_tool""#), "{read}");
}

#[tokio::test]
async fn empty_refused_endless_and_broken_answers_end_cleanly() {
    let rig = Rig::new(|request| match request.place.agent_id.as_str() {
        "dev_agent" => say(""),
        "designer_agent" => Say { stop: Some(Stop::Refusal), ..say("I will not.") },
        "data_agent" => say(&"x".repeat(10_000_000)),
        _ => say("Bytes \u{fffd} and \0 nulls."),
    })
    .await;
    let agents = ["dev_agent", "designer_agent", "data_agent", "reviewer_agent"];
    let made = rig.create(&agents, Mode::RoundRobin, "Go").await;
    rig.settle().await;
    assert_eq!(outcome(&rig, &made).await, (OutcomeKind::Completed, None));
    let transcript = rig.transcript(&made.conversation_id).await;
    assert_eq!(transcript[1], "dev_agent:  (Empty)");
    assert_eq!(transcript[2], "designer_agent: I will not. (Refused)");
    assert!(transcript[3].len() < 300_000 && transcript[3].ends_with("(MaxTokens)"));
    rig.events(&made.conversation_id).await;
}

#[tokio::test]
async fn a_busy_provider_is_waited_for_by_the_workflow() {
    let rig = Rig::new(|_| say("Finally.")).await;
    rig.errors([
        ModelError::RateLimited { retry_after: Some(Duration::from_secs(40)) },
        ModelError::Overloaded { retry_after: None },
        ModelError::Broken("the stream broke off".to_owned()),
    ]);
    let started = pvm_asl::Clock::now(&rig.clock);
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "Go").await;
    rig.settle().await;
    assert_eq!(rig.transcript(&made.conversation_id).await, ["user: Go", "dev_agent: Finally."]);
    let run = rig.run(&made.conversation_id, &made.run_id).await;
    let took = run.finished_at.unwrap().duration_since(started).as_secs();
    assert!((44..200).contains(&took), "{took}");
    let story = kinds(&rig.events(&made.conversation_id).await);
    assert_eq!(story.iter().filter(|kind| **kind == "message.reset").count(), 3);
}

#[tokio::test]
async fn a_provider_that_stays_away_fails_the_run_and_the_next_message_starts_a_new_one() {
    let rig = Rig::new(|_| say("Back.")).await;
    rig.errors((0..10).map(|_| ModelError::Overloaded { retry_after: None }));
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "Go").await;
    rig.settle().await;
    assert_eq!(outcome(&rig, &made).await, (OutcomeKind::Failed, Some("model_overloaded".to_owned())));
    assert_eq!(rig.conversation(&made.conversation_id).await.status, ConversationStatus::Failed);
    rig.send(&made.conversation_id, "Again", Delivery::Queue).await;
    rig.settle().await;
    assert_eq!(rig.transcript(&made.conversation_id).await.last().unwrap(), "dev_agent: Back.");
}

#[tokio::test]
async fn a_model_without_a_key_fails_at_once_and_says_what_is_missing() {
    let rig = Rig::new(|_| say("Never.")).await;
    rig.errors([ModelError::NotConfigured("anthropic does not accept the key".to_owned())]);
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "Go").await;
    rig.settle().await;
    let run = rig.run(&made.conversation_id, &made.run_id).await;
    assert!(run.outcome.unwrap().detail.unwrap().contains("does not accept the key"));
}

#[tokio::test]
async fn a_context_that_overflows_is_summarised_and_the_originals_stay() {
    let rig = Rig::new(|request| {
        if request.system.contains("hand-over notes") {
            return say("The notes: a cat was drawn.");
        }
        let knows = serde_json::to_string(&request.messages).unwrap().contains("The notes: a cat was drawn.");
        say(if knows { "I remember the cat." } else { "I know nothing." })
    })
    .await;
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "Draw a cat").await;
    rig.settle().await;
    rig.errors([ModelError::ContextOverflow]);
    rig.send(&made.conversation_id, "What did you draw?", Delivery::Queue).await;
    rig.settle().await;
    let transcript = rig.transcript(&made.conversation_id).await;
    assert_eq!(
        transcript,
        [
            "user: Draw a cat",
            "dev_agent: I know nothing.",
            "user: What did you draw?",
            "dev_agent: I remember the cat."
        ]
    );
    let compacted = rig.conversation(&made.conversation_id).await.compacted;
    assert_eq!(compacted["dev_agent"].summary, "The notes: a cat was drawn.");
    let asked = summarised(&rig);
    assert!(asked[0].contains("user: Draw a cat") && asked[0].contains("dev_agent: I know nothing."));
    assert!(asked.len() == 1 && !asked[0].contains("What did you draw?"), "{asked:?}");
    rig.events(&made.conversation_id).await;
}

/// What models were given to make summaries from.
fn summarised(rig: &Rig) -> Vec<String> {
    let requests = rig.models.requests.lock().unwrap();
    let asked = requests.iter().filter(|one| one.system.contains("hand-over notes"));
    asked.map(|one| serde_json::to_string(&one.messages).unwrap()).collect()
}

/// A rig whose model says that its window is nearly full, whatever it reads.
async fn full_rig() -> std::sync::Arc<Rig> {
    Rig::new(|request| {
        if request.system.contains("hand-over notes") {
            return say("Notes.");
        }
        let usage = TokenUsage { input: 85_000, output: 10, ..TokenUsage::default() };
        let said = if request.place.agent_step == 0 { "Long." } else { "Short." };
        Say { usage, ..say(said) }
    })
    .await
}

#[tokio::test]
async fn a_nearly_full_window_is_summarised_before_the_next_call() {
    let rig = full_rig().await;
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, &format!("One {}", "x".repeat(100_000))).await;
    rig.settle().await;
    rig.send(&made.conversation_id, "Two", Delivery::Queue).await;
    rig.settle().await;
    let requests = rig.models.requests.lock().unwrap().clone();
    let summarises: Vec<bool> = requests.iter().map(|one| one.system.contains("hand-over notes")).collect();
    assert_eq!(summarises, [false, true, false], "also where the next call is of the next run");
    let asked = summarised(&rig).remove(0);
    assert!(asked.contains("user: One xxx") && !asked.contains("Two"));
    // The newest messages that fit stay as they are, and those alone were not summarised.
    let told = serde_json::to_string(&requests[2].messages).unwrap();
    assert!(told.contains("Notes.") && told.contains("Two") && !told.contains("One xxx"), "{told}");
    assert!(told.contains("Long.") && !asked.contains("Long."), "{asked}");
    // The originals stay for people.
    assert!(rig.transcript(&made.conversation_id).await[0].starts_with("user: One xxx"));
}

#[tokio::test]
async fn a_window_that_instructions_fill_is_not_summarised_again_and_again() {
    let rig = full_rig().await;
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "One").await;
    rig.settle().await;
    for text in ["Two", "Three"] {
        rig.send(&made.conversation_id, text, Delivery::Queue).await;
        rig.settle().await;
    }
    assert!(summarised(&rig).is_empty(), "there is next to nothing that a summary could stand for");
    assert!(rig.conversation(&made.conversation_id).await.compacted.is_empty());
    assert_eq!(rig.models.requests.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn one_message_that_does_not_fit_ends_the_run_without_a_summary_of_nothing() {
    let rig = Rig::new(|_| say("Never.")).await;
    rig.errors([ModelError::ContextOverflow, ModelError::ContextOverflow]);
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "Too much").await;
    rig.settle().await;
    assert_eq!(outcome(&rig, &made).await, (OutcomeKind::Failed, Some("context_overflow".to_owned())));
    assert!(summarised(&rig).is_empty());
    assert!(rig.conversation(&made.conversation_id).await.compacted.is_empty());
    rig.events(&made.conversation_id).await;
}

#[tokio::test]
async fn a_summary_that_keeps_breaking_off_is_made_without_a_model() {
    let rig = Rig::new(|_| say("I go on.")).await;
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "Draw a cat").await;
    rig.settle().await;
    let broken = || ModelError::Broken("the stream broke off".to_owned());
    rig.errors([ModelError::ContextOverflow, broken(), broken(), broken(), broken()]);
    let again = rig.send(&made.conversation_id, "And a dog", Delivery::Queue).await;
    rig.settle().await;
    assert_eq!(outcome(&rig, &again).await, (OutcomeKind::Completed, None));
    let compacted = rig.conversation(&made.conversation_id).await.compacted;
    assert!(compacted["dev_agent"].summary.contains("user: Draw a cat"), "{compacted:?}");
    rig.events(&made.conversation_id).await;
}

#[tokio::test]
async fn texts_that_are_long_only_as_json_are_stored_and_end_nothing() {
    // Of each, 256 KiB of text are more than an item of the store holds as JSON.
    let rig = Rig::new(|request| match request.place.agent_id.as_str() {
        "dev_agent" => say(&"\n\"".repeat(128 * 1024)),
        "designer_agent" => match request.place.agent_step {
            0 => {
                let nested = json!({"what": "note", "list": vec!["\"\"\"\""; 20_000]});
                say("").call("change", nested)
            }
            _ => say("Noted."),
        },
        _ => say(&"\u{1}".repeat(256 * 1024)).hangs(),
    })
    .await;
    let agents = ["dev_agent", "designer_agent", "data_agent"];
    let made = rig.create(&agents, Mode::RoundRobin, &"\"".repeat(160 * 1024)).await;
    let id = &made.conversation_id;
    rig.settle().await;
    assert_eq!(outcome(&rig, &made).await, (OutcomeKind::Failed, Some("model_broken".to_owned())));
    let messages = rig.messages(id).await;
    assert!(messages.iter().all(|message| pvm_domain::text::encoded_len(&message.text) < 390 * 1024));
    assert!(messages[1].text.contains("bytes cut") && messages.last().unwrap().text.contains("bytes cut"));
    assert!(messages.iter().any(|message| message.text == "Noted."));
    rig.events(id).await;
}

#[tokio::test]
async fn a_model_that_never_ends_its_answer_is_given_up_after_its_time() {
    let rig = Rig::new(|_| say("And then").hangs()).await;
    let started = pvm_asl::Clock::now(&rig.clock);
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "Go").await;
    rig.settle().await;
    assert_eq!(outcome(&rig, &made).await, (OutcomeKind::Failed, Some("model_broken".to_owned())));
    let run = rig.run(&made.conversation_id, &made.run_id).await;
    let took = run.finished_at.unwrap().duration_since(started).as_secs();
    assert!((1200..1300).contains(&took), "four tries of 300 seconds, not {took}");
    assert_eq!(rig.models.dropped.lock().unwrap().len(), 4);
    assert_eq!(rig.transcript(&made.conversation_id).await, ["user: Go", "dev_agent: And then (Cut)"]);
    rig.events(&made.conversation_id).await;
}

#[tokio::test]
async fn a_stream_that_breaks_mid_way_is_begun_again_and_its_text_is_not_doubled() {
    let rig = Rig::new(|_| say("Once upon a time.").takes(2)).await;
    *rig.models.breaks.lock().unwrap() = 2;
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "Go").await;
    rig.settle().await;
    assert_eq!(rig.transcript(&made.conversation_id).await, ["user: Go", "dev_agent: Once upon a time."]);
    let story = kinds(&rig.events(&made.conversation_id).await);
    assert_eq!(story.iter().filter(|kind| **kind == "message.reset").count(), 2);
}

#[tokio::test]
async fn of_ten_thousand_calls_ten_run_and_the_model_is_told() {
    let rig = Rig::new(|request| match request.place.agent_step {
        0 => (0..10_000).fold(say(""), |say, n| say.call("look", json!({"what": n.to_string()}))),
        _ => say("Fewer, then."),
    })
    .await;
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "Go").await;
    rig.settle().await;
    assert_eq!(outcome(&rig, &made).await, (OutcomeKind::Completed, None));
    assert_eq!(rig.vm.starts().len(), 10);
    let requests = rig.models.requests.lock().unwrap();
    assert!(
        serde_json::to_string(&requests[1].messages).unwrap().contains("9990 further calls were not run")
    );
}

#[tokio::test]
async fn a_project_that_is_deleted_under_a_run_ends_it_and_leaves_nothing() {
    let rig = Rig::new(|_| say("On it.").call("change", json!({"what": "gate"}))).await;
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "Go").await;
    let id = &made.conversation_id;
    let gate = rig.vm.gate();
    gate.reached().await;
    let key = pvm_application::keys::project(&rig.project_id);
    let mut project: pvm_domain::project::Project = rig.store.get(&key).await.unwrap().unwrap();
    project.deleting = true;
    rig.store.commit(Tx::new().update(&mut project)).await.unwrap();
    let (store, flow, vm) = (&rig.store, &rig.flow, &rig.vm);
    let stopped = pvm_application::erase::stop_runs(store, flow, vm, &rig.ambient, &rig.project_id);
    stopped.await.unwrap();
    assert_eq!(rig.vm.killed(), ["gate"]);
    let story = rig.events(id).await;
    assert_eq!(story.last().unwrap().data["outcome"], "cancelled");
    while pvm_application::erase::records(&rig.store, &rig.project_id).await.unwrap() {}
    // The tool's step comes back to a conversation that is gone.
    gate.open();
    rig.settle().await;
    assert!(rig.events(id).await.is_empty(), "nothing is written after the end");
    assert!(rig.messages(id).await.is_empty() && rig.calls(id).await.is_empty());
    assert!(rig.store.get::<pvm_domain::project::Project>(&key).await.unwrap().is_none());
}

#[tokio::test]
async fn a_command_whose_vm_dies_is_lost_and_never_run_again() {
    let rig = Rig::new(|request| match request.place.agent_step {
        0 => say("/vm make a change"),
        _ => say("It is lost, then."),
    })
    .await;
    rig.vm.die_at_next_start();
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "Go").await;
    rig.settle().await;
    let call = rig.calls(&made.conversation_id).await.remove(0);
    assert_eq!(call.status, CallStatus::Lost);
    assert_eq!(rig.vm.starts().len(), 1);
    let transcript = rig.transcript(&made.conversation_id).await;
    assert!(transcript[2].contains("Nobody knows whether"), "{transcript:?}");
    assert_eq!(outcome(&rig, &made).await, (OutcomeKind::Completed, None));
    rig.events(&made.conversation_id).await;
}

#[tokio::test]
async fn a_call_that_changes_nothing_is_run_again_in_the_next_vm() {
    let rig = Rig::new(|request| match request.place.agent_step {
        0 => say("").call("look", json!({"what": "around"})),
        _ => say("Seen."),
    })
    .await;
    rig.vm.die_at_next_start();
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "Go").await;
    rig.settle().await;
    let call = rig.calls(&made.conversation_id).await.remove(0);
    assert_eq!((call.status, call.vm_id.as_deref()), (CallStatus::Done, Some("vm3")));
    assert_eq!(rig.vm.starts().len(), 2);
}

#[tokio::test]
async fn a_budget_ends_the_run_before_the_call_that_would_exceed_it() {
    let rig =
        Rig::new(|request| say("More.").call("look", json!({"what": request.place.agent_step.to_string()})))
            .await;
    let made = rig
        .create_with(CreateConversation {
            agent_ids: vec!["dev_agent".to_owned()],
            initial_message: "Go".to_owned(),
            conversation_id: Some("my-chat".to_owned()),
            mode: Mode::RoundRobin,
            max_turns: Some(3),
            budget: Budget { tokens: Some(300), ..Budget::default() },
            file_ids: Vec::new(),
        })
        .await;
    rig.settle().await;
    assert_eq!(outcome(&rig, &made).await, (OutcomeKind::Stopped, Some("budget_tokens".to_owned())));
    let conversation = rig.conversation(&made.conversation_id).await;
    assert_eq!((conversation.usage.model_calls, conversation.usage.tokens()), (3, 330));
    // The budget is the conversation's: a further message is answered by nobody.
    let again = rig.send(&made.conversation_id, "More", Delivery::Queue).await;
    rig.settle().await;
    assert_eq!(outcome(&rig, &again).await, (OutcomeKind::Stopped, Some("budget_tokens".to_owned())));
    assert_eq!(rig.models.requests.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn an_agents_own_budget_ends_its_part_and_the_others_are_told_and_go_on() {
    let rig = Rig::new(|request| match request.place.agent_id.as_str() {
        "spender" => say("More.").call("look", json!({"what": request.place.agent_step.to_string()})),
        _ => say("I finish it."),
    })
    .await;
    rig.define(json!({"agent_id": "spender", "budget": {"tokens": 200}})).await;
    let made = rig.create(&["spender", "reviewer_agent"], Mode::RoundRobin, "Go").await;
    rig.settle().await;
    let id = &made.conversation_id;
    assert_eq!(outcome(&rig, &made).await, (OutcomeKind::Stopped, Some("agent_budget_tokens".to_owned())));
    let transcript = rig.transcript(id).await;
    let note =
        "spender has used up its budget for this run (220 of 200 tokens) and takes no further part in it.";
    assert_eq!(
        transcript[transcript.len() - 2..],
        [format!("system: {note}"), "reviewer_agent: I finish it.".into()]
    );
    let conversation = rig.conversation(id).await;
    assert_eq!(conversation.usage.model_calls, 3);
    // The note is part of what the other reads, and the budget is a run's: the next message finds it whole.
    {
        let requests = rig.models.requests.lock().unwrap();
        let last = requests.last().unwrap();
        assert!(format!("{:?}", last.messages).contains("has used up its budget"), "{:?}", last.messages);
    }
    rig.send(id, "Again", Delivery::Queue).await;
    rig.settle().await;
    assert_eq!(rig.conversation(id).await.usage.model_calls, 6);
    rig.events(id).await;
}

#[tokio::test]
async fn a_model_call_may_take_as_long_as_its_agent_says() {
    // Time enough for everybody else: a call may take 300 seconds.
    let rig = Rig::new(|request| {
        say("Thought it through.").takes(if request.place.agent_step == 0 { 40 } else { 0 })
    })
    .await;
    rig.define(json!({"agent_id": "patient"})).await;
    rig.define(json!({"agent_id": "hasty", "timeout": 20})).await;
    let made = rig.create(&["patient"], Mode::RoundRobin, "Go").await;
    rig.settle().await;
    assert_eq!(outcome(&rig, &made).await, (OutcomeKind::Completed, None));
    let made = rig.create(&["hasty"], Mode::RoundRobin, "Go").await;
    rig.settle().await;
    assert_eq!(outcome(&rig, &made).await, (OutcomeKind::Failed, Some("model_broken".to_owned())));
    let run = rig.run(&made.conversation_id, &made.run_id).await;
    let detail = run.outcome.unwrap().detail.unwrap();
    assert!(detail.contains("hasty") && detail.contains("no end within 20 seconds"), "{detail}");
    // Four tries of twenty seconds, each dropped at its end, with a second between.
    let dropped = rig.models.dropped.lock().unwrap();
    assert_eq!(dropped.len(), 4);
    let between = dropped[3].duration_since(dropped[0]).as_secs();
    assert!((60..75).contains(&between), "{between}");
}

#[tokio::test]
async fn the_same_call_again_and_again_stops_the_run() {
    let rig = Rig::new(|_| say("Again.").call("change", json!({"what": "it"}))).await;
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "Go").await;
    rig.settle().await;
    assert_eq!(outcome(&rig, &made).await, (OutcomeKind::Stopped, Some("repeated_call".to_owned())));
    assert_eq!(rig.vm.starts().len(), 2);
    rig.events(&made.conversation_id).await;
}

#[tokio::test]
async fn an_agent_that_is_deleted_while_it_talks_says_its_last_word() {
    let rig = Rig::new(|request| match request.place.agent_step {
        0 => say("Working.").call("change", json!({"what": "gate"})),
        _ => say("Goodbye."),
    })
    .await;
    rig.define(json!({"agent_id": "helper", "system_prompt": "You help."})).await;
    let made = rig.create(&["helper"], Mode::RoundRobin, "Go").await;
    let gate = rig.vm.gate();
    gate.reached().await;
    pvm_application::agents::delete(&rig.store, &rig.ambient, &rig.principal, "helper", None).await.unwrap();
    gate.open();
    rig.settle().await;
    assert_eq!(rig.transcript(&made.conversation_id).await.last().unwrap(), "helper: Goodbye.");
}

#[tokio::test]
async fn agents_md_is_read_when_the_file_store_answers_again() {
    let rig = Rig::new(|_| say("Done.")).await;
    *rig.objects.text.lock().unwrap() = Some("Always whistle.");
    rig.make_file("AGENTS.md", 15).await;
    rig.objects.away.store(2, std::sync::atomic::Ordering::SeqCst);
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "Go").await;
    rig.settle().await;
    assert_eq!(outcome(&rig, &made).await, (OutcomeKind::Completed, None));
    let requests = rig.models.requests.lock().unwrap();
    assert_eq!(requests.len(), 1, "nobody was asked without the project's rules");
    assert!(requests[0].system.contains("Always whistle."));
}

#[tokio::test]
async fn budgets_in_money_and_seconds_end_the_run_before_the_next_call() {
    let cases = [
        (Budget { cost_microusd: Some(1_000), ..Budget::default() }, "budget_cost", 2),
        (Budget { seconds: Some(25), ..Budget::default() }, "budget_seconds", 3),
    ];
    for (budget, reason, calls) in cases {
        let rig = Rig::new(|request| {
            say("More.").takes(10).call("look", json!({"what": request.place.agent_step.to_string()}))
        })
        .await;
        let made = rig
            .create_with(CreateConversation {
                agent_ids: vec!["dev_agent".to_owned()],
                initial_message: "Go".to_owned(),
                conversation_id: None,
                mode: Mode::RoundRobin,
                max_turns: None,
                budget,
                file_ids: Vec::new(),
            })
            .await;
        rig.settle().await;
        assert_eq!(outcome(&rig, &made).await, (OutcomeKind::Stopped, Some(reason.to_owned())));
        assert_eq!(rig.models.requests.lock().unwrap().len(), calls, "{reason}");
        let usage = rig.conversation(&made.conversation_id).await.usage;
        assert_eq!(usage.cost_microusd, 600 * calls as u64);
        rig.events(&made.conversation_id).await;
    }
}
