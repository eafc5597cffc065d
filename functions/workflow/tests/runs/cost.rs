//! What runs cost is told, summed, and right.

use pvm_application::conversations;
use pvm_domain::conversation::{Delivery, Mode, Run};
use pvm_domain::event::EventType;
use pvm_domain::ids::ConversationId;
use serde_json::json;

use crate::rig::Rig;
use crate::rig::models::say;

/// What `run.finished` says of this run.
async fn told(rig: &Rig, id: &ConversationId, run: &Run) -> serde_json::Value {
    let events = rig.events(id).await;
    let of_run = |event: &&pvm_domain::event::Event| {
        event.kind == EventType::RunFinished && event.data["run_id"] == json!(run.run_id)
    };
    events.iter().find(of_run).unwrap().data["usage"].clone()
}

#[tokio::test]
async fn the_end_of_a_run_tells_its_cost_and_the_conversation_sums_it() {
    let rig = Rig::new(|request| match (request.place.initial_message.as_str(), request.place.agent_step) {
        ("One", 0) => {
            say("Both.").takes(3).call("look", json!({"what": "a"})).call("look", json!({"what": "b"}))
        }
        ("One", 1) => say("This takes a while.\n/vm slow 400").call("change", json!({"what": "c"})),
        _ => say("There."),
    })
    .await;
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "One").await;
    rig.settle().await;
    let id = &made.conversation_id;
    let run = rig.run(id, &made.run_id).await;
    let usage = told(&rig, id, &run).await;
    assert_eq!(usage, json!(run.core.usage));
    assert_eq!((usage["input_tokens"].as_u64(), usage["output_tokens"].as_u64()), (Some(300), Some(30)));
    assert_eq!(usage["transitions"], json!(rig.transitions(&run).await), "as the interpreter counted");
    // The VM was held from the first call to the end, the model's first seconds not included.
    let vm_secs = usage["vm_ms"].as_u64().unwrap() / 1000;
    assert!((400..450).contains(&vm_secs), "{vm_secs}");
    // Three seconds of a model, and a command that was watched but for the pauses between polls.
    let step_secs = usage["step_ms"].as_u64().unwrap() / 1000;
    assert!((200..420).contains(&step_secs), "{step_secs}");
    assert!(usage["store_units"].as_u64().unwrap() > 50, "{usage}");

    let second = rig.send(id, "Two", Delivery::Queue).await;
    rig.settle().await;
    let second = rig.run(id, &second.run_id).await;
    let shown = conversations::get(&rig.store, &rig.principal, &rig.project_id, id.as_str()).await.unwrap();
    let mut sum = run.core.usage;
    sum.add(&second.core.usage);
    assert_eq!(shown.usage, sum);
    assert_eq!(second.core.usage.transitions, rig.transitions(&second).await);
    assert_eq!(second.core.usage.vm_ms, 0, "it used no VM");
}

#[tokio::test]
async fn transitions_are_counted_through_approvals_segments_and_lanes() {
    let rig = Rig::new(|request| match (request.place.agent_id.as_str(), request.place.agent_step) {
        ("careful", 0) => say("May I?").call("change", json!({"what": "deploy"})),
        ("dev_agent", step @ 0..19) => {
            (0..10).fold(say("More."), |say, at| say.call("look", json!({"what": format!("{step} {at}")})))
        }
        _ => say("Enough."),
    })
    .await;
    rig.define_careful().await;
    for (agents, mode) in
        [(&["dev_agent"][..], Mode::RoundRobin), (&["data_agent", "designer_agent"][..], Mode::Parallel)]
    {
        let made = rig.create(agents, mode, "Go").await;
        rig.settle().await;
        let run = rig.run(&made.conversation_id, &made.run_id).await;
        assert_eq!(run.segment, if mode == Mode::Parallel { 1 } else { 2 });
        assert_eq!(run.core.usage.transitions, rig.transitions(&run).await, "{agents:?}");
    }
    let mut heard = rig.store.watch.listen();
    let made = rig.create(&["careful"], Mode::RoundRobin, "Deploy").await;
    let id = &made.conversation_id;
    let mut hold = None;
    while let Some((kind, mark)) = heard.recv().await {
        if kind == EventType::ApprovalRequired {
            hold = Some(mark);
            break;
        }
    }
    drop(heard);
    // The workflow comes to wait for the person before the person decides.
    rig.wait_until_waiting(id).await;
    rig.decide_all(id).await;
    drop(hold);
    rig.settle().await;
    let run = rig.run(id, &made.run_id).await;
    assert_eq!(run.core.usage.transitions, rig.transitions(&run).await);
}
