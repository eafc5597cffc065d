//! Takes a request's body into a staged file, and refuses one that is not what its headers say.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt as _;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Md5};
use s3s::dto::{Checksum, StreamingBlob};
use s3s::{S3Result, TrailingHeaders, s3_error};
use tempfile::NamedTempFile;
use tokio::io::{AsyncWriteExt as _, BufWriter};

use super::store::{Checksums, Store};

/// Bytes gathered before they are written: a request's pieces are small.
const BUFFER: usize = 512 * 1024;

/// What a request says about its body.
#[derive(Debug, Default)]
pub(super) struct Claims {
    pub(super) length: Option<i64>,
    pub(super) md5: Option<String>,
    pub(super) checksums: Checksums,
    /// `CRC32` and so on: one that comes in the trailer, or that the store is asked to add.
    pub(super) algorithm: Option<String>,
    pub(super) trailers: Option<TrailingHeaders>,
}

/// A body that was taken in whole.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) staged: NamedTempFile,
    pub(super) size: u64,
    pub(super) md5: [u8; 16],
    pub(super) checksums: Checksums,
}

/// Takes a body in.
///
/// # Errors
/// `IncompleteBody` or `BadDigest` where it is not what was claimed; what came of it is removed.
pub(super) async fn receive(
    store: &Store,
    body: Option<StreamingBlob>,
    claims: Claims,
) -> S3Result<Received> {
    let staged = store.stage().map_err(s3s::S3Error::internal_error)?;
    let file = staged.reopen().map_err(s3s::S3Error::internal_error)?;
    let mut file = BufWriter::with_capacity(BUFFER, tokio::fs::File::from_std(file));
    let mut hashers = hashers(&claims);
    let (mut md5, mut size) = (Md5::new(), 0u64);
    if let Some(mut body) = body {
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| {
                let mut refused = s3_error!(IncompleteBody, "the body ended early or was changed on its way");
                refused.set_source(error);
                refused
            })?;
            md5.update(&piece);
            hashers.update(&piece);
            size += piece.len() as u64;
            file.write_all(&piece).await.map_err(s3s::S3Error::internal_error)?;
        }
    }
    file.flush().await.map_err(s3s::S3Error::internal_error)?;
    let md5 = md5.finalize();
    if claims.length.is_some_and(|length| u64::try_from(length) != Ok(size)) {
        return Err(s3_error!(IncompleteBody, "the body is not as long as its headers say"));
    }
    if claims.md5.as_ref().is_some_and(|claimed| *claimed != STANDARD.encode(md5)) {
        return Err(s3_error!(BadDigest, "the body does not have the MD5 that its headers say"));
    }
    let checksums = checksums(hashers.finalize());
    verify(&claims, &checksums)?;
    Ok(Received { staged, size, md5, checksums })
}

/// Hashers for all that is claimed.
fn hashers(claims: &Claims) -> ChecksumHasher {
    let asked = |name: &str, claim: &Option<String>| {
        claim.is_some() || claims.algorithm.as_deref().is_some_and(|asked| asked.eq_ignore_ascii_case(name))
    };
    let claimed = &claims.checksums;
    ChecksumHasher {
        crc32: asked("CRC32", &claimed.crc32).then(Default::default),
        crc32c: asked("CRC32C", &claimed.crc32c).then(Default::default),
        sha1: asked("SHA1", &claimed.sha1).then(Default::default),
        sha256: asked("SHA256", &claimed.sha256).then(Default::default),
        crc64nvme: asked("CRC64NVME", &claimed.crc64nvme).then(Default::default),
    }
}

fn checksums(found: Checksum) -> Checksums {
    Checksums {
        crc32: found.checksum_crc32,
        crc32c: found.checksum_crc32c,
        crc64nvme: found.checksum_crc64nvme,
        sha1: found.checksum_sha1,
        sha256: found.checksum_sha256,
    }
}

fn verify(claims: &Claims, found: &Checksums) -> S3Result<()> {
    let trailer = |name: &str| {
        let read =
            |headers: &http::HeaderMap| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        claims.trailers.as_ref().and_then(|trailers| trailers.read(read)).flatten()
    };
    let claimed = &claims.checksums;
    for (name, in_header, found) in [
        ("x-amz-checksum-crc32", &claimed.crc32, &found.crc32),
        ("x-amz-checksum-crc32c", &claimed.crc32c, &found.crc32c),
        ("x-amz-checksum-crc64nvme", &claimed.crc64nvme, &found.crc64nvme),
        ("x-amz-checksum-sha1", &claimed.sha1, &found.sha1),
        ("x-amz-checksum-sha256", &claimed.sha256, &found.sha256),
    ] {
        for claim in [in_header.clone(), trailer(name)].into_iter().flatten() {
            if found.as_ref() != Some(&claim) {
                return Err(s3_error!(BadDigest, "the body does not have the checksum that {name} says"));
            }
        }
    }
    Ok(())
}
