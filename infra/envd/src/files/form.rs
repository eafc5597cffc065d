//! Forms (`multipart/form-data`), taken apart as they come in, with bounded memory.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use multer::Multipart;
use pvm_e2b_wire::envd_http::UploadedFile;

use super::FileError;
use super::upload::Pieces;

/// Most bytes before the first part, and of the head of a part. Clients send a few hundred.
const MAX_HEAD: usize = 64 * 1024;
/// Most files of one form.
const MAX_FILES: usize = 65_536;

/// Takes a form apart: each part called `file` goes to `write` with its place, which is `path` or, without one, the
/// part's own file name as `resolve` understands it.
///
/// # Errors
/// What the form has wrong, and what the two functions refuse.
pub async fn receive_form<W: Future<Output = Result<UploadedFile, FileError>>>(
    body: Pieces,
    boundary: String,
    path: Option<&str>,
    resolve: impl Fn(&str) -> Result<PathBuf, FileError>,
    mut write: impl FnMut(Pieces, PathBuf) -> W,
) -> Result<Vec<UploadedFile>, FileError> {
    let mut form = Form::new(body, boundary);
    let (mut files, mut taken) = (Vec::new(), HashSet::new());
    while let Some(mut field) = form.next_part().await? {
        if field.name() != Some("file") {
            while field.chunk().await.map_err(broken)?.is_some() {}
            continue;
        }
        let name = match path {
            Some(path) => path.to_owned(),
            None => field.file_name().map(str::to_owned).ok_or_else(|| {
                FileError::bad("a part of the form has no filename, and there is no path parameter")
            })?,
        };
        let path = resolve(&name)?;
        if !taken.insert(path.clone()) {
            return Err(FileError::bad(format!(
                "you cannot upload multiple files to the same path '{}' in one upload request, only the first \
                 specified file was uploaded",
                path.display()
            )));
        }
        if taken.len() > MAX_FILES {
            return Err(FileError::bad(format!("a form can have at most {MAX_FILES} files")));
        }
        let pieces = field.map(|piece| piece.map_err(io::Error::other));
        files.push(write(Box::pin(pieces), path).await?);
    }
    Ok(files)
}

fn broken(error: multer::Error) -> FileError {
    let reason = match error {
        // What is wrong with the body itself is of more use than that it could not be read.
        multer::Error::StreamReadFailed(error) => error.to_string(),
        other => other.to_string(),
    };
    FileError::bad(format!("error reading form: {reason}"))
}

/// A form that is being read.
struct Form {
    parser: Multipart<'static>,
    head: Arc<Head>,
}

impl Form {
    fn new(body: Pieces, boundary: String) -> Self {
        let head = Arc::new(Head::default());
        let body = Paced { body, head: Arc::clone(&head), rests: false };
        Self { parser: Multipart::new(body, boundary), head }
    }

    /// The next part, of which nothing but its head was read. The one before must have been read to its end.
    async fn next_part(&mut self) -> Result<Option<multer::Field<'static>>, FileError> {
        self.head.begin();
        let part = self.parser.next_field().await.map_err(broken)?;
        self.head.end();
        Ok(part)
    }
}

/// How much came in since the parser began to look for the next part's head.
#[derive(Debug, Default)]
struct Head(AtomicUsize);

impl Head {
    /// No head is looked for: data may be of any length.
    const FOUND: usize = usize::MAX;

    fn begin(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn end(&self) {
        self.0.store(Self::FOUND, Ordering::Relaxed);
    }

    fn is_too_long(&self) -> bool {
        (MAX_HEAD..Self::FOUND).contains(&self.0.load(Ordering::Relaxed))
    }

    fn add(&self, bytes: usize) {
        let seen = self.0.load(Ordering::Relaxed);
        if seen != Self::FOUND {
            self.0.store(seen.saturating_add(bytes).min(Self::FOUND - 1), Ordering::Relaxed);
        }
    }
}

/// The body of a form on its way to the parser, which takes all that there is at once and keeps it until it knows what
/// it is. So it gets one piece each time it looks, and no more than a head may have while it looks for one.
struct Paced {
    body: Pieces,
    head: Arc<Head>,
    /// Whether a piece was handed out since the parser looked last.
    rests: bool,
}

impl Stream for Paced {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if std::mem::take(&mut self.rests) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.head.is_too_long() {
            let message = "there are too many bytes before the contents of a part";
            return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::InvalidData, message))));
        }
        let next = self.body.as_mut().poll_next(context);
        if let Poll::Ready(Some(Ok(piece))) = &next {
            self.head.add(piece.len());
            self.rests = true;
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures::executor::block_on;
    use futures::stream;

    use super::*;

    const PIECE: usize = 16 * 1024;

    /// Reads a form of `head`, so many pieces of filling, and `tail`. Returns the result, how much of the filling was
    /// taken, and how long the file was.
    fn read(
        head: &'static str,
        filling: usize,
        tail: &'static str,
    ) -> (Result<Vec<UploadedFile>, FileError>, usize, usize) {
        let (taken, length) = (Arc::new(AtomicUsize::new(0)), RefCell::new(0));
        let counted = Arc::clone(&taken);
        let middle = stream::iter(0..filling).map(move |_| {
            counted.fetch_add(PIECE, Ordering::Relaxed);
            Ok(Bytes::from(vec![b'x'; PIECE]))
        });
        let ends = |text: &'static str| stream::iter([Ok(Bytes::from_static(text.as_bytes()))]);
        let body: Pieces = Box::pin(ends(head).chain(middle).chain(ends(tail)));
        let write = |mut pieces: Pieces, _| {
            let length = &length;
            async move {
                while let Some(piece) = pieces.next().await {
                    *length.borrow_mut() += piece.map_err(|error| FileError::bad(error.to_string()))?.len();
                }
                Ok(UploadedFile::default())
            }
        };
        let result = block_on(receive_form(body, "b".into(), Some("p"), |name| Ok(name.into()), write));
        (result, taken.load(Ordering::Relaxed), length.into_inner())
    }

    const FILE: &str = "--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n";
    const OTHER: &str = "--b\r\nContent-Disposition: form-data; name=\"other\"\r\n\r\n";

    #[test]
    fn contents_may_be_long_and_what_is_around_them_may_not() {
        let (result, _, length) = read(FILE, 64, "\r\n--b--\r\n");
        assert_eq!((result.map(|files| files.len()), length), (Ok(1), 64 * PIECE));
        let (result, ..) = read(OTHER, 64, "\r\n--b--\r\n");
        assert_eq!(
            result.map(|files| files.len()),
            Ok(0),
            "what is not wanted is skipped however long it is"
        );
        for head in ["", "--b\r\nContent-Disposition: "] {
            let (result, taken, _) = read(head, 64, FILE);
            assert!(result.unwrap_err().message.contains("too many bytes"), "{head:?}");
            assert!(taken <= MAX_HEAD + PIECE, "{head:?}: {taken} bytes were taken in");
        }
    }
}
