//! What use cases need from outside, one capability to a trait.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use pvm_domain::Timestamp;
use pvm_domain::ids::{PrefixedId, ProjectId};
use serde::{Deserialize, Serialize};

/// The time. Injected, so that tests decide it.
pub trait Clock: Send + Sync {
    /// The time now.
    fn now(&self) -> Timestamp;
    /// Waits.
    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send;
}

/// Makes ids.
pub trait NewId: Send + Sync {
    /// A new id; ids made later sort later.
    fn new_id<I: PrefixedId>(&self) -> I;
}

/// Clock and ids together, which nearly every use case needs.
pub trait Ambient: Clock + NewId {}
impl<T: Clock + NewId> Ambient for T {}

/// A stream of bytes of any length.
pub type ByteStream = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

// ---------------------------------------------------------------------------------------------- objects (S3)

/// What went wrong in the file store.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// No such object.
    #[error("no such object")]
    NotFound,
    /// There is an object already where a new one was to be made.
    #[error("there is an object already")]
    Exists,
    /// What was sent cannot be taken; the text says why.
    #[error("{0}")]
    Refused(String),
    /// It could not be reached or failed; trying again is safe.
    #[error("the object store did not answer")]
    Unavailable(#[source] anyhow::Error),
}

/// A request that a client makes by itself, without our credentials.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Presigned {
    /// HTTP method.
    pub method: String,
    /// The URL; a secret until it expires.
    pub url: String,
    /// Headers that must be sent along.
    pub headers: Vec<(String, String)>,
}

/// An object's facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Bytes.
    pub size: u64,
    /// SHA-256 that was stored with it, hex.
    pub sha256: Option<String>,
}

/// Stores objects.
pub trait PutObject: Send + Sync {
    /// Stores bytes under `key`, with their SHA-256.
    fn put(
        &self,
        key: &str,
        bytes: Bytes,
        sha256: Option<&str>,
    ) -> impl Future<Output = Result<(), ObjectError>> + Send;
    /// Stores a stream of any length with bounded memory; answers size and SHA-256.
    fn put_stream(
        &self,
        key: &str,
        bytes: ByteStream,
    ) -> impl Future<Output = Result<ObjectInfo, ObjectError>> + Send;
    /// [`PutObject::put`], refused with [`ObjectError::Exists`] where there is an object already.
    fn put_new(
        &self,
        key: &str,
        bytes: Bytes,
        sha256: &str,
    ) -> impl Future<Output = Result<(), ObjectError>> + Send;
    /// [`PutObject::put_stream`], refused with [`ObjectError::Exists`] where there is an object already.
    fn put_new_stream(
        &self,
        key: &str,
        bytes: ByteStream,
    ) -> impl Future<Output = Result<ObjectInfo, ObjectError>> + Send;
}

/// A part of an upload in parts, as its sender names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadedPart {
    /// Its number, from 1.
    pub number: u32,
    /// The `ETag` that the store answered its upload with.
    pub etag: String,
}

/// Uploads in parts that others send by themselves.
pub trait UploadParts: Send + Sync {
    /// Begins one; answers its id.
    fn begin_parts(&self, key: &str) -> impl Future<Output = Result<String, ObjectError>> + Send;
    /// Makes the object of the parts. [`ObjectError::NotFound`] where the upload is over, [`ObjectError::Refused`]
    /// where the parts do not make an object, [`ObjectError::Exists`] where the object is there.
    fn complete_parts(
        &self,
        key: &str,
        id: &str,
        parts: &[UploadedPart],
    ) -> impl Future<Output = Result<(), ObjectError>> + Send;
    /// Gives one up, with its parts; one that is over is fine.
    fn abort_parts(&self, key: &str, id: &str) -> impl Future<Output = Result<(), ObjectError>> + Send;
}

/// Reads objects.
pub trait GetObject: Send + Sync {
    /// The whole object, for small ones.
    fn get(&self, key: &str) -> impl Future<Output = Result<Bytes, ObjectError>> + Send;
    /// The object as a stream, with its size.
    fn get_stream(&self, key: &str) -> impl Future<Output = Result<(u64, ByteStream), ObjectError>> + Send;
    /// The object's facts.
    fn head(&self, key: &str) -> impl Future<Output = Result<ObjectInfo, ObjectError>> + Send;
}

