//! Scanning the workspace on servers whose envd cannot: listed by `find`, sifted here by the ignore files, and hashed by
//! `sha256sum` as far as hashes are not known from the scan before.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use pvm_application::ports::{EntryKind, VmEntry, VmError, VmFiles};
use pvm_domain::file::WORKSPACE;
use pvm_e2b_wire::process::ProcessConfig;
use pvm_e2b_wire::workspace::{DEFAULT_IGNORE_FILE, MAX_ENTRIES};

use crate::client::VmClient;
use crate::workspace::SCAN;

/// Lists everything: the time of the VM first, then per entry its kind, size, permission bits, times, inode, path and
/// link target, all ended by NUL. Folders named as arguments are not entered, unless the ignore file takes any back.
const LIST: &str = r#"cd "$0" || exit 1
date +%s | tr '\n' '\0'
grep -qs '^!' .pvmignore && set --
n=$#
while [ "$n" -gt 0 ]; do
	set -- "$@" -o -name "$1"
	shift
	n=$((n - 1))
done
[ $# -eq 0 ] || { shift; set -- -type d '(' "$@" ')' -prune -o; }
find . -mindepth 1 "$@" -printf '%y\0%s\0%m\0%T@\0%C@\0%i\0%P\0%l\0' 2>/dev/null
exit 0
"#;
/// Hashes the files that the list in `$1` names; the list is removed.
const HASH: &str = r#"cd "$0" && xargs -0 -r sha256sum -z -- <"$1" 2>/dev/null; rm -f "$1"; exit 0"#;
/// Hashes remembered over all VMs; about 200 bytes each.
const MAX_REMEMBERED: usize = 100_000;
/// A file whose last change is younger than this may be changed again within the same tick of its clock, in seconds.
const SETTLED_SECS: i64 = 2;
/// The longest ignore file that is read, in bytes.
const IGNORE_FILE_MOST: u64 = 1024 * 1024;

/// What decides that a file is still the one that was hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: String,
    changed: String,
    inode: String,
}

/// Hashes by VM and path.
#[derive(Debug, Default)]
pub(crate) struct Hashes {
    known: Mutex<HashMap<(String, String), (Stamp, String)>>,
}

impl Hashes {
    fn get(&self, vm_id: &str, path: &str, stamp: &Stamp) -> Option<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get(&(vm_id.to_owned(), path.to_owned()))
            .filter(|(of, _)| of == stamp)
            .map(|(_, hash)| hash.clone())
    }

    fn put(&self, vm_id: &str, path: &str, stamp: Stamp, hash: String) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_REMEMBERED {
            // Rare, and every hash can be made again.
            known.clear();
        }
        known.insert((vm_id.to_owned(), path.to_owned()), (stamp, hash));
    }
}

/// An entry as `find` tells it.
struct Found {
    entry: VmEntry,
    stamp: Stamp,
}

impl VmClient {
    pub(crate) async fn scan_by_script(
        &self,
        vm_id: &str,
        ignores: &[&str],
    ) -> Result<Vec<VmEntry>, VmError> {
        let unentered = ignores.iter().filter_map(|pattern| pattern.strip_suffix('/')).map(str::to_owned);
        let listed = self.run_script(vm_id, LIST, unentered.collect()).await?;
        let (now, found) = read_list(&listed)?;
        if found.len() > MAX_ENTRIES {
            // Acting on a part would delete the rest.
            return Err(VmError::Refused(format!(
                "The workspace has more than {MAX_ENTRIES} entries; name what need not be saved in {WORKSPACE}/{DEFAULT_IGNORE_FILE}."
            )));
        }
        let mut sieve = Sieve::new(ignores)?;
        let mut kept: Vec<Found> = Vec::new();
        for found in rules_first(found) {
            let is_rules = found.entry.kind == EntryKind::File && found.entry.name == DEFAULT_IGNORE_FILE;
            if is_rules && !sieve.is_ignored(&found.entry) {
                let path = format!("{WORKSPACE}/{}", found.entry.path);
                match self.read_file(vm_id, &path, "root", IGNORE_FILE_MOST).await {
                    Ok(text) => sieve.add(&found.entry.path, &String::from_utf8_lossy(&text)),
                    // Removed since it was listed.
                    Err(VmError::NotFound(_)) => continue,
                    Err(error) => return Err(error),
                }
            }
            kept.push(found);
        }
        kept.sort_by(|a, b| a.entry.path.cmp(&b.entry.path));
        kept.retain(|found| !sieve.is_ignored(&found.entry));
        self.hash_by_script(vm_id, now, kept).await
    }

