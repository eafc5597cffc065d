//! The tables of the template are those that the adapter makes and expects.

use pvm_aws::Tables;
use pvm_aws::schema::{self, PK, SK, TableSchema};
use serde_json::{Value, json};

use crate::template::TEMPLATE;

fn keys(partition: &str, sort: &str) -> Value {
    json!([{"AttributeName": partition, "KeyType": "HASH"}, {"AttributeName": sort, "KeyType": "RANGE"}])
}

fn check(id: &str, table: &TableSchema) {
    let properties = TEMPLATE.properties(id);
    assert_eq!(properties["BillingMode"], "PAY_PER_REQUEST", "{id}");
    assert_eq!(properties["KeySchema"], keys(PK, SK), "{id}");
    let indexes: Vec<Value> = table
        .indexes
        .iter()
        .map(|index| {
            json!({
                "IndexName": index.name,
                "KeySchema": keys(index.partition_key, index.sort_key),
                "Projection": {"ProjectionType": "ALL"},
            })
        })
        .collect();
    let deployed = properties["GlobalSecondaryIndexes"].as_array().cloned().unwrap_or_default();
    assert_eq!(deployed, indexes, "{id}");
    let indexed = table.indexes.iter().flat_map(|index| [index.partition_key, index.sort_key]);
    let attributes: Vec<Value> = [PK, SK]
        .into_iter()
        .chain(indexed)
        .map(|name| json!({"AttributeName": name, "AttributeType": "S"}))
        .collect();
    assert_eq!(properties["AttributeDefinitions"], json!(attributes), "{id}");
    assert_eq!(
        properties["TimeToLiveSpecification"],
        json!({"AttributeName": table.ttl_attribute, "Enabled": true}),
        "{id}"
    );
    assert_eq!(properties["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"], true, "{id}");
}

#[test]
fn the_tables_of_the_template_are_those_of_the_adapter() {
    let [app, events] = schema::tables(&Tables { app: "app".to_owned(), events: "events".to_owned() });
    check("AppTable", &app);
    check("EventsTable", &events);
}
