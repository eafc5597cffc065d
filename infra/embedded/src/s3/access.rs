//! Who may do what: the holder of the credentials everything, the holder of a signed link what was signed.

use s3s::access::{S3Access, S3AccessContext};
use s3s::{S3Result, s3_error};

/// Asks for a signature, and for one that covers every `x-amz-` header.
#[derive(Debug)]
pub(super) struct SignedOnly;

#[async_trait::async_trait]
impl S3Access for SignedOnly {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        if context.credentials().is_none() {
            return Err(s3_error!(AccessDenied, "a signature is needed"));
        }
        // The holder of a link must not add metadata or the like that the signer did not agree to. s3s checks that
        // the signature fits the headers that it names, not that it names them all, as S3 does.
        let query = context.uri().query().unwrap_or_default();
        let Some((_, signed)) =
            form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "X-Amz-SignedHeaders")
        else {
            return Ok(());
        };
        let is_signed = |name: &str| signed.split(';').any(|one| one.eq_ignore_ascii_case(name));
        let amazon = |name: &str| name.starts_with("x-amz-") && name != "x-amz-content-sha256";
        match context.headers().keys().find(|name| amazon(name.as_str()) && !is_signed(name.as_str())) {
            Some(name) => Err(s3_error!(AccessDenied, "the header {} was not signed", name.as_str())),
            None => Ok(()),
        }
    }
}