/// Deletes objects.
pub trait DeleteObject: Send + Sync {
    /// Deletes one; a missing one is fine.
    fn delete(&self, key: &str) -> impl Future<Output = Result<(), ObjectError>> + Send;
    /// Deletes up to `limit` objects whose key starts with `prefix`; answers how many went.
    fn delete_prefix(
        &self,
        prefix: &str,
        limit: u32,
    ) -> impl Future<Output = Result<u32, ObjectError>> + Send;
}

/// Signs requests for clients.
pub trait PresignObject: Send + Sync {
    /// A download, saved by browsers under `file_name`.
    fn presign_get(
        &self,
        key: &str,
        file_name: &str,
        good_for: Duration,
    ) -> impl Future<Output = Result<Presigned, ObjectError>> + Send;
    /// An upload of one part of exactly `size` bytes.
    fn presign_part(
        &self,
        key: &str,
        id: &str,
        number: u32,
        size: u64,
        good_for: Duration,
    ) -> impl Future<Output = Result<Presigned, ObjectError>> + Send;
    /// An upload of exactly `size` bytes, with the SHA-256 checked by the store where it is given. It makes an object
    /// and never changes one.
    fn presign_put(
        &self,
        key: &str,
        size: u64,
        sha256: Option<&str>,
        good_for: Duration,
    ) -> impl Future<Output = Result<Presigned, ObjectError>> + Send;
}

// ------------------------------------------------------------------------------------------ workflows (SFN)

/// What went wrong in the workflow engine.
#[derive(Debug, thiserror::Error)]
pub enum WorkflowError {
    /// It could not be reached or failed; trying again is safe.
    #[error("the workflow engine did not answer")]
    Unavailable(#[source] anyhow::Error),
}

/// Which state machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// Works off one user message.
    RunTurn,
    /// Sets a VM up or tears it down.
    VmLifecycle,
}

/// Starts executions.
pub trait StartExecution: Send + Sync {
    /// Starts `name` with `input`. A name that was started before (open or ended) is a success that starts nothing.
    fn start(
        &self,
        machine: Machine,
        name: &str,
        input: &serde_json::Value,
    ) -> impl Future<Output = Result<(), WorkflowError>> + Send;
}

/// Stops executions.
pub trait StopExecution: Send + Sync {
    /// Stops `name`; one that has ended or never was is fine.
    fn stop(
        &self,
        machine: Machine,
        name: &str,
        cause: &str,
    ) -> impl Future<Output = Result<(), WorkflowError>> + Send;
}

/// Answers tasks that wait for a token.
pub trait SendTask: Send + Sync {
    /// The task is done. Answers false where nobody waits for the token any more.
    fn send_success(
        &self,
        token: &str,
        output: &serde_json::Value,
    ) -> impl Future<Output = Result<bool, WorkflowError>> + Send;
}

// -------------------------------------------------------------------------------------------------- secrets

/// A secret's value. Does not show itself in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(String);

impl SecretValue {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself. Never put it into a log line or an error message.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// What went wrong in the secret store.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It could not be reached or failed; trying again is safe.
    #[error("the secret store did not answer")]
    Unavailable(#[source] anyhow::Error),
}

/// Reads values of secrets, by project and name; their references are records.
pub trait ReadSecrets: Send + Sync {
    /// The value; `None` where there is none.
    fn get_secret(
        &self,
        project: &ProjectId,
        name: &str,
    ) -> impl Future<Output = Result<Option<SecretValue>, SecretError>> + Send;
}

/// Keeps values of secrets.
pub trait KeepSecrets: Send + Sync {
    /// Stores a value, in place of the one before.
    fn put_secret(
        &self,
        project: &ProjectId,
        name: &str,
        value: SecretValue,
    ) -> impl Future<Output = Result<(), SecretError>> + Send;
    /// Forgets the value; a missing one is fine.
    fn delete_secret(
        &self,
        project: &ProjectId,
        name: &str,
    ) -> impl Future<Output = Result<(), SecretError>> + Send;
}

/// Asks for a project's workspace to be saved soon. Many requests within a few seconds make one save.
pub trait RequestSave: Send + Sync {
    /// Asks for an archive of the workspace to be built. Unlike a save it is asked for once, so a failure is told.
    fn request_archive(
        &self,
        _project_id: &ProjectId,
        _archive_id: &pvm_domain::ids::ArchiveId,
    ) -> impl Future<Output = Result<(), WorkflowError>> + Send {
        async { Err(WorkflowError::Unavailable(anyhow::anyhow!("nobody builds archives here"))) }
    }
    /// Notes that something under the workspace may have changed in the VM.
    fn request_save(&self, project_id: &pvm_domain::ids::ProjectId) -> impl Future<Output = ()> + Send;
}

// -------------------------------------------------------------------------------------------------- the VM

/// What went wrong with a VM.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// The VM does not exist any more (final).
    #[error("the VM is gone")]
    Gone,
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

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
}

