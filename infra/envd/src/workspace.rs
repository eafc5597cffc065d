//! `pvm.Workspace`: what is in a directory tree, less what is ignored, with hashes; and many files of it in one request.

mod bulk;
mod place;

use std::collections::HashMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::StatusCode;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use jiff::Timestamp;
use pvm_e2b_wire::connect::{Code, ConnectError};
use pvm_e2b_wire::workspace::{
    DEFAULT_IGNORE_FILE, MAX_ENTRIES, ScanEntry, ScanKind, ScanRequest, ScanResponse,
};
use sha2::{Digest as _, Sha256};

use crate::daemon::Daemon;
use crate::http::rpc::{self, internal, invalid};
use crate::http::{Request, Response, reply};
use crate::paths;

/// Hashes remembered. About 100 bytes each.
const MAX_REMEMBERED: usize = 50_000;
/// Age in nanoseconds from which a file's times can be trusted to change with its content. A younger one may be
/// changed again within the same tick of the file system's clock.
const SETTLED: i64 = 2_000_000_000;
/// Most things told as unreadable.
const MAX_UNREADABLE: usize = 100;
/// Bytes read at once when hashing.
const CHUNK: usize = 256 * 1024;

/// Serves a method of the service.
pub async fn serve(daemon: &Arc<Daemon>, method: &str, request: Request) -> Response {
    match method {
        "Scan" => {}
        "Read" => return bulk::read(daemon, request).await,
        "Write" => return bulk::write(daemon, request).await,
        _ => return reply::error_reply(StatusCode::NOT_FOUND, "pvm.Workspace has no such method"),
    }
    let headers = request.headers().clone();
    rpc::unary(&daemon.buffers, request, async |question: ScanRequest| {
        let account = daemon.caller(&headers)?;
        let root = paths::resolve(&question.root, &account, daemon.default_workdir().as_deref())
            .map_err(|error| invalid(error.to_string()))?;
        let scanner = daemon.scanner.clone();
        let work = move || scanner.scan(&root, &question, Timestamp::now());
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(internal(error.to_string())))
    })
    .await
}

/// What decides that a file is still the one that was hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    fn is_settled(self, now: Timestamp) -> bool {
        let changed = self.changed.0.saturating_mul(1_000_000_000).saturating_add(self.changed.1);
        let now = i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX);
        now.saturating_sub(changed) >= SETTLED
    }
}

/// Hashes by device and inode, each with what the file was like.
type Hashes = HashMap<(u64, u64), (Stamp, [u8; 32])>;

/// Scans, remembering hashes from one time to the next.
#[derive(Debug, Clone, Default)]
pub struct Scanner {
    hashes: Arc<Mutex<Hashes>>,
}

impl Scanner {
    /// Scans a tree.
    ///
    /// # Errors
    /// [`Code::NotFound`] or [`Code::InvalidArgument`] when the root is not a directory, or a pattern is wrong.
    pub fn scan(
        &self,
        root: &Path,
        question: &ScanRequest,
        now: Timestamp,
    ) -> Result<ScanResponse, ConnectError> {
        match root.metadata() {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(invalid(format!("root {} is not a directory", root.display()))),
            Err(error) => {
                let message = format!("root {} cannot be scanned: {error}", root.display());
                return Err(ConnectError::new(Code::NotFound, message));
            }
        }
        let ignore_file = question.ignore_file.as_deref().unwrap_or(DEFAULT_IGNORE_FILE);
        if ignore_file.is_empty() || ignore_file.contains('/') {
            return Err(invalid("ignoreFile must be a file name without '/'"));
        }
        let mut defaults = GitignoreBuilder::new(root);
        for pattern in &question.default_ignores {
            defaults
                .add_line(None, pattern)
                .map_err(|error| invalid(format!("defaultIgnores has {pattern:?}: {error}")))?;
        }
        let defaults = defaults.build().map_err(|error| invalid(format!("defaultIgnores: {error}")))?;
        let mut walk = Walk {
            scanner: self,
            ignore_file,
            hash: question.hash,
            now,
            rules: vec![defaults],
            response: ScanResponse::default(),
        };
        walk.directory(root, "");
        let mut response = walk.response;
        response.entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(response)
    }

