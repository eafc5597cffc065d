//! A stack deployed on an emulator by `scripts/deploy-local.sh`: the real template, programs and state machines. Only the
//! sandbox server runs in this process, behind a proxy that can make it fail.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use pvm_application::keys_admin;
use pvm_application::ports::{Machine, StopExecution};
use pvm_aws::clients::{self, Base, ClientSettings, StaticCredentials};
use pvm_aws::{Dynamo, MachineNames, Tables, Workflows};
use pvm_domain::ids::OwnerId;
use pvm_entry::System;
use pvm_sandboxd::{Config, Server, ServerHandle, Shutdown, StaticKeys};

use super::{Faults, repository};
use crate::api::Api;

/// Name of the stack.
pub const STACK: &str = "pvm-local";
const REGION: &str = "us-east-1";

/// A deployed stack, as one owner sees it. Clones are the same stack.
#[derive(Debug, Clone)]
pub struct AwsStack {
    /// Its client with the owner's key.
    pub api: Api,
    /// Whose that key is.
    pub owner: String,
    /// Faults of the VM service.
    pub faults: Faults,
    /// The key of the VM service.
    pub e2b_key: String,
    /// The sandbox server itself, past the proxy.
    pub e2b_url: String,
    /// The emulator's address.
    pub endpoint: String,
    /// The stack's outputs by name.
    pub outputs: BTreeMap<String, String>,
    /// Its programs, as they were deployed: `<home>/build/<Function>/bootstrap`.
    pub home: PathBuf,
    sandboxd: Arc<Mutex<Option<ServerHandle>>>,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn script(home: &Path) -> Command {
    let mut command = Command::new(repository().join("scripts/deploy-local.sh"));
    command.env("PVM_AWS_HOME", home).env_remove("AWS_ENDPOINT_URL");
    command
}

impl AwsStack {
    /// Builds and deploys into `home`, which keeps logs and what was built.
    ///
    /// # Panics
    /// Where that fails; the script has told why.
    pub async fn start(home: &Path) -> Self {
        std::fs::create_dir_all(home).unwrap();
        // What a run before this one left behind when it was killed.
        assert!(script(home).arg("stop").status().unwrap().success());
        let e2b_key = keys_admin::new_e2b_secret().unwrap();
        let mut config = Config::new(home.join("sandboxes"));
        config.listen.set_port(0);
        config.egress = crate::stack::open_loopback();
        config.authenticate = Arc::new(StaticKeys::new([(e2b_key.as_str(), "operator")]));
        let sandboxd = Server::start(config).await.unwrap();
        let e2b_url = format!("http://{}", sandboxd.address());
        let faults = Faults::start(&e2b_url).await;

        let port = free_port();
        let mut deploy = script(home);
        if std::env::var_os("PVM_AWS_BUILD").is_none() {
            // The suite's own build has compiled all that the programs consist of; `scripts/test.sh --full` has SAM build them.
            deploy.env("PVM_AWS_BUILD", "dev");
        }
        deploy
            .env("PVM_AWS_PORT", port.to_string())
            .env("PVM_AWS_E2B_API_URL", faults.url())
            .env("PVM_AWS_E2B_SANDBOX_URL", &e2b_url)
            .env("PVM_AWS_E2B_KEY", &e2b_key)
            // Who has the key of the deployment sets the limits of others.
            .env("PVM_AWS_PARAMETERS", "Operators=operator");
        let deployed = tokio::task::spawn_blocking(move || deploy.status().unwrap()).await.unwrap();
        assert!(deployed.success(), "scripts/deploy-local.sh failed; see {}", home.display());
        let read = |name: &str| std::fs::read_to_string(home.join(name)).unwrap();
        Self {
            api: Api::new(read("url").trim(), read("api-key").trim()),
            owner: "operator".to_owned(),
            faults,
            e2b_key,
            e2b_url,
            endpoint: format!("http://127.0.0.1:{port}"),
            outputs: serde_json::from_str(&read("stack.json")).unwrap(),
            home: home.to_owned(),
            sandboxd: Arc::new(Mutex::new(Some(sandboxd))),
        }
    }

    /// Ends the emulator, its functions and all VMs.
    pub async fn stop(&self) {
        assert!(script(&self.home).arg("stop").status().unwrap().success());
        let sandboxd = self.sandboxd.lock().unwrap().take();
        if let Some(sandboxd) = sandboxd {
            sandboxd.shutdown(Shutdown::KillAll).await;
        }
    }

    /// The same stack with a key of another owner, who has nothing yet.
    #[must_use]
    pub async fn for_owner(&self, owner: &str) -> Self {
        let tables = Tables {
            app: self.outputs["AppTableName"].clone(),
            events: self.outputs["EventsTableName"].clone(),
        };
        let store = Dynamo::new(self.base().await.dynamodb(), tables);
        let secret = keys_admin::new_secret().unwrap();
        let owner = OwnerId::parse(owner).unwrap();
        keys_admin::ensure(&store, &System, &owner, "story", &secret).await.unwrap();
        Self { api: self.api.operating(owner.as_str(), &secret), owner: owner.to_string(), ..self.clone() }
    }

    /// Stops an execution from outside, as an operator would in the console.
    pub async fn stop_execution(&self, machine: Machine, name: &str) {
        let names = MachineNames {
            partition: "aws".to_owned(),
            region: REGION.to_owned(),
            account: "000000000000".to_owned(),
            run_turn: format!("{STACK}-run-turn"),
            vm_lifecycle: format!("{STACK}-vm-lifecycle"),
        };
        Workflows::new(self.base().await.sfn(), names)
            .stop(machine, name, "stopped by the test")
            .await
            .unwrap();
    }

    /// The emulator as the account's root sees it.
    async fn base(&self) -> Base {
        let root = StaticCredentials { access_key: "test".to_owned(), secret_key: "test".to_owned() };
        clients::load(ClientSettings {
            region: Some(REGION.to_owned()),
            credentials: Some(root),
            dynamodb_url: Some(self.endpoint.clone()),
            sfn_url: Some(self.endpoint.clone()),
            ..ClientSettings::default()
        })
        .await
    }

    /// A function's program, as it was deployed.
    pub fn program(&self, function: &str) -> PathBuf {
        self.home.join("build").join(function).join("bootstrap")
    }

    /// Process ids of a function's running programs.
    pub fn processes(&self, function: &str) -> Vec<u32> {
        let named = format!("AWS_LAMBDA_FUNCTION_NAME={STACK}-{function}");
        let here = format!("AWS_ENDPOINT_URL={}", self.endpoint);
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        all.filter_map(|entry| {
            let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            let mut variables = environ.split(|byte| *byte == 0);
            let ours = variables.clone().any(|it| it == here.as_bytes());
            let it = variables.any(|it| it.starts_with(named.as_bytes()));
            (ours && it).then(|| entry.file_name().to_str()?.parse().ok()).flatten()
        })
        .collect()
    }
}
