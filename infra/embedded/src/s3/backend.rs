//! The operations of S3 over the store on disk.

use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, Bucket, CommonPrefix,
    CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CopyObjectInput, CopyObjectOutput,
    CopyObjectResult, CopySource, CreateBucketInput, CreateBucketOutput, CreateMultipartUploadInput,
    CreateMultipartUploadOutput, DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput,
    DeleteObjectsOutput, DeletedObject, ETag, EncodingType, Error, GetBucketLocationInput,
    GetBucketLocationOutput, GetObjectInput, GetObjectOutput, HeadBucketInput, HeadBucketOutput,
    HeadObjectInput, HeadObjectOutput, ListBucketsInput, ListBucketsOutput, ListObjectsV2Input,
    ListObjectsV2Output, ListPartsInput, ListPartsOutput, Metadata, MetadataDirective, Object, Part,
    PutObjectInput, PutObjectOutput, StreamingBlob, UploadPartInput, UploadPartOutput,
};
use s3s::{S3, S3Error, S3Request, S3Response, S3Result, s3_error};
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;

use super::conditions::{algorithm, read_conditions, system, write_precondition};
use super::events::EventName;
use super::receive::{Claims, Received, receive};
use super::store::{Checksums, Described, Facts, Fault, ListQuery, Precondition, Store};
use super::uploads::{JoinFault, Upload};

/// Bytes read from disk at a time.
const PIECE: usize = 256 * 1024;
const PARTS_MAX: i32 = 10_000;
const PAGE: i32 = 1000;

/// The S3 of the embedded install.
#[derive(Debug, Clone)]
pub(super) struct Backend {
    store: Arc<Store>,
}

impl From<Fault> for S3Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Missing => s3_error!(NoSuchKey),
            Fault::Precondition => s3_error!(PreconditionFailed),
            Fault::KeyTooLong => s3_error!(KeyTooLongError, "{fault}"),
            Fault::Io(error) => Self::internal_error(error),
        }
    }
}

impl From<JoinFault> for S3Error {
    fn from(fault: JoinFault) -> Self {
        match fault {
            JoinFault::InvalidPart => s3_error!(InvalidPart, "{fault}"),
            JoinFault::Order => s3_error!(InvalidPartOrder, "{fault}"),
            JoinFault::TooSmall => s3_error!(EntityTooSmall, "{fault}"),
            JoinFault::Io(error) => Self::internal_error(error),
        }
    }
}

impl Backend {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self { store }
    }

    /// Runs work on the disk off the async threads.
    async fn on_disk<T, E>(&self, work: impl FnOnce(&Store) -> Result<T, E> + Send + 'static) -> S3Result<T>
    where
        T: Send + 'static,
        E: Into<S3Error> + Send + 'static,
    {
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || work(&store)).await {
            Ok(done) => done.map_err(Into::into),
            Err(error) => Err(S3Error::internal_error(error)),
        }
    }

    async fn io<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> std::io::Result<T> + Send + 'static,
    ) -> S3Result<T> {
        self.on_disk(move |store| work(store).map_err(Fault::Io)).await
    }

    fn bucket_is_there(&self, bucket: &str) -> S3Result<()> {
        if self.store.has_bucket(bucket) { Ok(()) } else { Err(s3_error!(NoSuchBucket)) }
    }

    async fn upload_is_there(&self, id: &str, bucket: &str, key: &str) -> S3Result<Upload> {
        let (id, bucket, key) = (id.to_owned(), bucket.to_owned(), key.to_owned());
        let found = self.io(move |store| store.upload(&id, &bucket, &key)).await?;
        found.ok_or_else(|| s3_error!(NoSuchUpload))
    }

    fn facts(&self, received: &Received, etag: String, described: Described) -> Facts {
        Facts {
            size: received.size,
            etag,
            modified: Timestamp::now(),
            sequencer: self.store.sequencer(),
            described,
            checksums: received.checksums.clone(),
        }
    }

    async fn publish(
        &self,
        bucket: String,
        key: String,
        received: Received,
        facts: Facts,
        precondition: Precondition,
        event: EventName,
    ) -> S3Result<()> {
        self.on_disk(move |store| store.publish(&bucket, &key, received.staged, &facts, &precondition, event))
            .await
    }
}

