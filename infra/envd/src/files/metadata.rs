//! Metadata of files: request headers `X-Metadata-<key>`, kept in extended attributes `user.e2b.<key>`.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use hyper::HeaderMap;
use pvm_e2b_wire::HEADER_METADATA_PREFIX;
use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr, getxattr, listxattr};

use super::FileError;

const PREFIX: &str = "user.e2b.";
/// Bytes of all keys and values of one file together; a file system gives all attributes one block.
const MAX_TOTAL: usize = 4096;
/// Bytes of an attribute's name that the kernel takes.
const MAX_NAME: usize = 255;

/// Reads the metadata out of a request's headers; of a header sent twice the first counts.
///
/// # Errors
/// 400 when a value is not printable ASCII or it is too much.
pub fn from_headers(headers: &HeaderMap) -> Result<BTreeMap<String, String>, FileError> {
    let mut metadata = BTreeMap::new();
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix(HEADER_METADATA_PREFIX).filter(|key| !key.is_empty())
        else {
            continue;
        };
        if PREFIX.len() + key.len() > MAX_NAME {
            return Err(FileError::bad(format!("metadata key '{key}' is too long")));
        }
        let printable = value.as_bytes().iter().all(|byte| (0x20..0x7f).contains(byte));
        let Some(text) = value.to_str().ok().filter(|_| printable) else {
            return Err(FileError::bad(format!("metadata value of '{key}' must be printable ASCII")));
        };
        metadata.entry(key.to_owned()).or_insert_with(|| text.to_owned());
    }
    let total: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    if total > MAX_TOTAL {
        return Err(FileError::bad(format!(
            "metadata has {total} bytes, more than the limit of {MAX_TOTAL}"
        )));
    }
    Ok(metadata)
}

/// Replaces the metadata of an open file.
///
/// # Errors
/// The system's; clearing what cannot be there is none.
pub fn replace(file: impl AsFd, metadata: &BTreeMap<String, String>) -> io::Result<()> {
    let old = match grow(|buffer| flistxattr(&file, buffer)) {
        Ok(names) => names,
        Err(rustix::io::Errno::NOTSUP) if metadata.is_empty() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for name in keys(&old) {
        if !metadata.contains_key(name) {
            fremovexattr(&file, format!("{PREFIX}{name}"))?;
        }
    }
    for (key, value) in metadata {
        fsetxattr(&file, format!("{PREFIX}{key}"), value.as_bytes(), XattrFlags::empty())?;
    }
    Ok(())
}

/// The metadata of an open file.
///
/// # Errors
/// The system's.
pub fn of_file(file: impl AsFd) -> io::Result<BTreeMap<String, String>> {
    let names = grow(|buffer| flistxattr(&file, buffer))?;
    Ok(read_all(&names, |name| grow(|buffer| fgetxattr(&file, name, buffer)).ok()))
}

/// The metadata of what is at a path; none where it cannot be read.
pub fn of_path(path: &Path) -> BTreeMap<String, String> {
    let Ok(names) = grow(|buffer| listxattr(path, buffer)) else { return BTreeMap::new() };
    read_all(&names, |name| grow(|buffer| getxattr(path, name, buffer)).ok())
}

fn read_all(names: &[u8], get: impl Fn(&str) -> Option<Vec<u8>>) -> BTreeMap<String, String> {
    keys(names)
        .filter_map(|key| {
            let value = get(&format!("{PREFIX}{key}"))?;
            Some((key.to_owned(), String::from_utf8(value).ok()?))
        })
        .collect()
}

/// The metadata keys in a list of attribute names.
fn keys(names: &[u8]) -> impl Iterator<Item = &str> {
    names.split(|byte| *byte == 0).filter_map(|name| std::str::from_utf8(name).ok()?.strip_prefix(PREFIX))
}

/// Calls with a buffer that is large enough.
fn grow(call: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 1024];
    loop {
        match call(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(rustix::io::Errno::RANGE) if buffer.len() < 1024 * 1024 => buffer.resize(buffer.len() * 4, 0),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(
                hyper::header::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                hyper::header::HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        headers
    }

    #[test]
    fn keys_are_in_lower_case_and_the_first_value_counts() {
        let sent =
            headers(&[("X-Metadata-Author", "me"), ("x-metadata-author", "you"), ("X-Metadata-", "no")]);
        let metadata = from_headers(&sent).unwrap();
        assert_eq!(metadata, BTreeMap::from([("author".to_owned(), "me".to_owned())]));
    }

    #[test]
    fn odd_and_oversized_values_are_refused() {
        assert!(from_headers(&headers(&[("x-metadata-a", "ü")])).is_err());
        let long = "x".repeat(MAX_TOTAL);
        assert!(from_headers(&headers(&[("x-metadata-a", &long)])).is_err());
        assert!(from_headers(&headers(&[(&format!("x-metadata-{}", "k".repeat(250)), "v")])).is_err());
    }
}
