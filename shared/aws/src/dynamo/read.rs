//! Reads: single records, listings, events, deltas.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::types::AttributeValue;
use pvm_application::keys;
use pvm_application::store::{Delta, Index, Key, Listing, Page, Position, Record, StoreError};
use pvm_domain::event::{Event, LogId};
use pvm_domain::limits;

use super::Inner;
use super::errors::store_error;
use super::item::{self, Item, key_item, text};
use crate::schema::{GSI1, GSI1PK, GSI1SK, GSI2, GSI2PK, GSI2SK, PK, SK};

/// What to query: a partition and a range of its sort keys.
struct Range<'a> {
    table: &'a str,
    index: Option<&'static str>,
    keys: (&'static str, &'static str),
    pk: &'a str,
    sort: Sort<'a>,
    descending: bool,
    start: Option<Item>,
}

enum Sort<'a> {
    All,
    Prefix(&'a str),
    UpTo(&'a str),
    Between(String, String),
}

impl Inner {
    pub(super) async fn get<R: Record>(&self, key: &Key) -> Result<Option<R>, StoreError> {
        self.get_item(key).await?.map(item::read_record).transpose()
    }

    async fn get_item(&self, key: &Key) -> Result<Option<Item>, StoreError> {
        let answer = self
            .client
            .get_item()
            .table_name(&self.tables.app)
            .set_key(Some(key_item(key)))
            .consistent_read(true)
            .send()
            .await
            .map_err(store_error)?;
        Ok(answer.item)
    }

    pub(super) async fn log_head(&self, log: &LogId) -> Result<u64, StoreError> {
        let Some(head) = self.get_item(&keys::log_head(log)).await? else { return Ok(0) };
        let seq = head.get("seq").and_then(|value| value.as_n().ok()).and_then(|text| text.parse().ok());
        seq.ok_or_else(|| StoreError::Broken(format!("the head of the log {log:?} has no number")))
    }

    pub(super) async fn list<R: Record>(&self, listing: Listing) -> Result<Page<R>, StoreError> {
        let limit = listing.limit.clamp(1, limits::LIST_MAX) as usize;
        let (index, keys) = match listing.index {
            Index::Table => (None, (PK, SK)),
            Index::Owner => (Some(GSI1), (GSI1PK, GSI1SK)),
            Index::Sweep => (Some(GSI2), (GSI2PK, GSI2SK)),
        };
        let position_names = if index.is_some() { vec![PK, SK, keys.0, keys.1] } else { vec![PK, SK] };
        let start =
            listing.after.map(|after| start_key(after, &position_names, &listing.pk, keys.0)).transpose()?;
        let sort = match &listing.up_to {
            Some(up_to) => Sort::UpTo(up_to),
            None if listing.prefix.is_empty() => Sort::All,
            None => Sort::Prefix(&listing.prefix),
        };
        let range = Range {
            table: &self.tables.app,
            index,
            keys,
            pk: &listing.pk,
            sort,
            descending: listing.descending,
            start,
        };
        // One more than asked for tells whether there is a next page.
        let mut items = self.query(range, limit + 1).await?;
        let more = items.len() > limit;
        items.truncate(limit);
        let next = match items.last() {
            Some(last) if more => Some(position(last, &position_names)?),
            _ => None,
        };
        let items = items.into_iter().map(item::read_record).collect::<Result<_, _>>()?;
        Ok(Page { items, next })
    }

    pub(super) async fn events(&self, log: &LogId, after: u64, limit: u32) -> Result<Vec<Event>, StoreError> {
        let pk = keys::log_partition(log);
        let Some(first) = after.checked_add(1) else { return Ok(Vec::new()) };
        // `E#` followed by a character above every digit ends the events of the partition.
        let sort = Sort::Between(keys::event(log, first).sk, "E#~".to_owned());
        let items = self.query(self.events_range(&pk, sort, false), limit.max(1) as usize).await?;
        items.iter().map(item::read_event).collect()
    }

    pub(super) async fn deltas(&self, message: &str) -> Result<Vec<Delta>, StoreError> {
        let pk = keys::delta(message, 0, 0).pk;
        let newest = self.query(self.events_range(&pk, Sort::All, true), 1).await?;
        let Some(newest) = newest.first() else { return Ok(Vec::new()) };
        let attempt = item::read_delta(newest)?.attempt;
        let sort =
            Sort::Between(keys::delta(message, attempt, 0).sk, keys::delta(message, attempt, 999_999).sk);
        let items = self.query(self.events_range(&pk, sort, false), usize::MAX).await?;
        items.iter().map(item::read_delta).collect()
    }

    fn events_range<'a>(&'a self, pk: &'a str, sort: Sort<'a>, descending: bool) -> Range<'a> {
        Range { table: &self.tables.events, index: None, keys: (PK, SK), pk, sort, descending, start: None }
    }

    /// Up to `limit` items of a range. A query's answer ends at 1 MB, so this may take several.
    async fn query(&self, range: Range<'_>, limit: usize) -> Result<Vec<Item>, StoreError> {
        let mut items = Vec::new();
        let mut start = range.start;
        loop {
            let wanted = limit - items.len();
            let mut request = self
                .client
                .query()
                .table_name(range.table)
                .set_index_name(range.index.map(str::to_owned))
                .consistent_read(range.index.is_none())
                .scan_index_forward(!range.descending)
                .set_limit(i32::try_from(wanted).ok())
                .set_exclusive_start_key(start.take())
                .expression_attribute_names("#pk", range.keys.0)
                .expression_attribute_values(":pk", text(range.pk));
            let condition = match &range.sort {
                Sort::All => "#pk = :pk",
                Sort::Prefix(prefix) => {
                    request = request.expression_attribute_values(":sk", text(*prefix));
                    "#pk = :pk AND begins_with(#sk, :sk)"
                }
                Sort::UpTo(up_to) => {
                    request = request.expression_attribute_values(":sk", text(*up_to));
                    "#pk = :pk AND #sk <= :sk"
                }
                Sort::Between(low, high) => {
                    request = request
                        .expression_attribute_values(":sk", text(low))
                        .expression_attribute_values(":high", text(high));
                    "#pk = :pk AND #sk BETWEEN :sk AND :high"
                }
            };
            if !matches!(range.sort, Sort::All) {
                request = request.expression_attribute_names("#sk", range.keys.1);
            }
            let answer = request.key_condition_expression(condition).send().await.map_err(store_error)?;
            items.extend(answer.items.unwrap_or_default());
            start = answer.last_evaluated_key.filter(|key| !key.is_empty());
            if start.is_none() || items.len() >= limit {
                return Ok(items);
            }
        }
    }
}

fn position(item: &Item, names: &[&str]) -> Result<Position, StoreError> {
    let mut position = BTreeMap::new();
    for name in names {
        let Some(AttributeValue::S(value)) = item.get(*name) else {
            return Err(StoreError::Broken(format!("a listed item has no `{name}`")));
        };
        position.insert((*name).to_owned(), value.clone());
    }
    Ok(Position(position))
}

/// The start key of the next page. It must lie in the partition that is listed: a position of another listing is a
/// bug of the caller, and must not let it read elsewhere.
fn start_key(after: Position, names: &[&str], pk: &str, pk_name: &str) -> Result<Item, StoreError> {
    let fits = after.0.len() == names.len()
        && names.iter().all(|name| after.0.contains_key(*name))
        && after.0.get(pk_name).is_some_and(|value| value == pk);
    if !fits {
        return Err(StoreError::Broken("the position is not one of this listing".to_owned()));
    }
    Ok(after.0.into_iter().map(|(name, value)| (name, AttributeValue::S(value))).collect())
}
