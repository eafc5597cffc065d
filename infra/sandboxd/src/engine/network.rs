//! Egress rules of a sandbox, and their change while it runs.

use std::sync::Arc;

use pvm_e2b_wire::envd_http::InitRequest;
use pvm_e2b_wire::network::NetworkUpdate;

use super::{Engine, EngineError, Sandbox};
use crate::egress;
use crate::store::Authority;

impl Engine {
    /// Replaces all egress rules.
    pub(crate) async fn update_network(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        update: NetworkUpdate,
    ) -> Result<(), EngineError> {
        egress::check_rules(&update.egress).map_err(EngineError::Invalid)?;
        let needs_authority = !update.egress.rules.is_empty();
        let before = sandbox.with(|record| record.authority.is_some());
        sandbox.change("recording the network rules", |record| {
            record.allow_internet_access = update.allow_internet_access;
            record.network.get_or_insert_default().egress = update.egress;
            if needs_authority && record.authority.is_none() {
                record.authority = Some(authority_for(&record.id)?);
            }
            Ok(())
        })?;
        self.egress.rules_changed(sandbox);
        if needs_authority
            && !before
            && let Some(runtime) = sandbox.running()
        {
            let certificate = sandbox
                .with(|record| record.authority.as_ref().map(|authority| authority.certificate.clone()));
            let settings = InitRequest { ca_bundle: certificate, ..InitRequest::default() };
            runtime.envd.init(&settings).await.map_err(|error| {
                EngineError::at("making the sandbox trust its authority")(std::io::Error::other(error))
            })?;
        }
        Ok(())
    }
}

impl Engine {
    /// Voids every link to `port` of the sandbox that was made up to now.
    pub(crate) async fn revoke_links(&self, sandbox: &Arc<Sandbox>, port: u16) -> Result<(), EngineError> {
        let now = self.now_ms();
        sandbox.change("recording the revocation", |record| {
            record.links_void_up_to_ms.insert(port, now);
            Ok(())
        })?;
        // Links carry milliseconds: one made after the answer must be newer than the revocation.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        Ok(())
    }
}

/// A new certificate authority for one sandbox alone.
pub(super) fn authority_for(id: &str) -> Result<Authority, EngineError> {
    egress::new_authority(id).map_err(EngineError::at("making the sandbox's certificate authority"))
}