/// A terminal to open.
#[derive(Debug, Clone)]
pub struct NewTerminal {
    /// The name by which it is found again.
    pub terminal_id: String,
    /// `user` or `root`.
    pub user: String,
    /// Absolute directory.
    pub working_dir: String,
    /// Its size.
    pub size: TerminalSize,
}

/// What comes from a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TerminalEvent {
    /// Output, as the program wrote it.
    Output(Bytes),
    /// Its shell has ended; nothing comes after this.
    Exit {
        /// Its exit code; -1 where a signal ended it.
        exit_code: i32,
    },
}

/// What comes from a terminal, in order.
pub type TerminalStream = Pin<Box<dyn Stream<Item = Result<TerminalEvent, VmError>> + Send>>;

/// Interactive terminals of a VM. They live as long as their shell, whoever watches.
pub trait Terminals: Send + Sync {
    /// Opens a terminal with a login shell.
    fn open_terminal(
        &self,
        vm_id: &str,
        terminal: &NewTerminal,
    ) -> impl Future<Output = Result<TerminalStream, VmError>> + Send;
    /// Watches a terminal that was opened before: what it has kept of its output first, then what comes.
    fn attach_terminal(
        &self,
        vm_id: &str,
        terminal_id: &str,
    ) -> impl Future<Output = Result<TerminalStream, VmError>> + Send;
    /// Types into it.
    fn type_into(
        &self,
        vm_id: &str,
        terminal_id: &str,
        bytes: Bytes,
    ) -> impl Future<Output = Result<(), VmError>> + Send;
    /// Changes its size.
    fn resize_terminal(
        &self,
        vm_id: &str,
        terminal_id: &str,
        size: TerminalSize,
    ) -> impl Future<Output = Result<(), VmError>> + Send;
    /// Ends it with all its processes; one that has ended is fine.
    fn end_terminal(
        &self,
        vm_id: &str,
        terminal_id: &str,
    ) -> impl Future<Output = Result<(), VmError>> + Send;
}

/// Pauses and ends VMs.
pub trait EndVm: Send + Sync {
    /// Pauses it; one that is paused already is fine.
    fn pause_vm(&self, vm_id: &str) -> impl Future<Output = Result<(), VmError>> + Send;
    /// Ends it and forgets it; one that is gone already is fine.
    fn kill_vm(&self, vm_id: &str) -> impl Future<Output = Result<(), VmError>> + Send;
}

/// A run of the VM's journal: what to start.
#[derive(Debug, Clone)]
pub struct RunSpec {
    /// Its id in the journal; starts at most once.
    pub run_id: String,
    /// Shell line for `bash -l -c`.
    pub command: String,
    /// Absolute directory.
    pub working_dir: String,
    /// Environment.
    pub env: std::collections::BTreeMap<String, String>,
    /// Standard input.
    pub stdin: Option<String>,
    /// `user` or `root`.
    pub user: String,
    /// Seconds until it is killed; `None` for services.
    pub timeout_secs: Option<u64>,
}

/// How a journaled run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Under way.
    Running,
    /// Ended by itself.
    Exited,
    /// Killed at its time limit.
    TimedOut,
    /// Killed on request.
    Killed,
    /// Its outcome cannot be known: the VM's boot ended in between.
    Lost,
}

