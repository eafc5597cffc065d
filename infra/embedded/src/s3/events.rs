//! Notifications of new objects, shaped as S3 sends them. Each is on disk from before its object is visible until its
//! receiver is done with it, so that a crash repeats a notification and never loses one, as with S3 and its queue.

use std::io::{Result, Write as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;

use super::store::{Facts, Store};

/// How an object came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EventName {
    Put,
    Copy,
    CompleteMultipartUpload,
}

impl EventName {
    fn as_str(self) -> &'static str {
        match self {
            Self::Put => "ObjectCreated:Put",
            Self::Copy => "ObjectCreated:Copy",
            Self::CompleteMultipartUpload => "ObjectCreated:CompleteMultipartUpload",
        }
    }
}

/// A notification of a new object. Call [`S3Event::done`] when it was dealt with; without it, the notification comes
/// again after the next start.
#[derive(Debug)]
pub struct S3Event {
    body: Value,
    file: PathBuf,
}

impl S3Event {
    /// `{"Records": [...]}` with one record.
    pub fn body(&self) -> &Value {
        &self.body
    }

    /// Forgets the notification.
    pub fn done(self) {
        if let Err(error) = std::fs::remove_file(&self.file) {
            tracing::warn!(%error, file = %self.file.display(), "a notification will come again after the next start");
        }
    }
}

/// Where notifications wait for their receiver.
#[derive(Debug)]
pub(super) struct Outbox {
    folder: PathBuf,
    prefix: String,
    region: String,
    receiver: Option<UnboundedSender<S3Event>>,
}

impl Outbox {
    /// Notes objects whose key starts with `prefix` for `receiver`; none at all without one.
    pub(super) fn new(
        folder: PathBuf,
        prefix: &str,
        region: &str,
        receiver: Option<UnboundedSender<S3Event>>,
    ) -> Result<Self> {
        std::fs::create_dir_all(&folder)?;
        Ok(Self { folder, prefix: prefix.to_owned(), region: region.to_owned(), receiver })
    }

    /// Writes the notification of an object that is about to be visible.
    pub(super) fn note(
        &self,
        bucket: &str,
        key: &str,
        facts: &Facts,
        name: EventName,
    ) -> Result<Option<S3Event>> {
        if self.receiver.is_none() || !key.starts_with(&self.prefix) {
            return Ok(None);
        }
        let body = self.body(bucket, key, facts, name);
        let file = self.folder.join(format!("{}.json", facts.sequencer));
        let mut written = std::fs::File::create(&file)?;
        written.write_all(body.to_string().as_bytes())?;
        Ok(Some(S3Event { body, file }))
    }

    /// Sends a noted notification.
    pub(super) fn send(&self, noted: Option<S3Event>) {
        if let (Some(event), Some(receiver)) = (noted, &self.receiver) {
            // A receiver that is gone ends with the process; the notification is on disk.
            let _ = receiver.send(event);
        }
    }

    /// Sends again what was noted before the last stop and is not done. A note whose object never became visible, or
    /// was replaced since, is dropped.
    pub(super) fn send_again(&self, store: &Store) -> Result<()> {
        let mut files: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            files.push(entry?.path());
        }
        files.sort();
        for file in files {
            match read(&file).filter(|body| is_current(body, store)) {
                Some(body) => self.send(Some(S3Event { body, file })),
                None => std::fs::remove_file(file)?,
            }
        }
        Ok(())
    }

    fn body(&self, bucket: &str, key: &str, facts: &Facts, name: EventName) -> Value {
        let encode = |part: &str| form_urlencoded::byte_serialize(part.as_bytes()).collect::<String>();
        let encoded: Vec<String> = key.split('/').map(encode).collect();
        json!({"Records": [{
            "eventVersion": "2.1",
            "eventSource": "aws:s3",
            "awsRegion": self.region,
            "eventTime": format!("{:.3}", facts.modified),
            "eventName": name.as_str(),
            "userIdentity": {"principalId": "embedded"},
            "requestParameters": {"sourceIPAddress": "127.0.0.1"},
            "responseElements": {"x-amz-request-id": facts.sequencer, "x-amz-id-2": facts.sequencer},
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": "uploads",
                "bucket": {
                    "name": bucket,
                    "ownerIdentity": {"principalId": "embedded"},
                    "arn": format!("arn:aws:s3:::{bucket}"),
                },
                "object": {
                    "key": encoded.join("/"),
                    "size": facts.size,
                    "eTag": facts.etag,
                    "sequencer": facts.sequencer,
                },
            },
        }]})
    }
}

fn read(file: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

fn is_current(body: &Value, store: &Store) -> bool {
    let s3 = &body["Records"][0]["s3"];
    let (Some(bucket), Some(encoded)) = (s3["bucket"]["name"].as_str(), s3["object"]["key"].as_str()) else {
        return false;
    };
    let Some((key, _)) = form_urlencoded::parse(encoded.as_bytes()).next() else { return false };
    store.facts(bucket, &key).is_ok_and(|facts| s3["object"]["sequencer"] == facts.sequencer)
}
