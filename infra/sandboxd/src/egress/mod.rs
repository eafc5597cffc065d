//! The way out of a sandbox: an HTTP proxy, served on a unix socket in the sandbox's folder and reached inside at
//! 127.0.0.1:3128. There is no other way: the sandbox's network namespace has a loopback only.

mod addresses;
mod authority;
mod cidr;
mod gate;
mod intercept;
mod policy;
mod serve;
mod settings;
mod socks;
mod upstream;

use std::collections::HashMap;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};

pub(crate) use authority::new_authority;
pub use cidr::{Cidr, CidrError};
pub(crate) use gate::Gate;
pub(crate) use policy::{Policy, check_rules};
pub use settings::{EgressSettings, UpstreamProxy};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::engine::Sandbox;

/// Name of the socket in the sandbox's `egress` folder.
pub(crate) const SOCKET: &str = "egress.sock";

/// Connections from inside beyond those that lead outside: they get answers too, such as that there are too many. All
/// others wait inside until one of them ends.
const SPARE_CONNECTIONS: usize = 64;

/// Accepts a connection from inside once there is a place for it.
async fn accept(
    listener: &UnixListener,
    places: &Arc<Semaphore>,
) -> std::io::Result<(UnixStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

/// What all sandboxes' proxies share.
#[derive(Debug)]
pub(crate) struct Egress {
    settings: EgressSettings,
    /// Trusts what the host trusts.
    tls: Arc<rustls::ClientConfig>,
    /// TLS identities of intercepted hosts, by sandbox and host name.
    identities: Mutex<HashMap<(String, String), Arc<rustls::ServerConfig>>>,
}

impl Egress {
    pub(crate) fn new(settings: EgressSettings) -> std::io::Result<Self> {
        let tls = upstream::tls_client(settings.ca_file.as_deref())?;
        Ok(Self { settings, tls, identities: Mutex::default() })
    }

    /// Serves a sandbox's way out until its process is gone or the server stops.
    pub(crate) fn serve(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        tasks: &TaskTracker,
        gone: CancellationToken,
        stopping: &CancellationToken,
    ) -> std::io::Result<()> {
        let folder = std::fs::File::open(sandbox.folder.egress())?;
        let path = format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd());
        // Left by an earlier server or an earlier start.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        // Connected to from inside, by an id that the host does not know.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
        let (egress, sandbox, stopping) = (Arc::clone(self), Arc::clone(sandbox), stopping.clone());
        let connections = tasks.clone();
        let places = Arc::new(Semaphore::new(self.settings.connections.saturating_add(SPARE_CONNECTIONS)));
        tasks.spawn(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = accept(&listener, &places) => accepted,
                    () = gone.cancelled() => break,
                    () = stopping.cancelled() => break,
                };
                match accepted {
                    Ok((stream, place)) => {
                        let (egress, sandbox) = (Arc::clone(&egress), Arc::clone(&sandbox));
                        let (gone, stopping) = (gone.clone(), stopping.clone());
                        connections.spawn(async move {
                            // Given back when it ends or becomes a tunnel, of which the gate allows only so many.
                            let _place = place;
                            tokio::select! {
                                () = serve::connection(&egress, &sandbox, stream) => {}
                                () = gone.cancelled() => {}
                                () = stopping.cancelled() => {}
                            }
                        });
                    }
                    Err(error) => {
                        // Out of descriptors: give others time to close some.
                        tracing::warn!(sandbox.id = sandbox.id(), %error, "the egress proxy cannot accept");
                        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    }
                }
            }
            egress.forget(sandbox.id());
        });
        Ok(())
    }

    /// Applies a sandbox's changed rules to what is open as well.
    pub(crate) fn rules_changed(&self, sandbox: &Sandbox) {
        self.forget(sandbox.id());
        sandbox.gate.set_policy(sandbox.with(Policy::of));
    }

    fn forget(&self, id: &str) {
        let mut identities = self.identities.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        identities.retain(|(sandbox, _), _| sandbox != id);
    }
}
