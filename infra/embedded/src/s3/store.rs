//! Objects on disk: one file each, with its metadata behind the bytes.
//!
//! Bytes and metadata become visible together by one rename, so that a crash leaves the old object or the new one and
//! never half of one. Below `buckets/<bucket>` a key's parts are folders; a folder's name ends in `%2F`, which no file's
//! name does, so that `a` and `a/b` can both be keys.

use std::fs::File;
use std::io::{Error, ErrorKind, Read as _, Result, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::events::{EventName, Outbox};

/// Ends every object's file.
const MAGIC: &[u8; 8] = b"PVMS3v01";
const FOLDER_END: &str = "%2F";
const NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');
/// The longest name that Linux file systems take.
const NAME_BYTES: usize = 255;

/// What an object's owner said about it, given back as it was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Described {
    pub(super) content_type: Option<String>,
    pub(super) content_encoding: Option<String>,
    pub(super) content_disposition: Option<String>,
    pub(super) content_language: Option<String>,
    pub(super) cache_control: Option<String>,
    pub(super) metadata: std::collections::BTreeMap<String, String>,
}

/// Checksums of an object in base64, by algorithm.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Checksums {
    pub(super) crc32: Option<String>,
    pub(super) crc32c: Option<String>,
    pub(super) crc64nvme: Option<String>,
    pub(super) sha1: Option<String>,
    pub(super) sha256: Option<String>,
}

/// What is kept behind an object's bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Facts {
    pub(super) size: u64,
    pub(super) etag: String,
    pub(super) modified: Timestamp,
    /// Orders the versions of one key, as in the events.
    pub(super) sequencer: String,
    pub(super) described: Described,
    pub(super) checksums: Checksums,
}

/// What must hold for a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Precondition {
    None,
    Absent,
    Present,
    Etag(String),
}

/// Why an object cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("no such object")]
    Missing,
    #[error("the precondition does not hold")]
    Precondition,
    #[error("a part of the key is longer than {NAME_BYTES} bytes")]
    KeyTooLong,
    #[error("{0}")]
    Io(#[from] Error),
}

/// The folder that holds everything.
#[derive(Debug)]
pub(super) struct Store {
    root: PathBuf,
    outbox: Outbox,
    last_sequencer: AtomicU64,
    /// Held from the check of a precondition to the rename.
    publishing: Mutex<()>,
}

impl Store {
    /// Opens `root`, which is made if it is missing, and removes what a crash left unfinished.
    pub(super) fn open(root: &Path, outbox: Outbox) -> Result<Self> {
        let store = Self {
            root: root.to_owned(),
            outbox,
            last_sequencer: AtomicU64::new(0),
            publishing: Mutex::new(()),
        };
        for folder in [store.root.join("buckets"), store.staging(), store.uploads()] {
            std::fs::create_dir_all(folder)?;
        }
        for staged in std::fs::read_dir(store.staging())? {
            std::fs::remove_file(staged?.path())?;
        }
        Ok(store)
    }

    pub(super) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    pub(super) fn uploads(&self) -> PathBuf {
        self.root.join("uploads")
    }

    fn bucket(&self, bucket: &str) -> PathBuf {
        self.root.join("buckets").join(bucket)
    }

    pub(super) fn has_bucket(&self, bucket: &str) -> bool {
        self.bucket(bucket).is_dir()
    }

    /// Makes a bucket; false where it is there already.
    pub(super) fn create_bucket(&self, bucket: &str) -> Result<bool> {
        match std::fs::create_dir(self.bucket(bucket)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Names of all buckets with the times they were made.
    pub(super) fn buckets(&self) -> Result<Vec<(String, std::time::SystemTime)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.root.join("buckets"))? {
            let entry = entry?;
            let about = entry.metadata()?;
            if let (true, Ok(name)) = (about.is_dir(), entry.file_name().into_string()) {
                found.push((name, about.created().or_else(|_| about.modified())?));
            }
        }
        found.sort();
        Ok(found)
    }

    /// A file to write an object's bytes into before it is published. Gone when dropped.
    pub(super) fn stage(&self) -> Result<NamedTempFile> {
        NamedTempFile::new_in(self.staging())
    }

    /// A number higher than all before, over restarts too, as long as the clock does not go back.
    pub(super) fn sequencer(&self) -> String {
        let now = Timestamp::now().as_nanosecond().unsigned_abs() as u64;
        let last = self.last_sequencer.fetch_max(now, Ordering::Relaxed);
        let next = if last < now { now } else { self.last_sequencer.fetch_add(1, Ordering::Relaxed) + 1 };
        format!("{next:018X}")
    }

