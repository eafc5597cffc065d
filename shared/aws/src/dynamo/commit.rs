//! Units of work: one conditional write where one is enough, a transaction otherwise.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aws_sdk_dynamodb::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_dynamodb::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodb::error::BoxError;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{
    CancellationReason, ConditionCheck, Delete, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem,
    Update,
};
use pvm_application::keys;
use pvm_application::store::{Committed, Condition, Delta, Key, Op, StoreError, Tx};
use pvm_domain::Timestamp;
use pvm_domain::event::{Event, LogId, NewEvent};
use pvm_domain::fair_use::Use;
use rand::Rng;

use super::Inner;
use super::errors::{is_throttle, store_error};
use super::item::{self, Item, key_item, number, text};
use crate::schema::{KIND, PK, TTL};

/// What DynamoDB takes in one transaction.
const MOST_ITEMS: usize = pvm_domain::limits::TRANSACTION_ITEMS;
/// Tries of a transaction whose only fault is a race or a throttle. With full jitter up to [`LONGEST_PAUSE`] this
/// lets some twenty writers of as many processes append to one log.
const TRIES: u32 = 24;
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);

/// A random pause up to `first` doubled `tried` times: full jitter.
pub(super) fn jittered(first: Duration, tried: u32) -> Duration {
    let most = first.saturating_mul(1 << tried.min(16)).min(LONGEST_PAUSE);
    rand::rng().random_range(Duration::ZERO..=most)
}

/// A condition as DynamoDB's expression with its names and values.
#[derive(Default)]
struct Expression {
    text: Option<&'static str>,
    names: Vec<(&'static str, &'static str)>,
    values: Item,
}

impl Expression {
    fn names(&self) -> Option<std::collections::HashMap<String, String>> {
        let owned = |(short, name): &(&str, &str)| ((*short).to_owned(), (*name).to_owned());
        (!self.names.is_empty()).then(|| self.names.iter().map(owned).collect())
    }

    fn values(&self) -> Option<Item> {
        (!self.values.is_empty()).then(|| self.values.clone())
    }
}

impl Inner {
    pub(super) async fn commit(&self, tx: Tx) -> Result<Committed, StoreError> {
        let Tx { mut ops, mut appends } = tx;
        ops.retain(|op| !matches!(op, Op::Check { condition: Condition::Any, .. }));
        ops.retain(|op| !matches!(op, Op::Count { used, .. } if used.add == 0));
        if let Some((used, most)) = ops.iter().find_map(never_fits) {
            return Err(StoreError::Limit { resource: used.resource, most });
        }
        appends.retain(|(_, events)| !events.is_empty());
        match ops.as_slice() {
            [] if appends.is_empty() => return Ok(Committed::default()),
            [op @ (Op::Put { .. } | Op::Delete { .. })] if appends.is_empty() => {
                return self.write_one(op).await.map(|()| Committed::default());
            }
            _ => {}
        }
        let items = ops.len() + appends.iter().map(|(_, events)| events.len() + 1).sum::<usize>();
        if items > MOST_ITEMS {
            let problem = format!("a unit of work has {items} items, at most {MOST_ITEMS} fit; split it");
            return Err(StoreError::Broken(problem));
        }
        let _turns = self.watches.turns(appends.iter().map(|(log, _)| log)).await;
        let mut tried = 0;
        loop {
            match self.transact(&ops, &appends).await? {
                Outcome::Done(committed) => {
                    for (log, head) in &committed.heads {
                        self.watches.appended(log, *head);
                    }
                    return Ok(committed);
                }
                Outcome::Again(why) => {
                    tried += 1;
                    if tried >= TRIES {
                        return Err(StoreError::Throttled(why));
                    }
                    tokio::time::sleep(jittered(FIRST_PAUSE, tried)).await;
                }
            }
        }
    }

