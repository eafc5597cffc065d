//! Lets web pages use signed links: a link is all the permission there is, so pages of any origin may.

use std::future::Future;
use std::pin::Pin;

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::Service;
use s3s::service::S3Service;
use s3s::{Body, HttpError};

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, PUT, POST, DELETE");
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "etag, content-length, content-range, content-disposition, last-modified, x-amz-meta-sha256, \
     x-amz-checksum-sha256, x-amz-request-id",
);
const ANY: HeaderValue = HeaderValue::from_static("*");

/// The S3 service with answers to browsers' questions.
#[derive(Clone)]
pub(super) struct Cors {
    inner: S3Service,
}

impl Cors {
    pub(super) fn new(inner: S3Service) -> Self {
        Self { inner }
    }
}

impl Service<Request<Incoming>> for Cors {
    type Response = Response<Body>;
    type Error = HttpError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let from_page = request.headers().contains_key(ORIGIN);
        if request.method() == Method::OPTIONS
            && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD)
        {
            let mut answer = Response::new(Body::empty());
            *answer.status_mut() = StatusCode::NO_CONTENT;
            let asked = request.headers().get(ACCESS_CONTROL_REQUEST_HEADERS).cloned();
            let headers = answer.headers_mut();
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
            headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("3600"));
            if let Some(asked) = asked {
                headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked);
            }
            return Box::pin(std::future::ready(Ok(answer)));
        }
        let service = self.inner.clone();
        Box::pin(async move {
            let mut answer = service.call(request.map(Body::from)).await?;
            if from_page {
                answer.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
                answer.headers_mut().insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
            }
            Ok(answer)
        })
    }
}
