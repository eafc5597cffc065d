//! The two tables: their keys, indexes and expiry. The template deploys the same ones; a test compares them.

use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection,
    ProjectionType, ScalarAttributeType, TableStatus, TimeToLiveSpecification, TimeToLiveStatus,
};

use crate::Tables;

/// Partition key of both tables.
pub const PK: &str = "PK";
/// Sort key of both tables.
pub const SK: &str = "SK";
/// Partition key of the index `GSI1`.
pub const GSI1PK: &str = "GSI1PK";
/// Sort key of the index `GSI1`.
pub const GSI1SK: &str = "GSI1SK";
/// Partition key of the index `GSI2`.
pub const GSI2PK: &str = "GSI2PK";
/// Sort key of the index `GSI2`.
pub const GSI2SK: &str = "GSI2SK";
/// Listings by owner or project.
pub const GSI1: &str = "GSI1";
/// Sparse sweeps.
pub const GSI2: &str = "GSI2";
/// The record's kind.
pub const KIND: &str = "KIND";
/// When DynamoDB may drop the item: a number, seconds since 1970.
pub const TTL: &str = "ttl";

/// An index over all attributes of its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexSchema {
    /// Its name.
    pub name: &'static str,
    /// Partition key, a string.
    pub partition_key: &'static str,
    /// Sort key, a string.
    pub sort_key: &'static str,
}

/// A table: string keys `PK` and `SK`, billed per request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSchema {
    /// Its name.
    pub name: String,
    /// Its indexes.
    pub indexes: &'static [IndexSchema],
    /// The attribute by which items expire.
    pub ttl_attribute: &'static str,
}

const APP_INDEXES: &[IndexSchema] = &[
    IndexSchema { name: GSI1, partition_key: GSI1PK, sort_key: GSI1SK },
    IndexSchema { name: GSI2, partition_key: GSI2PK, sort_key: GSI2SK },
];

/// Both tables.
pub fn tables(names: &Tables) -> [TableSchema; 2] {
    [
        TableSchema { name: names.app.clone(), indexes: APP_INDEXES, ttl_attribute: TTL },
        TableSchema { name: names.events.clone(), indexes: &[], ttl_attribute: TTL },
    ]
}

/// Makes the tables that are not there yet and turns their expiry on, as the template does on AWS.
///
/// # Errors
/// When the store refuses a table or does not answer; says which table.
pub async fn create_missing(client: &Client, names: &Tables) -> anyhow::Result<()> {
    for table in tables(names) {
        create(client, &table)
            .await
            .map_err(|error| error.context(format!("the table `{}` cannot be made", table.name)))?;
    }
    Ok(())
}

async fn create(client: &Client, table: &TableSchema) -> anyhow::Result<()> {
    let keys = |partition, sort| {
        anyhow::Ok(vec![
            KeySchemaElement::builder().attribute_name(partition).key_type(KeyType::Hash).build()?,
            KeySchemaElement::builder().attribute_name(sort).key_type(KeyType::Range).build()?,
        ])
    };
    let mut request = client
        .create_table()
        .table_name(&table.name)
        .billing_mode(BillingMode::PayPerRequest)
        .set_key_schema(Some(keys(PK, SK)?));
    let indexed = table.indexes.iter().flat_map(|index| [index.partition_key, index.sort_key]);
    for name in [PK, SK].into_iter().chain(indexed) {
        let kind = ScalarAttributeType::S;
        request = request.attribute_definitions(
            AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build()?,
        );
    }
    for index in table.indexes {
        request = request.global_secondary_indexes(
            GlobalSecondaryIndex::builder()
                .index_name(index.name)
                .set_key_schema(Some(keys(index.partition_key, index.sort_key)?))
                .projection(Projection::builder().projection_type(ProjectionType::All).build())
                .build()?,
        );
    }
    match request.send().await {
        Ok(_) => {}
        Err(SdkError::ServiceError(error)) if error.err().is_resource_in_use_exception() => {}
        Err(error) => return Err(error.into()),
    }
    wait_until_active(client, &table.name).await?;
    expire(client, table).await
}

async fn wait_until_active(client: &Client, name: &str) -> anyhow::Result<()> {
    // Emulators answer ACTIVE at once; AWS takes some seconds.
    for _ in 0..120 {
        let description = client.describe_table().table_name(name).send().await?;
        if description.table().and_then(|table| table.table_status()) == Some(&TableStatus::Active) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    anyhow::bail!("it did not become active within a minute")
}

async fn expire(client: &Client, table: &TableSchema) -> anyhow::Result<()> {
    let now = client.describe_time_to_live().table_name(&table.name).send().await?;
    let status = now.time_to_live_description().and_then(|ttl| ttl.time_to_live_status());
    if matches!(status, Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling)) {
        return Ok(());
    }
    let ttl = TimeToLiveSpecification::builder().attribute_name(table.ttl_attribute).enabled(true).build()?;
    match client.update_time_to_live().table_name(&table.name).time_to_live_specification(ttl).send().await {
        Ok(_) => Ok(()),
        // Somebody else turned it on in between.
        Err(error) if error.message().is_some_and(|text| text.contains("already enabled")) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
