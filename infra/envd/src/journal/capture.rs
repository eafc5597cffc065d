//! One output stream of a run on disk: its first half and its last half, within a limit.
//!
//! `<name>` holds the first bytes as they came. What does not fit goes round in `<name>.tail`, a ring behind a
//! short header. So a stream of any length takes a bounded place, and both ends can be read at any time.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use pvm_e2b_wire::journal::Chunk;

/// Bytes of the ring's header: three numbers, little-endian.
const HEADER: u64 = 24;

/// What the ring holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Ring {
    /// Position in the stream after the ring's last byte.
    end: u64,
    /// Bytes written to the ring so far; modulo its size, where it goes on.
    written: u64,
    /// How many of the last bytes are there without a gap.
    valid: u64,
}

impl Ring {
    fn encode(self) -> [u8; HEADER as usize] {
        let mut bytes = [0; HEADER as usize];
        for (slot, number) in bytes.chunks_exact_mut(8).zip([self.end, self.written, self.valid]) {
            slot.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8; HEADER as usize]) -> Self {
        let mut numbers = bytes
            .chunks_exact(8)
            .map(|slot| slot.iter().rev().fold(0_u64, |number, byte| (number << 8) | u64::from(*byte)));
        let mut next = || numbers.next().unwrap_or_default();
        Self { end: next(), written: next(), valid: next() }
    }
}

/// Where the pieces of a stream lie.
#[derive(Debug)]
struct Files {
    head: Option<File>,
    head_length: u64,
    tail: Option<File>,
    ring: Ring,
    /// Bytes of the stream so far.
    total: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Capture {
    head_path: PathBuf,
    tail_path: PathBuf,
    head_limit: u64,
    tail_limit: u64,
    files: Mutex<Files>,
}

impl Capture {
    /// A new stream, `limit` bytes of which are kept. Files are made when there is something to put in them.
    pub fn create(folder: &Path, name: &str, limit: u64) -> Self {
        let tail_limit = limit / 2;
        Self {
            head_path: folder.join(name),
            tail_path: folder.join(format!("{name}.tail")),
            head_limit: limit - tail_limit,
            tail_limit,
            files: Mutex::new(Files {
                head: None,
                head_length: 0,
                tail: None,
                ring: Ring::default(),
                total: 0,
            }),
        }
    }

    /// A stream that was written earlier, for reading.
    ///
    /// # Errors
    /// The system's; a stream without files is empty.
    pub fn reopen(folder: &Path, name: &str, limit: u64) -> io::Result<Self> {
        let capture = Self::create(folder, name, limit);
        {
            let mut files = capture.lock();
            files.head = open_existing(&capture.head_path)?;
            files.tail = open_existing(&capture.tail_path)?;
            files.head_length = files.head.as_ref().map_or(Ok(0), |file| file.metadata().map(|m| m.len()))?;
            files.total = files.head_length;
            let mut header = [0; HEADER as usize];
            if let Some(tail) = &files.tail
                && tail.read_exact_at(&mut header, 0).is_ok()
            {
                files.ring = Ring::decode(&header);
                files.total = files.ring.end;
            }
        }
        Ok(capture)
    }