/// Output of a run from an offset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chunk {
    /// The bytes.
    pub data: Bytes,
    /// Where they start in the stream.
    pub offset: u64,
    /// The offset to ask for next.
    pub next: u64,
    /// Bytes the stream has had so far.
    pub total: u64,
    /// Bytes cut from its middle.
    pub dropped: u64,
}

/// A report on a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunReport {
    /// How it stands.
    pub state: RunState,
    /// Exit code, where it exited.
    pub exit_code: Option<i32>,
    /// Signal that ended it.
    pub signal: Option<i32>,
    /// Milliseconds so far, or in all.
    pub duration_ms: u64,
    /// Standard output from the offset asked for.
    pub stdout: Chunk,
    /// Standard error from the offset asked for.
    pub stderr: Chunk,
}

/// Which output to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadFrom {
    /// Offset of standard output.
    pub stdout: u64,
    /// Offset of standard error.
    pub stderr: u64,
    /// At most this many bytes of each.
    pub limit: u64,
    /// Wait at most this long for something new.
    pub wait: Duration,
}

/// Runs commands exactly once, through the VM's run journal.
pub trait RunCommands: Send + Sync {
    /// Starts the run unless its id was started before, then waits up to `wait` for its end and reports with output
    /// from the beginning. Calling it again attaches; it never starts twice.
    fn start_run(
        &self,
        vm_id: &str,
        spec: &RunSpec,
        wait: Duration,
    ) -> impl Future<Output = Result<RunReport, VmError>> + Send;
    /// Reports on a run; `None` where the journal does not know it (it was never started in this VM).
    fn read_run(
        &self,
        vm_id: &str,
        run_id: &str,
        from: ReadFrom,
    ) -> impl Future<Output = Result<Option<RunReport>, VmError>> + Send;
    /// Kills the run's whole process group; an unknown or ended one is fine.
    fn kill_run(&self, vm_id: &str, run_id: &str) -> impl Future<Output = Result<(), VmError>> + Send;
}

/// An entry of a directory or of the workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmEntry {
    /// Path, absolute for listings, relative to the workspace for scans.
    pub path: String,
    /// Its last name.
    pub name: String,
    /// `file`, `directory` or `symlink`.
    pub kind: EntryKind,
    /// Bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner's name.
    pub owner: String,
    /// Group's name.
    pub group: String,
    /// Time of last change, in nanoseconds since 1970.
    pub modified_ns: i128,
    /// SHA-256 of the bytes, where asked for.
    pub sha256: Option<String>,
    /// Where a symlink points.
    pub symlink_target: Option<String>,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
}

/// What an entry of the workspace is to be.
pub enum NewContent {
    /// A file of these bytes.
    Bytes(Bytes),
    /// A file of `size` bytes that come as a stream.
    Stream {
        /// Bytes.
        size: u64,
        /// The bytes.
        bytes: ByteStream,
    },
    /// A symbolic link to this target.
    Link(String),
    /// Whatever it is, with other permission bits.
    Mode,
}

/// An entry of the workspace that is to be made.
#[derive(Debug)]
pub struct NewEntry {
    /// Its path, relative to the workspace.
    pub path: String,
    /// Permission bits; those of a link are not set.
    pub mode: u32,
    /// What it is to be.
    pub content: NewContent,
}

impl std::fmt::Debug for NewContent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Stream { size, .. } => write!(f, "a stream of {size} bytes"),
            Self::Link(target) => write!(f, "-> {target}"),
            Self::Mode => f.write_str("permission bits"),
        }
    }
}

