//! The key layout of both tables, in one place (design section 5). Sort keys that are numbers are zero-padded so that
//! they sort as numbers. `#` separates parts; ids and owners cannot contain it.

use pvm_domain::Timestamp;
use pvm_domain::event::LogId;
use pvm_domain::fair_use::Resource;
use pvm_domain::file::WorkspacePath;
use pvm_domain::ids::{
    ApprovalId, ArchiveId, CommandId, ConversationId, FileId, OwnerId, ProjectId, RunId, ServiceId,
    ToolCallId,
};

use crate::store::{IndexKey, Key};

/// Sweeps are spread over this many index partitions, so that none is hot.
pub const SWEEP_SHARDS: u32 = 4;

fn key(pk: String, sk: impl Into<String>) -> Key {
    Key { pk, sk: sk.into() }
}

/// Partition of everything that belongs to a project.
pub fn project_partition(project: &ProjectId) -> String {
    format!("P#{project}")
}
/// Partition of everything that belongs to a conversation.
pub fn conversation_partition(conversation: &ConversationId) -> String {
    format!("C#{conversation}")
}
/// Partition of what belongs to an owner alone (also the GSI1 partition of their listings).
pub fn owner_partition(owner: &OwnerId) -> String {
    format!("U#{owner}")
}

/// The limits that an operator set for an owner.
pub fn owner_limits(owner: &OwnerId) -> Key {
    key(owner_partition(owner), "LIMITS")
}
/// How much of a resource an owner uses.
pub fn usage(owner: &OwnerId, resource: Resource) -> Key {
    key(owner_partition(owner), format!("USE#{}", resource.as_str()))
}
/// How often an owner did something within a minute of the clock.
pub fn usage_in_minute(owner: &OwnerId, resource: Resource, now: Timestamp) -> Key {
    let minute = now.as_second().div_euclid(60);
    key(owner_partition(owner), format!("USE#{}#{minute}", resource.as_str()))
}