    async fn hash_by_script(
        &self,
        vm_id: &str,
        now: i64,
        mut kept: Vec<Found>,
    ) -> Result<Vec<VmEntry>, VmError> {
        let hashes = &self.inner.hashes;
        let mut unknown = Vec::new();
        for found in &mut kept {
            if found.entry.kind == EntryKind::File {
                found.entry.sha256 = hashes.get(vm_id, &found.entry.path, &found.stamp);
                if found.entry.sha256.is_none() {
                    unknown.extend_from_slice(found.entry.path.as_bytes());
                    unknown.push(0);
                }
            }
        }
        if !unknown.is_empty() {
            let list = format!("/var/lib/pvm/scan-{:016x}", rand::random::<u64>());
            self.write_file(vm_id, &list, "root", Bytes::from(unknown)).await?;
            let told = self.run_script(vm_id, HASH, vec![list]).await?;
            let told = String::from_utf8_lossy(&told);
            let mut by_path: HashMap<&str, &str> = HashMap::new();
            for line in told.split('\0') {
                if let Some((hash, path)) = line.split_once("  ").filter(|(hash, _)| hash.len() == 64) {
                    by_path.insert(path, hash);
                }
            }
            for found in kept.iter_mut().filter(|found| found.entry.sha256.is_none()) {
                if let Some(hash) = by_path.get(found.entry.path.as_str()) {
                    found.entry.sha256 = Some((*hash).to_owned());
                    let changed =
                        found.stamp.changed.split('.').next().and_then(|secs| secs.parse::<i64>().ok());
                    if changed.is_some_and(|changed| now - changed >= SETTLED_SECS) {
                        hashes.put(vm_id, &found.entry.path, found.stamp.clone(), (*hash).to_owned());
                    }
                }
            }
        }
        Ok(kept.into_iter().map(|found| found.entry).collect())
    }

    async fn run_script(&self, vm_id: &str, script: &str, arguments: Vec<String>) -> Result<Bytes, VmError> {
        let mut args = vec!["-c".to_owned(), script.to_owned(), WORKSPACE.to_owned()];
        args.extend(arguments);
        let process = ProcessConfig { cmd: "/bin/sh".to_owned(), args, ..ProcessConfig::default() };
        let process = ProcessConfig { cwd: Some("/".to_owned()), ..process };
        let done = self.run_process(vm_id, "root", process, SCAN.max(Duration::from_secs(1))).await?;
        if done.exit_code == 0 {
            Ok(done.stdout)
        } else {
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            Err(VmError::Refused(format!("The workspace cannot be scanned: {}", said.trim())))
        }
    }
}

/// Reads what [`LIST`] wrote: the VM's time and the entries.
fn read_list(bytes: &[u8]) -> Result<(i64, Vec<Found>), VmError> {
    let garbled = || VmError::Unavailable(anyhow::anyhow!("the list of the workspace is not whole"));
    let mut fields = bytes.split(|byte| *byte == 0);
    let now =
        fields.next().and_then(|text| std::str::from_utf8(text).ok()?.parse().ok()).ok_or_else(garbled)?;
    let mut found = Vec::new();
    loop {
        let Some(kind) = fields.next().filter(|kind| !kind.is_empty()) else { return Ok((now, found)) };
        let mut next = || fields.next().ok_or_else(garbled);
        let rest = [next()?, next()?, next()?, next()?, next()?, next()?, next()?];
        let kind = match kind {
            b"f" => EntryKind::File,
            b"d" => EntryKind::Directory,
            b"l" => EntryKind::Symlink,
            _ => continue,
        };
        // A name that is not UTF-8 cannot be stored; files of other names are still saved.
        let Ok([size, mode, modified, changed, inode, path, target]) = texts(rest) else {
            tracing::warn!("an entry of the workspace whose name is not UTF-8 is not saved");
            continue;
        };
        let bytes = size.parse().map_err(|_| garbled())?;
        found.push(Found {
            stamp: Stamp {
                size: bytes,
                modified: modified.to_owned(),
                changed: changed.to_owned(),
                inode: inode.to_owned(),
            },
            entry: VmEntry {
                path: path.to_owned(),
                name: path.rsplit('/').next().unwrap_or_default().to_owned(),
                kind,
                size: if kind == EntryKind::Directory { 0 } else { bytes },
                mode: u32::from_str_radix(mode, 8).map_err(|_| garbled())?,
                owner: String::new(),
                group: String::new(),
                modified_ns: nanoseconds(modified),
                sha256: None,
                symlink_target: (kind == EntryKind::Symlink).then(|| target.to_owned()),
            },
        });
    }
}

fn texts(fields: [&[u8]; 7]) -> Result<[&str; 7], std::str::Utf8Error> {
    let mut texts = [""; 7];
    for (text, field) in texts.iter_mut().zip(fields) {
        *text = std::str::from_utf8(field)?;
    }
    Ok(texts)
}

/// `find` writes seconds with a fraction of up to ten digits.
fn nanoseconds(text: &str) -> i128 {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let (seconds, fraction): (i128, i128) = (seconds.parse().unwrap_or(0), fraction.parse().unwrap_or(0));
    seconds * 1_000_000_000 + fraction
}

