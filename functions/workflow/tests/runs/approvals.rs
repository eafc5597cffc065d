//! Calls that wait for a person.

use pvm_application::conversations;
use pvm_application::error::ErrorCode;
use pvm_contracts::conversations::{DecideApproval, Decision};
use pvm_domain::conversation::{CallStatus, ConversationStatus, Mode, OutcomeKind};
use pvm_domain::event::EventType;
use pvm_domain::ids::ConversationId;
use serde_json::json;

use crate::rig::Rig;
use crate::rig::models::say;

async fn careful_rig() -> std::sync::Arc<Rig> {
    let rig = Rig::new(|request| match request.place.agent_step {
        0 => say("May I?").call("change", json!({"what": "deploy"})).call("look", json!({"what": "around"})),
        _ => say("Then that is that."),
    })
    .await;
    rig.define(json!({"agent_id": "careful", "approvals": {"change(deploy*)": "ask"}})).await;
    rig
}

async fn decide(
    rig: &Rig,
    id: &ConversationId,
    approval: &str,
    decision: Decision,
    hash: Option<&str>,
) -> Result<(), ErrorCode> {
    let input = DecideApproval {
        decision,
        request_hash: hash.map(str::to_owned),
        comment: Some("as you like".to_owned()),
    };
    conversations::decide(
        &rig.store,
        &rig.flow,
        &rig.ambient,
        &rig.principal,
        &rig.project_id,
        id.as_str(),
        approval,
        input,
    )
    .await
    .map(|_| ())
    .map_err(|error| error.code)
}

#[tokio::test]
async fn a_call_runs_after_its_approval_and_the_wait_holds_no_vm() {
    let rig = careful_rig().await;
    // While it is held, no time passes: nobody is in time or late by luck.
    let hold = pvm_asl::Clock::work(&rig.clock);
    let made = rig.create(&["careful"], Mode::RoundRobin, "Deploy").await;
    let id = &made.conversation_id;
    let asked = rig.wait_for(id, EventType::ApprovalRequired).await;
    let (approval, hash) =
        (asked.data["approval_id"].as_str().unwrap(), asked.data["request_hash"].as_str().unwrap());
    let waiting = conversations::get(&rig.store, &rig.principal, &rig.project_id, id.as_str()).await.unwrap();
    assert_eq!(waiting.approvals.len(), 1);
    assert!(rig.lease().await.holders.is_empty());
    assert!(rig.vm.starts().is_empty());
    assert_eq!(decide(&rig, id, approval, Decision::Approve, Some("other")).await, Err(ErrorCode::Conflict));
    decide(&rig, id, approval, Decision::Approve, Some(hash)).await.unwrap();
    // Twice is fine, the other way round is not.
    decide(&rig, id, approval, Decision::Approve, None).await.unwrap();
    assert_eq!(decide(&rig, id, approval, Decision::Deny, None).await, Err(ErrorCode::Conflict));
    rig.wait_for(id, EventType::RunFinished).await;
    drop(hold);
    rig.settle().await;
    assert_eq!(rig.vm.starts().len(), 2);
    assert!(rig.calls(id).await.iter().all(|call| call.status == CallStatus::Done));
    assert_eq!(rig.transcript(id).await.last().unwrap(), "careful: Then that is that.");
    assert_eq!(rig.conversation(id).await.status, ConversationStatus::Idle);
    assert!(rig.lease().await.holders.is_empty());
    rig.events(id).await;
}

#[tokio::test]
async fn a_denied_call_is_a_result_and_the_rest_runs() {
    let rig = careful_rig().await;
    let hold = pvm_asl::Clock::work(&rig.clock);
    let made = rig.create(&["careful"], Mode::RoundRobin, "Deploy").await;
    let id = &made.conversation_id;
    let asked = rig.wait_for(id, EventType::ApprovalRequired).await;
    decide(&rig, id, asked.data["approval_id"].as_str().unwrap(), Decision::Deny, None).await.unwrap();
    rig.wait_for(id, EventType::RunFinished).await;
    drop(hold);
    rig.settle().await;
    let texts: Vec<String> = rig.vm.starts().into_iter().map(|(_, _, text)| text).collect();
    assert_eq!(texts, ["around"]);
    let requests = rig.models.requests.lock().unwrap();
    assert!(serde_json::to_string(&requests[1].messages).unwrap().contains("a person denied it"));
}

#[tokio::test]
async fn nobody_deciding_for_two_weeks_is_a_no_and_costs_no_time() {
    let rig = careful_rig().await;
    let made = rig.create(&["careful"], Mode::RoundRobin, "Deploy").await;
    let id = &made.conversation_id;
    rig.settle().await;
    let decided = rig.wait_for(id, EventType::ApprovalDecided).await;
    assert_eq!(decided.data["decision"], "expired");
    let run = rig.run(id, &made.run_id).await;
    assert_eq!(run.outcome.unwrap().kind, OutcomeKind::Completed);
    assert!(run.core.usage.active_ms < 60_000, "{}", run.core.usage.active_ms);
    assert_eq!(rig.vm.starts().len(), 1);
    let approval = decided.data["approval_id"].as_str().unwrap();
    assert_eq!(decide(&rig, id, approval, Decision::Approve, None).await, Err(ErrorCode::Conflict));
    rig.events(id).await;
}

#[tokio::test]
async fn cancelling_while_a_person_is_asked_ends_the_question() {
    let rig = careful_rig().await;
    let hold = pvm_asl::Clock::work(&rig.clock);
    let made = rig.create(&["careful"], Mode::RoundRobin, "Deploy").await;
    let id = &made.conversation_id;
    rig.wait_for(id, EventType::ApprovalRequired).await;
    rig.cancel(id).await;
    drop(hold);
    rig.settle().await;
    let decided = rig.wait_for(id, EventType::ApprovalDecided).await;
    assert_eq!(decided.data["decision"], "expired");
    assert!(rig.vm.starts().is_empty());
    rig.events(id).await;
}
