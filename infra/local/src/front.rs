//! The two doors' front ends: the API's listener, and who may use the E2B door.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use pvm_api::router::Router;
use pvm_application::keys;
use pvm_application::keys_admin;
use pvm_application::store::ReadStore;
use pvm_authorizer::{Authorizer, HttpJson, Issuer, IssuerSettings};
use pvm_aws::Dynamo;
use pvm_domain::key::ApiKey;
use pvm_domain::project::Scope;
use pvm_entry::System;
use pvm_sandboxd::{Authenticate, AuthenticateFuture};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::App;
use crate::terminal;

/// Headers must have come within this time.
const HEADERS: Duration = Duration::from_secs(30);

/// The API in this process.
pub type Front = Router<App, HttpJson>;

/// The API over these adapters.
///
/// # Errors
/// Settings of the token issuer that cannot be used.
pub fn router(app: Arc<App>) -> anyhow::Result<Front> {
    let issuer = match IssuerSettings::of(&app.settings)? {
        Some(settings) => Some(Issuer::new(settings, HttpJson::new()?)),
        None => None,
    };
    let authorizer = Authorizer::new(app.store.clone(), System, app.signer.clone(), issuer);
    Ok(Router::new(app, authorizer))
}

/// Serves the API until `stop`; connections that are busy then end with their answer, or with the process.
pub async fn serve(listener: TcpListener, router: Arc<Front>, stop: CancellationToken) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: others will end soon.
                tracing::warn!(%error, "a connection could not be taken");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let (router, stop, terminals) = (Arc::clone(&router), stop.clone(), connections.clone());
        connections.spawn(async move {
            let ending = stop.clone();
            let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let (router, terminals, stop) = (Arc::clone(&router), terminals.clone(), ending.clone());
                async move {
                    let reply = match terminal::project_of(request.uri().path()) {
                        Some(_) => terminal::serve(&router, request, &terminals, &stop).await,
                        None => router.serve(request).await,
                    };
                    Ok::<_, Infallible>(reply)
                }
            });
            let mut server = Builder::new(TokioExecutor::new());
            server.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS);
            let connection = server.serve_connection_with_upgrades(TokioIo::new(stream), service);
            tokio::pin!(connection);
            tokio::select! {
                served = connection.as_mut() => if let Err(error) = served {
                    tracing::debug!(error, "a connection broke");
                },
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    drop(connection.await);
                }
            }
        });
    }
    connections.close();
    connections.wait().await;
}

/// Opens the E2B door to API keys that may change everything of their owner's.
#[derive(Debug)]
pub struct Keys {
    store: Dynamo,
}

impl Keys {
    /// The keys of this store.
    pub fn new(store: Dynamo) -> Self {
        Self { store }
    }

    async fn owner(&self, key: &str) -> Option<String> {
        let found = self.store.get::<ApiKey>(&keys::api_key(&keys_admin::hash(key))).await;
        let key =
            found.inspect_err(|error| tracing::warn!(?error, "a key could not be looked up")).ok()??;
        let wide = key.scope >= Scope::Write && key.projects.is_none();
        (wide && key.is_good_at(jiff::Timestamp::now())).then(|| key.owner.to_string())
    }
}

impl Authenticate for Keys {
    fn authenticate<'a>(&'a self, key: &'a str) -> AuthenticateFuture<'a> {
        Box::pin(self.owner(key))
    }
}