/// The entries with the ignore files first, outer ones before inner ones, so that all rules are known when the
/// others are asked about.
fn rules_first(mut found: Vec<Found>) -> Vec<Found> {
    let depth = |found: &Found| found.entry.path.matches('/').count();
    found.sort_by_key(|found| (found.entry.name != DEFAULT_IGNORE_FILE, depth(found)));
    found
}

/// The ignore rules: the defaults, and one set per folder that has an ignore file. The innermost that says anything
/// decides, and what is in an ignored folder is ignored.
struct Sieve {
    rules: HashMap<String, Gitignore>,
    ignored: HashSet<String>,
}

impl Sieve {
    fn new(defaults: &[&str]) -> Result<Self, VmError> {
        let mut builder = GitignoreBuilder::new(WORKSPACE);
        for pattern in defaults {
            builder.add_line(None, pattern).map_err(|error| VmError::Refused(error.to_string()))?;
        }
        let defaults = builder.build().map_err(|error| VmError::Refused(error.to_string()))?;
        // No folder of the workspace has this name.
        Ok(Self { rules: HashMap::from([("/".to_owned(), defaults)]), ignored: HashSet::new() })
    }

    /// Adds the ignore file at `path`. A wrong line in it is passed over, as git does.
    fn add(&mut self, path: &str, text: &str) {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut builder = GitignoreBuilder::new(Path::new(WORKSPACE).join(folder));
        for line in text.lines() {
            if let Err(error) = builder.add_line(None, line) {
                tracing::debug!(path, %error, "a line of an ignore file is passed over");
            }
        }
        if let Ok(rules) = builder.build() {
            self.rules.insert(folder.to_owned(), rules);
        }
        // Rules came in: what was asked before may be answered otherwise now.
        self.ignored.clear();
    }

    fn is_ignored(&mut self, entry: &VmEntry) -> bool {
        let mut end = 0;
        // From the outermost folder inwards: once one is ignored, so is all in it.
        while let Some(length) = entry.path[end..].find('/') {
            let folder = &entry.path[..end + length];
            if self.ignored.contains(folder) {
                return true;
            }
            if self.verdict(folder, true) {
                self.ignored.insert(folder.to_owned());
                return true;
            }
            end += length + 1;
        }
        self.verdict(&entry.path, entry.kind == EntryKind::Directory)
    }

    fn verdict(&self, path: &str, is_folder: bool) -> bool {
        let full = Path::new(WORKSPACE).join(path);
        let mut folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        loop {
            let verdict = self.rules.get(folder).map(|rules| rules.matched(&full, is_folder));
            if let Some(verdict) = verdict.filter(|verdict| !verdict.is_none()) {
                return verdict.is_ignore();
            }
            match folder {
                "/" => return false,
                "" => folder = "/",
                inner => folder = inner.rsplit_once('/').map_or("", |(outer, _)| outer),
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::octal_escapes, reason = "NULs part the fields, and digits follow them")]
mod tests {
    use super::*;

    fn entry(path: &str) -> VmEntry {
        let list = format!("100\0f\05\0644\01.5\02.5\07\0{path}\0\0");
        read_list(list.as_bytes()).unwrap().1.remove(0).entry
    }

    #[test]
    fn a_list_is_read_entry_by_entry() {
        let list = b"100\0f\05\0644\012.0000000340\02.5\07\0a b/\xc3\xbc\n\0\0l\01\0777\01.5\02.5\08\0link\0to\0p\00\0644\01\02\09\0pipe\0\0f\01\0644\01\02\010\0bad\xff\0\0";
        let (now, found) = read_list(list).unwrap();
        assert_eq!((now, found.len()), (100, 2));
        let file = &found[0].entry;
        assert_eq!((file.path.as_str(), file.name.as_str(), file.mode), ("a b/ü\n", "ü\n", 0o644));
        assert_eq!(file.modified_ns, 12_000_000_034);
        assert_eq!(found[1].entry.symlink_target.as_deref(), Some("to"));
        assert!(read_list(b"100\0f\05\0644").is_err());
        assert!(read_list(b"").is_err());
    }

    #[test]
    fn the_innermost_rule_decides() {
        let mut sieve = Sieve::new(&["node_modules/", "*.pyc"]).unwrap();
        sieve.add(".pvmignore", "build/\n!keep.pyc\n");
        sieve.add("src/.pvmignore", "!build/\n*.log");
        let mut ignored = |path: &str| sieve.is_ignored(&entry(path));
        for path in
            ["node_modules/x/y", "a/node_modules/z", "x.pyc", "build/out", "a/build/out", "src/a/b.log"]
        {
            assert!(ignored(path), "{path}");
        }
        for path in ["a.txt", "keep.pyc", "src/build/out", "b.log", "node_modules"] {
            assert!(!ignored(path), "{path}");
        }
    }
}
