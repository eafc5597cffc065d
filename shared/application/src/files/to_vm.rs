//! Store -> VM: objects become files of the workspace.

use futures::{StreamExt, TryStreamExt};
use pvm_domain::event::{EventType, NewEvent};
use pvm_domain::file::{LinkCopy, ProjectFile, SyncStatus, VmCopy, WorkspacePath};
use serde_json::json;

use crate::error::{AppError, AppResult, ErrorCode};
use crate::files::plan::{MODE_BITS, ToVm};
use crate::files::save::{Outcome, Piece, SMALL, Side};
use crate::ports::{
    Ambient, DeleteObject, GetObject, NewContent, NewEntry, ObjectError, PutObject, VmError, VmFiles,
};
use crate::store::{Tx, WriteStore};

/// Objects that are fetched at the same time within a group.
const AT_ONCE: usize = 8;
/// A file's name has at most so many bytes.
const NAME_BYTES: usize = 255;

impl<S, O, V, A> Side<'_, S, O, V, A>
where
    S: WriteStore,
    O: PutObject + GetObject + DeleteObject,
    V: VmFiles,
    A: Ambient,
{
    /// Writes a group into the VM and commits that it has it.
    pub(super) async fn write_group(&self, group: Vec<ToVm>) -> AppResult<Outcome> {
        let fetched: Vec<Result<NewEntry, String>> = futures::stream::iter(group.clone())
            .map(|work| async move { self.entry(&work).await })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        let mut reasons: Vec<Option<String>> =
            fetched.iter().map(|entry| entry.as_ref().err().cloned()).collect();
        let places: Vec<usize> =
            fetched.iter().enumerate().filter(|(_, entry)| entry.is_ok()).map(|(place, _)| place).collect();
        let entries: Vec<NewEntry> = fetched.into_iter().flatten().collect();
        if !entries.is_empty() {
            let failures = self.vm.write_many(self.vm_id, entries).await?;
            for (place, reason) in places.into_iter().zip(failures) {
                reasons[place] = reason;
            }
        }
        let mut pieces = Vec::new();
        let mut failed = 0;
        for (work, reason) in group.into_iter().zip(reasons) {
            match (work, reason) {
                (ToVm::File(file) | ToVm::Mode(file), Some(reason)) => {
                    self.note_failure(file, reason).await?;
                    failed += 1;
                }
                (ToVm::Link(link), Some(reason)) => {
                    tracing::warn!(path = %link.path, reason, "a link cannot be made in the VM");
                    failed += 1;
                }
                (ToVm::File(file) | ToVm::Mode(file), None) => pieces.push(self.has(*file)),
                (ToVm::Link(mut link), None) => {
                    link.vm_copy =
                        Some(LinkCopy { vm_id: self.vm_id.to_owned(), target: link.target.clone() });
                    pieces.push(written(Tx::new().update(&mut *link)));
                }
            }
        }
        let mut outcome = self.commit(pieces).await?;
        outcome.failed += failed;
        Ok(outcome)
    }

    /// What the VM is to be given; an error where the store has not what its record says.
    async fn entry(&self, work: &ToVm) -> AppResult<Result<NewEntry, String>> {
        Ok(Ok(match work {
            ToVm::Mode(file) => {
                NewEntry { path: file.path.as_str().to_owned(), mode: file.mode, content: NewContent::Mode }
            }
            ToVm::Link(link) => NewEntry {
                path: link.path.as_str().to_owned(),
                mode: 0o777,
                content: NewContent::Link(link.target.clone()),
            },
            ToVm::File(file) => return entry(self.objects, file).await,
        }))
    }

    fn has(&self, mut file: ProjectFile) -> Piece {
        let sha256 = file.sha256.clone().unwrap_or_default();
        file.vm_copy = Some(VmCopy { vm_id: self.vm_id.to_owned(), sha256, mode: Some(file.mode) });
        file.sync_status = SyncStatus::Synced;
        file.sync_error = None;
        written(Tx::new().update(&mut file))
    }

    /// Notes why a file is not in the VM. The same reason again is no news.
    pub(super) async fn note_failure(&self, mut file: Box<ProjectFile>, reason: String) -> AppResult<()> {
        if file.sync_status == SyncStatus::Failed && file.sync_error.as_deref() == Some(&reason) {
            return Ok(());
        }
        file.sync_status = SyncStatus::Failed;
        file.sync_error = Some(reason);
        let data = json!({
            "file_id": file.file_id, "path": file.path, "change": "failed", "reason": file.sync_error, "origin": "store",
        });
        let event = NewEvent::new(EventType::FileChanged, self.ambient.now(), data);
        let tx = Tx::new().update(&mut *file).append(&self.log(), event);
        self.commit(vec![Piece::of(tx)]).await.map(|_| ())
    }

    /// Moves the VM's bytes aside under a name that says so, stores them as a file of their own, then writes the stored
    /// object: the store wins the path, and nothing is lost. Interrupted anywhere, the next call finds the copy aside
    /// as a new file and the conflict again.
    pub(super) async fn keep_both(&self, file: ProjectFile, mode: u32) -> AppResult<Outcome> {
        let aside = aside(&file.path, &self.ambient.now().as_millisecond().to_string())?;
        let (size, bytes) = match self.vm.read_file_stream(self.vm_id, &file.path.in_vm(), "root").await {
            Ok(found) => found,
            Err(VmError::NotFound(_)) => return Ok(Outcome::default()),
            Err(error) => return Err(error.into()),
        };
        let copy =
            NewEntry { path: aside.as_str().to_owned(), mode, content: NewContent::Stream { size, bytes } };
        let failures = self.vm.write_many(self.vm_id, vec![copy]).await?;
        if let Some(reason) = failures.into_iter().next().flatten() {
            let reason =
                format!("both sides changed it, and the VM's version cannot be kept aside: {reason}");
            self.note_failure(Box::new(file), reason).await?;
            return Ok(Outcome { failed: 1, ..Outcome::default() });
        }
        let kept = self.save_new(aside.clone(), mode & MODE_BITS, None).await?;
        self.commit(kept.into_iter().collect()).await?;
        let stored = match entry(self.objects, &file).await? {
            Ok(entry) => self.vm.write_many(self.vm_id, vec![entry]).await?.into_iter().next().flatten(),
            Err(reason) => Some(reason),
        };
        if let Some(reason) = stored {
            self.note_failure(Box::new(file), reason).await?;
            return Ok(Outcome { failed: 1, ..Outcome::default() });
        }
        let data = json!({"file_id": file.file_id, "path": file.path, "kept_as": aside});
        let event = NewEvent::new(EventType::FileConflict, self.ambient.now(), data);
        let mut piece = self.has(file);
        piece.tx = piece.tx.append(&self.log(), event);
        piece.counts = Outcome { conflicts: 1, ..Outcome::default() };
        self.commit(vec![piece]).await
    }
}

