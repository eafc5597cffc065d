//! The output of one process on its way to whoever reads it.
//!
//! Output is kept, up to a bound, until somebody has read it, so that a client that comes late or again finds
//! what nobody saw. While somebody reads, the process is held back when the reader is slow, as a pipe would;
//! while nobody does, it runs on and the oldest output gives way.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use pvm_e2b_wire::process::{DataEvent, EndEvent};
use tokio::sync::Notify;
use tokio::time::{Duration, sleep, timeout};

/// Bytes of output kept per process, and while memory is short.
const KEPT_BYTES: Bound = Bound { usual: 2 * 1024 * 1024, short: 128 * 1024 };
/// Bytes a reader may be behind before the process is held back.
const LAG_BYTES: Bound = Bound { usual: 1024 * 1024, short: 64 * 1024 };
/// Bytes kept of all processes together from which memory counts as short.
const SHORT_FROM: u64 = 64 * 1024 * 1024;
/// Pause after output that nobody reads and nobody will, so that a process that only babbles does not keep this
/// daemon busy. A pipe holds 64 KiB, so it still gets rid of tens of megabytes a second.
const BABBLE: Duration = Duration::from_millis(1);
/// How long a reader may take nothing while the process waits for it. Then it is cut off: it is likely gone.
const STALL: Duration = Duration::from_mins(1);

struct Bound {
    usual: u64,
    short: u64,
}

impl Bound {
    fn get(&self, all: &Budget) -> u64 {
        if all.kept.load(Ordering::Relaxed) < SHORT_FROM { self.usual } else { self.short }
    }
}

/// Counts what all hubs keep.
#[derive(Debug, Default)]
pub struct Budget {
    kept: AtomicU64,
}

/// Which stream a piece of output is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// The terminal.
    Pty,
}

#[derive(Debug, Clone)]
struct Piece {
    source: Source,
    data: Bytes,
}

impl Piece {
    fn event(&self) -> DataEvent {
        let data = Some(self.data.clone());
        match self.source {
            Source::Stdout => DataEvent { stdout: data, ..DataEvent::default() },
            Source::Stderr => DataEvent { stderr: data, ..DataEvent::default() },
            Source::Pty => DataEvent { pty: data, ..DataEvent::default() },
        }
    }
}

/// Positions count bytes of all streams together, in order of arrival.
#[derive(Debug, Default)]
struct State {
    pieces: VecDeque<Piece>,
    /// Position of the first kept byte.
    start: u64,
    /// Position after the last one.
    end: u64,
    /// Up to where somebody has read.
    read: u64,
    readers: Vec<Reader>,
    next_reader: u64,
    /// Pumps that wait for a slow reader.
    held_back: usize,
    ended: Option<EndEvent>,
}

#[derive(Debug)]
struct Reader {
    id: u64,
    position: u64,
}

impl State {
    fn slowest(&self) -> Option<u64> {
        self.readers.iter().map(|reader| reader.position).min()
    }

    /// Adds output and drops the oldest beyond the limit, but never what a reader still needs.
    fn add(&mut self, source: Source, data: Bytes, limit: u64) {
        self.end += data.len() as u64;
        self.pieces.push_back(Piece { source, data });
        let needed = self.slowest().unwrap_or(u64::MAX);
        while self.end - self.start > limit
            && let Some(oldest) = self.pieces.front()
            && self.start + oldest.data.len() as u64 <= needed
        {
            self.start += oldest.data.len() as u64;
            self.pieces.pop_front();
        }
    }

    /// The piece that starts at or covers `position`.
    fn piece_at(&self, position: u64) -> Option<(u64, &Piece)> {
        let mut start = self.start;
        // Readers are mostly at the end, so that is where the search begins.
        if position < self.start {
            return self.pieces.front().map(|piece| (start, piece));
        }
        let mut end = self.end;
        for piece in self.pieces.iter().rev() {
            start = end - piece.data.len() as u64;
            if start <= position {
                return (position < end).then_some((start, piece));
            }
            end = start;
        }
        None
    }
}

/// What a reader gets next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Output.
    Data(DataEvent),
    /// The end of the process, after all its output.
    End(EndEvent),
    /// This reader was too slow for too long.
    CutOff,
}

/// What became of output that was offered.
enum Offered {
    /// It is in, or nobody will want it.
    Taken,
    /// It is in, and older output that nobody read gave way.
    Babble,
    /// A reader is too far behind, at this position.
    Behind(u64),
}

/// See the module.
#[derive(Debug)]
pub struct Hub {
    state: Mutex<State>,
    all: Arc<Budget>,
    stall: Duration,
    /// Something for readers.
    news: Notify,
    /// Something for pumps that wait.
    room: Notify,
}

