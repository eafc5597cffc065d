//! What agents say and do when nothing goes wrong.

use pvm_domain::conversation::{CallStatus, ConversationStatus, Delivery, Mode, OutcomeKind, RunStatus};
use serde_json::json;

use crate::rig::models::say;
use crate::rig::{Rig, kinds};

#[tokio::test]
async fn two_agents_take_their_turns_and_their_tools_really_run() {
    let rig = Rig::new(|request| match (request.place.agent_id.as_str(), request.place.agent_step) {
        ("dev_agent", 0) => {
            say("I look.").call("look", json!({"what": "a"})).call("look", json!({"what": "b"}))
        }
        ("dev_agent", 1) => {
            say("I change.\n/vm mkdir app\n/vm fail here").call("change", json!({"what": "c"}))
        }
        ("dev_agent", _) => say("Done."),
        (_, 0) => say("Nice work."),
        other => panic!("{other:?}"),
    })
    .await;
    let made = rig.create(&["dev_agent", "designer_agent"], Mode::RoundRobin, "Build it").await;
    rig.settle().await;
    let id = &made.conversation_id;
    assert_eq!(
        rig.transcript(id).await,
        [
            "user: Build it",
            "dev_agent: I look. (ToolCalls)",
            "dev_agent: I change.\n/vm mkdir app\n/vm fail here (ToolCalls)",
            "system: VM Execution Results:\n\n$ mkdir app\ndid: mkdir app\n\n$ fail here\ndid: fail here\n[exit code 1]",
            "dev_agent: Done.",
            "designer_agent: Nice work.",
        ]
    );
    let run = rig.run(id, &made.run_id).await;
    assert_eq!(run.outcome.as_ref().map(|outcome| outcome.kind), Some(OutcomeKind::Completed));
    assert_eq!((run.status, run.vm_epoch), (RunStatus::Finished, None));
    assert_eq!((run.core.usage.turns, run.core.usage.model_calls, run.core.usage.tool_calls), (2, 4, 5));
    assert_eq!(run.core.usage.input_tokens, 400);
    assert!(rig.calls(id).await.iter().all(|call| call.status == CallStatus::Done && call.epoch == Some(1)));
    let texts: Vec<String> = rig.vm.starts().into_iter().map(|(_, _, text)| text).collect();
    assert_eq!(texts.len(), 5);
    assert!(texts[..2].contains(&"a".to_owned()) && texts[2..] == ["mkdir app", "fail here", "c"]);
    assert!(rig.lease().await.holders.is_empty());
    assert_eq!(rig.conversation(id).await.status, ConversationStatus::Idle);
    assert_eq!(rig.saves(), 3);
    let events = rig.events(id).await;
    let story = kinds(&events);
    assert_eq!(story[..4], ["message.created", "message.completed", "run.started", "turn.started"]);
    assert_eq!(story.last(), Some(&"run.finished"));
    assert_eq!(story.iter().filter(|kind| **kind == "tool.finished").count(), 5);
}

#[tokio::test]
async fn a_model_sees_its_own_calls_as_calls_and_others_words_by_name() {
    let rig = Rig::new(|request| match (request.place.agent_id.as_str(), request.place.agent_step) {
        ("dev_agent", 0) => say("Looking.").call("look", json!({"what": "a"})),
        ("dev_agent", _) => say("Seen."),
        _ => say("And I am done."),
    })
    .await;
    rig.create(&["dev_agent", "reviewer_agent"], Mode::RoundRobin, "Go").await;
    rig.settle().await;
    let requests = rig.models.requests.lock().unwrap();
    let own = serde_json::to_value(&requests[1].messages).unwrap();
    assert_eq!(
        own[1]["blocks"][1],
        json!({"type": "tool_use", "id": "dev_agent-0-0", "name": "look", "arguments": {"what": "a"}})
    );
    assert_eq!(own[2]["blocks"][0]["text"], "did: a\n");
    let other = serde_json::to_string(&requests[2].messages).unwrap();
    assert!(
        other.contains("[user] Go") && other.contains("[dev_agent] Seen.") && !other.contains("tool_use")
    );
    assert!(requests[2].system.contains("dev_agent") && requests[2].system.contains("change(what)"));
    assert!(requests[0].tools.iter().any(|tool| tool.name == "execute_command"));
}

#[tokio::test]
async fn a_mention_hands_over_and_a_moderator_leads() {
    let rig = Rig::new(|request| match (request.place.agent_id.as_str(), request.place.agent_step) {
        ("dev_agent", 0) => say("@designer_agent please style it."),
        ("designer_agent", 0) => say("Styled. @dev_agent check."),
        _ => say("All good."),
    })
    .await;
    let agents = ["dev_agent", "designer_agent", "data_agent"];
    let mention = rig.create(&agents, Mode::Mention, "Hello @dev_agent").await;
    rig.settle().await;
    let told = rig.transcript(&mention.conversation_id).await;
    let speakers: Vec<&str> = told.iter().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(speakers, ["user", "dev_agent", "designer_agent", "dev_agent"]);

    let rig = Rig::new(|request| match (request.place.agent_id.as_str(), request.place.agent_step) {
        ("dev_agent", 0) => say("@data_agent first."),
        ("dev_agent", 1) => say("Now @designer_agent."),
        _ => say("Fine."),
    })
    .await;
    let led = rig.create(&agents, Mode::Moderator, "Hello").await;
    rig.settle().await;
    let told = rig.transcript(&led.conversation_id).await;
    let speakers: Vec<&str> = told.iter().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(speakers, ["user", "dev_agent", "data_agent", "dev_agent", "designer_agent", "dev_agent"]);
}

