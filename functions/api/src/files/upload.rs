//! `POST /api/projects/{project_id}/files`: bytes in the body (octet-stream or multipart), or JSON for a presigned upload.

use bytes::Bytes;
use lambda_http::{Request, RequestExt};
use pvm_application::error::{AppError, AppResult, ErrorCode};
use pvm_application::files::upload::{self, Announced, NewUpload, Way};
use pvm_application::idempotency::Claim;
use pvm_application::ports::{Ambient, PresignObject, PutObject, UploadParts};
use pvm_application::store::WriteStore;
use pvm_contracts::files::{CreateUpload, File, SignedRequest, Upload, UploadParts as SignedParts};
use pvm_domain::file::WorkspacePath;
use pvm_domain::ids::ProjectId;
use pvm_domain::key::Principal;
use pvm_domain::limits;
use pvm_entry::{Reply, principal, reply, request};
use sha2::{Digest, Sha256};

use crate::files::{multipart, signed, signed_for};

/// A file that came in the body.
pub(super) struct Sent {
    pub(super) path: String,
    pub(super) mode: Option<String>,
    pub(super) bytes: Bytes,
}

/// Uploads a file, or makes its presigned upload.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(
    store: &impl WriteStore,
    objects: &(impl PutObject + PresignObject + UploadParts),
    ambient: &impl Ambient,
    request: Request,
) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let project_id: ProjectId = request::path_id(&request, "project_id")?;
    match request::media_type(&request).as_str() {
        "multipart/form-data" => {
            let sent = multipart::read(&request).await?;
            inline(store, objects, ambient, &request, &principal, &project_id, sent).await
        }
        "application/octet-stream" => {
            let sent = octets(&request)?;
            inline(store, objects, ambient, &request, &principal, &project_id, sent).await
        }
        "" | "application/json" => {
            presigned(store, objects, ambient, &request, &principal, &project_id).await
        }
        other => Err(unsupported(other)),
    }
}

fn unsupported(media_type: &str) -> AppError {
    let detail = format!(
        "The body is `{media_type}`; send the bytes as application/octet-stream with `?path=`, a form as \
         multipart/form-data, or JSON {{path, size}} for a presigned upload."
    );
    AppError::new(ErrorCode::UnsupportedMedia, detail)
}

fn octets(request: &Request) -> AppResult<Sent> {
    let query = request::Query::of(request, &["path", "mode"])?;
    let path =
        query.text("path").ok_or_else(|| AppError::invalid("path", "is missing from the query"))?.to_owned();
    let mode = query.text("mode").map(str::to_owned);
    Ok(Sent { path, mode, bytes: Bytes::copy_from_slice(request.body()) })
}

async fn inline(
    store: &impl WriteStore,
    objects: &impl PutObject,
    ambient: &impl Ambient,
    request: &Request,
    principal: &Principal,
    project_id: &ProjectId,
    sent: Sent,
) -> AppResult<Reply> {
    let upload =
        NewUpload { path: WorkspacePath::parse("path", &sent.path)?, mode: mode(sent.mode.as_deref())? };
    let claim = claim(request, principal, &upload, &sent.bytes)?;
    let claim = claim.as_ref();
    let file =
        upload::inline(store, objects, ambient, principal, project_id, claim, upload, sent.bytes).await?;
    let (location, version) = (format!("{}/{}", request.raw_http_path(), file.file_id), file.version);
    Ok(reply::with_version(reply::created(&File::from(file), &location), version))
}

/// A form's boundary differs from try to try, so what must be equal at a replay is the file itself.
fn claim(
    request: &Request,
    principal: &Principal,
    upload: &NewUpload,
    bytes: &[u8],
) -> AppResult<Option<Claim>> {
    let hash = hex::encode(Sha256::digest(bytes));
    request::claim(request, principal, format!("{}\n{:?}\n{hash}", upload.path, upload.mode).as_bytes())
}

async fn presigned(
    store: &impl WriteStore,
    objects: &(impl PresignObject + UploadParts),
    ambient: &impl Ambient,
    request: &Request,
    principal: &Principal,
    project_id: &ProjectId,
) -> AppResult<Reply> {
    let CreateUpload { path, size, sha256, mode: bits, in_parts } = request::json(request)?;
    let upload = NewUpload { path: WorkspacePath::parse("path", &path)?, mode: mode(bits.as_deref())? };
    let claim = request::claim(request, principal, request.body())?;
    let announced = Announced { size, sha256, in_parts };
    let claim = claim.as_ref();
    let (file, way) =
        upload::presigned(store, objects, ambient, principal, project_id, claim, upload, announced).await?;
    let location = format!("{}/{}", request.raw_http_path(), file.file_id);
    let (upload, parts) = shown(way, ambient);
    Ok(reply::created(&Upload { file: file.into(), upload, parts }, &location))
}

fn shown(way: Way, clock: &impl Ambient) -> (Option<SignedRequest>, Option<SignedParts>) {
    match way {
        Way::Whole(request) => (Some(signed(request, clock)), None),
        Way::Parts(parts) => {
            let each = |request| signed_for(request, clock, limits::UPLOAD_PARTS_SECS);
            let requests = parts.requests.into_iter().map(each).collect();
            (None, Some(SignedParts { part_size: parts.part_size, requests }))
        }
    }
}

/// Permission bits from their octal text.
fn mode(text: Option<&str>) -> AppResult<Option<u32>> {
    let Some(text) = text else { return Ok(None) };
    let digits = text.strip_prefix('0').filter(|rest| rest.len() == 3).unwrap_or(text);
    match u32::from_str_radix(digits, 8) {
        Ok(bits) if digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit()) => Ok(Some(bits)),
        _ => Err(AppError::invalid("mode", "must be three octal digits such as 644")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permission_bits_are_octal() {
        assert_eq!(mode(Some("755")).unwrap(), Some(0o755));
        assert_eq!(mode(Some("0644")).unwrap(), Some(0o644));
        assert_eq!(mode(None).unwrap(), None);
        for bad in ["", "7", "888", "07777", "rwx", "+77"] {
            assert_eq!(mode(Some(bad)).unwrap_err().field.as_deref(), Some("mode"), "{bad:?}");
        }
    }
}