fn etag(facts: &Facts) -> ETag {
    ETag::Strong(facts.etag.clone())
}

fn metadata(described: &Described) -> Option<Metadata> {
    (!described.metadata.is_empty()).then(|| described.metadata.clone().into_iter().collect())
}

#[async_trait::async_trait]
impl S3 for Backend {
    async fn create_bucket(
        &self,
        request: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        let bucket = request.input.bucket;
        let made = self.io(move |store| store.create_bucket(&bucket)).await?;
        if made {
            Ok(S3Response::new(CreateBucketOutput::default()))
        } else {
            Err(s3_error!(BucketAlreadyOwnedByYou))
        }
    }

    async fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.bucket_is_there(&request.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn get_bucket_location(
        &self,
        request: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.bucket_is_there(&request.input.bucket)?;
        Ok(S3Response::new(GetBucketLocationOutput::default()))
    }

    async fn list_buckets(&self, _: S3Request<ListBucketsInput>) -> S3Result<S3Response<ListBucketsOutput>> {
        let found = self.io(Store::buckets).await?;
        let bucket = |(name, made): (String, SystemTime)| Bucket {
            name: Some(name),
            creation_date: Some(made.into()),
            ..Bucket::default()
        };
        let buckets = Some(found.into_iter().map(bucket).collect());
        Ok(S3Response::new(ListBucketsOutput { buckets, ..Default::default() }))
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = request.input;
        self.bucket_is_there(&input.bucket)?;
        let precondition = write_precondition(input.if_match, input.if_none_match)?;
        let claims = Claims {
            length: input.content_length,
            md5: input.content_md5,
            algorithm: algorithm(input.checksum_algorithm.as_ref(), &request.headers),
            trailers: request.trailing_headers,
            checksums: Checksums {
                crc32: input.checksum_crc32,
                crc32c: input.checksum_crc32c,
                crc64nvme: input.checksum_crc64nvme,
                sha1: input.checksum_sha1,
                sha256: input.checksum_sha256,
            },
        };
        let described = Described {
            content_type: input.content_type,
            content_encoding: input.content_encoding.filter(|encoding| encoding != "aws-chunked"),
            content_disposition: input.content_disposition,
            content_language: input.content_language,
            cache_control: input.cache_control,
            metadata: input.metadata.unwrap_or_default().into_iter().collect(),
        };
        let received = receive(&self.store, input.body, claims).await?;
        let facts = self.facts(&received, hex::encode(received.md5), described);
        let checksums = facts.checksums.clone();
        let output = PutObjectOutput {
            e_tag: Some(etag(&facts)),
            checksum_crc32: checksums.crc32,
            checksum_crc32c: checksums.crc32c,
            checksum_crc64nvme: checksums.crc64nvme,
            checksum_sha1: checksums.sha1,
            checksum_sha256: checksums.sha256,
            ..Default::default()
        };
        self.publish(input.bucket, input.key, received, facts, precondition, EventName::Put).await?;
        Ok(S3Response::new(output))
    }

    async fn copy_object(
        &self,
        request: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        let input = request.input;
        let CopySource::Bucket { bucket: from_bucket, key: from_key, .. } = input.copy_source else {
            return Err(s3_error!(NotImplemented, "a copy's source must be a bucket and a key"));
        };
        self.bucket_is_there(&input.bucket)?;
        self.bucket_is_there(&from_bucket)?;
        let (from_bucket, from_key) = (from_bucket.to_string(), from_key.to_string());
        let (if_match, if_none_match) = (input.copy_source_if_match, input.copy_source_if_none_match);
        let (received, source) = self
            .on_disk(move |store| {
                let (file, source) = store.open_object(&from_bucket, &from_key)?;
                let staged = store.stage()?;
                std::io::copy(&mut std::io::Read::take(file, source.size), &mut staged.as_file())?;
                let checksums = source.checksums.clone();
                Ok::<_, Fault>((Received { staged, size: source.size, md5: [0; 16], checksums }, source))
            })
            .await?;
        if read_conditions(&source, if_match.as_ref(), if_none_match.as_ref(), None, None).is_err() {
            return Err(s3_error!(PreconditionFailed));
        }
        let replace = input
            .metadata_directive
            .is_some_and(|directive| directive.as_str() == MetadataDirective::REPLACE);
        let described = if replace {
            Described {
                content_type: input.content_type,
                content_encoding: input.content_encoding,
                content_disposition: input.content_disposition,
                content_language: input.content_language,
                cache_control: input.cache_control,
                metadata: input.metadata.unwrap_or_default().into_iter().collect(),
            }
        } else {
            source.described
        };
        let facts = self.facts(&received, source.etag, described);
        let result = CopyObjectResult {
            e_tag: Some(etag(&facts)),
            last_modified: Some(system(facts.modified)),
            ..Default::default()
        };
        self.publish(input.bucket, input.key, received, facts, Precondition::None, EventName::Copy).await?;
        Ok(S3Response::new(CopyObjectOutput { copy_object_result: Some(result), ..Default::default() }))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        self.bucket_is_there(&input.bucket)?;
        let (bucket, key) = (input.bucket, input.key);
        let (mut file, facts) = self.on_disk(move |store| store.open_object(&bucket, &key)).await?;
        read_conditions(
            &facts,
            input.if_match.as_ref(),
            input.if_none_match.as_ref(),
            input.if_modified_since.as_ref(),
            input.if_unmodified_since.as_ref(),
        )?;
        let range = match input.range {
            None => 0..facts.size,
            Some(range) => range.check(facts.size).map_err(|error| s3_error!(error, InvalidRange))?,
        };
        let length = range.end - range.start;
        let whole = length == facts.size;
        let start = range.start;
        let file = self
            .io(move |_| std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(start)).map(|_| file))
            .await?;
        let pieces = ReaderStream::with_capacity(tokio::fs::File::from_std(file).take(length), PIECE);
        let Facts { described, checksums, .. } = &facts;
        let checksums = if whole { checksums.clone() } else { Checksums::default() };
        let shown = length > 0 && !whole || input.range.is_some();
        let content_range =
            shown.then(|| format!("bytes {}-{}/{}", range.start, range.end.saturating_sub(1), facts.size));
        Ok(S3Response::new(GetObjectOutput {
            body: Some(StreamingBlob::wrap(pieces)),
            content_length: Some(length.cast_signed()),
            content_range,
            accept_ranges: Some("bytes".to_owned()),
            content_type: input.response_content_type.or_else(|| described.content_type.clone()),
            content_encoding: input.response_content_encoding.or_else(|| described.content_encoding.clone()),
            content_disposition: input
                .response_content_disposition
                .or_else(|| described.content_disposition.clone()),
            content_language: input.response_content_language.or_else(|| described.content_language.clone()),
            cache_control: input.response_cache_control.or_else(|| described.cache_control.clone()),
            last_modified: Some(system(facts.modified)),
            e_tag: Some(etag(&facts)),
            metadata: metadata(described),
            checksum_crc32: checksums.crc32,
            checksum_crc32c: checksums.crc32c,
            checksum_crc64nvme: checksums.crc64nvme,
            checksum_sha1: checksums.sha1,
            checksum_sha256: checksums.sha256,
            ..Default::default()
        }))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = request.input;
        self.bucket_is_there(&input.bucket)?;
        let (bucket, key) = (input.bucket, input.key);
        let facts = self.on_disk(move |store| store.facts(&bucket, &key)).await?;
        read_conditions(
            &facts,
            input.if_match.as_ref(),
            input.if_none_match.as_ref(),
            input.if_modified_since.as_ref(),
            input.if_unmodified_since.as_ref(),
        )?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(facts.size.cast_signed()),
            accept_ranges: Some("bytes".to_owned()),
            last_modified: Some(system(facts.modified)),
            e_tag: Some(etag(&facts)),
            metadata: metadata(&facts.described),
            content_type: facts.described.content_type,
            content_encoding: facts.described.content_encoding,
            content_disposition: facts.described.content_disposition,
            content_language: facts.described.content_language,
            cache_control: facts.described.cache_control,
            checksum_crc32: facts.checksums.crc32,
            checksum_crc32c: facts.checksums.crc32c,
            checksum_crc64nvme: facts.checksums.crc64nvme,
            checksum_sha1: facts.checksums.sha1,
            checksum_sha256: facts.checksums.sha256,
            ..Default::default()
        }))
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let input = request.input;
        self.bucket_is_there(&input.bucket)?;
        self.on_disk(move |store| store.delete(&input.bucket, &input.key)).await?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let DeleteObjectsInput { bucket, delete, .. } = request.input;
        self.bucket_is_there(&bucket)?;
        let quiet = delete.quiet == Some(true);
        let (gone, failed) = self
            .io(move |store| {
                let (mut gone, mut failed) = (Vec::new(), Vec::new());
                for object in delete.objects {
                    match store.delete(&bucket, &object.key) {
                        Ok(()) => gone.push(DeletedObject { key: Some(object.key), ..Default::default() }),
                        Err(fault) => failed.push(Error {
                            key: Some(object.key),
                            code: Some("InternalError".to_owned()),
                            message: Some(fault.to_string()),
                            ..Default::default()
                        }),
                    }
                }
                Ok((gone, failed))
            })
            .await?;
        Ok(S3Response::new(DeleteObjectsOutput {
            deleted: (!quiet).then_some(gone),
            errors: (!failed.is_empty()).then_some(failed),
            ..Default::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        self.bucket_is_there(&input.bucket)?;
        let token = match &input.continuation_token {
            None => None,
            Some(token) => {
                let key = URL_SAFE_NO_PAD.decode(token).ok().and_then(|key| String::from_utf8(key).ok());
                Some(key.ok_or_else(|| {
                    s3_error!(InvalidArgument, "the continuation token is not one of this store")
                })?)
            }
        };
        let limit = input.max_keys.unwrap_or(PAGE).clamp(0, PAGE);
        let query = ListQuery {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone().filter(|delimiter| !delimiter.is_empty()),
            after: token.max(input.start_after.clone()),
            limit: usize::try_from(limit).unwrap_or(0),
        };
        let bucket = input.bucket.clone();
        let page = self.io(move |store| store.list(&bucket, &query)).await?;
        let encoded =
            input.encoding_type.as_ref().is_some_and(|encoding| encoding.as_str() == EncodingType::URL);
        let key =
            |key: String| if encoded { utf8_percent_encode(&key, NON_ALPHANUMERIC).to_string() } else { key };
        let count = page.objects.len() + page.prefixes.len();
        let object = |(name, facts): (String, Facts)| Object {
            key: Some(key(name)),
            size: Some(facts.size.cast_signed()),
            e_tag: Some(etag(&facts)),
            last_modified: Some(system(facts.modified)),
            ..Default::default()
        };
        let prefixes: Vec<_> =
            page.prefixes.into_iter().map(|prefix| CommonPrefix { prefix: Some(key(prefix)) }).collect();
        Ok(S3Response::new(ListObjectsV2Output {
            contents: Some(page.objects.into_iter().map(object).collect()),
            common_prefixes: (!prefixes.is_empty()).then_some(prefixes),
            key_count: i32::try_from(count).ok(),
            max_keys: Some(limit),
            is_truncated: Some(page.next.is_some()),
            next_continuation_token: page.next.map(|next| URL_SAFE_NO_PAD.encode(next)),
            continuation_token: input.continuation_token,
            delimiter: input.delimiter,
            encoding_type: input.encoding_type,
            name: Some(input.bucket),
            prefix: input.prefix,
            start_after: input.start_after,
            ..Default::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = request.input;
        self.bucket_is_there(&input.bucket)?;
        let upload = Upload {
            bucket: input.bucket.clone(),
            key: input.key.clone(),
            described: Described {
                content_type: input.content_type,
                content_encoding: input.content_encoding,
                content_disposition: input.content_disposition,
                content_language: input.content_language,
                cache_control: input.cache_control,
                metadata: input.metadata.unwrap_or_default().into_iter().collect(),
            },
        };
        let id = self.io(move |store| store.begin_upload(&upload)).await?;
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..Default::default()
        }))
    }

    async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let input = request.input;
        if !(1..=PARTS_MAX).contains(&input.part_number) {
            return Err(s3_error!(InvalidArgument, "a part's number must be 1 to {PARTS_MAX}"));
        }
        self.upload_is_there(&input.upload_id, &input.bucket, &input.key).await?;
        let claims = Claims {
            length: input.content_length,
            md5: input.content_md5,
            algorithm: algorithm(input.checksum_algorithm.as_ref(), &request.headers),
            trailers: request.trailing_headers,
            checksums: Checksums {
                crc32: input.checksum_crc32,
                crc32c: input.checksum_crc32c,
                crc64nvme: input.checksum_crc64nvme,
                sha1: input.checksum_sha1,
                sha256: input.checksum_sha256,
            },
        };
        let received = receive(&self.store, input.body, claims).await?;
        let facts = self.facts(&received, hex::encode(received.md5), Described::default());
        let checksums = facts.checksums.clone();
        let output = UploadPartOutput {
            e_tag: Some(etag(&facts)),
            checksum_crc32: checksums.crc32,
            checksum_crc32c: checksums.crc32c,
            checksum_crc64nvme: checksums.crc64nvme,
            checksum_sha1: checksums.sha1,
            checksum_sha256: checksums.sha256,
            ..Default::default()
        };
        let (id, number) = (input.upload_id, input.part_number);
        self.io(move |store| store.put_part(&id, number, received, &facts)).await?;
        Ok(S3Response::new(output))
    }

    async fn list_parts(&self, request: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        let input = request.input;
        self.upload_is_there(&input.upload_id, &input.bucket, &input.key).await?;
        let id = input.upload_id.clone();
        let parts = self.io(move |store| store.parts(&id)).await?;
        let part = |(number, facts): (i32, Facts)| Part {
            part_number: Some(number),
            size: Some(facts.size.cast_signed()),
            e_tag: Some(etag(&facts)),
            last_modified: Some(system(facts.modified)),
            ..Default::default()
        };
        Ok(S3Response::new(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            parts: Some(parts.into_iter().map(part).collect()),
            is_truncated: Some(false),
            ..Default::default()
        }))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = request.input;
        let upload = self.upload_is_there(&input.upload_id, &input.bucket, &input.key).await?;
        let precondition = write_precondition(input.if_match, input.if_none_match)?;
        let wanted: Vec<(i32, Option<String>)> = input
            .multipart_upload
            .and_then(|upload| upload.parts)
            .unwrap_or_default()
            .into_iter()
            .map(|part| (part.part_number.unwrap_or(0), part.e_tag.map(ETag::into_value)))
            .collect();
        if wanted.is_empty() {
            return Err(s3_error!(InvalidRequest, "at least one part must be named"));
        }
        let (id, count) = (input.upload_id.clone(), wanted.len());
        let received = self.on_disk(move |store| store.join(&id, &wanted)).await?;
        let facts = self.facts(&received, format!("{}-{count}", hex::encode(received.md5)), upload.described);
        let e_tag = etag(&facts);
        let (bucket, key) = (input.bucket.clone(), input.key.clone());
        self.publish(bucket, key, received, facts, precondition, EventName::CompleteMultipartUpload).await?;
        let id = input.upload_id;
        self.io(move |store| store.end_upload(&id)).await?;
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(e_tag),
            ..Default::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let input = request.input;
        self.upload_is_there(&input.upload_id, &input.bucket, &input.key).await?;
        self.io(move |store| store.end_upload(&input.upload_id)).await?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }
}