/// Works with files inside a VM. Paths are absolute; `user` is `user` or `root`.
pub trait VmFiles: Send + Sync {
    /// Reads a whole file, refused when it is longer than `most` bytes.
    fn read_file(
        &self,
        vm_id: &str,
        path: &str,
        user: &str,
        most: u64,
    ) -> impl Future<Output = Result<Bytes, VmError>> + Send;
    /// Reads a file as a stream, with its size.
    fn read_file_stream(
        &self,
        vm_id: &str,
        path: &str,
        user: &str,
    ) -> impl Future<Output = Result<(u64, ByteStream), VmError>> + Send;
    /// Writes a file, its parents included.
    fn write_file(
        &self,
        vm_id: &str,
        path: &str,
        user: &str,
        bytes: Bytes,
    ) -> impl Future<Output = Result<(), VmError>> + Send;
    /// Writes a file from a stream of `size` bytes with bounded memory.
    fn write_file_stream(
        &self,
        vm_id: &str,
        path: &str,
        user: &str,
        size: u64,
        bytes: ByteStream,
    ) -> impl Future<Output = Result<(), VmError>> + Send;
    /// An entry's facts; `None` where there is none.
    fn stat(
        &self,
        vm_id: &str,
        path: &str,
        user: &str,
    ) -> impl Future<Output = Result<Option<VmEntry>, VmError>> + Send;
    /// Entries of a directory down to `depth` levels (1 is the directory itself).
    fn list_dir(
        &self,
        vm_id: &str,
        path: &str,
        user: &str,
        depth: u32,
    ) -> impl Future<Output = Result<Vec<VmEntry>, VmError>> + Send;
    /// Removes a file or a whole directory; a missing one is fine.
    fn remove(&self, vm_id: &str, path: &str, user: &str)
    -> impl Future<Output = Result<(), VmError>> + Send;
    /// Reads small files below the workspace by their relative paths, in this order. `None` for one that is not there, is
    /// no regular file, or has more than `most` bytes.
    fn read_many(
        &self,
        vm_id: &str,
        paths: &[String],
        most: u64,
    ) -> impl Future<Output = Result<Vec<Option<Bytes>>, VmError>> + Send {
        async move {
            let mut found = Vec::with_capacity(paths.len());
            for path in paths {
                let path = format!("{}/{path}", pvm_domain::file::WORKSPACE);
                match self.read_file(vm_id, &path, "root", most).await {
                    Ok(bytes) => found.push(Some(bytes)),
                    Err(VmError::NotFound(_) | VmError::Refused(_)) => found.push(None),
                    Err(error) => return Err(error),
                }
            }
            Ok(found)
        }
    }
    /// Whether there is a regular file at each of these paths, relative to the workspace.
    fn present(
        &self,
        vm_id: &str,
        paths: &[String],
    ) -> impl Future<Output = Result<Vec<bool>, VmError>> + Send {
        async move {
            let mut found = Vec::with_capacity(paths.len());
            for path in paths {
                let path = format!("{}/{path}", pvm_domain::file::WORKSPACE);
                let entry = self.stat(vm_id, &path, "root").await?;
                found.push(entry.is_some_and(|entry| entry.kind == EntryKind::File));
            }
            Ok(found)
        }
    }
    /// Makes entries below the workspace, in this order, owned by `user`, each whole or not at all, with the folders
    /// above them. Answers for each the reason why it could not be made; one that cannot does not stop the others.
    fn write_many(
        &self,
        vm_id: &str,
        entries: Vec<NewEntry>,
    ) -> impl Future<Output = Result<Vec<Option<String>>, VmError>> + Send {
        async move {
            let mut failures = Vec::with_capacity(entries.len());
            for entry in entries {
                let path = format!("{}/{}", pvm_domain::file::WORKSPACE, entry.path);
                let written = match entry.content {
                    NewContent::Bytes(bytes) => self.write_file(vm_id, &path, "user", bytes).await,
                    NewContent::Stream { size, bytes } => {
                        self.write_file_stream(vm_id, &path, "user", size, bytes).await
                    }
                    NewContent::Link(_) | NewContent::Mode => {
                        Err(VmError::Refused("this VM takes neither links nor permission bits".to_owned()))
                    }
                };
                failures.push(match written {
                    Ok(()) => None,
                    Err(VmError::Refused(why) | VmError::NotFound(why)) => Some(why),
                    Err(error) => return Err(error),
                });
            }
            Ok(failures)
        }
    }
    /// Everything below the workspace that is saved (`.pvmignore` and the default ignores left out), with hashes.
    fn scan_workspace(&self, vm_id: &str) -> impl Future<Output = Result<Vec<VmEntry>, VmError>> + Send;
}

/// Everything that one VM client can do, for use cases that need most of it.
pub trait VmAccess: ConnectVm + RunCommands + VmFiles {}
impl<T: ConnectVm + RunCommands + VmFiles> VmAccess for T {}
