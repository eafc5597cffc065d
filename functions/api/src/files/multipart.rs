//! A file sent as a form: the part `file`, and optionally `path` and `mode`.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use lambda_http::Request;
use pvm_application::error::{AppError, AppResult, ErrorCode};
use pvm_entry::request::{self, Query};

use crate::files::upload::Sent;

/// The most bytes of a text part.
const TEXT_BYTES: u64 = 4096;

/// Reads the form. Without a `path` part or parameter the file goes under its own name; a `path` that ends with `/`
/// names the folder it goes into.
///
/// # Errors
/// `bad_request` for a broken form, `invalid` for a part that is missing, unknown or comes twice.
pub(super) async fn read(request: &Request) -> AppResult<Sent> {
    let query = Query::of(request, &["path", "mode"])?;
    let boundary = request::header(request, &CONTENT_TYPE).map(multer::parse_boundary);
    let boundary = boundary.and_then(Result::ok).ok_or_else(|| broken("its boundary is missing"))?;
    let body = Bytes::copy_from_slice(request.body());
    let whole = futures::stream::once(async move { Ok::<_, std::io::Error>(body) });
    let limits = multer::SizeLimit::new().for_field("path", TEXT_BYTES).for_field("mode", TEXT_BYTES);
    let constraints = multer::Constraints::new().size_limit(limits);
    let mut form = multer::Multipart::with_constraints(whole, boundary, constraints);
    let (mut path, mut mode, mut file) = (None, None, None);
    while let Some(part) = form.next_field().await.map_err(refused)? {
        let name = part.name().unwrap_or_default().to_owned();
        let twice = match name.as_str() {
            "path" => path.replace(part.text().await.map_err(refused)?).is_some(),
            "mode" => mode.replace(part.text().await.map_err(refused)?).is_some(),
            "file" => {
                let own = part.file_name().map(str::to_owned);
                file.replace((own, part.bytes().await.map_err(refused)?)).is_some()
            }
            _ => {
                return Err(AppError::invalid(
                    name,
                    "is not a part of this form; it takes file, path and mode",
                ));
            }
        };
        if twice {
            return Err(AppError::invalid(name, "must not come twice; upload files one by one"));
        }
    }
    let (own, bytes) = file.ok_or_else(|| AppError::invalid("file", "is missing from the form"))?;
    let path = path.or_else(|| query.text("path").map(str::to_owned));
    let mode = mode.or_else(|| query.text("mode").map(str::to_owned));
    Ok(Sent { path: place(path, own)?, mode, bytes })
}

fn place(path: Option<String>, own: Option<String>) -> AppResult<String> {
    // Some browsers send the whole path of the user's machine.
    let own = own.map(|name| name.rsplit(['/', '\\']).next().unwrap_or_default().to_owned());
    match (path, own) {
        (Some(folder), Some(name)) if folder.ends_with('/') => Ok(format!("{folder}{name}")),
        (Some(path), _) => Ok(path),
        (None, Some(name)) if !name.is_empty() => Ok(name),
        (None, _) => Err(AppError::invalid("path", "is missing: the file part has no name either")),
    }
}

fn broken(why: &str) -> AppError {
    AppError::new(ErrorCode::BadRequest, format!("The form cannot be read: {why}."))
}

fn refused(error: multer::Error) -> AppError {
    match error {
        multer::Error::FieldSizeExceeded { field_name, .. } => {
            AppError::invalid(field_name.unwrap_or_default(), "is too long")
        }
        other => broken(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use lambda_http::Body;

    use super::*;

    fn form(parts: &[(&str, &str)]) -> Request {
        let mut body = String::new();
        for (head, content) in parts {
            body.push_str(&format!("--XX\r\nContent-Disposition: form-data; {head}\r\n\r\n{content}\r\n"));
        }
        body.push_str("--XX--\r\n");
        let request =
            lambda_http::http::Request::builder().header("content-type", "multipart/form-data; boundary=XX");
        request.body(Body::from(body)).unwrap()
    }

    #[tokio::test]
    async fn a_form_says_where_its_file_goes() {
        let sent = read(&form(&[("name=\"file\"; filename=\"a.csv\"", "1,2")])).await.unwrap();
        assert_eq!((sent.path.as_str(), &sent.bytes[..]), ("a.csv", &b"1,2"[..]));
        let sent =
            read(&form(&[("name=\"path\"", "data/"), ("name=\"file\"; filename=\"C:\\x\\a.csv\"", "1")]))
                .await;
        assert_eq!(sent.unwrap().path, "data/a.csv");
        let sent = read(&form(&[("name=\"file\"; filename=\"a\"", "1"), ("name=\"path\"", "b")])).await;
        assert_eq!(sent.unwrap().path, "b");
    }

    #[tokio::test]
    async fn a_broken_form_is_told_apart_from_a_wrong_part() {
        let field =
            |parts: &'static [(&str, &str)]| async move { read(&form(parts)).await.err().unwrap().field };
        assert_eq!(field(&[]).await.as_deref(), Some("file"));
        assert_eq!(field(&[("name=\"flie\"", "1")]).await.as_deref(), Some("flie"));
        assert_eq!(field(&[("name=\"file\"", "1")]).await.as_deref(), Some("path"));
        let twice = &[("name=\"file\"; filename=\"a\"", "1"), ("name=\"file\"; filename=\"b\"", "2")];
        assert_eq!(field(twice).await.as_deref(), Some("file"));
        let cut =
            lambda_http::http::Request::builder().header("content-type", "multipart/form-data; boundary=XX");
        let cut =
            cut.body(Body::from("--XX\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nabc")).unwrap();
        assert_eq!(read(&cut).await.err().unwrap().code, ErrorCode::BadRequest);
    }
}
