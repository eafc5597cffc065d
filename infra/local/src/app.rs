//! The adapters of an embedded install, wired once.

use std::net::SocketAddr;
use std::time::Duration;

use pvm_application::ports::{RequestSave, WorkflowError};
use pvm_aws::{Dynamo, FileSecrets, Objects, Workflows};
use pvm_domain::ids::{ArchiveId, ProjectId};
use pvm_e2b_wire::secret::Secret;
use pvm_entry::{Settings, Signer, System, Wiring};
use pvm_models::{BedrockClient, Library, ModelSettings, Models, Providers, Replay};
use pvm_sandbox::{VmClient, VmClientConfig};
use pvm_tools::Registry;
use tokio::sync::mpsc::UnboundedSender;

/// The registry over this install's adapters.
pub type Tools = Registry<Dynamo, Workflows, VmClient, System>;

/// Every adapter of the install.
#[derive(Debug, Clone)]
pub struct App {
    /// The settings.
    pub settings: Settings,
    /// Records and events.
    pub store: Dynamo,
    /// File objects.
    pub objects: Objects,
    /// The workflow engine.
    pub workflow: Workflows,
    /// The VMs.
    pub vm: VmClient,
    /// Values of projects' secrets: a file each.
    pub secrets: FileSecrets,
    /// The models.
    pub models: Models,
    /// The tools.
    pub tools: Tools,
    /// Who saves workspaces.
    pub saver: Saver,
    /// Time and ids.
    pub ambient: System,
    /// Signs cursors and tickets.
    pub signer: Signer,
}

/// Hands requests to save over to the worker.
#[derive(Debug, Clone)]
pub struct Saver {
    ask: UnboundedSender<ProjectId>,
    ask_archive: UnboundedSender<(ProjectId, ArchiveId)>,
}

impl RequestSave for Saver {
    async fn request_archive(
        &self,
        project_id: &ProjectId,
        archive_id: &ArchiveId,
    ) -> Result<(), WorkflowError> {
        let asked = self.ask_archive.send((project_id.clone(), archive_id.clone()));
        asked.map_err(|_| WorkflowError::Unavailable(anyhow::anyhow!("the process is ending")))
    }

    async fn request_save(&self, project_id: &ProjectId) {
        // The worker is gone only while the process ends, which saves everything.
        drop(self.ask.send(project_id.clone()));
    }
}

/// What an [`App`] is made of.
#[derive(Debug)]
pub struct Parts {
    /// The settings.
    pub settings: Settings,
    /// Records and events.
    pub store: Dynamo,
    /// File objects.
    pub objects: Objects,
    /// The workflow engine.
    pub workflow: Workflows,
    /// Signs cursors and tickets.
    pub signer: Signer,
    /// Bedrock, where it is set up.
    pub bedrock: Option<BedrockClient>,
    /// Where the embedded E2B door listens.
    pub e2b_addr: SocketAddr,
    /// Key of that door.
    pub e2b_api_key: String,
    /// Where requests to save go.
    pub ask_save: UnboundedSender<ProjectId>,
    /// Where requests for archives go.
    pub ask_archive: UnboundedSender<(ProjectId, ArchiveId)>,
}

/// Wires the adapters.
///
/// # Errors
/// A setting or a recording that cannot be used.
pub fn build(parts: Parts) -> anyhow::Result<App> {
    let vm = VmClient::new(vm_config(&parts))?;
    let keys = std::collections::BTreeMap::new();
    let providers =
        Providers { bedrock: parts.bedrock.clone(), ..pvm_entry::providers(&parts.settings, &keys)? };
    let models = Models::new(models(&parts.settings)?).with_providers(providers)?;
    let tools = Registry::new(parts.store.clone(), parts.workflow.clone(), vm.clone(), System);
    let secrets = FileSecrets::new(parts.settings.home.join("secrets"));
    Ok(App {
        secrets,
        settings: parts.settings,
        store: parts.store,
        objects: parts.objects,
        workflow: parts.workflow,
        vm,
        models,
        tools,
        saver: Saver { ask: parts.ask_save, ask_archive: parts.ask_archive },
        ambient: System,
        signer: parts.signer,
    })
}

/// The embedded door, unless the settings name another E2B.
fn vm_config(parts: &Parts) -> VmClientConfig {
    let settings = &parts.settings;
    match &settings.e2b_api_key {
        // A shell in which E2B's SDK was pointed at the embedded door starts the next install as well.
        Some(key) if !is_door(settings.e2b_api_url.as_deref(), parts.e2b_addr) => {
            pvm_entry::vm_provider(settings, Secret::new(key.reveal()))
        }
        _ => {
            let key = Secret::new(parts.e2b_api_key.clone());
            VmClientConfig::local(parts.e2b_addr, key, &settings.deployment_id)
        }
    }
}

/// Whether a URL leads to the door at `door`.
fn is_door(url: Option<&str>, door: SocketAddr) -> bool {
    let Some(url) = url.and_then(|url| url::Url::parse(url).ok()) else { return false };
    let is_here = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => ip.is_loopback() || door.ip() == ip,
        Some(url::Host::Ipv6(ip)) => ip.is_loopback() || door.ip() == ip,
        None => false,
    };
    is_here && url.port_or_known_default() == Some(door.port())
}

fn models(settings: &Settings) -> anyhow::Result<ModelSettings> {
    let replay = Replay { library: Library::shipped()?, pace: Duration::ZERO };
    Ok(ModelSettings { default_model: settings.default_model.clone(), replay })
}

impl Wiring for App {
    type Store = Dynamo;
    type Objects = Objects;
    type Workflow = Workflows;
    type Vm = VmClient;
    type Secrets = FileSecrets;
    type Models = Models;
    type Tools = Tools;
    type Saver = Saver;
    type Ambient = System;

    fn settings(&self) -> &Settings {
        &self.settings
    }
    fn signer(&self) -> &Signer {
        &self.signer
    }
    fn store(&self) -> &Dynamo {
        &self.store
    }
    fn objects(&self) -> &Objects {
        &self.objects
    }
    fn workflow(&self) -> &Workflows {
        &self.workflow
    }
    fn vm(&self) -> &VmClient {
        &self.vm
    }
    fn secrets(&self) -> &FileSecrets {
        &self.secrets
    }
    fn models(&self) -> &Models {
        &self.models
    }
    fn tools(&self) -> &Tools {
        &self.tools
    }
    fn saver(&self) -> &Saver {
        &self.saver
    }
    fn ambient(&self) -> &System {
        &self.ambient
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_door_is_known_by_any_of_its_names() {
        let door = SocketAddr::from(([127, 0, 0, 1], 8788));
        for url in ["http://127.0.0.1:8788", "http://localhost:8788/", "http://[::1]:8788"] {
            assert!(is_door(Some(url), door), "{url}");
        }
        for url in ["http://127.0.0.1:8789", "https://api.e2b.app", "http://10.0.0.5:8788", "8788"] {
            assert!(!is_door(Some(url), door), "{url}");
        }
        assert!(!is_door(None, door));
    }
}
