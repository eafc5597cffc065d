//! A command as an answer shows it: with its output so far, whole where it fits.

use bytes::Bytes;
use pvm_application::commands::Live;
use pvm_application::error::AppResult;
use pvm_application::ports::{Chunk, GetObject};
use pvm_contracts::commands::{Command, OutputStream};
use pvm_domain::command::KeptOutput;
use pvm_domain::limits;
use pvm_entry::{Reply, reply};

use crate::output;

/// Each of the two streams gets half of what an answer holds.
const STREAM_BYTES: usize = limits::OUTPUT_INLINE_BYTES / 2;

/// Where the reader wants to go on; `None` shows the whole, cut in its middle.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Offsets {
    pub(super) stdout: Option<u64>,
    pub(super) stderr: Option<u64>,
}

struct Shown {
    text: String,
    next: u64,
    cut: bool,
}

/// 200 for a command that has ended, 202 for one that has not.
///
/// # Errors
/// Of the objects, where long output is kept.
pub(super) async fn reply(objects: &impl GetObject, live: Live, offsets: Offsets) -> AppResult<Reply> {
    let running = live.command.status == pvm_domain::command::CommandStatus::Running;
    let shown = command(objects, live, offsets).await?;
    Ok(if running { reply::accepted(&shown) } else { reply::ok(&shown) })
}

/// The command with its output.
///
/// # Errors
/// Of the objects, where long output is kept.
pub(super) async fn command(objects: &impl GetObject, live: Live, offsets: Offsets) -> AppResult<Command> {
    let stdout = shown(objects, &live, OutputStream::Stdout, offsets.stdout).await?;
    let stderr = shown(objects, &live, OutputStream::Stderr, offsets.stderr).await?;
    let (command, report) = (live.command, live.report);
    Ok(Command {
        command_id: command.command_id,
        command: command.spec.command,
        working_dir: command.spec.working_dir,
        user: command.spec.user,
        status: command.status,
        exit_code: command.exit_code,
        signal: command.signal,
        truncated: stdout.cut || stderr.cut,
        stdout: stdout.text,
        stderr: stderr.text,
        stdout_next: stdout.next,
        stderr_next: stderr.next,
        duration_ms: command.duration_ms.or(report.map(|report| report.duration_ms)),
        created_at: command.created_at,
        finished_at: command.finished_at,
    })
}

async fn shown(
    objects: &impl GetObject,
    live: &Live,
    stream: OutputStream,
    offset: Option<u64>,
) -> AppResult<Shown> {
    if let Some(from) = offset {
        let chunk = output::head(&chunk(objects, live, stream, from).await?, STREAM_BYTES);
        let (text, next) = output::text_of(&chunk);
        return Ok(Shown { text, next, cut: chunk.dropped > 0 || chunk.offset > from });
    }
    if let Some(report) = &live.report {
        // More may come: what does not fit is fetched from the offset given.
        let all = match stream {
            OutputStream::Stdout => &report.stdout,
            OutputStream::Stderr => &report.stderr,
        };
        let (text, next) = output::text_of(&output::head(all, STREAM_BYTES));
        return Ok(Shown { text, cut: all.dropped > 0 || next < all.total, next });
    }
    let kept = kept(live, stream);
    let whole = whole(objects, kept).await?;
    let (text, cut) = output::fitted(&String::from_utf8_lossy(&whole), STREAM_BYTES);
    Ok(Shown { text, next: kept.total_bytes, cut: cut || (whole.len() as u64) < kept.total_bytes })
}

/// A stream's bytes from `from` on, as far as they are known now.
///
/// # Errors
/// Of the objects, where long output is kept.
pub(super) async fn chunk(
    objects: &impl GetObject,
    live: &Live,
    stream: OutputStream,
    from: u64,
) -> AppResult<Chunk> {
    if let Some(report) = &live.report {
        return Ok(match stream {
            OutputStream::Stdout => report.stdout.clone(),
            OutputStream::Stderr => report.stderr.clone(),
        });
    }
    let kept = kept(live, stream);
    let whole = whole(objects, kept).await?;
    let total = whole.len() as u64;
    let start = from.min(total);
    let data = whole.slice(usize::try_from(start).unwrap_or(whole.len())..);
    Ok(Chunk { data, offset: start, next: total, total, dropped: kept.total_bytes.saturating_sub(total) })
}

fn kept(live: &Live, stream: OutputStream) -> &KeptOutput {
    match stream {
        OutputStream::Stdout => &live.command.stdout,
        OutputStream::Stderr => &live.command.stderr,
    }
}

async fn whole(objects: &impl GetObject, kept: &KeptOutput) -> AppResult<Bytes> {
    match &kept.object_key {
        Some(key) => Ok(objects.get(key).await?),
        None => Ok(Bytes::copy_from_slice(kept.text.as_bytes())),
    }
}