    /// The hash of a regular file; `None` when it changed while it was read.
    fn hash(&self, path: &Path, found: &Metadata, now: Timestamp) -> io::Result<Option<[u8; 32]>> {
        let key = (found.dev(), found.ino());
        let stamp = Stamp::of(found);
        let known = self.lock().get(&key).copied();
        if let Some((known, hash)) = known
            && known == stamp
        {
            return Ok(Some(hash));
        }
        // Twice: a file that is just being written may be finished by then.
        for _ in 0..2 {
            let mut file = open(path)?;
            let before = Stamp::of(&file.metadata()?);
            let mut hash = Sha256::new();
            let mut buffer = vec![0; CHUNK];
            loop {
                match io::Read::read(&mut file, &mut buffer) {
                    Ok(0) => break,
                    Ok(length) => hash.update(&buffer[..length]),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            let after = file.metadata()?;
            if Stamp::of(&after) == before && (after.dev(), after.ino()) == key && before == stamp {
                let hash: [u8; 32] = hash.finalize().into();
                if stamp.is_settled(now) {
                    self.remember(key, stamp, hash);
                }
                return Ok(Some(hash));
            }
        }
        Ok(None)
    }

    fn remember(&self, key: (u64, u64), stamp: Stamp, hash: [u8; 32]) {
        let mut hashes = self.lock();
        if hashes.len() >= MAX_REMEMBERED {
            // Rare, and every hash can be made again.
            hashes.clear();
        }
        hashes.insert(key, (stamp, hash));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Hashes> {
        self.hashes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

struct Walk<'a> {
    scanner: &'a Scanner,
    ignore_file: &'a str,
    hash: bool,
    now: Timestamp,
    /// Outermost first: the defaults, then one per directory on the way here.
    rules: Vec<Gitignore>,
    response: ScanResponse,
}

impl Walk<'_> {
    fn directory(&mut self, directory: &Path, relative: &str) {
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) => return self.unreadable(relative, &error),
        };
        let own = directory.join(self.ignore_file);
        // A file that is not there has no rules; a wrong line in it is passed over, as git does.
        self.rules.push(if own.is_file() { Gitignore::new(&own).0 } else { Gitignore::empty() });
        for entry in entries.flatten() {
            if self.response.truncated {
                break;
            }
            let name = entry.file_name();
            if place::is_unfinished(&name) {
                continue;
            }
            let Some(name) = name.to_str() else {
                let shown = format!("{relative}/{}", name.to_string_lossy());
                self.unreadable(shown.trim_start_matches('/'), &io::Error::other("the name is not UTF-8"));
                continue;
            };
            let path = if relative.is_empty() { name.to_owned() } else { format!("{relative}/{name}") };
            match entry.path().symlink_metadata() {
                Ok(metadata) => self.entry(&entry.path(), path, &metadata),
                // Removed since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => self.unreadable(&path, &error),
            }
        }
        self.rules.pop();
    }

    fn entry(&mut self, full: &Path, path: String, metadata: &Metadata) {
        let kind = if metadata.is_dir() {
            ScanKind::Directory
        } else if metadata.is_file() {
            ScanKind::File
        } else if metadata.is_symlink() {
            ScanKind::Symlink
        } else {
            return;
        };
        if self.is_ignored(full, kind == ScanKind::Directory) {
            return;
        }
        if self.response.entries.len() >= MAX_ENTRIES {
            self.response.truncated = true;
            return;
        }
        let sha256 = match kind {
            ScanKind::File if self.hash => match self.scanner.hash(full, metadata, self.now) {
                Ok(hash) => hash.map(|hash| hex(&hash)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return,
                Err(error) => {
                    self.unreadable(&path, &error);
                    None
                }
            },
            _ => None,
        };
        let symlink_target = match kind {
            ScanKind::Symlink => match std::fs::read_link(full).map(|to| to.into_os_string().into_string()) {
                Ok(Ok(target)) => Some(target),
                Ok(Err(_)) => {
                    self.unreadable(&path, &io::Error::other("the link's target is not UTF-8"));
                    None
                }
                Err(_) => None,
            },
            ScanKind::File | ScanKind::Directory => None,
        };
        self.response.entries.push(ScanEntry {
            path: path.clone(),
            kind,
            size: if kind == ScanKind::Directory { 0 } else { metadata.len() },
            mode: metadata.mode() & 0o7777,
            mtime_ns: metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec()),
            sha256,
            symlink_target,
        });
        if kind == ScanKind::Directory {
            self.directory(full, &path);
        }
    }

    /// The innermost rule that says anything decides.
    fn is_ignored(&self, path: &Path, is_directory: bool) -> bool {
        for rules in self.rules.iter().rev() {
            let verdict = rules.matched(path, is_directory);
            if !verdict.is_none() {
                return verdict.is_ignore();
            }
        }
        false
    }

    fn unreadable(&mut self, path: &str, error: &io::Error) {
        if self.response.unreadable.len() < MAX_UNREADABLE {
            self.response.unreadable.push(format!("{path}: {error}"));
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn later() -> Timestamp {
        Timestamp::now() + jiff::SignedDuration::from_secs(3600)
    }

    fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("a.txt", "hello"),
            (".hidden", ""),
            ("build/out.o", "x"),
            ("src/main.rs", "fn main() {}"),
            ("src/cache/x", "x"),
            ("keep/build/y", "y"),
        ] {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    fn paths_of(response: &ScanResponse) -> Vec<&str> {
        response.entries.iter().map(|entry| entry.path.as_str()).collect()
    }

    fn question(ignores: &[&str]) -> ScanRequest {
        ScanRequest {
            default_ignores: ignores.iter().map(|text| (*text).to_owned()).collect(),
            hash: true,
            ..ScanRequest::default()
        }
    }

    #[test]
    fn everything_is_listed_in_order_with_hashes() {
        let root = tree();
        std::os::unix::fs::symlink("a.txt", root.path().join("link")).unwrap();
        let response = Scanner::default().scan(root.path(), &question(&[]), later()).unwrap();
        let expected = [
            ".hidden",
            "a.txt",
            "build",
            "build/out.o",
            "keep",
            "keep/build",
            "keep/build/y",
            "link",
            "src",
            "src/cache",
            "src/cache/x",
            "src/main.rs",
        ];
        assert_eq!(paths_of(&response), expected);
        let hello = &response.entries[1];
        assert_eq!(hello.size, 5);
        assert_eq!(
            hello.sha256.as_deref(),
            Some("2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824")
        );
        assert_eq!(response.entries[7].symlink_target.as_deref(), Some("a.txt"));
        assert_eq!(response.entries[7].sha256, None);
    }

    #[test]
    fn inner_ignore_files_win_over_outer_ones_and_over_defaults() {
        let root = tree();
        std::fs::write(root.path().join(".pvmignore"), "*.txt\n!keep/build/\n").unwrap();
        std::fs::write(root.path().join("src/.pvmignore"), "cache/\n").unwrap();
        let response =
            Scanner::default().scan(root.path(), &question(&["build/", ".hidden"]), later()).unwrap();
        let expected =
            [".pvmignore", "keep", "keep/build", "keep/build/y", "src", "src/.pvmignore", "src/main.rs"];
        assert_eq!(paths_of(&response), expected);
    }

    #[test]
    fn a_hash_follows_the_content() {
        let root = tree();
        let scanner = Scanner::default();
        let first = scanner.scan(root.path(), &question(&[]), later()).unwrap();
        assert_eq!(scanner.lock().len(), 6);
        assert_eq!(scanner.scan(root.path(), &question(&[]), later()).unwrap(), first);
        std::fs::write(root.path().join("a.txt"), "HELLO").unwrap();
        let second = scanner.scan(root.path(), &question(&[]), later()).unwrap();
        assert_ne!(first.entries[1].sha256, second.entries[1].sha256);
    }

    #[test]
    fn hashes_of_files_changed_just_now_are_not_remembered() {
        let root = tree();
        let scanner = Scanner::default();
        scanner.scan(root.path(), &question(&[]), Timestamp::now()).unwrap();
        assert_eq!(scanner.lock().len(), 0);
    }

    #[test]
    fn wrong_requests_are_told() {
        let root = tree();
        let scanner = Scanner::default();
        let missing = scanner.scan(&root.path().join("nope"), &question(&[]), later()).unwrap_err();
        assert_eq!(missing.code, Code::NotFound);
        let file = scanner.scan(&root.path().join("a.txt"), &question(&[]), later()).unwrap_err();
        assert_eq!(file.code, Code::InvalidArgument);
        let request = ScanRequest { ignore_file: Some("a/b".into()), ..question(&[]) };
        assert_eq!(scanner.scan(root.path(), &request, later()).unwrap_err().code, Code::InvalidArgument);
    }
}