    fn lock(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of the stream so far.
    pub fn total(&self) -> u64 {
        self.lock().total
    }

    /// Adds what the process wrote. What the disk does not take counts as dropped; the run goes on.
    pub fn write(&self, data: &[u8]) {
        let mut files = self.lock();
        let room = if files.ring.end == 0 { self.head_limit - files.head_length } else { 0 };
        let (first, rest) = data.split_at(data.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
        let mut lost = 0;
        if !first.is_empty() {
            let written = self.write_head(&mut files, first);
            files.head_length += written as u64;
            files.total += written as u64;
            lost = first.len() - written;
        }
        if lost > 0 || !rest.is_empty() {
            files.total += (lost + rest.len()) as u64;
            self.write_tail(&mut files, rest, lost > 0);
        }
    }

    /// Returns how much of it was written.
    fn write_head(&self, files: &mut Files, data: &[u8]) -> usize {
        if files.head.is_none() {
            files.head = create(&self.head_path).ok();
        }
        let Some(head) = &files.head else { return 0 };
        let mut written = 0;
        while written < data.len() {
            match head.write_at(&data[written..], files.head_length + written as u64) {
                Ok(0) => break,
                Ok(length) => written += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        written
    }

    /// Puts the end of the stream into the ring. `gap` says that bytes right before were lost.
    fn write_tail(&self, files: &mut Files, data: &[u8], gap: bool) {
        let size = self.tail_limit;
        let mut ring = Ring { end: files.total, ..files.ring };
        if gap {
            ring.valid = 0;
        }
        // Of more than fits, only the last is worth writing.
        let kept = &data[data.len().saturating_sub(usize::try_from(size).unwrap_or(usize::MAX))..];
        if kept.len() < data.len() {
            ring.valid = 0;
        }
        if files.tail.is_none() {
            files.tail = create(&self.tail_path).ok();
        }
        if let Some(tail) = &files.tail {
            let stored = size > 0 && write_ring(tail, size, ring.written, kept).is_ok();
            if stored {
                ring.written += kept.len() as u64;
                ring.valid = (ring.valid + kept.len() as u64).min(size);
            } else if !kept.is_empty() {
                ring.valid = 0;
            }
            // Failing leaves the header of before on disk; readers of this process use the one in memory.
            tail.write_all_at(&ring.encode(), 0).ok();
        } else {
            ring.valid = 0;
        }
        files.ring = ring;
    }

    /// Reads at most `limit` bytes from `offset` on; from the tail when what is there is no longer kept.
    ///
    /// # Errors
    /// The system's.
    pub fn read(&self, offset: u64, limit: u64) -> io::Result<Chunk> {
        let files = self.lock();
        let tail_start = files.ring.end - files.ring.valid;
        let has_ring = files.ring.end > 0;
        let dropped = if has_ring { tail_start - files.head_length } else { 0 };
        let mut offset = offset.min(files.total);
        let mut data = Vec::new();
        if offset < files.head_length
            && let Some(head) = &files.head
        {
            let length = limit.min(files.head_length - offset);
            data = vec![0; usize::try_from(length).unwrap_or(0)];
            head.read_exact_at(&mut data, offset)?;
        }
        let mut next = offset + data.len() as u64;
        if next >= files.head_length && has_ring && (data.is_empty() || dropped == 0) {
            let from = next.max(tail_start);
            if data.is_empty() {
                offset = from;
            }
            let length = (limit - data.len() as u64).min(files.ring.end - from);
            if let Some(tail) = &files.tail
                && length > 0
            {
                // The ring's last byte is at `written`; count back from there.
                let back = files.ring.end - from;
                read_ring(tail, self.tail_limit, files.ring.written - back, length, &mut data)?;
            }
            next = offset + data.len() as u64;
        }
        Ok(Chunk { data: Bytes::from(data), offset, next, total: files.total, dropped })
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn open_existing(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes at the ring's position `at`, going round at its end.
fn write_ring(file: &File, size: u64, at: u64, data: &[u8]) -> io::Result<()> {
    let position = at % size;
    let (first, second) =
        data.split_at(data.len().min(usize::try_from(size - position).unwrap_or(usize::MAX)));
    file.write_all_at(first, HEADER + position)?;
    file.write_all_at(second, HEADER)
}

/// Appends `length` bytes from the ring's position `at` on.
fn read_ring(file: &File, size: u64, at: u64, length: u64, data: &mut Vec<u8>) -> io::Result<()> {
    let position = at % size;
    let first = usize::try_from(length.min(size - position)).unwrap_or(0);
    let start = data.len();
    data.resize(start + usize::try_from(length).unwrap_or(0), 0);
    let (before, after) = data[start..].split_at_mut(first);
    file.read_exact_at(before, HEADER + position)?;
    file.read_exact_at(after, HEADER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn all(capture: &Capture) -> (Vec<u8>, u64, u64) {
        let first = capture.read(0, 1000).unwrap();
        let second = capture.read(first.next, 1000).unwrap();
        let mut data = first.data.to_vec();
        data.extend_from_slice(&second.data);
        (data, second.total, second.dropped)
    }

    #[test]
    fn a_short_stream_is_kept_whole() {
        let folder = folder();
        let capture = Capture::create(folder.path(), "stdout", 20);
        assert_eq!(capture.read(0, 10).unwrap(), Chunk::default());
        capture.write(b"hello ");
        capture.write(b"world");
        assert_eq!(all(&capture), (b"hello world".to_vec(), 11, 0));
        let part = capture.read(3, 4).unwrap();
        assert_eq!((part.data.as_ref(), part.offset, part.next), (b"lo w".as_slice(), 3, 7));
        assert_eq!(std::fs::read(folder.path().join("stdout")).unwrap(), b"hello worl");
    }

    #[test]
    fn a_long_stream_keeps_both_ends_and_says_what_is_missing() {
        for piece in [1_usize, 3, 7, 26] {
            let folder = folder();
            let capture = Capture::create(folder.path(), "stdout", 10);
            let alphabet: Vec<u8> = (b'a'..=b'z').collect();
            for data in alphabet.chunks(piece) {
                capture.write(data);
            }
            assert_eq!(all(&capture), (b"abcdevwxyz".to_vec(), 26, 16), "pieces of {piece}");
            let gap = capture.read(8, 2).unwrap();
            assert_eq!((gap.offset, gap.next, gap.data.as_ref()), (21, 23, b"vw".as_slice()));
            let reopened = Capture::reopen(folder.path(), "stdout", 10).unwrap();
            assert_eq!(all(&reopened), (b"abcdevwxyz".to_vec(), 26, 16));
        }
    }

    #[test]
    fn a_stream_just_within_the_limit_has_no_gap() {
        let folder = folder();
        let capture = Capture::create(folder.path(), "stdout", 10);
        capture.write(b"0123456789");
        let whole = capture.read(0, 100).unwrap();
        assert_eq!((whole.data.as_ref(), whole.dropped), (b"0123456789".as_slice(), 0));
        assert_eq!(capture.read(4, 3).unwrap().data.as_ref(), b"456");
    }

    #[test]
    fn nothing_is_kept_with_a_limit_of_zero() {
        let folder = folder();
        let capture = Capture::create(folder.path(), "stdout", 0);
        capture.write(b"abc");
        let chunk = capture.read(0, 10).unwrap();
        assert_eq!((chunk.total, chunk.dropped, chunk.data.len(), chunk.next), (3, 3, 0, 3));
    }

    #[test]
    fn offsets_past_the_end_read_nothing() {
        let folder = folder();
        let capture = Capture::create(folder.path(), "stdout", 10);
        capture.write(b"ab");
        let chunk = capture.read(99, 10).unwrap();
        assert_eq!((chunk.offset, chunk.next, chunk.data.len()), (2, 2, 0));
    }

    #[test]
    fn a_stream_that_was_never_written_reads_as_empty() {
        let folder = folder();
        let capture = Capture::reopen(folder.path(), "stderr", 10).unwrap();
        assert_eq!(capture.read(0, 10).unwrap(), Chunk::default());
    }
}