/// A project.
pub fn project(project: &ProjectId) -> Key {
    key(project_partition(project), "META")
}
/// A member of a project.
pub fn member(project: &ProjectId, principal: &OwnerId) -> Key {
    key(project_partition(project), format!("MEMBER#{principal}"))
}
/// A file by path.
pub fn file(project: &ProjectId, path: &WorkspacePath) -> Key {
    key(project_partition(project), format!("F#{path}"))
}
/// The pointer from a file's id to its path.
pub fn file_pointer(project: &ProjectId, file: &FileId) -> Key {
    key(project_partition(project), format!("FID#{file}"))
}
/// A file that was deleted while a VM may still have it.
pub fn file_tombstone(project: &ProjectId, path: &WorkspacePath) -> Key {
    key(project_partition(project), format!("DEL#{path}"))
}
/// An earlier version of a file.
pub fn file_version(project: &ProjectId, file: &FileId, number: u64) -> Key {
    key(project_partition(project), format!("{}{number:010}", file_versions(file)))
}
/// A file that the VM deleted and that can be had back.
pub fn deleted_file(project: &ProjectId, file: &FileId) -> Key {
    key(project_partition(project), format!("GONE#{file}"))
}
/// How the sort keys of a file's earlier versions start.
pub fn file_versions(file: &FileId) -> String {
    format!("FV#{file}#")
}
/// A symbolic link by path.
pub fn link(project: &ProjectId, path: &WorkspacePath) -> Key {
    key(project_partition(project), format!("LN#{path}"))
}
/// What the project's VM has and the store cannot take.
pub fn unstored(project: &ProjectId) -> Key {
    key(project_partition(project), "VM#UNSTORED")
}
/// The proof that the project's VM has its files.
pub fn manifest(project: &ProjectId) -> Key {
    key(project_partition(project), "VM#MANIFEST")
}
/// An archive of the workspace.
pub fn archive(project: &ProjectId, archive: &ArchiveId) -> Key {
    key(project_partition(project), format!("ARC#{archive}"))
}
/// A service.
pub fn service(project: &ProjectId, service: &ServiceId) -> Key {
    key(project_partition(project), format!("SVC#{service}"))
}
/// How the sort keys of what stopped services left in a VM start.
pub const SERVICE_LEFTOVERS: &str = "SVCLEFT#";
/// What a stopped service left in a VM.
pub fn service_leftover(project: &ProjectId, service: &ServiceId) -> Key {
    key(project_partition(project), format!("{SERVICE_LEFTOVERS}{service}"))
}
/// The claim of a service's name.
pub fn service_name(project: &ProjectId, name: &str) -> Key {
    key(project_partition(project), format!("SVCNAME#{name}"))
}
/// The VM lease.
pub fn vm_lease(project: &ProjectId) -> Key {
    key(project_partition(project), "VM#LEASE")
}
/// The VM recipe.
pub fn vm_recipe(project: &ProjectId) -> Key {
    key(project_partition(project), "VM#SPEC")
}
/// A workspace lock.
pub fn lock(project: &ProjectId, worktree: &str) -> Key {
    key(project_partition(project), format!("LOCK#{worktree}"))
}
/// The last write of a file by an agent's tool; `path_hash` is the SHA-256 of its path.
pub fn edit(project: &ProjectId, path_hash: &str) -> Key {
    key(project_partition(project), format!("EDIT#{path_hash}"))
}
/// A command.
pub fn command(project: &ProjectId, command: &CommandId) -> Key {
    key(project_partition(project), format!("CMD#{command}"))
}
/// When a project's old commands are next looked for.
pub fn upkeep(project: &ProjectId) -> Key {
    key(project_partition(project), "UPKEEP")
}
/// A tool call that outlived the request that made it.
pub fn tool_job(project: &ProjectId, call: &str) -> Key {
    key(project_partition(project), format!("JOB#{call}"))
}
/// A secret's reference.
pub fn secret(project: &ProjectId, name: &str) -> Key {
    key(project_partition(project), format!("SEC#{name}"))
}
/// An agent's immutable version.
pub fn agent_version(owner: &OwnerId, agent: &str, version: u64) -> Key {
    key(owner_partition(owner), format!("A#{agent}@{version:08}"))
}
/// An agent's newest version.
pub fn agent_latest(owner: &OwnerId, agent: &str) -> Key {
    key(owner_partition(owner), format!("A#{agent}@latest"))
}
/// An API key, found by the hash of the key.
pub fn api_key(hash: &str) -> Key {
    key(format!("K#{hash}"), "META")
}
/// The install's signing key.
pub fn signing_key() -> Key {
    key("SYS#signing".to_owned(), "META")
}
/// A conversation.
pub fn conversation(conversation: &ConversationId) -> Key {
    key(conversation_partition(conversation), "META")
}
/// A client's own name for a conversation.
pub fn conversation_alias(owner: &OwnerId, alias: &str) -> Key {
    key(owner_partition(owner), format!("CID#{alias}"))
}
/// A run.
pub fn run(conversation: &ConversationId, run: &RunId) -> Key {
    key(conversation_partition(conversation), format!("RUN#{run}"))
}
/// A step of a run.
pub fn step(conversation: &ConversationId, run: &RunId, step: u32) -> Key {
    key(conversation_partition(conversation), format!("S#{run}#{step:06}"))
}
/// A tool call.
pub fn tool_call(conversation: &ConversationId, call: &ToolCallId) -> Key {
    key(conversation_partition(conversation), format!("T#{call}"))
}
/// A message, by its place in the conversation.
pub fn message(conversation: &ConversationId, place: u64) -> Key {
    key(conversation_partition(conversation), format!("M#{place:010}"))
}
/// A user's message that waits to be taken up.
pub fn inbox(conversation: &ConversationId, entry: &str) -> Key {
    key(conversation_partition(conversation), format!("IN#{entry}"))
}
/// An approval.
pub fn approval(conversation: &ConversationId, approval: &ApprovalId) -> Key {
    key(conversation_partition(conversation), format!("AP#{approval}"))
}
/// The memory of an `Idempotency-Key`. The client's key is hashed, so that no character of it can forge a key.
pub fn idempotency(owner: &OwnerId, hash: &str) -> Key {
    key(owner_partition(owner), format!("IDEM#{hash}"))
}

