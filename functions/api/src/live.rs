//! Event streams that show a program's output as it comes, of a command or a service: what is known is sent, then it is
//! looked for more, with a heartbeat where nothing comes and an end before the function's own.

use std::collections::VecDeque;

use bytes::Bytes;
use futures::stream;
use pvm_application::error::{AppError, AppResult};
use pvm_application::ports::Chunk;
use pvm_contracts::commands::{CommandOutput, OutputStream};
use pvm_domain::{Timestamp, limits};
use pvm_entry::{Reply, problem, reply};
use serde::Serialize;

use crate::output::text_of;
use crate::sse;

/// Bytes of one stream in one event.
pub(crate) const PIECE: usize = 64 * 1024;

/// What a stream shows.
pub(crate) trait Source: Send + 'static {
    /// The time.
    fn now(&self) -> Timestamp;
    /// Puts what is known and was not sent yet into `out`.
    fn tell(&mut self, out: &mut Out) -> impl Future<Output = AppResult<()>> + Send;
    /// Waits for something new, for less than a heartbeat.
    fn look(&mut self) -> impl Future<Output = AppResult<()>> + Send;
    /// Puts what an error means for the viewer into `out`; the stream ends with it.
    fn fail(&mut self, error: &AppError, out: &mut Out) {
        out.event("error", &problem::document(error, "", ""));
    }
}

/// What is ready to be sent.
#[derive(Debug, Default)]
pub(crate) struct Out {
    queue: VecDeque<Bytes>,
    is_over: bool,
}

impl Out {
    /// An event.
    pub(crate) fn event(&mut self, name: &str, data: &impl Serialize) {
        self.queue.push_back(sse::event(None, name, data));
    }

    /// Nothing comes after what is in it now.
    pub(crate) fn end(&mut self) {
        self.is_over = true;
    }

    /// The part of a chunk that lies beyond `next`, in pieces; moves `next` on. A character that is cut in two at the
    /// end waits for its rest.
    pub(crate) fn output(&mut self, stream: OutputStream, chunk: &Chunk, next: &mut u64) {
        let skip = usize::try_from(next.saturating_sub(chunk.offset)).unwrap_or(usize::MAX);
        let mut data = chunk.data.slice(skip.min(chunk.data.len())..);
        let mut offset = chunk.offset.max(*next);
        while !data.is_empty() {
            let piece = data.slice(..PIECE.min(data.len()));
            let end = offset + piece.len() as u64;
            let (text, after) = text_of(&Chunk { data: piece, offset, next: end, total: end, dropped: 0 });
            self.event("output", &CommandOutput { stream, data: text, offset });
            let taken = usize::try_from(after - offset).unwrap_or(usize::MAX);
            let is_last = end == offset + data.len() as u64;
            data = data.slice(taken.min(data.len())..);
            offset = after;
            if is_last {
                break;
            }
        }
        *next = offset.max(*next);
    }
}

/// The answer that streams `source`, after `first`.
pub(crate) fn reply(source: impl Source, first: impl FnOnce(&mut Out)) -> Reply {
    let now = source.now();
    let mut out = Out { queue: VecDeque::from([sse::retry()]), is_over: false };
    first(&mut out);
    let live = Live { source, out, opened_at: now, sent_at: now };
    let pieces = stream::unfold(live, async |mut live| {
        let piece = live.piece().await?;
        Some((Ok(piece), live))
    });
    reply::stream(sse::MEDIA_TYPE, pieces)
}

/// The stream's state.
struct Live<S> {
    source: S,
    out: Out,
    opened_at: Timestamp,
    sent_at: Timestamp,
}

impl<S: Source> Live<S> {
    async fn piece(&mut self) -> Option<Bytes> {
        loop {
            if let Some(piece) = self.out.queue.pop_front() {
                self.sent_at = self.source.now();
                return Some(piece);
            }
            if self.out.is_over {
                return None;
            }
            if let Err(error) = self.advance().await {
                self.source.fail(&error, &mut self.out);
                self.out.end();
            }
        }
    }

    /// Takes over what is known; where that is nothing new, looks for more.
    async fn advance(&mut self) -> AppResult<()> {
        self.source.tell(&mut self.out).await?;
        if self.out.is_over || !self.out.queue.is_empty() {
            return Ok(());
        }
        let now = self.source.now();
        let age = |since: Timestamp| now.duration_since(since).as_secs();
        if age(self.opened_at) >= limits::SSE_CLOSE_SECS.cast_signed() {
            self.out.end();
            return Ok(());
        }
        if age(self.sent_at) >= limits::SSE_HEARTBEAT_SECS.cast_signed() {
            self.out.queue.push_back(sse::heartbeat());
            return Ok(());
        }
        self.source.look().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(data: &[u8], offset: u64) -> Chunk {
        let next = offset + data.len() as u64;
        Chunk { data: Bytes::copy_from_slice(data), offset, next, total: next, dropped: 0 }
    }

    /// All texts that are in the queue, with their offsets.
    fn texts(out: &mut Out) -> Vec<(u64, String)> {
        let read = |event: Bytes| {
            let text = String::from_utf8(event.to_vec()).unwrap();
            let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap().to_owned();
            let data: serde_json::Value = serde_json::from_str(&data).unwrap();
            (data["offset"].as_u64().unwrap(), data["data"].as_str().unwrap().to_owned())
        };
        out.queue.drain(..).map(read).collect()
    }

    #[test]
    fn what_was_sent_is_not_sent_again_and_what_was_dropped_is_jumped_over() {
        let (mut out, mut next) = (Out::default(), 0);
        out.output(OutputStream::Stdout, &chunk(b"abc", 0), &mut next);
        out.output(OutputStream::Stdout, &chunk(b"abcde", 0), &mut next);
        out.output(OutputStream::Stdout, &chunk(b"abc", 0), &mut next);
        out.output(OutputStream::Stdout, &chunk(b"z", 100), &mut next);
        let sent = [(0, "abc".to_owned()), (3, "de".to_owned()), (100, "z".to_owned())];
        assert_eq!((texts(&mut out), next), (sent.to_vec(), 101));
    }

    #[test]
    fn a_character_across_two_pieces_or_two_chunks_comes_whole() {
        let text = format!("{}\u{20ac}tail\u{20ac}", "a".repeat(PIECE - 1));
        let (mut out, mut next) = (Out::default(), 0);
        let (head, rest) = text.as_bytes().split_at(text.len() - 2);
        out.output(OutputStream::Stdout, &chunk(head, 0), &mut next);
        assert_eq!(next, text.len() as u64 - 3, "the last character is not whole yet");
        let again = [&head[usize::try_from(next).unwrap()..], rest].concat();
        out.output(OutputStream::Stdout, &chunk(&again, next), &mut next);
        let sent = texts(&mut out);
        assert_eq!(sent.iter().map(|(_, text)| text.as_str()).collect::<String>(), text);
        assert_eq!((sent.len(), next), (3, text.len() as u64));
    }
}
