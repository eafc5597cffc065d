//! A `tar.zst` as a stream: one object is read at a time, and no more than a piece of it is in memory.

use std::io::{self, Write as _};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use pvm_domain::Timestamp;

use crate::ports::{ByteStream, GetObject};

/// Level of compression: the library's own default, which sources compress well with at hundreds of MB a second.
const LEVEL: i32 = 3;
/// Compressed bytes that are handed on at once.
const PIECE: usize = 256 * 1024;
/// Tar counts in blocks of so many bytes.
const BLOCK: u64 = 512;

/// Something to put into an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    File { path: String, mode: u32, size: u64, changed: Timestamp, object: String },
    Link { path: String, target: String, changed: Timestamp },
}

/// The archive of `items`.
pub(super) fn pack<O: GetObject>(
    objects: &O,
    items: Vec<Item>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + '_ {
    let state = State { objects, items: items.into_iter(), open: None, encoder: None, ended: false };
    futures::stream::unfold(state, |mut state| async move {
        if state.ended {
            return None;
        }
        let piece = state.next_piece().await;
        state.ended |= piece.is_err();
        Some((piece, state))
    })
}

/// A file that is being copied: what is left of it, and the bytes that fill its last block.
struct Open {
    bytes: ByteStream,
    left: u64,
    padding: usize,
}

struct State<'a, O> {
    objects: &'a O,
    items: std::vec::IntoIter<Item>,
    open: Option<Open>,
    encoder: Option<zstd::stream::write::Encoder<'static, Vec<u8>>>,
    ended: bool,
}

impl<O: GetObject> State<'_, O> {
    async fn next_piece(&mut self) -> io::Result<Bytes> {
        let mut encoder = match self.encoder.take() {
            Some(encoder) => encoder,
            None => zstd::stream::write::Encoder::new(Vec::with_capacity(PIECE), LEVEL)?,
        };
        while encoder.get_ref().len() < PIECE {
            if let Some(mut open) = self.open.take() {
                match open.bytes.next().await {
                    Some(bytes) => {
                        let bytes = bytes?;
                        open.left = open.left.checked_sub(bytes.len() as u64).ok_or_else(changed)?;
                        encoder.write_all(&bytes)?;
                        self.open = Some(open);
                    }
                    None if open.left > 0 => return Err(changed()),
                    None => encoder.write_all(&[0; BLOCK as usize][..open.padding])?,
                }
            } else if let Some(item) = self.items.next() {
                encoder.write_all(&head(&item)?)?;
                if let Item::File { size, object, .. } = item {
                    let (stored, bytes) = self.objects.get_stream(&object).await.map_err(io::Error::other)?;
                    if stored != size {
                        return Err(changed());
                    }
                    let padding = ((BLOCK - size % BLOCK) % BLOCK) as usize;
                    self.open = Some(Open { bytes, left: size, padding });
                }
            } else {
                encoder.write_all(&[0; 2 * BLOCK as usize])?;
                self.ended = true;
                return Ok(encoder.finish()?.into());
            }
        }
        let piece = std::mem::replace(encoder.get_mut(), Vec::with_capacity(PIECE));
        self.encoder = Some(encoder);
        Ok(piece.into())
    }
}

fn changed() -> io::Error {
    io::Error::other("a stored object is not as long as its record says")
}

/// The blocks before an entry's bytes. Names beyond what the old header holds come in an extension of their own.
fn head(item: &Item) -> io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    let (path, at) = match item {
        Item::File { path, mode, size, changed, .. } => {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_mode(*mode);
            header.set_size(*size);
            (path, changed)
        }
        Item::Link { path, changed, .. } => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            (path, changed)
        }
    };
    header.set_mtime(u64::try_from(at.as_second()).unwrap_or(0));
    header.set_uid(1000);
    header.set_gid(1000);
    match item {
        Item::File { .. } => builder.append_data(&mut header, path, io::empty())?,
        Item::Link { target, .. } => builder.append_link(&mut header, path, target)?,
    }
    Ok(std::mem::take(builder.get_mut()))
}