    async fn transact(&self, ops: &[Op], appends: &[(LogId, Vec<NewEvent>)]) -> Result<Outcome, StoreError> {
        let mut items = Vec::with_capacity(ops.len());
        for op in ops {
            items.push(self.transact_item(op)?);
        }
        let heads = futures::future::try_join_all(appends.iter().map(|(log, _)| self.log_head(log))).await?;
        let mut committed = Committed::default();
        for ((log, events), head) in appends.iter().zip(heads) {
            let last = head + events.len() as u64;
            items.push(self.move_head(log, head, last)?);
            for (seq, event) in (head + 1..).zip(events) {
                items.push(self.put_event(log, seq, event)?);
            }
            committed.heads.push((log.clone(), last));
        }
        // The token makes the SDK's own repeats of this very request harmless: after a lost answer DynamoDB reports
        // the success of the first. A new numbering is a new request and gets a new token.
        let token = format!("{:032x}", rand::rng().random::<u128>());
        let answer = self
            .client
            .transact_write_items()
            .set_transact_items(Some(items))
            .client_request_token(token)
            .send()
            .await;
        let Err(error) = answer else { return Ok(Outcome::Done(committed)) };
        let reasons = match error.as_service_error() {
            Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => {
                cancelled.cancellation_reasons().to_vec()
            }
            Some(TransactWriteItemsError::TransactionInProgressException(_)) => {
                return Ok(Outcome::Again(error.into()));
            }
            _ => return Err(store_error(error)),
        };
        verdict(ops, &reasons, error.into())
    }

    fn transact_item(&self, op: &Op) -> Result<TransactWriteItem, StoreError> {
        let expression = self.expression(op);
        let (names, values) = (expression.names(), expression.values());
        let table = &self.tables.app;
        let built = match op {
            Op::Put { .. } => Put::builder()
                .table_name(table)
                .set_item(Some(put_item(op)?))
                .set_condition_expression(expression.text.map(str::to_owned))
                .set_expression_attribute_names(names)
                .set_expression_attribute_values(values)
                .build()
                .map(|put| TransactWriteItem::builder().put(put).build()),
            Op::Delete { key, .. } => Delete::builder()
                .table_name(table)
                .set_key(Some(key_item(key)))
                .set_condition_expression(expression.text.map(str::to_owned))
                .set_expression_attribute_names(names)
                .set_expression_attribute_values(values)
                .build()
                .map(|delete| TransactWriteItem::builder().delete(delete).build()),
            Op::Check { key, .. } => ConditionCheck::builder()
                .table_name(table)
                .set_key(Some(key_item(key)))
                .set_condition_expression(expression.text.map(str::to_owned))
                .set_expression_attribute_names(names)
                .set_expression_attribute_values(values)
                .build()
                .map(|check| TransactWriteItem::builder().condition_check(check).build()),
            Op::Count { key, used, most, expires_at } => {
                return self.add_to(key, used, *most, *expires_at);
            }
        };
        built.map_err(|error| StoreError::Broken(error.to_string()))
    }

    /// Adds to a counter: DynamoDB does the sum, so that writers need not read it first.
    fn add_to(
        &self,
        key: &Key,
        used: &Use,
        most: Option<u64>,
        expires_at: Option<Timestamp>,
    ) -> Result<TransactWriteItem, StoreError> {
        let mut set = "ADD #n :add SET #kind = :kind, #owner = :owner, #resource = :resource".to_owned();
        let mut update = Update::builder()
            .table_name(&self.tables.app)
            .set_key(Some(key_item(key)))
            .expression_attribute_names("#n", "n")
            .expression_attribute_names("#kind", KIND)
            .expression_attribute_names("#owner", "owner")
            .expression_attribute_names("#resource", "resource")
            .expression_attribute_values(":add", number(used.add))
            .expression_attribute_values(":kind", text("use"))
            .expression_attribute_values(":owner", text(used.owner.to_string()))
            .expression_attribute_values(":resource", text(used.resource.as_str()));
        if let Some(at) = expires_at {
            set.push_str(", #ttl = :ttl");
            update = update
                .expression_attribute_names("#ttl", TTL)
                .expression_attribute_values(":ttl", item::ttl(at));
        }
        if let Some(most) = most.filter(|_| used.add > 0) {
            update = update
                .condition_expression("attribute_not_exists(#n) OR #n <= :room")
                .expression_attribute_values(":room", number(room(most, used.add)));
        }
        let update = update.update_expression(set).build();
        let update = update.map_err(|error| StoreError::Broken(error.to_string()))?;
        Ok(TransactWriteItem::builder().update(update).build())
    }

