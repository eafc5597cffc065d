//! Uploads in parts. An upload is a folder below `uploads` with its description and one sealed file per part.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Result, Write as _};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use s3s::crypto::{Checksum as _, Md5};
use serde::{Deserialize, Serialize};

use super::receive::Received;
use super::store::{Described, Facts, Store, persist, seal, unseal};

/// Abandoned uploads are removed after this time.
const KEPT: Duration = Duration::from_hours(7 * 24);
const ABOUT: &str = "about.json";
/// The smallest part but the last, in bytes.
const PART_LEAST: u64 = 5 * 1024 * 1024;

/// An upload under way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Upload {
    pub(super) bucket: String,
    pub(super) key: String,
    pub(super) described: Described,
}

/// Why parts cannot be joined.
#[derive(Debug, thiserror::Error)]
pub(super) enum JoinFault {
    #[error("a part is missing or has another ETag")]
    InvalidPart,
    #[error("the parts are not in ascending order")]
    Order,
    #[error("a part but the last is smaller than 5 MiB")]
    TooSmall,
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl Store {
    fn upload_folder(&self, id: &str) -> Option<PathBuf> {
        // An id of ours is hex, so that it cannot lead out of the folder.
        let ours = id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
        ours.then(|| self.uploads().join(id))
    }

    /// Begins an upload; answers its id.
    pub(super) fn begin_upload(&self, upload: &Upload) -> Result<String> {
        let id = format!("{:032x}", rand::random::<u128>());
        let folder = self.uploads().join(&id);
        std::fs::create_dir(&folder)?;
        std::fs::write(folder.join(ABOUT), serde_json::to_vec(upload)?)?;
        Ok(id)
    }

    /// The upload with this id for this key.
    pub(super) fn upload(&self, id: &str, bucket: &str, key: &str) -> Result<Option<Upload>> {
        let Some(folder) = self.upload_folder(id) else { return Ok(None) };
        let about = match std::fs::read(folder.join(ABOUT)) {
            Ok(about) => about,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let upload: Upload = serde_json::from_slice(&about)?;
        Ok(Some(upload).filter(|upload| upload.bucket == bucket && upload.key == key))
    }

    /// Keeps a part, in place of one with the same number.
    pub(super) fn put_part(&self, id: &str, number: i32, part: Received, facts: &Facts) -> Result<()> {
        let Some(folder) = self.upload_folder(id) else { return Err(ErrorKind::NotFound.into()) };
        seal(&part.staged, facts)?;
        if !folder.is_dir() {
            return Err(ErrorKind::NotFound.into());
        }
        persist(part.staged, &folder.join(part_name(number)))
    }

    /// The parts of an upload, by number.
    pub(super) fn parts(&self, id: &str) -> Result<Vec<(i32, Facts)>> {
        let Some(folder) = self.upload_folder(id) else { return Ok(Vec::new()) };
        let mut parts = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            parts.push((number, unseal(&mut File::open(entry.path())?)?));
        }
        parts.sort_by_key(|(number, _)| *number);
        Ok(parts)
    }

    /// Joins parts, given by number and ETag, into a staged file. The parts stay until the upload is ended.
    pub(super) fn join(
        &self,
        id: &str,
        wanted: &[(i32, Option<String>)],
    ) -> std::result::Result<Received, JoinFault> {
        let folder = self.upload_folder(id).ok_or(JoinFault::InvalidPart)?;
        let staged = self.stage()?;
        let (mut etags, mut size, mut last) = (Md5::new(), 0u64, 0);
        for (place, (number, etag)) in wanted.iter().enumerate() {
            if *number <= last {
                return Err(JoinFault::Order);
            }
            last = *number;
            let mut file = match File::open(folder.join(part_name(*number))) {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::NotFound => return Err(JoinFault::InvalidPart),
                Err(error) => return Err(error.into()),
            };
            let facts = unseal(&mut file)?;
            if etag.as_ref().is_some_and(|etag| *etag != facts.etag) {
                return Err(JoinFault::InvalidPart);
            }
            if facts.size < PART_LEAST && place + 1 < wanted.len() {
                return Err(JoinFault::TooSmall);
            }
            std::io::Seek::rewind(&mut file)?;
            let copied = std::io::copy(&mut file.take(facts.size), &mut staged.as_file())?;
            if copied != facts.size {
                return Err(JoinFault::InvalidPart);
            }
            size += copied;
            etags.update(&hex::decode(&facts.etag).map_err(|_| JoinFault::InvalidPart)?);
        }
        staged.as_file().flush()?;
        Ok(Received { staged, size, md5: etags.finalize(), checksums: super::store::Checksums::default() })
    }

    /// Forgets an upload and its parts; a missing one is fine.
    pub(super) fn end_upload(&self, id: &str) -> Result<()> {
        let Some(folder) = self.upload_folder(id) else { return Ok(()) };
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes uploads that nobody touched for a week.
    pub(super) fn end_abandoned_uploads(&self, now: SystemTime) -> Result<()> {
        for entry in std::fs::read_dir(self.uploads())? {
            let entry = entry?;
            let touched = entry.metadata()?.modified()?;
            if now.duration_since(touched).is_ok_and(|idle| idle > KEPT) {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

fn part_name(number: i32) -> String {
    format!("{number:05}")
}
