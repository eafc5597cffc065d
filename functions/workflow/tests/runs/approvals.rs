//! Calls that wait for a person.

use pvm_application::conversations;
use pvm_application::error::ErrorCode;
use pvm_application::store::{Tx, WriteStore};
use pvm_contracts::conversations::{DecideApproval, Decision};
use pvm_domain::conversation::{CallStatus, ConversationStatus, Delivery, Mode, OutcomeKind, RunStatus};
use pvm_domain::event::EventType;
use pvm_domain::ids::ConversationId;
use pvm_domain::limits;
use serde_json::json;

use crate::rig::Rig;
use crate::rig::models::{Say, say};

async fn careful_rig() -> std::sync::Arc<Rig> {
    let rig = Rig::new(|request| match request.place.agent_step {
        0 => say("May I?").call("change", json!({"what": "deploy"})).call("look", json!({"what": "around"})),
        _ => say("Then that is that."),
    })
    .await;
    rig.define_careful().await;
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

#[tokio::test]
async fn deciding_on_the_second_call_first_leaves_the_run_waiting_for_the_first() {
    let rig = Rig::new(|request| match request.place.agent_step {
        0 => say("May I?")
            .call("change", json!({"what": "deploy a"}))
            .call("change", json!({"what": "deploy b"})),
        _ => say("Then that is that."),
    })
    .await;
    rig.define_careful().await;
    let hold = pvm_asl::Clock::work(&rig.clock);
    let made = rig.create(&["careful"], Mode::RoundRobin, "Deploy").await;
    let id = &made.conversation_id;
    rig.wait_until_waiting(id).await;
    let asked = rig.open_approvals(id).await;
    let awaited = rig.run(id, &made.run_id).await.core.waiting_for.unwrap().to_string();
    let other = asked.iter().find(|approval| **approval != awaited).unwrap();
    rig.decide(id, other, Decision::Approve).await;
    let run = rig.run(id, &made.run_id).await;
    assert!(run.core.waiting_since.is_some() && run.status == RunStatus::Waiting);
    assert_eq!(rig.conversation(id).await.status, ConversationStatus::Waiting);
    // Nine days pass, all of them a person's time.
    rig.clock.advance(std::time::Duration::from_hours(9 * 24));
    rig.decide(id, &awaited, Decision::Approve).await;
    drop(hold);
    rig.settle().await;
    let run = rig.run(id, &made.run_id).await;
    assert_eq!(run.outcome.unwrap().kind, OutcomeKind::Completed);
    assert!(run.core.usage.active_ms < 60_000, "{}", run.core.usage.active_ms);
    assert_eq!(rig.vm.starts().len(), 2);
    rig.events(id).await;
}

#[tokio::test]
async fn denying_the_only_call_readies_no_vm() {
    let rig = Rig::new(|request| match request.place.agent_step {
        0 => say("May I?").call("change", json!({"what": "deploy"})),
        _ => say("Then not."),
    })
    .await;
    rig.define_careful().await;
    let hold = pvm_asl::Clock::work(&rig.clock);
    let made = rig.create(&["careful"], Mode::RoundRobin, "Deploy").await;
    let id = &made.conversation_id;
    rig.wait_until_waiting(id).await;
    let asked = rig.open_approvals(id).await.remove(0);
    rig.decide(id, &asked, Decision::Deny).await;
    drop(hold);
    rig.settle().await;
    assert_eq!(rig.transcript(id).await.last().unwrap(), "careful: Then not.");
    assert!(!rig.called.lock().unwrap().contains("ensure-vm"));
    let run = rig.run(id, &made.run_id).await;
    assert_eq!(run.core.usage.transitions, rig.transitions(&run).await);
}

#[tokio::test]
async fn what_was_changed_after_it_was_asked_for_is_not_run() {
    let rig = careful_rig().await;
    let hold = pvm_asl::Clock::work(&rig.clock);
    let made = rig.create(&["careful"], Mode::RoundRobin, "Deploy").await;
    let id = &made.conversation_id;
    rig.wait_until_waiting(id).await;
    let mut call = rig.calls(id).await.into_iter().find(|call| call.approval_id.is_some()).unwrap();
    call.arguments = json!({"what": "deploy something else"});
    rig.store.inner.commit(Tx::new().update(&mut call)).await.unwrap();
    rig.decide_all(id).await;
    drop(hold);
    rig.settle().await;
    let texts: Vec<String> = rig.vm.starts().into_iter().map(|(_, _, text)| text).collect();
    assert_eq!(texts, ["around"]);
    let call = rig.calls(id).await.into_iter().find(|call| call.approval_id.is_some()).unwrap();
    assert_eq!(call.status, CallStatus::Failed);
    assert_eq!(call.result.unwrap().text, "Not run: what was approved is not what was asked for.");
}

#[tokio::test]
async fn a_cancel_ends_as_much_as_may_wait_in_one_go() {
    let rig = Rig::new(|_| {
        let ask = |say: Say, n| say.call("change", json!({"what": format!("deploy {n}")}));
        (0..12).fold(say("May I?"), ask)
    })
    .await;
    rig.define_careful().await;
    let hold = pvm_asl::Clock::work(&rig.clock);
    let made = rig.create(&["careful"], Mode::RoundRobin, "Deploy").await;
    let id = &made.conversation_id;
    rig.wait_until_waiting(id).await;
    let most = [(Delivery::Steer, limits::STEERS_WAITING), (Delivery::Queue, limits::RUNS_WAITING)];
    for (delivery, most) in most {
        for n in 0..most {
            rig.send(id, &format!("{n}"), delivery).await;
        }
        let refused = rig.try_send(id, "one too many", delivery).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::LimitReached);
    }
    assert_eq!(rig.open_approvals(id).await.len(), limits::TOOL_CALLS_PER_STEP);
    let left = rig.cancel(id).await;
    assert_eq!((left.status, left.queued.len()), (ConversationStatus::Cancelled, 0));
    drop(hold);
    rig.settle().await;
    assert!(rig.vm.starts().is_empty() && rig.open_approvals(id).await.is_empty());
    let of_users = rig.transcript(id).await.into_iter().filter(|line| line.starts_with("user: "));
    assert_eq!(of_users.count(), 1 + limits::STEERS_WAITING + limits::RUNS_WAITING);
    rig.events(id).await;
}