/// The head of a log in the table of records: holds the last `seq`.
pub fn log_head(log: &LogId) -> Key {
    key(log_partition(log), "LOG")
}
/// Partition of a log, in both tables.
pub fn log_partition(log: &LogId) -> String {
    match log {
        LogId::Conversation(id) => conversation_partition(id),
        LogId::Project(id) => project_partition(id),
    }
}
/// An event of a log, in the table of events.
pub fn event(log: &LogId, seq: u64) -> Key {
    key(log_partition(log), format!("E#{seq:012}"))
}
/// A delta, in the table of events.
pub fn delta(message: &str, attempt: u32, chunk: u32) -> Key {
    key(delta_partition(message), format!("{attempt:04}#{chunk:06}"))
}
/// Partition of a message's deltas, in the table of events.
pub fn delta_partition(message: &str) -> String {
    format!("D#{message}")
}

/// GSI1 place of a project: listed by its owner, newest change last.
pub fn project_listing(owner: &OwnerId, updated: Timestamp, project: &ProjectId) -> IndexKey {
    IndexKey { pk: owner_partition(owner), sk: format!("P#{:013}#{project}", updated.as_millisecond()) }
}
/// GSI1 place of a membership: listed by its principal.
pub fn member_listing(principal: &OwnerId, project: &ProjectId) -> IndexKey {
    IndexKey { pk: owner_partition(principal), sk: format!("MEMBER#{project}") }
}
/// GSI1 place of an API key: listed by its owner.
pub fn api_key_listing(owner: &OwnerId, key_id: &str) -> IndexKey {
    IndexKey { pk: owner_partition(owner), sk: format!("K#{key_id}") }
}
/// GSI1 place of an agent's newest version: listed by its owner.
pub fn agent_listing(owner: &OwnerId, agent: &str) -> IndexKey {
    IndexKey { pk: owner_partition(owner), sk: format!("A#{agent}") }
}
/// GSI1 place of a conversation: listed by its project, newest last.
pub fn conversation_listing(project: &ProjectId, conversation: &ConversationId) -> IndexKey {
    IndexKey { pk: project_partition(project), sk: format!("C#{conversation}") }
}

/// What a sweep looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sweep {
    /// VM leases, by when something is due.
    Vm,
    /// Runs that are under way, by when they are overdue.
    Run,
    /// Projects whose deletion is under way.
    Deletion,
    /// Files with announced uploads, by when the first of these is given up.
    Upload,
    /// Projects, by when their old commands are looked for.
    Upkeep,
    /// Files that the VM deleted, by when that was.
    DeletedFile,
}

/// GSI2 partition of one shard of a sweep.
pub fn sweep_partition(sweep: Sweep, shard: u32) -> String {
    let name = match sweep {
        Sweep::Vm => "VM",
        Sweep::Run => "RUN",
        Sweep::Deletion => "DEL",
        Sweep::Upload => "UPL",
        Sweep::Upkeep => "KEEP",
        Sweep::DeletedFile => "GONE",
    };
    format!("SWEEP#{name}#{shard}")
}
/// GSI2 place of a record that the sweep should look at from `due` on.
pub fn sweep(sweep: Sweep, due: Timestamp, id: &str) -> IndexKey {
    let shard =
        id.bytes().fold(0u32, |sum, b| sum.wrapping_mul(31).wrapping_add(u32::from(b))) % SWEEP_SHARDS;
    IndexKey { pk: sweep_partition(sweep, shard), sk: format!("{:013}#{id}", due.as_millisecond()) }
}
/// The highest GSI2 sort key that is due at `now`.
pub fn sweep_up_to(now: Timestamp) -> String {
    format!("{:013}#~", now.as_millisecond())
}
