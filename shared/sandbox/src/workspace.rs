//! Scanning the workspace for what is to be saved.

use std::time::Duration;

use pvm_application::ports::{EntryKind, VmEntry, VmError};
use pvm_domain::file::WORKSPACE;
use pvm_e2b_wire::workspace::{SERVICE, ScanEntry, ScanKind, ScanRequest, ScanResponse};

use crate::client::VmClient;

/// What is never worth saving, unless `.pvmignore` takes it back: it is rebuilt by the recipe or by its own tools.
const DEFAULT_IGNORES: [&str; 13] = [
    ".pvm-unfinished-*",
    "node_modules/",
    "venv/",
    ".venv/",
    "__pycache__/",
    "*.pyc",
    ".cache/",
    ".npm/",
    ".pytest_cache/",
    ".mypy_cache/",
    "*.sock",
    "*.swp",
    ".ipynb_checkpoints/",
];
/// Hashing a large workspace for the first time takes a while.
pub(crate) const SCAN: Duration = Duration::from_secs(270);

impl VmClient {
    pub(crate) async fn scan(&self, vm_id: &str) -> Result<Vec<VmEntry>, VmError> {
        if !self.access(vm_id).await?.journal {
            return self.scan_by_script(vm_id, &DEFAULT_IGNORES).await;
        }
        let request = ScanRequest {
            root: WORKSPACE.to_owned(),
            ignore_file: None,
            default_ignores: DEFAULT_IGNORES.iter().map(|&pattern| pattern.to_owned()).collect(),
            hash: true,
        };
        let found: ScanResponse = self.rpc(vm_id, "root", &format!("{SERVICE}Scan"), &request, SCAN).await?;
        if found.truncated {
            // Acting on a part would delete the rest.
            return Err(VmError::Refused(
                "The workspace has more than 200,000 entries; name what need not be saved in /workspace/.pvmignore."
                    .to_owned(),
            ));
        }
        let unreadable = found.unreadable.iter().map(|told| unreadable(told));
        Ok(found.entries.into_iter().map(entry).chain(unreadable).collect())
    }
}

/// What is told as `path: reason`.
fn unreadable(told: &str) -> VmEntry {
    let path = told.split_once(": ").map_or(told, |(path, _)| path);
    VmEntry {
        path: path.to_owned(),
        name: path.rsplit('/').next().unwrap_or_default().to_owned(),
        kind: EntryKind::Unreadable,
        size: 0,
        mode: 0,
        owner: String::new(),
        group: String::new(),
        modified_ns: 0,
        sha256: None,
        symlink_target: None,
    }
}

fn entry(found: ScanEntry) -> VmEntry {
    VmEntry {
        name: found.path.rsplit('/').next().unwrap_or_default().to_owned(),
        path: found.path,
        kind: match found.kind {
            ScanKind::File => EntryKind::File,
            ScanKind::Directory => EntryKind::Directory,
            ScanKind::Symlink => EntryKind::Symlink,
        },
        size: found.size,
        mode: found.mode,
        owner: String::new(),
        group: String::new(),
        modified_ns: i128::from(found.mtime_ns),
        sha256: found.sha256,
        symlink_target: found.symlink_target,
    }
}