    fn path(&self, bucket: &str, key: &str) -> std::result::Result<PathBuf, Fault> {
        let mut path = self.bucket(bucket);
        let mut parts = key.split('/').peekable();
        while let Some(part) = parts.next() {
            let mut name = name_of(part);
            if parts.peek().is_some() {
                name.push_str(FOLDER_END);
            }
            if name.len() > NAME_BYTES {
                return Err(Fault::KeyTooLong);
            }
            path.push(name);
        }
        Ok(path)
    }

    /// Makes a staged file the object at `key`, its facts behind it, and notes the event.
    pub(super) fn publish(
        &self,
        bucket: &str,
        key: &str,
        staged: NamedTempFile,
        facts: &Facts,
        precondition: &Precondition,
        event: EventName,
    ) -> std::result::Result<(), Fault> {
        let path = self.path(bucket, key)?;
        seal(&staged, facts)?;
        // On disk before it is visible: the record that tells of the object is durable, and so must be the object.
        staged.as_file().sync_data()?;
        let publishing = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = match precondition {
            Precondition::None => true,
            Precondition::Absent => !path.exists(),
            Precondition::Present => path.exists(),
            Precondition::Etag(etag) => match self.facts(bucket, key) {
                Ok(now) => now.etag == *etag,
                Err(Fault::Missing) => return Err(Fault::Missing),
                Err(fault) => return Err(fault),
            },
        };
        if !holds {
            return Err(Fault::Precondition);
        }
        let noted = self.outbox.note(bucket, key, facts, event)?;
        if let Err(error) = persist(staged, &path) {
            noted.into_iter().for_each(super::S3Event::done);
            return Err(error.into());
        }
        drop(publishing);
        self.outbox.send(noted);
        Ok(())
    }

    /// The object at `key`: its file, positioned at its first byte, and its facts.
    pub(super) fn open_object(&self, bucket: &str, key: &str) -> std::result::Result<(File, Facts), Fault> {
        let path = self.path(bucket, key)?;
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Err(Fault::Missing);
            }
            Err(error) => return Err(error.into()),
        };
        let facts = unseal(&mut file)?;
        file.rewind()?;
        Ok((file, facts))
    }

    /// The facts of the object at `key`.
    pub(super) fn facts(&self, bucket: &str, key: &str) -> std::result::Result<Facts, Fault> {
        self.open_object(bucket, key).map(|(_, facts)| facts)
    }

    /// Removes the object at `key`; a missing one is fine.
    pub(super) fn delete(&self, bucket: &str, key: &str) -> std::result::Result<(), Fault> {
        let path = self.path(bucket, key)?;
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        // Folders that are empty now. One that is not stops the way up.
        let top = self.bucket(bucket);
        let mut folder = path.parent();
        while let Some(empty) = folder.filter(|folder| **folder != *top) {
            if std::fs::remove_dir(empty).is_err() {
                break;
            }
            folder = empty.parent();
        }
        Ok(())
    }

    /// A page of a bucket's keys, in the order of their bytes.
    pub(super) fn list(&self, bucket: &str, query: &ListQuery) -> Result<ListPage> {
        let mut page = ListPage::default();
        walk(&self.bucket(bucket), "", query, &mut page)?;
        Ok(page)
    }
}

/// Which keys to list.
#[derive(Debug, Default)]
pub(super) struct ListQuery {
    /// Keys start with this.
    pub(super) prefix: String,
    /// Keys that have this behind the prefix are told as one common prefix.
    pub(super) delimiter: Option<String>,
    /// Only what sorts behind this.
    pub(super) after: Option<String>,
    /// At most this many keys and common prefixes.
    pub(super) limit: usize,
}

/// A page of keys.
#[derive(Debug, Default)]
pub(super) struct ListPage {
    pub(super) objects: Vec<(String, Facts)>,
    pub(super) prefixes: Vec<String>,
    /// Where the next page starts, if there is one.
    pub(super) next: Option<String>,
    last: Option<String>,
}

impl ListPage {
    fn is_full(&mut self, limit: usize) -> bool {
        let full = self.objects.len() + self.prefixes.len() >= limit;
        if full {
            self.next = self.last.clone();
        }
        full
    }
}

