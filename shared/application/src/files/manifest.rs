//! The proof that a VM has everything that is stored: both sides are listed with their hashes and compared.

use pvm_domain::event::{EventType, LogId, NewEvent};
use pvm_domain::file::{Manifest, ProjectFile, SyncStatus, WorkspaceLink};
use pvm_domain::ids::ProjectId;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::error::AppResult;
use crate::files::plan::MODE_BITS;
use crate::files::save::{links, records};
use crate::keys;
use crate::ports::{Ambient, EntryKind, VmEntry, VmFiles};
use crate::store::{ReadStore, StoreError, Tx, WriteStore};

/// Paths that are named where the two sides differ; the rest is counted.
const NAMED: usize = 20;

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// What is stored.
    pub manifest: Manifest,
    /// Paths that the VM has not as they are stored. Files that are known to have failed are not among them.
    pub differing: Vec<String>,
}

/// What a scan could look at. Of the rest it is only known that it is there.
fn readable(scanned: &[VmEntry]) -> impl Iterator<Item = &VmEntry> {
    scanned.iter().filter(|entry| entry.kind != EntryKind::Unreadable)
}

/// Compares everything that is stored with what `vm_id` has now.
///
/// # Errors
/// Of the store or the VM.
pub async fn compare<S: ReadStore, V: VmFiles, A: Ambient>(
    store: &S,
    vm: &V,
    ambient: &A,
    project_id: &ProjectId,
    vm_id: &str,
) -> AppResult<Proof> {
    let (files, links) = futures::try_join!(records(store, project_id), links(store, project_id))?;
    let scanned = vm.scan_workspace(vm_id).await?;
    let in_vm: std::collections::HashMap<&str, &VmEntry> =
        readable(&scanned).map(|entry| (entry.path.as_str(), entry)).collect();
    let hidden: Vec<String> = files
        .iter()
        .filter(|file| file.object_version > 0 && !in_vm.contains_key(file.path.as_str()))
        .map(|file| file.path.as_str().to_owned())
        .collect();
    // Uploaded to where an ignore file hides them: that they are there is all that the VM tells of them.
    let present: std::collections::HashSet<String> = if hidden.is_empty() {
        std::collections::HashSet::new()
    } else {
        let found = vm.present(vm_id, &hidden).await?;
        hidden.into_iter().zip(found).filter_map(|(path, found)| found.then_some(path)).collect()
    };
    let mut differing = Vec::new();
    let mut manifest = Manifest {
        project_id: project_id.clone(),
        vm_id: vm_id.to_owned(),
        files: 0,
        links: 0,
        bytes: 0,
        sha256: String::new(),
        at: ambient.now(),
        version: 0,
    };
    let mut lines: Vec<(String, String)> = Vec::new();
    for file in files.iter().filter(|file| file.object_version > 0) {
        manifest.files += 1;
        manifest.bytes += file.size;
        lines.push((file.path.as_str().to_owned(), line(file)));
        let equal = in_vm.get(file.path.as_str()).is_some_and(|entry| {
            entry.kind == EntryKind::File
                && entry.sha256 == file.sha256
                && entry.mode & MODE_BITS == file.mode
        });
        let known = file.sync_status == SyncStatus::Failed
            || !in_vm.contains_key(file.path.as_str()) && present.contains(file.path.as_str());
        if !equal && !known {
            differing.push(file.path.as_str().to_owned());
        }
    }
    for link in &links {
        manifest.links += 1;
        lines.push((link.path.as_str().to_owned(), link_line(link)));
        let equal = in_vm
            .get(link.path.as_str())
            .is_some_and(|entry| entry.symlink_target.as_ref() == Some(&link.target));
        if !equal {
            differing.push(link.path.as_str().to_owned());
        }
    }
    lines.sort();
    let mut hash = Sha256::new();
    for (_, line) in &lines {
        hash.update(line.as_bytes());
    }
    manifest.sha256 = hex::encode(hash.finalize());
    Ok(Proof { manifest, differing })
}

fn line(file: &ProjectFile) -> String {
    format!("{} {:03o} {}\n", file.sha256.as_deref().unwrap_or_default(), file.mode, file.path)
}

fn link_line(link: &WorkspaceLink) -> String {
    format!("-> {} {}\n", link.target, link.path)
}

/// Notes a VM's proof, with an event, unless the same one is noted already.
///
/// # Errors
/// Of the store.
pub async fn note<S: WriteStore, A: Ambient>(store: &S, ambient: &A, proof: Proof) -> AppResult<()> {
    let Proof { mut manifest, differing } = proof;
    let project_id = manifest.project_id.clone();
    let known: Option<Manifest> = store.get(&keys::manifest(&project_id)).await?;
    if known.as_ref().is_some_and(|known| known.vm_id == manifest.vm_id && known.sha256 == manifest.sha256) {
        return Ok(());
    }
    manifest.version = known.map_or(0, |known| known.version);
    let named: Vec<&String> = differing.iter().take(NAMED).collect();
    let data = json!({
        "vm_id": manifest.vm_id, "files": manifest.files, "links": manifest.links, "bytes": manifest.bytes,
        "manifest_sha256": manifest.sha256, "equal": differing.is_empty(), "differing": differing.len(),
        "differing_paths": named,
    });
    let event = NewEvent::new(EventType::WorkspaceRestored, ambient.now(), data);
    let tx = Tx::new()
        .require(keys::project(&project_id), crate::store::Condition::Present)
        .update(&mut manifest)
        .append(&LogId::Project(project_id), event);
    match store.commit(tx).await {
        // Another set-up noted its own.
        Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
        Err(other) => Err(other.into()),
    }
}