fn written(tx: Tx) -> Piece {
    let mut piece = Piece::of(tx);
    piece.counts = Outcome { pushed: 1, ..Outcome::default() };
    piece
}

/// A file as the VM is to have it: a small one with its bytes, a large one as a stream.
pub(super) async fn entry(
    objects: &impl GetObject,
    file: &ProjectFile,
) -> AppResult<Result<NewEntry, String>> {
    let missing = || Err("its bytes are not in the file store any more; upload it again".to_owned());
    let key = file.current_key();
    let content = if file.size <= SMALL {
        match objects.get(&key).await {
            Ok(bytes) => NewContent::Bytes(bytes),
            Err(ObjectError::NotFound) => return Ok(missing()),
            Err(error) => return Err(error.into()),
        }
    } else {
        match objects.get_stream(&key).await {
            Ok((size, bytes)) => NewContent::Stream { size, bytes },
            Err(ObjectError::NotFound) => return Ok(missing()),
            Err(error) => return Err(error.into()),
        }
    };
    Ok(Ok(NewEntry { path: file.path.as_str().to_owned(), mode: file.mode, content }))
}

/// The name under which the VM's version of a file is kept: the file's own, shortened where it has to be, with the time.
fn aside(path: &WorkspacePath, stamp: &str) -> AppResult<WorkspacePath> {
    let end = format!(".vm-{stamp}");
    let (folder, name) =
        path.as_str().rsplit_once('/').map_or(("", path.as_str()), |(folder, name)| (folder, name));
    let room = NAME_BYTES - end.len();
    let mut cut = name.len().min(room);
    let total = pvm_domain::limits::PATH_BYTES - end.len();
    cut = cut.min(total.saturating_sub(if folder.is_empty() { 0 } else { folder.len() + 1 }));
    while !name.is_char_boundary(cut) {
        cut -= 1;
    }
    if cut == 0 {
        return Err(AppError::new(
            ErrorCode::Conflict,
            "The file's path is too long to keep two versions of it.",
        ));
    }
    let name = &name[..cut];
    let text = if folder.is_empty() { format!("{name}{end}") } else { format!("{folder}/{name}{end}") };
    Ok(WorkspacePath::parse("path", &text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_aside_fits_where_the_file_fits() {
        let path = |text: &str| WorkspacePath::parse("path", text).unwrap();
        assert_eq!(aside(&path("a/b.txt"), "7").unwrap().as_str(), "a/b.txt.vm-7");
        let long = "é".repeat(127);
        let kept = aside(&path(&long), "1234567890123").unwrap();
        assert!(kept.as_str().len() <= NAME_BYTES && kept.as_str().ends_with(".vm-1234567890123"));
        let deep = format!("{}/{}", vec!["abc"; 240].join("/"), "x".repeat(40));
        assert!(aside(&path(&deep), "1234567890123").unwrap().as_str().len() <= 1000);
    }
}
