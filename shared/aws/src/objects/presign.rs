//! Requests that others make by themselves: downloads, and uploads whose size and hash the store enforces.

use std::time::Duration;

use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::presigning::{PresignedRequest, PresigningConfig};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use pvm_application::ports::{ObjectError, PresignObject, Presigned};

use super::{ABSENT, Objects, SHA256, checksum};

/// What the `filename*` parameter of `Content-Disposition` keeps as it is (RFC 8187).
const ATTRIBUTE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

fn good_for(time: Duration) -> Result<PresigningConfig, ObjectError> {
    PresigningConfig::expires_in(time).map_err(|error| ObjectError::Unavailable(error.into()))
}

fn signing(error: impl Into<BoxError>) -> ObjectError {
    ObjectError::Unavailable(anyhow::anyhow!(error.into()).context("a request could not be signed"))
}

/// `host` is sent by every client by itself and cannot be set in browsers.
fn presigned(signed: &PresignedRequest) -> Presigned {
    let headers = signed.headers().filter(|(name, _)| !name.eq_ignore_ascii_case("host"));
    Presigned {
        method: signed.method().to_owned(),
        url: signed.uri().to_owned(),
        headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
    }
}

/// `Content-Disposition` of a download: a plain name for old clients, the exact one for all others.
fn attachment(file_name: &str) -> String {
    let name = file_name.rsplit('/').next().unwrap_or(file_name);
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_. ".contains(c) { c } else { '_' }).collect();
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{}", utf8_percent_encode(name, ATTRIBUTE))
}

impl PresignObject for Objects {
    async fn presign_get(
        &self,
        key: &str,
        file_name: &str,
        time: Duration,
    ) -> Result<Presigned, ObjectError> {
        let request = self
            .signer
            .get_object()
            .bucket(&self.bucket)
            .key(key)
            .response_content_disposition(attachment(file_name))
            // Whatever somebody uploaded must not run as a page of the bucket's origin.
            .response_content_type("application/octet-stream");
        let signed = request.presigned(good_for(time)?).await.map_err(signing)?;
        Ok(presigned(&signed))
    }

    async fn presign_part(
        &self,
        key: &str,
        id: &str,
        number: u32,
        size: u64,
        time: Duration,
    ) -> Result<Presigned, ObjectError> {
        let length = i64::try_from(size).map_err(|error| ObjectError::Unavailable(error.into()))?;
        let number = i32::try_from(number).map_err(|error| ObjectError::Unavailable(error.into()))?;
        let request = self.signer.upload_part().bucket(&self.bucket).key(key).upload_id(id);
        let request = request.part_number(number).content_length(length);
        let signed = request.presigned(good_for(time)?).await.map_err(signing)?;
        Ok(presigned(&signed))
    }

    async fn presign_put(
        &self,
        key: &str,
        size: u64,
        sha256: Option<&str>,
        time: Duration,
    ) -> Result<Presigned, ObjectError> {
        let length = i64::try_from(size).map_err(|error| ObjectError::Unavailable(error.into()))?;
        // An object is written once: who sends the same request again learns that it is there.
        let request = self.signer.put_object().bucket(&self.bucket).key(key).content_length(length);
        let mut request = request.if_none_match(ABSENT);
        if let Some(sha256) = sha256 {
            request = request.checksum_sha256(checksum(sha256)?).metadata(SHA256, sha256);
        }
        let signed = request.presigned(good_for(time)?).await.map_err(signing)?;
        Ok(presigned(&signed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_keeps_its_name_in_any_script() {
        assert_eq!(
            attachment("reports/Übersicht \"1\".csv"),
            "attachment; filename=\"_bersicht _1_.csv\"; filename*=UTF-8''%C3%9Cbersicht%20%221%22.csv"
        );
    }
}