#[tokio::test]
async fn a_long_command_is_watched_by_the_workflow_to_its_end() {
    let rig = Rig::new(|request| match request.place.agent_step {
        0 => say("This takes a while.\n/vm slow 400"),
        _ => say("There."),
    })
    .await;
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "Wait").await;
    rig.settle().await;
    let call = rig.calls(&made.conversation_id).await.remove(0);
    assert_eq!(call.status, CallStatus::Done);
    assert!(call.polls >= 2, "{call:?}");
    assert!(kinds(&rig.events(&made.conversation_id).await).contains(&"tool.output"));
    assert_eq!(rig.vm.starts().len(), 1);
}

#[tokio::test]
async fn a_run_of_many_steps_goes_on_in_a_new_execution() {
    let rig = Rig::new(|request| match request.place.agent_step {
        step @ 0..90 => {
            let mut answer = say("More.");
            for at in 0..4 {
                answer = answer.call("look", json!({"what": format!("{step} {at}")}));
            }
            answer
        }
        _ => say("Enough."),
    })
    .await;
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "Look at everything").await;
    rig.settle().await;
    let run = rig.run(&made.conversation_id, &made.run_id).await;
    assert_eq!(run.outcome.unwrap().kind, OutcomeKind::Completed);
    assert_eq!(run.segment, 3);
    assert_eq!(rig.vm.starts().len(), 360);
    rig.events(&made.conversation_id).await;
}

#[tokio::test]
async fn a_fork_has_the_history_up_to_there_and_goes_on_alone() {
    let rig = Rig::new(|request| {
        let told = serde_json::to_string(&request.messages).unwrap();
        let seen = ["One", "Two", "Three"].iter().filter(|word| told.contains(*word)).count();
        say(&format!("I read {seen}."))
    })
    .await;
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "One").await;
    rig.settle().await;
    let id = &made.conversation_id;
    let at = rig.events(id).await.len() as u64;
    rig.send(id, "Two", Delivery::Queue).await;
    rig.settle().await;
    let fork = pvm_application::conversations::fork(
        &rig.store,
        &rig.ambient,
        &rig.principal,
        &rig.project_id,
        id.as_str(),
        Some(at),
        None,
    );
    let fork = fork.await.unwrap();
    assert_eq!(rig.transcript(&fork.conversation_id).await, ["user: One", "dev_agent: I read 1."]);
    rig.send(&fork.conversation_id, "Three", Delivery::Queue).await;
    rig.settle().await;
    assert_eq!(rig.transcript(&fork.conversation_id).await.last().unwrap(), "dev_agent: I read 2.");
    assert_eq!(rig.transcript(id).await.last().unwrap(), "dev_agent: I read 2.");
    rig.events(&fork.conversation_id).await;
}

#[tokio::test]
async fn agents_in_parallel_work_each_in_a_copy_and_the_copies_are_merged() {
    let rig = Rig::new(|request| match request.place.agent_step {
        0 => say("Working.").call("change", json!({"what": format!("by {}", request.place.agent_id)})),
        _ => say("Done."),
    })
    .await;
    let agents = ["dev_agent", "designer_agent", "data_agent"];
    let made = rig.create(&agents, Mode::Parallel, "Split it up").await;
    rig.settle().await;
    let id = &made.conversation_id;
    let transcript = rig.transcript(id).await;
    assert_eq!(transcript.len(), 8);
    assert!(
        transcript.last().unwrap().starts_with("system: The work of all agents was merged"),
        "{transcript:?}"
    );
    let texts: Vec<String> = rig.vm.starts().into_iter().map(|(_, _, text)| text).collect();
    assert_eq!(texts.iter().filter(|text| text.starts_with("by ")).count(), 3);
    assert_eq!(texts.iter().filter(|text| text.starts_with("# Lanes")).count(), 2);
    let run = rig.run(id, &made.run_id).await;
    assert_eq!((run.outcome.unwrap().kind, run.status), (OutcomeKind::Completed, RunStatus::Finished));
    assert_eq!(run.core.lane_usage.model_calls, 6);
    let conversation = rig.conversation(id).await;
    assert_eq!((conversation.status, conversation.usage.model_calls), (ConversationStatus::Idle, 6));
    assert!(rig.lease().await.holders.is_empty());
    let events = rig.events(id).await;
    assert_eq!(events.last().unwrap().data["run_id"], json!(made.run_id));
}