    fn move_head(&self, log: &LogId, from: u64, to: u64) -> Result<TransactWriteItem, StoreError> {
        let mut update = Update::builder()
            .table_name(&self.tables.app)
            .set_key(Some(key_item(&keys::log_head(log))))
            .update_expression("SET #seq = :to, #kind = :kind")
            .expression_attribute_names("#seq", "seq")
            .expression_attribute_names("#kind", KIND)
            .expression_attribute_values(":to", number(to))
            .expression_attribute_values(":kind", text("log"));
        update = if from == 0 {
            update.condition_expression("attribute_not_exists(#seq)")
        } else {
            update.condition_expression("#seq = :from").expression_attribute_values(":from", number(from))
        };
        let update = update.build().map_err(|error| StoreError::Broken(error.to_string()))?;
        Ok(TransactWriteItem::builder().update(update).build())
    }

    fn put_event(&self, log: &LogId, seq: u64, event: &NewEvent) -> Result<TransactWriteItem, StoreError> {
        let event = Event {
            seq: Some(seq),
            kind: event.kind,
            at: event.at,
            agent_id: event.agent_id.clone(),
            data: event.data.clone(),
        };
        let put = Put::builder()
            .table_name(&self.tables.events)
            .set_item(Some(item::event_item(log, seq, &event)?))
            .build()
            .map_err(|error| StoreError::Broken(error.to_string()))?;
        Ok(TransactWriteItem::builder().put(put).build())
    }

    fn expression(&self, op: &Op) -> Expression {
        let (condition, expires) = match op {
            Op::Put { condition, expires_at, .. } => (condition, expires_at.is_some()),
            Op::Delete { condition, .. } | Op::Check { condition, .. } => (condition, false),
            // It has a condition of its own.
            Op::Count { .. } => (&Condition::Any, false),
        };
        let names = vec![("#pk", PK)];
        match condition {
            Condition::Any => Expression::default(),
            Condition::Present => {
                Expression { text: Some("attribute_exists(#pk)"), names, ..Default::default() }
            }
            // DynamoDB drops expired items days late; till then they must not stand in the way of a new one.
            Condition::Absent if expires => Expression {
                text: Some("attribute_not_exists(#pk) OR #ttl <= :now"),
                names: vec![("#pk", PK), ("#ttl", TTL)],
                values: Item::from([(":now".to_owned(), number((self.settings.now)().as_second()))]),
            },
            Condition::Absent => {
                Expression { text: Some("attribute_not_exists(#pk)"), names, ..Default::default() }
            }
            Condition::Version(version) => Expression {
                text: Some("#version = :version"),
                names: vec![("#version", "version")],
                values: Item::from([(":version".to_owned(), number(version))]),
            },
        }
    }

    /// One write without a transaction, at half its price.
    async fn write_one(&self, op: &Op) -> Result<(), StoreError> {
        let mut tried = 0;
        loop {
            let sent = match op {
                Op::Put { key, .. } => self.put_one(key, op).await,
                Op::Delete { key, .. } => self.delete_one(key, op).await,
                Op::Check { .. } | Op::Count { .. } => {
                    Err(StoreError::Broken("a check is not a write".to_owned()))
                }
            };
            match sent {
                // A transaction of somebody else holds the item for a moment.
                Err(StoreError::Throttled(why)) => {
                    tried += 1;
                    if tried >= TRIES / 3 {
                        return Err(StoreError::Throttled(why));
                    }
                    tokio::time::sleep(jittered(FIRST_PAUSE, tried)).await;
                }
                other => return other,
            }
        }
    }

    async fn put_one(&self, key: &Key, op: &Op) -> Result<(), StoreError> {
        let (expression, wanted, attempts) = (self.expression(op), put_item(op)?, Attempts::default());
        let sent = self
            .client
            .put_item()
            .table_name(&self.tables.app)
            .set_item(Some(wanted.clone()))
            .set_expression_attribute_names(expression.names())
            .set_expression_attribute_values(expression.values())
            .set_condition_expression(expression.text.map(str::to_owned))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .customize()
            .interceptor(attempts.clone())
            .send()
            .await;
        let Err(error) = sent else { return Ok(()) };
        match error.as_service_error() {
            // The answer to an earlier attempt was lost, but it had been done.
            Some(PutItemError::ConditionalCheckFailedException(failed))
                if attempts.more_than_one() && failed.item() == Some(&wanted) =>
            {
                Ok(())
            }
            Some(PutItemError::ConditionalCheckFailedException(_)) => {
                Err(StoreError::Conflict { key: key.clone() })
            }
            Some(PutItemError::TransactionConflictException(_)) => Err(StoreError::Throttled(error.into())),
            _ => Err(store_error(error)),
        }
    }