/// Adds what is below `folder` to the page; false once the page is full and there is more.
fn walk(folder: &Path, above: &str, query: &ListQuery, page: &mut ListPage) -> Result<bool> {
    let mut entries = Vec::new();
    let listed = match std::fs::read_dir(folder) {
        Ok(listed) => listed,
        // Deleted while we walked.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    for entry in listed {
        let entry = entry?;
        let Some(part) = entry.file_name().to_str().and_then(part_of) else { continue };
        entries.push((format!("{above}{part}"), entry.path()));
    }
    entries.sort();
    let after = query.after.as_deref().unwrap_or_default();
    for (key, path) in entries {
        let is_folder = path.as_os_str().as_encoded_bytes().ends_with(FOLDER_END.as_bytes());
        let inside = key.starts_with(&query.prefix);
        let above_prefix = is_folder && query.prefix.starts_with(&key);
        if !(inside || above_prefix) {
            continue;
        }
        if let Some(common) = query.delimiter.as_deref().filter(|_| inside).and_then(|delimiter| {
            let end = key[query.prefix.len()..].find(delimiter)?;
            Some(&key[..query.prefix.len() + end + delimiter.len()])
        }) {
            if common > after && page.prefixes.last().map(String::as_str) != Some(common) {
                if page.is_full(query.limit) {
                    return Ok(false);
                }
                page.prefixes.push(common.to_owned());
                page.last = Some(common.to_owned());
            }
        } else if is_folder {
            // All keys below start with this folder's; where the marker is behind it and not in it, so are they.
            let behind = key.as_str() < after && !after.starts_with(&key);
            if !behind && !walk(&path, &key, query, page)? {
                return Ok(false);
            }
        } else if key.as_str() > after {
            if page.is_full(query.limit) {
                return Ok(false);
            }
            let facts = match File::open(&path).and_then(|mut file| unseal(&mut file)) {
                Ok(facts) => facts,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            page.last = Some(key.clone());
            page.objects.push((key, facts));
        }
    }
    Ok(true)
}

/// The file name of a key's part. `.` and `..` and an empty part are no names of their own.
fn name_of(part: &str) -> String {
    match part {
        "" => "%".to_owned(),
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        part => utf8_percent_encode(part, NAME).to_string(),
    }
}

/// The key's part of a file name; a folder's ends with `/`.
fn part_of(name: &str) -> Option<String> {
    let (name, end) = name.strip_suffix(FOLDER_END).map_or((name, ""), |name| (name, "/"));
    let part = if name == "%" { "".into() } else { percent_decode_str(name).decode_utf8().ok()? };
    Some(format!("{part}{end}"))
}

/// Writes the facts behind the bytes of `file`: their JSON, its length, and the mark.
pub(super) fn seal(staged: &NamedTempFile, facts: &Facts) -> Result<()> {
    let mut file = staged.as_file();
    let end = file.seek(SeekFrom::End(0))?;
    if end != facts.size {
        return Err(Error::new(ErrorKind::InvalidData, "the staged file is not as long as the object"));
    }
    let mut tail = serde_json::to_vec(facts)?;
    let length = tail.len() as u32;
    tail.extend_from_slice(&length.to_le_bytes());
    tail.extend_from_slice(MAGIC);
    file.write_all(&tail)
}

/// Reads the facts behind the bytes of `file`.
pub(super) fn unseal(file: &mut File) -> Result<Facts> {
    let broken = || Error::new(ErrorKind::InvalidData, "the file is no object of this store");
    let end = file.seek(SeekFrom::End(0))?;
    let tail_start = end.checked_sub(12).ok_or_else(broken)?;
    file.seek(SeekFrom::Start(tail_start))?;
    let mut tail = [0u8; 12];
    file.read_exact(&mut tail)?;
    let (length, magic) = tail.split_at(4);
    let length = u64::from(u32::from_le_bytes(length.try_into().map_err(|_| broken())?));
    let start = tail_start.checked_sub(length).ok_or_else(broken)?;
    if magic != MAGIC {
        return Err(broken());
    }
    file.seek(SeekFrom::Start(start))?;
    let mut json = vec![0; length as usize];
    file.read_exact(&mut json)?;
    let facts: Facts = serde_json::from_slice(&json).map_err(|_| broken())?;
    if facts.size == start { Ok(facts) } else { Err(broken()) }
}

/// Renames a sealed file into its place, with the folders above it.
pub(super) fn persist(mut staged: NamedTempFile, path: &Path) -> Result<()> {
    // A deletion may remove a folder that has just become empty between its making and the rename.
    for _ in 0..16 {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        match staged.persist(path) {
            Ok(_) => return Ok(()),
            Err(failed) if failed.error.kind() == ErrorKind::NotFound => staged = failed.file,
            Err(failed) => return Err(failed.error),
        }
    }
    Err(Error::new(ErrorKind::NotFound, "the object's folder is removed again and again"))
}