#[tokio::test]
async fn a_command_of_hours_is_watched_to_its_end_and_its_exit_code_is_told() {
    let rig = Rig::new(|request| match request.place.agent_step {
        0 => say("This takes the night.").call("change", json!({"what": "slow 40000"})),
        _ => say("There."),
    })
    .await;
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "Wait").await;
    let started = pvm_asl::Clock::now(&rig.clock);
    rig.settle().await;
    let call = rig.calls(&made.conversation_id).await.remove(0);
    let result = call.result.unwrap();
    assert_eq!((call.status, result.is_error), (CallStatus::Done, false));
    assert_eq!(result.structured, Some(json!({"exit_code": 0})));
    let noticed = call.finished_at.unwrap().duration_since(started).as_secs();
    assert!((40_000..42_000).contains(&noticed), "{noticed}");
    assert!(call.polls > 20 && rig.vm.starts().len() == 1, "{}", call.polls);
    assert_eq!(rig.transcript(&made.conversation_id).await.last().unwrap(), "dev_agent: There.");
    rig.events(&made.conversation_id).await;
}

#[tokio::test]
async fn looking_again_and_again_at_something_that_changes_is_no_reason_to_stop() {
    let rig = Rig::new(|request| match request.place.agent_step {
        0..8 => say("What time is it?").takes(2).call("look", json!({"what": "clock"})),
        _ => say("Late."),
    })
    .await;
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "Wait").await;
    rig.settle().await;
    let run = rig.run(&made.conversation_id, &made.run_id).await;
    assert_eq!(run.outcome.unwrap().kind, OutcomeKind::Completed);
}

#[tokio::test]
async fn a_fork_has_calls_and_messages_as_they_stood_then() {
    let rig = Rig::new(|request| match (request.place.initial_message.as_str(), request.place.agent_step) {
        ("One", 0) => {
            say("First.").call("look", json!({"what": "a"})).call("change", json!({"what": "gate"}))
        }
        (text, _) => say(&format!("Answer to {text}.")),
    })
    .await;
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "One").await;
    let id = &made.conversation_id;
    let gate = rig.vm.gate();
    gate.reached().await;
    rig.send(id, "Two", Delivery::Queue).await;
    let at = rig.events_open(id).await;
    let fork_at = async |at| {
        let (store, ambient, id) = (&rig.store, &rig.ambient, id.as_str());
        pvm_application::conversations::fork(
            store,
            ambient,
            &rig.principal,
            &rig.project_id,
            id,
            Some(at),
            None,
        )
        .await
        .unwrap()
        .conversation_id
    };
    let now = fork_at(at).await;
    gate.open();
    rig.settle().await;
    // The same point, after the call has ended and the message was answered.
    let later = fork_at(at).await;
    for fork in [&now, &later] {
        let calls = rig.calls(fork).await;
        let texts: Vec<&str> = calls.iter().map(|call| call.result.as_ref().unwrap().text.as_str()).collect();
        assert!(texts.contains(&"did: a\n"), "{texts:?}");
        assert!(texts.iter().any(|text| text.contains("was forked while it had not ended")), "{texts:?}");
        assert!(calls.iter().all(|call| call.status.is_final()));
        let transcript = rig.transcript(fork).await;
        assert_eq!(transcript, ["user: One", "dev_agent: First. (ToolCalls)", "user: Two"]);
        rig.send(fork, "Three", Delivery::Queue).await;
        rig.settle().await;
        assert_eq!(rig.transcript(fork).await.last().unwrap(), "dev_agent: Answer to Three.");
        rig.events(fork).await;
    }
    let all = rig.calls(id).await;
    assert!(all.iter().all(|call| call.status == CallStatus::Done), "the origin's are its own");
}

#[tokio::test]
async fn a_lane_whose_machine_was_replaced_starts_nothing_in_the_next() {
    let rig = Rig::new(|request| match (request.place.agent_id.as_str(), request.place.agent_step) {
        ("dev_agent", 0) => say("Working.").call("change", json!({"what": "gate"})),
        ("dev_agent", 1) => say("And now?").call("look", json!({"what": "around"})),
        ("dev_agent", 2) => say("Once more.").call("change", json!({"what": "again"})),
        _ => say("Done."),
    })
    .await;
    let made = rig.create(&["dev_agent", "designer_agent"], Mode::Parallel, "Split it up").await;
    let id = &made.conversation_id;
    let gate = rig.vm.gate();
    gate.reached().await;
    rig.vm.die("vm1");
    gate.open();
    rig.settle().await;
    let calls = rig.calls(id).await;
    let how: Vec<(CallStatus, &str)> = calls
        .iter()
        .map(|call| (call.status, call.result.as_ref().map_or("", |result| result.text.as_str())))
        .collect();
    assert!(how.iter().any(|(status, _)| *status == CallStatus::Lost), "{how:?}");
    let fenced = how.iter().filter(|(status, text)| {
        *status == CallStatus::Failed && text.contains("this lane's copy of the workspace went with it")
    });
    assert_eq!(fenced.count(), 2, "{how:?}");
    let texts: Vec<String> = rig.vm.starts().into_iter().map(|(_, _, text)| text).collect();
    assert!(!texts.iter().any(|text| text == "around" || text == "again"), "{texts:?}");
    assert!(rig.lease().await.holders.is_empty());
    rig.events(id).await;
}
