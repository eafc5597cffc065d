//! A carrier of DynamoDB's requests that loses answers and throttles on demand.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// It is done, but its answer is lost.
    AnswerLost,
    /// It is refused as too fast.
    Throttled,
}

/// Carries requests to another carrier, with the faults that are queued.
#[derive(Debug, Clone)]
pub(crate) struct Faulty {
    inner: SharedHttpClient,
    next: Arc<Mutex<VecDeque<Fault>>>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Faulty {
    pub(crate) fn new(inner: SharedHttpClient) -> Self {
        Self { inner, next: Arc::default(), seen: Arc::default() }
    }

    /// The next requests meet these.
    pub(crate) fn queue(&self, faults: impl IntoIterator<Item = Fault>) {
        self.next.lock().unwrap().extend(faults);
    }

    /// The operations that were asked for since the last call.
    pub(crate) fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

impl HttpClient for Faulty {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let inner = self.inner.http_connector(settings, components);
        SharedHttpConnector::new(Connector { inner, faulty: self.clone() })
    }
}

#[derive(Debug)]
struct Connector {
    inner: SharedHttpConnector,
    faulty: Faulty,
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let operation = request.headers().get("x-amz-target").unwrap_or_default().to_owned();
        self.faulty.seen.lock().unwrap().push(operation);
        let fault = self.faulty.next.lock().unwrap().pop_front();
        match fault {
            None | Some(Fault::None) => self.inner.call(request),
            Some(Fault::AnswerLost) => {
                let done = self.inner.call(request);
                HttpConnectorFuture::new(async move {
                    done.await?;
                    Err(ConnectorError::io("the connection was reset".into()))
                })
            }
            Some(Fault::Throttled) => {
                let body =
                    r#"{"__type":"com.amazonaws.dynamodb.v20120810#ThrottlingException","message":"slow"}"#;
                let mut answer = HttpResponse::new(StatusCode::try_from(400).unwrap(), SdkBody::from(body));
                answer.headers_mut().insert("content-type", "application/x-amz-json-1.0");
                HttpConnectorFuture::ready(Ok(answer))
            }
        }
    }
}
