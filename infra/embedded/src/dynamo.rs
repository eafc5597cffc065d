//! DynamoDB in this process: an engine over SQLite behind the SDK's own HTTP interface.
//!
//! Requests go from the SDK straight to the engine, without a socket. A listener would have to be guarded: the engine
//! checks no signatures and allows every web page to call it, so that any page open in a browser on this machine could
//! have read and written all records.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;
use dynoxide::{Database, DynoxideError};
use serde::Serialize;
use serde::de::DeserializeOwned;

const TARGET: &str = "DynamoDB_20120810.";
/// How often expired items are removed. Readers check the time themselves, so this only frees space.
const SWEEP: Duration = Duration::from_hours(1);

/// An embedded DynamoDB. Clones share one database.
#[derive(Clone)]
pub struct EmbeddedDynamo {
    database: Database,
}

impl std::fmt::Debug for EmbeddedDynamo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EmbeddedDynamo")
    }
}

impl EmbeddedDynamo {
    /// Opens the database in `file`, which is made if it is missing. Every commit is on disk when it is answered.
    ///
    /// # Errors
    /// When the file cannot be opened or is no database.
    pub fn open(file: &Path) -> anyhow::Result<Self> {
        let shown = file.display();
        let path = file.to_str().with_context(|| format!("the path {shown} is not UTF-8"))?;
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("{} cannot be made", folder.display()))?;
        }
        let database = Database::new(path).map_err(|error| anyhow::anyhow!(error.to_string()));
        let database = database.with_context(|| format!("the database {shown} cannot be opened"))?;
        Ok(Self { database })
    }

    /// A database in memory that ends with its last clone.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn in_memory() -> anyhow::Result<Self> {
        let database = Database::memory().map_err(|error| anyhow::anyhow!(error.to_string()))?;
        Ok(Self { database })
    }

    /// What carries the SDK's requests: for `ClientSettings::dynamodb_http`.
    pub fn http_client(&self) -> SharedHttpClient {
        SharedHttpClient::new(InProcess { database: self.database.clone() })
    }

    /// Removes expired items now; answers how many went.
    ///
    /// # Errors
    /// Of the database.
    pub async fn sweep(&self) -> anyhow::Result<usize> {
        let database = self.database.clone();
        let swept = tokio::task::spawn_blocking(move || database.sweep_ttl()).await?;
        swept.map_err(|error| anyhow::anyhow!(error.to_string()))
    }

    /// Removes expired items every hour, for as long as it is polled.
    pub async fn sweep_forever(&self) {
        loop {
            tokio::time::sleep(SWEEP).await;
            match self.sweep().await {
                Ok(0) => {}
                Ok(removed) => tracing::info!(removed, "records that had expired were removed"),
                Err(error) => {
                    tracing::warn!(%error, "expired records could not be removed; they are tried again in an hour");
                }
            }
        }
    }
}

#[derive(Clone)]
struct InProcess {
    database: Database,
}

impl std::fmt::Debug for InProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InProcess")
    }
}

impl HttpClient for InProcess {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for InProcess {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let database = self.database.clone();
        HttpConnectorFuture::new(async move {
            // The engine blocks: on its lock, and on the disk at every commit.
            let answered = tokio::task::spawn_blocking(move || answer(&database, &request)).await;
            answered.map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

fn answer(database: &Database, request: &HttpRequest) -> HttpResponse {
    let operation = request.headers().get("x-amz-target").and_then(|target| target.strip_prefix(TARGET));
    let body = request.body().bytes().and_then(|bytes| std::str::from_utf8(bytes).ok());
    let (status, json) = match dispatch(database, operation.unwrap_or_default(), body.unwrap_or_default()) {
        Ok(json) => (200, json),
        Err(error) => (error.status_code(), error.to_json()),
    };
    let status =
        StatusCode::try_from(status).unwrap_or(StatusCode::from(http::StatusCode::INTERNAL_SERVER_ERROR));
    let mut response = HttpResponse::new(status, SdkBody::from(json));
    response.headers_mut().insert("content-type", "application/x-amz-json-1.0");
    response
}

fn run<Request: DeserializeOwned, Answer: Serialize>(
    body: &str,
    call: impl FnOnce(Request) -> Result<Answer, DynoxideError>,
) -> Result<String, DynoxideError> {
    let request = serde_json::from_str(body).map_err(|error| {
        DynoxideError::ValidationException(format!("the request cannot be read: {error}"))
    })?;
    let answer = call(request)?;
    serde_json::to_string(&answer).map_err(|error| DynoxideError::InternalServerError(error.to_string()))
}

fn dispatch(database: &Database, operation: &str, body: &str) -> Result<String, DynoxideError> {
    match operation {
        "GetItem" => run(body, |request| database.get_item(request)),
        "PutItem" => run(body, |request| database.put_item(request)),
        "UpdateItem" => run(body, |request| database.update_item(request)),
        "DeleteItem" => run(body, |request| database.delete_item(request)),
        "Query" => run(body, |request| database.query(request)),
        "Scan" => run(body, |request| database.scan(request)),
        "BatchGetItem" => run(body, |request| database.batch_get_item(request)),
        "BatchWriteItem" => run(body, |request| database.batch_write_item(request)),
        "TransactGetItems" => run(body, |request| database.transact_get_items(request)),
        "TransactWriteItems" => run(body, |request| database.transact_write_items(request)),
        "CreateTable" => run(body, |request| database.create_table(request)),
        "DescribeTable" => run(body, |request| database.describe_table(request)),
        "ListTables" => run(body, |request| database.list_tables(request)),
        "DeleteTable" => run(body, |request| database.delete_table(request)),
        "UpdateTimeToLive" => run(body, |request| database.update_time_to_live(request)),
        "DescribeTimeToLive" => run(body, |request| database.describe_time_to_live(request)),
        other => Err(DynoxideError::ValidationException(format!(
            "the embedded DynamoDB has no operation {other:?}"
        ))),
    }
}