    async fn delete_one(&self, key: &Key, op: &Op) -> Result<(), StoreError> {
        let (expression, attempts) = (self.expression(op), Attempts::default());
        let sent = self
            .client
            .delete_item()
            .table_name(&self.tables.app)
            .set_key(Some(key_item(key)))
            .set_expression_attribute_names(expression.names())
            .set_expression_attribute_values(expression.values())
            .set_condition_expression(expression.text.map(str::to_owned))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .customize()
            .interceptor(attempts.clone())
            .send()
            .await;
        let Err(error) = sent else { return Ok(()) };
        match error.as_service_error() {
            Some(DeleteItemError::ConditionalCheckFailedException(failed))
                if attempts.more_than_one() && failed.item().is_none_or(Item::is_empty) =>
            {
                Ok(())
            }
            Some(DeleteItemError::ConditionalCheckFailedException(_)) => {
                Err(StoreError::Conflict { key: key.clone() })
            }
            Some(DeleteItemError::TransactionConflictException(_)) => {
                Err(StoreError::Throttled(error.into()))
            }
            _ => Err(store_error(error)),
        }
    }

    pub(super) async fn put_delta(&self, delta: &Delta) -> Result<(), StoreError> {
        let sent = self
            .client
            .put_item()
            .table_name(&self.tables.events)
            .set_item(Some(item::delta_item(delta)?))
            .send()
            .await;
        sent.map(|_| ()).map_err(store_error)
    }
}

fn put_item(op: &Op) -> Result<Item, StoreError> {
    let Op::Put { key, kind, body, owner_index, sweep_index, expires_at, .. } = op else {
        return Err(StoreError::Broken("not a put".to_owned()));
    };
    item::record_item(key, kind, body.clone(), owner_index.as_ref(), sweep_index.as_ref(), *expires_at)
}

/// The highest count to which `add` may be added.
fn room(most: u64, add: i64) -> i64 {
    i64::try_from(most).unwrap_or(i64::MAX).saturating_sub(add)
}

/// A change that is more than its limit even where nothing was counted before, which the condition would let pass.
fn never_fits(op: &Op) -> Option<(&Use, u64)> {
    match op {
        Op::Count { used, most: Some(most), .. } if used.add > 0 && room(*most, used.add) < 0 => {
            Some((used, *most))
        }
        _ => None,
    }
}

enum Outcome {
    Done(Committed),
    /// Only a race on a log's number, another transaction, or a throttle was in the way.
    Again(anyhow::Error),
}

/// What a cancelled transaction means. Reasons come in the order of its items: the records first, then the logs.
fn verdict(ops: &[Op], reasons: &[CancellationReason], error: anyhow::Error) -> Result<Outcome, StoreError> {
    let failed = |reason: &CancellationReason| reason.code() == Some("ConditionalCheckFailed");
    let refused = || ops.iter().zip(reasons).filter(|(_, reason)| failed(reason)).map(|(op, _)| op);
    // A record that somebody else changed comes first: what was counted with it has to be looked at again too.
    for op in refused() {
        if let Op::Put { key, .. } | Op::Delete { key, .. } | Op::Check { key, .. } = op {
            return Err(StoreError::Conflict { key: key.clone() });
        }
    }
    if let Some(Op::Count { used, most, .. }) = refused().next() {
        return Err(StoreError::Limit { resource: used.resource, most: most.unwrap_or_default() });
    }
    let passing = |code: &str| {
        matches!(code, "None" | "TransactionConflict" | "ConditionalCheckFailed") || is_throttle(code)
    };
    match reasons.iter().find(|reason| !passing(reason.code().unwrap_or("None"))) {
        Some(refused) => Err(StoreError::Broken(format!(
            "{}: {}",
            refused.code().unwrap_or_default(),
            refused.message().unwrap_or("no message")
        ))),
        None => Ok(Outcome::Again(error)),
    }
}

/// Counts how often the SDK sent a request.
#[derive(Debug, Clone, Default)]
struct Attempts(Arc<AtomicU32>);

impl Attempts {
    fn more_than_one(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 1
    }
}

impl Intercept for Attempts {
    fn name(&self) -> &'static str {
        "Attempts"
    }

    fn read_before_attempt(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}
