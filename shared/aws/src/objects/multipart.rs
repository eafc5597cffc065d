//! Uploads in parts: our own of unknown length, with bounded memory (one part is filled and sent at a time), and those
//! of clients, who send the parts by themselves.

use aws_sdk_s3::Client;
use aws_sdk_s3::error::ProvideErrorMetadata as _;
use aws_sdk_s3::primitives::ByteStream as Body;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use pvm_application::ports::{ByteStream, ObjectError, ObjectInfo, UploadParts, UploadedPart};
use sha2::{Digest as _, Sha256};

use super::{ABSENT, Objects, taken, unavailable};

/// Size of a part; S3 takes 5 MiB to 5 GiB, and 10,000 parts, so this goes up to 78 GiB.
const PART: usize = 8 * 1024 * 1024;

impl Objects {
    pub(super) async fn upload(
        &self,
        key: &str,
        bytes: ByteStream,
        new: bool,
    ) -> Result<ObjectInfo, ObjectError> {
        let mut parts = Parts { bytes, rest: Bytes::new(), hash: Sha256::new(), size: 0 };
        let first = parts.next().await?;
        if first.len() < PART {
            let info = parts.info();
            self.put_as(key, first, info.sha256.as_deref(), new).await?;
            return Ok(info);
        }
        let mut upload = self.begin(key).await?;
        let mut part = first;
        while !part.is_empty() {
            upload.send(part).await?;
            part = parts.next().await?;
        }
        upload.complete(new).await?;
        Ok(parts.info())
    }

    async fn begin(&self, key: &str) -> Result<Upload, ObjectError> {
        let request = self.client.create_multipart_upload().bucket(&self.bucket).key(key);
        let id = request.send().await.map_err(unavailable)?.upload_id;
        let id = id.ok_or_else(|| ObjectError::Unavailable(anyhow::anyhow!("S3 gave the upload no id")))?;
        Ok(Upload {
            client: self.client.clone(),
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            id: Some(id),
            parts: Vec::new(),
        })
    }
}

/// Cuts a stream into parts and measures it.
struct Parts {
    bytes: ByteStream,
    /// What came in one piece with the end of the last part.
    rest: Bytes,
    hash: Sha256,
    size: u64,
}

impl Parts {
    /// The next part: full, or shorter at the end, or empty after it.
    async fn next(&mut self) -> Result<Bytes, ObjectError> {
        let mut part = BytesMut::new();
        loop {
            let room = PART - part.len();
            let taken = self.rest.split_to(room.min(self.rest.len()));
            self.hash.update(&taken);
            self.size += taken.len() as u64;
            part.extend_from_slice(&taken);
            if part.len() == PART {
                return Ok(part.freeze());
            }
            match self.bytes.next().await {
                Some(chunk) => self.rest = chunk.map_err(|error| ObjectError::Unavailable(error.into()))?,
                None => return Ok(part.freeze()),
            }
        }
    }

    fn info(&self) -> ObjectInfo {
        ObjectInfo { size: self.size, sha256: Some(hex::encode(self.hash.clone().finalize())) }
    }
}

/// An upload under way. Dropped before it is complete, it is aborted: parts of an abandoned upload cost money and are
/// seen by nobody.
struct Upload {
    client: Client,
    bucket: String,
    key: String,
    id: Option<String>,
    parts: Vec<CompletedPart>,
}

impl Upload {
    async fn send(&mut self, bytes: Bytes) -> Result<(), ObjectError> {
        let number = i32::try_from(self.parts.len() + 1).unwrap_or(i32::MAX);
        let sent = self
            .client
            .upload_part()
            .bucket(&self.bucket)
            .key(&self.key)
            .set_upload_id(self.id.clone())
            .part_number(number)
            .body(Body::from(bytes))
            .send()
            .await
            .map_err(unavailable)?;
        let part = CompletedPart::builder()
            .part_number(number)
            .set_e_tag(sent.e_tag)
            .set_checksum_crc32(sent.checksum_crc32)
            .set_checksum_crc64_nvme(sent.checksum_crc64_nvme)
            .build();
        self.parts.push(part);
        Ok(())
    }

    async fn complete(mut self, new: bool) -> Result<(), ObjectError> {
        let parts =
            CompletedMultipartUpload::builder().set_parts(Some(std::mem::take(&mut self.parts))).build();
        self.client
            .complete_multipart_upload()
            .bucket(&self.bucket)
            .key(&self.key)
            .set_upload_id(self.id.clone())
            .multipart_upload(parts)
            .set_if_none_match(new.then(|| ABSENT.to_owned()))
            .send()
            .await
            .map_err(taken)?;
        self.id = None;
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let (Some(id), Ok(runtime)) = (self.id.take(), tokio::runtime::Handle::try_current()) else { return };
        let abort = self.client.abort_multipart_upload().bucket(&self.bucket).key(&self.key).upload_id(id);
        runtime.spawn(async move {
            if let Err(error) = abort.send().await {
                tracing::warn!(error = ?error, "an abandoned upload could not be aborted; the bucket's rule will");
            }
        });
    }
}

impl UploadParts for Objects {
    async fn begin_parts(&self, key: &str) -> Result<String, ObjectError> {
        let begun = self.client.create_multipart_upload().bucket(&self.bucket).key(key).send().await;
        let id = begun.map_err(unavailable)?.upload_id;
        id.ok_or_else(|| ObjectError::Unavailable(anyhow::anyhow!("S3 gave the upload no id")))
    }

    async fn complete_parts(&self, key: &str, id: &str, parts: &[UploadedPart]) -> Result<(), ObjectError> {
        let part = |part: &UploadedPart| {
            let number = i32::try_from(part.number).unwrap_or(i32::MAX);
            CompletedPart::builder().part_number(number).e_tag(&part.etag).build()
        };
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts.iter().map(part).collect()));
        let sent = self
            .client
            .complete_multipart_upload()
            .bucket(&self.bucket)
            .key(key)
            .upload_id(id)
            .multipart_upload(parts.build())
            .if_none_match(ABSENT)
            .send()
            .await;
        let Err(error) = sent else { return Ok(()) };
        Err(match error.code() {
            Some("NoSuchUpload") => ObjectError::NotFound,
            Some("InvalidPart" | "InvalidPartOrder" | "EntityTooSmall" | "MalformedXML") => {
                let text = error.message().unwrap_or("the parts do not make an object").to_owned();
                ObjectError::Refused(format!("are not what was sent: {text}"))
            }
            _ => taken(error),
        })
    }

    async fn abort_parts(&self, key: &str, id: &str) -> Result<(), ObjectError> {
        let sent =
            self.client.abort_multipart_upload().bucket(&self.bucket).key(key).upload_id(id).send().await;
        match sent {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some("NoSuchUpload") => Ok(()),
            Err(error) => Err(unavailable(error)),
        }
    }
}
