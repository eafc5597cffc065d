//! Noting a command's end: small output in the record, all of it (up to 8 MiB a stream) as an object.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pvm_domain::command::{Command, CommandStatus, KeptOutput};
use pvm_domain::{limits, text};

use crate::error::AppResult;
use crate::ports::{Ambient, Chunk, PutObject, ReadFrom, RunCommands, RunReport, RunState};
use crate::store::{StoreError, Tx, WriteStore};

/// What a shell exits with where a command is there and cannot be run.
const CANNOT_RUN: i32 = 126;

/// Which of the two streams.
#[derive(Clone, Copy)]
enum Stream {
    Out,
    Err,
}

/// Ends a command that its VM has ended.
///
/// # Errors
/// Of the store, the objects or the VM; the next look does it again.
pub(super) async fn with_report<S: WriteStore, O: PutObject, V: RunCommands, A: Ambient>(
    store: &S,
    objects: &O,
    vm: &V,
    ambient: &A,
    vm_id: &str,
    mut command: Command,
    report: RunReport,
) -> AppResult<Command> {
    command.status = match report.state {
        RunState::Running | RunState::Exited => CommandStatus::Exited,
        RunState::TimedOut => CommandStatus::TimedOut,
        RunState::Killed => CommandStatus::Killed,
        RunState::Lost => CommandStatus::Lost,
    };
    command.exit_code = report.exit_code;
    command.signal = report.signal;
    command.duration_ms = Some(report.duration_ms);
    command.stdout = keep(objects, vm, vm_id, &command, report.stdout, Stream::Out).await?;
    command.stderr = keep(objects, vm, vm_id, &command, report.stderr, Stream::Err).await?;
    commit(store, ambient, command).await
}

/// Ends a command whose output nobody can have: it was never started, or its VM is gone.
///
/// # Errors
/// Of the store.
pub(super) async fn unstarted<S: WriteStore, A: Ambient>(
    store: &S,
    ambient: &A,
    mut command: Command,
    status: CommandStatus,
) -> AppResult<Command> {
    command.status = status;
    commit(store, ambient, command).await
}

/// Ends a command that its VM refused to start, as a shell would that cannot run what it was told: the reason is its error
/// output.
///
/// # Errors
/// Of the store.
pub(super) async fn refused<S: WriteStore, A: Ambient>(
    store: &S,
    ambient: &A,
    mut command: Command,
    why: String,
) -> AppResult<Command> {
    command.status = CommandStatus::Exited;
    command.exit_code = Some(CANNOT_RUN);
    command.duration_ms = Some(0);
    let (total_bytes, (text, truncated)) =
        (why.len() as u64, text::head_and_tail(&why, limits::OUTPUT_IN_RECORD_BYTES));
    command.stderr = KeptOutput { text, total_bytes, truncated, object_key: None };
    commit(store, ambient, command).await
}

async fn commit<S: WriteStore, A: Ambient>(
    store: &S,
    ambient: &A,
    mut command: Command,
) -> AppResult<Command> {
    command.finished_at = Some(ambient.now());
    match store.commit(Tx::new().update(&mut command)).await {
        Ok(_) => Ok(command),
        // Somebody else noted the end, or asked for a kill that came too late; the record decides.
        Err(StoreError::Conflict { .. }) => {
            let mut known = super::get::load(store, &command.project_id, &command.command_id).await?;
            if known.status == CommandStatus::Running {
                let (version, asked) = (known.version, known.kill_requested);
                known = Command { version, kill_requested: asked, ..command };
                store.commit(Tx::new().update(&mut known)).await?;
            }
            Ok(known)
        }
        Err(other) => Err(other.into()),
    }
}

async fn keep<O: PutObject, V: RunCommands>(
    objects: &O,
    vm: &V,
    vm_id: &str,
    command: &Command,
    first: Chunk,
    stream: Stream,
) -> AppResult<KeptOutput> {
    let total = first.total;
    let whole = rest(vm, vm_id, command, first, stream).await?;
    // A record holds text; bytes that are none are kept as they are beside it.
    let in_record = total as usize <= limits::OUTPUT_IN_RECORD_BYTES && std::str::from_utf8(&whole).is_ok();
    let (shown, cut) = text::head_and_tail(&String::from_utf8_lossy(&whole), limits::OUTPUT_IN_RECORD_BYTES);
    let object_key = if in_record {
        None
    } else {
        let name = match stream {
            Stream::Out => "stdout",
            Stream::Err => "stderr",
        };
        let key = format!("c/{}/{}/{name}", command.project_id, command.command_id);
        objects.put(&key, whole.clone(), None).await?;
        Some(key)
    };
    Ok(KeptOutput {
        text: shown,
        total_bytes: total,
        truncated: cut || (whole.len() as u64) < total,
        object_key,
    })
}

/// Reads on from `first` to the end of what the journal kept.
async fn rest<V: RunCommands>(
    vm: &V,
    vm_id: &str,
    command: &Command,
    first: Chunk,
    stream: Stream,
) -> AppResult<Bytes> {
    let mut next = first.next;
    let total = first.total;
    if next >= total {
        return Ok(first.data);
    }
    let mut all = BytesMut::from(&first.data[..]);
    while next < total && all.len() < limits::OUTPUT_KEPT_BYTES {
        let (stdout, stderr) = match stream {
            Stream::Out => (next, u64::MAX >> 1),
            Stream::Err => (u64::MAX >> 1, next),
        };
        let from =
            ReadFrom { stdout, stderr, limit: limits::OUTPUT_INLINE_BYTES as u64, wait: Duration::ZERO };
        let Some(report) = vm.read_run(vm_id, command.command_id.as_str(), from).await? else { break };
        let chunk = match stream {
            Stream::Out => report.stdout,
            Stream::Err => report.stderr,
        };
        if chunk.next <= next {
            break;
        }
        all.extend_from_slice(&chunk.data);
        next = chunk.next;
    }
    Ok(all.freeze())
}
