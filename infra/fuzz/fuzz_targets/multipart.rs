//! Forms of `POST /files`: no form panics the parser, however it is cut into pieces, and no file name in one leads to
//! a path that is not absolute.
#![no_main]

use std::cell::RefCell;
use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use futures::executor::block_on;
use futures::{StreamExt as _, stream};
use libfuzzer_sys::fuzz_target;
use pvm_e2b_wire::envd_http::UploadedFile;
use pvm_envd::accounts::Account;
use pvm_envd::files::FileError;
use pvm_envd::files::form::receive_form;
use pvm_envd::files::upload::Pieces;
use pvm_envd::paths;

/// Files of a form, with their contents.
fn receive(pieces: Vec<Bytes>) -> Result<Vec<(PathBuf, Vec<u8>)>, FileError> {
    let account =
        Account { name: "user".into(), uid: 1, gid: 1, groups: vec![1], home: "/home/user".into() };
    let body: Pieces = Box::pin(stream::iter(pieces.into_iter().map(Ok::<_, io::Error>)));
    let resolve = |name: &str| {
        let path = paths::resolve(name, &account, None).map_err(|error| FileError::bad(error.to_string()))?;
        assert!(path.is_absolute(), "{path:?}");
        Ok(path)
    };
    let files = RefCell::new(Vec::new());
    let write = |mut pieces: Pieces, path: PathBuf| {
        let files = &files;
        async move {
            let mut contents = Vec::new();
            while let Some(piece) = pieces.next().await {
                contents.extend_from_slice(&piece.map_err(|error| FileError::bad(error.to_string()))?);
            }
            files.borrow_mut().push((path, contents));
            Ok(UploadedFile::default())
        }
    };
    block_on(receive_form(body, "b".into(), None, resolve, write))?;
    Ok(files.into_inner())
}

fuzz_target!(|input: (Vec<u8>, u8)| {
    let (data, size) = input;
    let whole = receive(vec![Bytes::copy_from_slice(&data)]);
    let size = usize::from(size).max(1);
    let cut = receive(data.chunks(size).map(Bytes::copy_from_slice).collect());
    if let (Ok(whole), Ok(cut)) = (&whole, &cut) {
        assert_eq!(whole, cut, "pieces make no difference");
    }
    assert_eq!(whole.is_ok(), cut.is_ok());
    multer::parse_boundary(String::from_utf8_lossy(&data)).ok();
});
