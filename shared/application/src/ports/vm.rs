//! The VM and its provider.

use std::future::Future;
use std::time::Duration;

use pvm_domain::Timestamp;

use super::secrets::SecretValue;

/// What went wrong with a VM.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// The VM does not exist any more (final).
    #[error("the VM is gone")]
    Gone,
    /// Its provider has paused it. Nothing of it is lost, and what was asked for was not done: whoever needs it goes
    /// through the set-up, which resumes it.
    #[error("the VM is paused")]
    Paused,
    /// The server asks to slow down.
    #[error("the VM's server is busy")]
    Busy {
        /// When to come back.
        retry_after: Duration,
    },
    /// It could not be reached, or the answer was lost: nobody knows whether it was done.
    #[error("the VM's server did not answer")]
    Unavailable(#[source] anyhow::Error),
    /// The VM has no such file or process.
    #[error("the VM has no {0}")]
    NotFound(String),
    /// The VM said no; the text says why.
    #[error("{0}")]
    Refused(String),
}

/// A VM as its provider tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmInfo {
    /// The provider's id.
    pub vm_id: String,
    /// Whether it is paused.
    pub paused: bool,
    /// The project in its metadata.
    pub project_id: Option<String>,
    /// The template it was made from.
    pub template: String,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Disk in MiB.
    pub disk_mib: u64,
    /// When its provider ends or pauses it.
    pub ends_at: Option<Timestamp>,
    /// When a port of it was last used from outside, where its provider tells: only [`FindVm::vm`] does.
    pub last_traffic: Option<Timestamp>,
}

/// What a VM can do and how it is kept apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmTraits {
    /// By name, such as `docker` or `systemd`; empty where it is not known.
    pub capabilities: std::collections::BTreeMap<String, bool>,
    /// How it is kept apart from others; `None` where it is not known.
    pub isolation: Option<String>,
}

/// What to make.
#[derive(Debug, Clone)]
pub struct NewVm {
    /// The project, written into the VM's metadata beside our deployment id.
    pub project_id: String,
    /// Template; the server's default if none.
    pub template: Option<String>,
    /// Environment of all its processes.
    pub env: std::collections::BTreeMap<String, String>,
    /// Seconds until the provider pauses it unless it is used.
    pub timeout_secs: u64,
    /// What its egress proxy adds to requests from its first one on.
    pub egress: Vec<HeaderRule>,
}

/// A header that the egress proxy sets on requests for one host. It is never told inside the VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderRule {
    /// The host: a name, or `name:port` where TLS is spoken on another port than 443.
    pub host: String,
    /// The header, lower case.
    pub header: String,
    /// Its value.
    pub value: SecretValue,
}

/// Tells the egress proxy of a VM what to add to requests.
pub trait SetEgress: Send + Sync {
    /// Puts these rules in force at once, in place of all before.
    fn set_egress(
        &self,
        vm_id: &str,
        rules: &[HeaderRule],
    ) -> impl Future<Output = Result<(), VmError>> + Send;
}

/// Makes VMs.
pub trait CreateVm: Send + Sync {
    /// Makes a VM. It has no idempotency: look with [`FindVm`] first after a lost answer.
    fn create_vm(&self, vm: &NewVm) -> impl Future<Output = Result<VmInfo, VmError>> + Send;
}

/// Finds VMs.
pub trait FindVm: Send + Sync {
    /// A VM by id; `None` where it is gone for certain.
    fn vm(&self, vm_id: &str) -> impl Future<Output = Result<Option<VmInfo>, VmError>> + Send;
    /// Every VM of our deployment, of `project` where given. An error is never "none".
    fn vms(&self, project: Option<&str>) -> impl Future<Output = Result<Vec<VmInfo>, VmError>> + Send;
}

/// Wakes VMs and keeps them awake.
pub trait ConnectVm: Send + Sync {
    /// Resumes the VM if it is paused and gives it at least `timeout_secs` from now.
    fn connect_vm(
        &self,
        vm_id: &str,
        timeout_secs: u64,
    ) -> impl Future<Output = Result<VmInfo, VmError>> + Send;
    /// The boot id of its kernel or init: a new one means that its processes were lost.
    fn boot_id(&self, vm_id: &str) -> impl Future<Output = Result<String, VmError>> + Send;
    /// Whether its provider still has the VM, which is not woken for that. One that does not tell is believed to.
    fn is_there(&self, _vm_id: &str) -> impl Future<Output = Result<bool, VmError>> + Send {
        std::future::ready(Ok(true))
    }
    /// Makes sure that links can be signed, asking the VM's server only where what signs them is not known yet. Wakes a
    /// paused VM: for ready ones only.
    fn know_links(&self, vm_id: &str) -> impl Future<Output = Result<(), VmError>> + Send {
        let _ = vm_id;
        std::future::ready(Ok(()))
    }
    /// The URL of a port of the VM, with a signed link's query where it is private. See [`ConnectVm::know_links`].
    fn port_url(&self, vm_id: &str, port: u16) -> String;
    /// As [`ConnectVm::port_url`], good for `secs` seconds where the server has links that expire.
    fn port_link(&self, vm_id: &str, port: u16, _secs: u64) -> String {
        self.port_url(vm_id, port)
    }
    /// Voids every link to a port that was made up to now.
    fn revoke_links(&self, _vm_id: &str, _port: u16) -> impl Future<Output = Result<(), VmError>> + Send {
        std::future::ready(Err(VmError::Refused(
            "This VM's server has no links that could be revoked.".to_owned(),
        )))
    }
    /// What the VM uses right now; `None` where its server does not tell.
    fn meter(&self, _vm_id: &str) -> impl Future<Output = Result<Option<VmUse>, VmError>> + Send {
        std::future::ready(Ok(None))
    }
    /// What is known of the VM's kind without asking it.
    fn traits(&self, _vm_id: &str) -> VmTraits {
        VmTraits::default()
    }
}

/// What a VM uses at a moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VmUse {
    /// Virtual CPUs.
    pub cpus: u32,
    /// Use of all of them, in percent.
    pub cpu_percent: f64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Memory in use, in bytes.
    pub memory_used_bytes: u64,
    /// Disk in bytes.
    pub disk_bytes: u64,
    /// Disk in use, in bytes.
    pub disk_used_bytes: u64,
}

/// Pauses and ends VMs.
pub trait EndVm: Send + Sync {
    /// Pauses it; one that is paused already is fine.
    fn pause_vm(&self, vm_id: &str) -> impl Future<Output = Result<(), VmError>> + Send;
    /// Ends it and forgets it; one that is gone already is fine.
    fn kill_vm(&self, vm_id: &str) -> impl Future<Output = Result<(), VmError>> + Send;
}
