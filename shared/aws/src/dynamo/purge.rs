//! Removal of whole partitions, piece by piece.

use std::time::Duration;

use aws_sdk_dynamodb::types::{DeleteRequest, WriteRequest};
use pvm_application::keys;
use pvm_application::store::{Purge, StoreError};

use super::Inner;
use super::commit::jittered;
use super::errors::store_error;
use super::item::text;
use crate::schema::{PK, SK};

/// Deletes that one request takes.
const BATCH: usize = 25;
/// Requests for one batch before we give up and let the caller come back.
const TRIES: u32 = 8;

impl Inner {
    pub(super) async fn purge(&self, what: Purge, limit: u32) -> Result<u32, StoreError> {
        let (table, pk, keep) = match &what {
            Purge::Records { pk, keep } => (&self.tables.app, pk.clone(), keep.as_ref()),
            Purge::Log(log) => (&self.tables.events, keys::log_partition(log), None),
            Purge::Deltas(message) => (&self.tables.events, keys::delta_partition(message), None),
        };
        // One more, lest the record that stays is all that is found.
        let most = limit.max(1).saturating_add(u32::from(keep.is_some()));
        let found = self
            .client
            .query()
            .table_name(table)
            .consistent_read(true)
            .limit(i32::try_from(most).unwrap_or(i32::MAX))
            .key_condition_expression("#pk = :pk")
            .projection_expression("#pk, #sk")
            .expression_attribute_names("#pk", PK)
            .expression_attribute_names("#sk", SK)
            .expression_attribute_values(":pk", text(pk))
            .send()
            .await
            .map_err(store_error)?;
        let mut requests = Vec::new();
        for key in found.items.unwrap_or_default() {
            if keep.is_some() && key.get(SK).and_then(|sk| sk.as_s().ok()) == keep {
                continue;
            }
            let delete = DeleteRequest::builder().set_key(Some(key)).build();
            let delete = delete.map_err(|error| StoreError::Broken(error.to_string()))?;
            requests.push(WriteRequest::builder().delete_request(delete).build());
        }
        let gone = requests.len() as u32;
        for batch in requests.chunks(BATCH) {
            self.delete_batch(table, batch.to_vec()).await?;
        }
        Ok(gone)
    }

    async fn delete_batch(&self, table: &str, mut batch: Vec<WriteRequest>) -> Result<(), StoreError> {
        for tried in 0..TRIES {
            if tried > 0 {
                tokio::time::sleep(jittered(Duration::from_millis(25), tried)).await;
            }
            let answer = self
                .client
                .batch_write_item()
                .request_items(table, batch)
                .send()
                .await
                .map_err(store_error)?;
            batch = answer.unprocessed_items.unwrap_or_default().remove(table).unwrap_or_default();
            if batch.is_empty() {
                return Ok(());
            }
        }
        Err(StoreError::Throttled(anyhow::anyhow!("{} deletes were not taken", batch.len())))
    }
}
