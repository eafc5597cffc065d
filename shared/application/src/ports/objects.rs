//! The file store (S3).

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::ByteStream;

/// What went wrong in the file store.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// No such object.
    #[error("no such object")]
    NotFound,
    /// There is an object already where a new one was to be made.
    #[error("there is an object already")]
    Exists,
    /// What was sent cannot be taken; the text says why.
    #[error("{0}")]
    Refused(String),
    /// It could not be reached or failed; trying again is safe.
    #[error("the object store did not answer")]
    Unavailable(#[source] anyhow::Error),
}

/// A request that a client makes by itself, without our credentials.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Presigned {
    /// HTTP method.
    pub method: String,
    /// The URL; a secret until it expires.
    pub url: String,
    /// Headers that must be sent along.
    pub headers: Vec<(String, String)>,
}

/// An object's facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Bytes.
    pub size: u64,
    /// SHA-256 that was stored with it, hex.
    pub sha256: Option<String>,
}

/// Stores objects.
pub trait PutObject: Send + Sync {
    /// Stores bytes under `key`, with their SHA-256.
    fn put(
        &self,
        key: &str,
        bytes: Bytes,
        sha256: Option<&str>,
    ) -> impl Future<Output = Result<(), ObjectError>> + Send;
    /// Stores a stream of any length with bounded memory; answers size and SHA-256.
    fn put_stream(
        &self,
        key: &str,
        bytes: ByteStream,
    ) -> impl Future<Output = Result<ObjectInfo, ObjectError>> + Send;
    /// [`PutObject::put`], refused with [`ObjectError::Exists`] where there is an object already.
    fn put_new(
        &self,
        key: &str,
        bytes: Bytes,
        sha256: &str,
    ) -> impl Future<Output = Result<(), ObjectError>> + Send;
    /// [`PutObject::put_stream`], refused with [`ObjectError::Exists`] where there is an object already.
    fn put_new_stream(
        &self,
        key: &str,
        bytes: ByteStream,
    ) -> impl Future<Output = Result<ObjectInfo, ObjectError>> + Send;
}

/// A part of an upload in parts, as its sender names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadedPart {
    /// Its number, from 1.
    pub number: u32,
    /// The `ETag` that the store answered its upload with.
    pub etag: String,
}

/// Uploads in parts that others send by themselves.
pub trait UploadParts: Send + Sync {
    /// Begins one; answers its id.
    fn begin_parts(&self, key: &str) -> impl Future<Output = Result<String, ObjectError>> + Send;
    /// Makes the object of the parts. [`ObjectError::NotFound`] where the upload is over, [`ObjectError::Refused`]
    /// where the parts do not make an object, [`ObjectError::Exists`] where the object is there.
    fn complete_parts(
        &self,
        key: &str,
        id: &str,
        parts: &[UploadedPart],
    ) -> impl Future<Output = Result<(), ObjectError>> + Send;
    /// Gives one up, with its parts; one that is over is fine.
    fn abort_parts(&self, key: &str, id: &str) -> impl Future<Output = Result<(), ObjectError>> + Send;
}

/// Reads objects.
pub trait GetObject: Send + Sync {
    /// The whole object, for small ones.
    fn get(&self, key: &str) -> impl Future<Output = Result<Bytes, ObjectError>> + Send;
    /// The object as a stream, with its size.
    fn get_stream(&self, key: &str) -> impl Future<Output = Result<(u64, ByteStream), ObjectError>> + Send;
    /// The object's facts.
    fn head(&self, key: &str) -> impl Future<Output = Result<ObjectInfo, ObjectError>> + Send;
}

/// Deletes objects.
pub trait DeleteObject: Send + Sync {
    /// Deletes one; a missing one is fine.
    fn delete(&self, key: &str) -> impl Future<Output = Result<(), ObjectError>> + Send;
    /// Deletes up to `limit` objects whose key starts with `prefix`; answers how many went.
    fn delete_prefix(
        &self,
        prefix: &str,
        limit: u32,
    ) -> impl Future<Output = Result<u32, ObjectError>> + Send;
}

/// Signs requests for clients.
pub trait PresignObject: Send + Sync {
    /// A download, saved by browsers under `file_name`.
    fn presign_get(
        &self,
        key: &str,
        file_name: &str,
        good_for: Duration,
    ) -> impl Future<Output = Result<Presigned, ObjectError>> + Send;
    /// An upload of one part of exactly `size` bytes.
    fn presign_part(
        &self,
        key: &str,
        id: &str,
        number: u32,
        size: u64,
        good_for: Duration,
    ) -> impl Future<Output = Result<Presigned, ObjectError>> + Send;
    /// An upload of exactly `size` bytes, with the SHA-256 checked by the store where it is given. It makes an object
    /// and never changes one.
    fn presign_put(
        &self,
        key: &str,
        size: u64,
        sha256: Option<&str>,
        good_for: Duration,
    ) -> impl Future<Output = Result<Presigned, ObjectError>> + Send;
}