impl Hub {
    /// A hub without output, one of those that share a budget.
    pub fn new(all: Arc<Budget>) -> Self {
        Self::with_stall(all, STALL)
    }

    fn with_stall(all: Arc<Budget>, stall: Duration) -> Self {
        Self { state: Mutex::default(), all, stall, news: Notify::new(), room: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds output; waits while a reader is too far behind. After the end, output is dropped: a child in the
    /// background may go on writing and must not be stopped by a broken pipe.
    pub async fn push(&self, source: Source, data: Bytes) {
        loop {
            let room = self.room.notified();
            match self.offer(source, &data) {
                Offered::Taken => return,
                Offered::Babble => return sleep(BABBLE).await,
                Offered::Behind(position) => {
                    let waited = timeout(self.stall, room).await;
                    self.waited_for(position, waited.is_ok());
                }
            }
        }
    }

    fn offer(&self, source: Source, data: &Bytes) -> Offered {
        let mut state = self.lock();
        if state.ended.is_some() {
            return Offered::Taken;
        }
        let slowest = state.slowest();
        if let Some(position) = slowest
            && state.end - position >= LAG_BYTES.get(&self.all)
        {
            state.held_back += 1;
            return Offered::Behind(position);
        }
        let (started, before) = (state.start, state.end - state.start);
        state.add(source, data.clone(), KEPT_BYTES.get(&self.all));
        self.count(before, state.end - state.start);
        let babbling = slowest.is_none() && state.start > started;
        drop(state);
        self.news.notify_waiters();
        if babbling { Offered::Babble } else { Offered::Taken }
    }

    /// After waiting for the reader at `position`: one that has not moved in all the time is cut off.
    fn waited_for(&self, position: u64, in_time: bool) {
        let mut state = self.lock();
        state.held_back -= 1;
        if !in_time && state.slowest() == Some(position) {
            state.readers.retain(|reader| reader.position != position);
            drop(state);
            self.news.notify_waiters();
        }
    }

    fn count(&self, before: u64, after: u64) {
        if after >= before {
            self.all.kept.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.all.kept.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    /// Sets the end. Readers get it after the output that came before.
    pub fn finish(&self, end: EndEvent) {
        self.lock().ended = Some(end);
        self.news.notify_waiters();
        self.room.notify_waiters();
    }

    /// Bytes of output so far, and whether a pump waits for a reader with more.
    pub fn progress(&self) -> (u64, bool) {
        let state = self.lock();
        (state.end, state.held_back > 0)
    }

    /// Bytes kept.
    pub fn kept(&self) -> u64 {
        let state = self.lock();
        state.end - state.start
    }

    /// Forgets all kept output, for want of memory.
    pub fn forget_output(&self) {
        let mut state = self.lock();
        if state.readers.is_empty() {
            self.count(state.end - state.start, 0);
            state.pieces = VecDeque::new();
            state.start = state.end;
        }
    }

    /// A new reader: of what nobody has read yet, or with `replay` of all that is kept.
    pub fn read(self: Arc<Self>, replay: bool) -> Subscription {
        let mut state = self.lock();
        let position = if replay { state.start } else { state.read.max(state.start) };
        let id = state.next_reader;
        state.next_reader += 1;
        state.readers.push(Reader { id, position });
        drop(state);
        Subscription { hub: self, id, taken: position }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.count(self.kept(), 0);
    }
}

/// One reader of a [`Hub`]; dropping it lets the process run on.
#[derive(Debug)]
pub struct Subscription {
    hub: Arc<Hub>,
    id: u64,
    /// Up to where data was handed out. It counts as read when the next is asked for: before that, a broken
    /// connection may have lost it.
    taken: u64,
}

impl Subscription {
    /// What comes next; waits for it.
    pub async fn next(&mut self) -> Next {
        loop {
            let news = self.hub.news.notified();
            {
                let mut state = self.hub.lock();
                let taken = self.taken;
                state.read = state.read.max(taken);
                let Some(reader) = state.readers.iter_mut().find(|reader| reader.id == self.id) else {
                    return Next::CutOff;
                };
                let moved = reader.position != taken;
                reader.position = taken;
                if moved && state.held_back > 0 {
                    self.hub.room.notify_waiters();
                }
                if let Some((start, piece)) = state.piece_at(taken) {
                    let mut piece = piece.clone();
                    let skip = taken.saturating_sub(start);
                    if skip > 0 {
                        piece.data = piece.data.slice(skip as usize..);
                    }
                    self.taken = start.max(taken) + piece.data.len() as u64;
                    return Next::Data(piece.event());
                }
                if let Some(end) = &state.ended {
                    return Next::End(end.clone());
                }
            }
            news.await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.hub.lock();
        state.readers.retain(|reader| reader.id != self.id);
        if state.held_back > 0 {
            self.hub.room.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests;
