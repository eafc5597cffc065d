//! Requests to save a workspace, as messages of a first-in-first-out queue with a delivery delay. The messages of a
//! project are one group, so it is saved by one function at a time; those of one span of time carry one deduplication
//! id, so a burst makes one save.

use aws_sdk_sqs::Client;
use pvm_application::ports::{Clock, RequestSave, WorkflowError};
use pvm_contracts::lifecycle::SaveRequest;
use pvm_domain::ids::{ArchiveId, ProjectId};

/// Seconds of changes that one save takes in. The queue's delivery delay must not be shorter (`DelaySeconds` in the
/// template): a message is then delivered only after the span that it stands for is over, and misses nothing of it.
pub const GATHER_SECS: i64 = 2;

/// The queue.
#[derive(Debug, Clone)]
pub struct SaveQueue<C> {
    client: Client,
    url: String,
    clock: C,
}

impl<C: Clock> SaveQueue<C> {
    /// The queue at `url`.
    pub fn new(client: Client, url: impl Into<String>, clock: C) -> Self {
        Self { client, url: url.into(), clock }
    }

    fn deduplication_id(&self, project_id: &ProjectId) -> String {
        format!("{project_id}-{}", self.clock.now().as_second().div_euclid(GATHER_SECS))
    }
}

impl<C: Clock> RequestSave for SaveQueue<C> {
    async fn request_archive(
        &self,
        project_id: &ProjectId,
        archive_id: &ArchiveId,
    ) -> Result<(), WorkflowError> {
        let request = SaveRequest { project_id: project_id.clone(), archive_id: Some(archive_id.clone()) };
        let sent = self
            .client
            .send_message()
            .queue_url(&self.url)
            .message_body(serde_json::to_string(&request).unwrap_or_default())
            .message_group_id(project_id.as_str())
            .message_deduplication_id(archive_id.as_str())
            .send()
            .await;
        sent.map(|_| ()).map_err(|error| WorkflowError::Unavailable(error.into()))
    }

    async fn request_save(&self, project_id: &ProjectId) {
        let request = SaveRequest { project_id: project_id.clone(), archive_id: None };
        // A struct of one string always has a JSON form.
        let body = serde_json::to_string(&request).unwrap_or_default();
        let sent = self
            .client
            .send_message()
            .queue_url(&self.url)
            .message_body(body)
            .message_group_id(project_id.as_str())
            .message_deduplication_id(self.deduplication_id(project_id))
            .send()
            .await;
        if let Err(error) = sent {
            // Nothing is lost: the workspace is saved before every pause and end of the VM in any case.
            tracing::warn!(project.id = %project_id, error = ?error, "a save could not be asked for");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pvm_domain::Timestamp;
    use pvm_domain::ids::PrefixedId;

    use super::*;

    #[derive(Debug)]
    struct At(i64);

    impl Clock for At {
        fn now(&self) -> Timestamp {
            Timestamp::from_millisecond(self.0).unwrap()
        }
        async fn sleep(&self, _: Duration) {}
    }

    fn id(millis: i64, project: u128) -> String {
        let config = aws_sdk_sqs::Config::builder().behavior_version_latest().build();
        let queue = SaveQueue::new(Client::from_conf(config), "http://queue", At(millis));
        queue.deduplication_id(&ProjectId::from_parts(1, project))
    }

    #[test]
    fn requests_of_one_project_and_span_are_one() {
        assert_eq!(id(10_000, 1), id(11_999, 1));
        assert_ne!(id(11_999, 1), id(12_000, 1));
        assert_ne!(id(10_000, 1), id(10_000, 2));
        // SQS takes at most 128 characters.
        assert!(id(i64::from(u32::MAX) * 1000, 1).len() <= 128);
    }
}
