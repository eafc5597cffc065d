//! Objects in one S3 bucket. Keys are made by use cases; every object is written once and never changed.

mod multipart;
mod presign;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::get_object::{GetObjectError, GetObjectOutput};
use aws_sdk_s3::operation::head_bucket::HeadBucketError;
use aws_sdk_s3::operation::head_object::HeadObjectError;
use aws_sdk_s3::primitives::ByteStream as Body;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use pvm_application::ports::{ByteStream, DeleteObject, GetObject, ObjectError, ObjectInfo, PutObject};

/// Name of the metadata that holds an object's SHA-256 in lower-case hex.
const SHA256: &str = "sha256";
/// Keys that one listing or deletion takes.
const PAGE: u32 = 1000;

/// A bucket of S3.
#[derive(Debug, Clone)]
pub struct Objects {
    client: Client,
    signer: Client,
    bucket: String,
}

impl Objects {
    /// The objects of `bucket`.
    pub fn new(client: Client, bucket: impl Into<String>) -> Self {
        Self { signer: client.clone(), client, bucket: bucket.into() }
    }

    /// The same, but requests for others are signed with `signer`, whose URL is the one that they reach S3 by.
    #[must_use]
    pub fn signed_by(mut self, signer: Client) -> Self {
        self.signer = signer;
        self
    }

    /// Makes the bucket where it is missing: for embedded installs; the template makes it on AWS.
    ///
    /// # Errors
    /// When S3 refuses or does not answer.
    pub async fn create_bucket_if_missing(&self) -> Result<(), ObjectError> {
        match self.client.head_bucket().bucket(&self.bucket).send().await {
            Ok(_) => Ok(()),
            Err(error) if error.as_service_error().is_some_and(HeadBucketError::is_not_found) => {
                self.client.create_bucket().bucket(&self.bucket).send().await.map(|_| ()).map_err(unavailable)
            }
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn open(&self, key: &str) -> Result<GetObjectOutput, ObjectError> {
        let sent = self.client.get_object().bucket(&self.bucket).key(key).send().await;
        sent.map_err(|error| match error.as_service_error() {
            Some(GetObjectError::NoSuchKey(_)) => ObjectError::NotFound,
            _ => unavailable(error),
        })
    }
}

fn unavailable<E>(error: SdkError<E, HttpResponse>) -> ObjectError
where
    E: std::error::Error + Send + Sync + 'static,
{
    ObjectError::Unavailable(error.into())
}

/// A SHA-256 in lower-case hex as S3's header wants it.
fn checksum(sha256: &str) -> Result<String, ObjectError> {
    match hex::decode(sha256) {
        Ok(digest) if digest.len() == 32 => Ok(STANDARD.encode(digest)),
        _ => Err(ObjectError::Unavailable(anyhow::anyhow!("{sha256:?} is not a SHA-256 in hex"))),
    }
}

/// What a write of a new object asks for: that there is none at its key.
pub(super) const ABSENT: &str = "*";

/// An error of a write: the key is taken where the store says that its condition does not hold.
pub(super) fn taken<E>(error: SdkError<E, HttpResponse>) -> ObjectError
where
    E: std::error::Error + Send + Sync + 'static,
{
    if error.raw_response().is_some_and(|response| response.status().as_u16() == 412) {
        return ObjectError::Exists;
    }
    unavailable(error)
}

impl Objects {
    async fn put_as(
        &self,
        key: &str,
        bytes: Bytes,
        sha256: Option<&str>,
        new: bool,
    ) -> Result<(), ObjectError> {
        let mut request = self.client.put_object().bucket(&self.bucket).key(key).body(Body::from(bytes));
        if let Some(sha256) = sha256 {
            request = request.checksum_sha256(checksum(sha256)?).metadata(SHA256, sha256);
        }
        request.set_if_none_match(new.then(|| ABSENT.to_owned())).send().await.map(|_| ()).map_err(taken)
    }
}

impl PutObject for Objects {
    async fn put(&self, key: &str, bytes: Bytes, sha256: Option<&str>) -> Result<(), ObjectError> {
        self.put_as(key, bytes, sha256, false).await
    }

    async fn put_stream(&self, key: &str, bytes: ByteStream) -> Result<ObjectInfo, ObjectError> {
        self.upload(key, bytes, false).await
    }

    async fn put_new(&self, key: &str, bytes: Bytes, sha256: &str) -> Result<(), ObjectError> {
        self.put_as(key, bytes, Some(sha256), true).await
    }

    async fn put_new_stream(&self, key: &str, bytes: ByteStream) -> Result<ObjectInfo, ObjectError> {
        self.upload(key, bytes, true).await
    }
}

impl GetObject for Objects {
    async fn get(&self, key: &str) -> Result<Bytes, ObjectError> {
        let body = self.open(key).await?.body;
        let all = body.collect().await.map_err(|error| ObjectError::Unavailable(error.into()))?;
        Ok(all.into_bytes())
    }

    async fn get_stream(&self, key: &str) -> Result<(u64, ByteStream), ObjectError> {
        let object = self.open(key).await?;
        let size = size(object.content_length)?;
        let chunks = futures::stream::unfold(object.body, |mut body| async {
            let chunk = body.next().await?;
            Some((chunk.map_err(std::io::Error::other), body))
        });
        Ok((size, Box::pin(chunks)))
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo, ObjectError> {
        let sent = self.client.head_object().bucket(&self.bucket).key(key).send().await;
        let head = sent.map_err(|error| {
            if error.as_service_error().is_some_and(HeadObjectError::is_not_found) {
                ObjectError::NotFound
            } else {
                unavailable(error)
            }
        })?;
        let sha256 = head.metadata.as_ref().and_then(|metadata| metadata.get(SHA256)).cloned();
        Ok(ObjectInfo { size: size(head.content_length)?, sha256 })
    }
}

fn size(content_length: Option<i64>) -> Result<u64, ObjectError> {
    let size = content_length.and_then(|length| u64::try_from(length).ok());
    size.ok_or_else(|| ObjectError::Unavailable(anyhow::anyhow!("S3 did not tell the object's size")))
}

impl DeleteObject for Objects {
    async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        let sent = self.client.delete_object().bucket(&self.bucket).key(key).send().await;
        sent.map(|_| ()).map_err(unavailable)
    }

    async fn delete_prefix(&self, prefix: &str, limit: u32) -> Result<u32, ObjectError> {
        let most = i32::try_from(limit.clamp(1, PAGE)).unwrap_or(1);
        let listed =
            self.client.list_objects_v2().bucket(&self.bucket).prefix(prefix).max_keys(most).send().await;
        let mut keys = Vec::new();
        for object in listed.map_err(unavailable)?.contents.unwrap_or_default() {
            let key = ObjectIdentifier::builder().set_key(object.key).build();
            keys.push(key.map_err(|error| ObjectError::Unavailable(error.into()))?);
        }
        if keys.is_empty() {
            return Ok(0);
        }
        let gone = keys.len() as u32;
        let delete = Delete::builder().set_objects(Some(keys)).quiet(true).build();
        let delete = delete.map_err(|error| ObjectError::Unavailable(error.into()))?;
        let sent = self.client.delete_objects().bucket(&self.bucket).delete(delete).send().await;
        let refused = sent.map_err(unavailable)?.errors.unwrap_or_default();
        match refused.first() {
            None => Ok(gone),
            Some(first) => Err(ObjectError::Unavailable(anyhow::anyhow!(
                "{} objects were not deleted, the first because of {}",
                refused.len(),
                first.code().unwrap_or("no reason given")
            ))),
        }
    }
}
