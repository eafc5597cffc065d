//! JSON files that are whole at every moment.
//!
//! Those that change often are logs of which the last whole line counts: replacing a file makes ext4 write it out
//! first, which on a busy disk takes longer than starting a sandbox.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Replaces `path` with the value: written beside it first, so that a crash leaves the old or the new contents.
/// Readable by the owner only, since records hold tokens.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    fs::rename(&beside, path)
}

/// Reads a file that [`write_json`] wrote; nothing when it is not there.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A log longer than this is replaced by its last line.
const MAX_LOG: u64 = 256 * 1024;

/// Appends the value as the one that counts from now on.
pub(crate) fn append_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    if file.metadata()?.len() > MAX_LOG {
        let beside = path.with_extension("new");
        let mut shorter =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        shorter.write_all(&line)?;
        return fs::rename(&beside, path);
    }
    // One write: a crash leaves all of it or, at the worst, a part without an end, which readers leave out.
    file.write_all(&line)
}

/// A log for people that is longer than this loses its older half.
const MAX_LINES: u64 = 1024 * 1024;

/// Appends a line to a log for people, of which the newest lines are kept. One caller at a time.
pub(crate) fn append_line(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    if file.metadata()?.len() > MAX_LINES {
        let old = fs::read(path)?;
        let half = &old[old.len() / 2..];
        let start = half.iter().position(|byte| *byte == b'\n').map_or(half.len(), |end| end + 1);
        let beside = path.with_extension("new");
        file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(&half[start..])?;
        fs::rename(&beside, path)?;
    }
    file.write_all(&line)
}

/// Reads the value that counts; nothing when there is none.
pub(crate) fn read_last_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') else { return Ok(None) };
    let start = bytes[..end].iter().rposition(|byte| *byte == b'\n').map_or(0, |place| place + 1);
    serde_json::from_slice(&bytes[start..end])
        .map(Some)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_whole_line_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        assert_eq!(read_last_json::<u32>(&path).unwrap(), None);
        append_json(&path, &1_u32).unwrap();
        append_json(&path, &2_u32).unwrap();
        assert_eq!(read_last_json::<u32>(&path).unwrap(), Some(2));
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"34").unwrap();
        assert_eq!(read_last_json::<u32>(&path).unwrap(), Some(2));
    }

    #[test]
    fn a_log_for_people_keeps_its_newest_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let filling = "x".repeat(1000);
        for number in 0..3000 {
            append_line(&path, &(number, &filling)).unwrap();
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.len() as u64 <= MAX_LINES + 2000, "{}", text.len());
        let numbers: Vec<u32> =
            text.lines().map(|line| serde_json::from_str::<(u32, String)>(line).unwrap().0).collect();
        assert!(numbers.len() > 400);
        assert_eq!(numbers.last(), Some(&2999));
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "no line between is missing");
    }

    #[test]
    fn a_long_log_is_replaced_by_its_last_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let long = "x".repeat(usize::try_from(MAX_LOG).unwrap());
        append_json(&path, &long).unwrap();
        append_json(&path, &"y").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 4);
        assert_eq!(read_last_json::<String>(&path).unwrap().as_deref(), Some("y"));
    }
}
