//! The parts of the SQS and S3 messages that we read.

use percent_encoding::percent_decode_str;
use pvm_application::files::sync::ObjectCreated;
use serde::{Deserialize, Serialize};

/// A batch of a queue.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QueueBatch {
    /// Its messages.
    #[serde(rename = "Records")]
    pub records: Vec<QueueMessage>,
}

/// A message of a queue.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueMessage {
    /// Its id, named where it failed.
    pub message_id: String,
    /// Its text.
    pub body: String,
}

impl QueueMessage {
    /// What the message says, as `read` understands it. One that cannot be read is told and passed over: it will never
    /// read better, and the queue must not bring it again.
    pub(crate) fn understood<T>(
        &self,
        read: impl FnOnce(&str) -> serde_json::Result<T>,
        meant: &str,
    ) -> Option<T> {
        read(&self.body)
            .inspect_err(|error| {
                tracing::error!(message.id = %self.message_id, %error, "a queue message is no {meant}");
            })
            .ok()
    }
}

/// Which messages of a batch the queue should deliver again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchAnswer {
    /// Those that failed.
    pub batch_item_failures: Vec<FailedItem>,
}

impl BatchAnswer {
    /// The queue should deliver this message again.
    pub(crate) fn failed(&mut self, message_id: String) {
        self.batch_item_failures.push(FailedItem { item_identifier: message_id });
    }
}

/// A message that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedItem {
    /// Its id.
    pub item_identifier: String,
}

#[derive(Deserialize)]
struct Notification {
    // Absent in the `s3:TestEvent` that S3 sends when notifications are set up.
    #[serde(rename = "Records", default)]
    records: Vec<NotificationRecord>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NotificationRecord {
    event_name: String,
    s3: S3Part,
}

#[derive(Deserialize)]
struct S3Part {
    object: ObjectPart,
}

#[derive(Deserialize)]
struct ObjectPart {
    key: String,
}

/// The objects that an S3 notification says were made. Other events of it are passed over.
///
/// # Errors
/// The text is not a notification.
pub fn objects_created(body: &str) -> Result<Vec<ObjectCreated>, serde_json::Error> {
    let notification: Notification = serde_json::from_str(body)?;
    let created = notification
        .records
        .into_iter()
        .filter(|record| record.event_name.trim_start_matches("s3:").starts_with("ObjectCreated"));
    Ok(created.map(|record| ObjectCreated { key: decode(&record.s3.object.key) }).collect())
}

/// Keys come form-encoded: `+` is a space.
fn decode(key: &str) -> String {
    percent_decode_str(&key.replace('+', " ")).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_names_its_objects_and_a_test_event_none() {
        let body = r#"{"Records":[
            {"eventName":"ObjectCreated:Put","s3":{"object":{"key":"p/a+b%2Fc","sequencer":"0A"}}},
            {"eventName":"ObjectRemoved:Delete","s3":{"object":{"key":"x"}}}]}"#;
        let found = objects_created(body).unwrap();
        assert_eq!(found, [ObjectCreated { key: "p/a b/c".into() }]);
        assert_eq!(objects_created(r#"{"Service":"Amazon S3","Event":"s3:TestEvent"}"#).unwrap(), []);
        assert!(objects_created("not json").is_err());
    }
}
