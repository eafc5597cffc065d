//! A sandbox server and clients of it, ended with everything in it whatever a test does.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt as _;
use pvm_application::ports::{CreateVm as _, EndVm as _, FindVm as _, NewVm};
use pvm_e2b_wire::secret::Secret;
use pvm_sandbox::{VmClient, VmClientConfig};
use pvm_sandboxd::{Config, Server, ServerHandle, Shutdown, StaticKeys};

const KEY: &str = "e2b_0123456789012345678901234567890123456789";

/// What a test works with.
pub(crate) struct Bench {
    pub(crate) config: VmClientConfig,
    /// Uses the journal that envd keeps, where it does.
    pub(crate) client: VmClient,
    /// Keeps the journal by script.
    pub(crate) scripted: VmClient,
}

impl Bench {
    fn new(config: VmClientConfig) -> Self {
        let scripted = VmClientConfig { script_journal: true, ..config.clone() };
        Self {
            client: VmClient::new(config.clone()).unwrap(),
            scripted: VmClient::new(scripted).unwrap(),
            config,
        }
    }

    /// Both clients, with a name each.
    pub(crate) fn both(&self) -> [(&'static str, &VmClient); 2] {
        [("envd", &self.client), ("script", &self.scripted)]
    }

    /// Makes a VM of `project`.
    pub(crate) async fn vm(&self, project: &str) -> String {
        let vm = NewVm {
            egress: Vec::new(),
            project_id: project.to_owned(),
            template: std::env::var("PVM_TEST_TEMPLATE").ok().or_else(|| Some("host".to_owned())),
            env: BTreeMap::from([("FROM_PROJECT".to_owned(), "yes".to_owned())]),
            timeout_secs: 600,
        };
        self.client.create_vm(&vm).await.unwrap().vm_id
    }

    /// Where the server listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.config.api_url.trim_start_matches("http://").parse().unwrap()
    }
}

/// Runs a test, then ends all VMs of its deployment and the server.
pub(crate) async fn with_bench<F: Future<Output = ()>>(test: impl FnOnce(Arc<Bench>) -> F) {
    let folder = tempfile::tempdir().unwrap();
    let deployment = format!("test-{}", folder.path().file_name().unwrap().to_string_lossy());
    let mut server: Option<ServerHandle> = None;
    let config = if let Ok(url) = std::env::var("PVM_TEST_E2B_URL") {
        let key = std::env::var("PVM_TEST_E2B_KEY").expect("PVM_TEST_E2B_URL needs PVM_TEST_E2B_KEY");
        let address = url.trim_start_matches("http://").parse().unwrap();
        VmClientConfig::local(address, Secret::new(key), &deployment)
    } else {
        let mut config = Config::new(folder.path().join("sandboxes"));
        config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.authenticate = Arc::new(StaticKeys::new([(KEY, "test")]));
        let started = Server::start(config).await.unwrap();
        let address = started.address();
        server = Some(started);
        VmClientConfig::local(address, Secret::new(KEY), &deployment)
    };
    let bench = Arc::new(Bench::new(config));
    let outcome = AssertUnwindSafe(test(bench.clone())).catch_unwind().await;
    match server {
        Some(server) => server.shutdown(Shutdown::KillAll).await,
        None => {
            for vm in bench.client.vms(None).await.unwrap() {
                bench.client.kill_vm(&vm.vm_id).await.unwrap();
            }
        }
    }
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}
