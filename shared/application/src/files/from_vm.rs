//! VM -> store: bytes become objects, and what became of each file a record and an event.

use std::collections::HashMap;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use pvm_domain::event::{EventType, NewEvent};
use pvm_domain::fair_use::Counted;
use pvm_domain::file::{
    FilePointer, LinkCopy, ProjectFile, SyncStatus, VmCopy, WorkspaceLink, WorkspacePath, object_key,
};
use pvm_domain::ids::FileId;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::error::AppResult;
use crate::files::deleted;
use crate::files::plan::FromVm;
use crate::files::save::{Outcome, Piece, SMALL, Side};
use crate::ports::{Ambient, DeleteObject, GetObject, ObjectError, PutObject, VmError, VmFiles};
use crate::store::{Tx, WriteStore};

/// Objects that are stored at the same time within a group.
const AT_ONCE: usize = 8;
/// Numbers that are tried for an object: others are taken by saves whose commit did not come about.
const NUMBERS: u64 = 16;

/// What was stored.
pub(super) struct Stored {
    pub(super) number: u64,
    pub(super) size: u64,
    pub(super) sha256: String,
}

impl<S, O, V, A> Side<'_, S, O, V, A>
where
    S: WriteStore,
    O: PutObject + GetObject + DeleteObject,
    V: VmFiles,
    A: Ambient,
{
    /// Stores a group and commits it.
    pub(super) async fn store_group(&self, group: Vec<FromVm>) -> AppResult<Outcome> {
        let small: Vec<String> =
            group.iter().filter_map(small_path).map(|path| path.as_str().to_owned()).collect();
        let mut read: HashMap<String, Bytes> = HashMap::new();
        if !small.is_empty() {
            let found = self.vm.read_many(self.vm_id, &small, SMALL).await?;
            read.extend(small.into_iter().zip(found).filter_map(|(path, bytes)| Some((path, bytes?))));
        }
        let pieces: Vec<Option<Piece>> = futures::stream::iter(group)
            .map(|work| {
                let bytes = small_path(&work).map(|path| read.get(path.as_str()).cloned());
                self.store_one(work, bytes)
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        self.commit(pieces.into_iter().flatten().collect()).await
    }

    /// Stores one; `bytes` are those of a small file, none where it could not be read. `None` where it went away
    /// meanwhile.
    async fn store_one(&self, work: FromVm, bytes: Option<Option<Bytes>>) -> AppResult<Option<Piece>> {
        Ok(match work {
            FromVm::New { path, mode, .. } => self.save_new(path, mode, bytes).await?,
            FromVm::Changed { file, mode, .. } => self.save(*file, mode, bytes).await?,
            FromVm::Mode { mut file, mode } => {
                file.mode = mode;
                let event = self.changed(&file, "mode");
                Some(self.equal(&mut file, mode).with(event, self).counted(saved(1)))
            }
            FromVm::Equal { mut file, sha256, mode } => {
                file.sha256 = Some(sha256);
                Some(self.equal(&mut file, mode))
            }
            FromVm::Moved { file, to, mode } => Some(self.moved(*file, to, mode)),
            FromVm::Gone { file } => Some(self.gone(&file)),
            FromVm::Link { known, path, target } => Some(self.link(known.map(|link| *link), path, target)),
            FromVm::LinkGone { link } => {
                let counts = Outcome { forgotten: 1, ..Outcome::default() };
                Some(Piece::of(Tx::new().delete(&*link)).counted(counts))
            }
        })
    }

    pub(super) fn changed(&self, file: &ProjectFile, change: &str) -> NewEvent {
        let data = json!({
            "file_id": file.file_id, "path": file.path, "size": file.size, "sha256": file.sha256,
            "change": change, "origin": "vm",
        });
        NewEvent::new(EventType::FileChanged, self.ambient.now(), data)
    }

    /// Notes that both sides have the file's bytes.
    fn equal(&self, file: &mut ProjectFile, mode: u32) -> Piece {
        let sha256 = file.sha256.clone().unwrap_or_default();
        file.vm_copy = Some(VmCopy { vm_id: self.vm_id.to_owned(), sha256, mode: Some(mode) });
        file.sync_status = SyncStatus::Synced;
        file.sync_error = None;
        Piece::of(Tx::new().update(file))
    }

    /// Stores the VM's bytes as the file's next version; `None` where the file went away meanwhile. An object that is
    /// there already belongs to a save whose commit did not come about: it is never written over, the next number is
    /// taken.
    async fn store_bytes(
        &self,
        path: &WorkspacePath,
        file: &FileId,
        first: u64,
        bytes: Option<Option<Bytes>>,
    ) -> AppResult<Option<Stored>> {
        for number in first..first + NUMBERS {
            let key = object_key(self.project_id, file, number);
            let stored = match &bytes {
                Some(None) => return Ok(None),
                Some(Some(bytes)) => {
                    let (size, sha256) = (bytes.len() as u64, hex::encode(Sha256::digest(bytes)));
                    self.objects.put_new(&key, bytes.clone(), &sha256).await.map(|()| (size, sha256))
                }
                None => {
                    // Asked first: a stream that is refused at its end would have to be read again.
                    match self.objects.head(&key).await {
                        Ok(_) => continue,
                        Err(ObjectError::NotFound) => {}
                        Err(error) => return Err(error.into()),
                    }
                    let stream = match self.vm.read_file_stream(self.vm_id, &path.in_vm(), "root").await {
                        Ok((_, stream)) => stream,
                        Err(VmError::NotFound(_)) => return Ok(None),
                        Err(error) => return Err(error.into()),
                    };
                    let info = self.objects.put_new_stream(&key, stream).await;
                    info.map(|info| (info.size, info.sha256.unwrap_or_default()))
                }
            };
            match stored {
                Ok((size, sha256)) => return Ok(Some(Stored { number, size, sha256 })),
                Err(ObjectError::Exists) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(crate::error::AppError::new(
            crate::error::ErrorCode::Conflict,
            "The file is saved by many at once; try again.",
        ))
    }

    async fn save(
        &self,
        mut file: ProjectFile,
        mode: u32,
        bytes: Option<Option<Bytes>>,
    ) -> AppResult<Option<Piece>> {
        let Some(stored) = self.store_bytes(&file.path, &file.file_id, file.next_version(), bytes).await?
        else {
            return Ok(None);
        };
        let before = file.as_version();
        (file.object_version, file.restored_from) = (stored.number, None);
        (file.size, file.sha256, file.mode) = (stored.size, Some(stored.sha256), mode);
        file.updated_at = self.ambient.now();
        let event = self.changed(&file, "modified");
        let mut piece = self.equal(&mut file, mode).with(event, self).counted(saved(1));
        if let Some(mut before) = before {
            piece.tx = piece.tx.create(&mut before);
        }
        piece.then_prune = Some(Box::new(file));
        Ok(Some(piece))
    }

    pub(super) async fn save_new(
        &self,
        path: WorkspacePath,
        mode: u32,
        bytes: Option<Option<Bytes>>,
    ) -> AppResult<Option<Piece>> {
        let file_id: FileId = self.ambient.new_id();
        let Some(stored) = self.store_bytes(&path, &file_id, 1, bytes).await? else { return Ok(None) };
        let now = self.ambient.now();
        let mut file = ProjectFile {
            project_id: self.project_id.clone(),
            file_id: file_id.clone(),
            path: path.clone(),
            size: stored.size,
            sha256: Some(stored.sha256.clone()),
            mode,
            object_version: stored.number,
            restored_from: None,
            uploads: Vec::new(),
            sync_status: SyncStatus::Synced,
            sync_error: None,
            vm_copy: Some(VmCopy { vm_id: self.vm_id.to_owned(), sha256: stored.sha256, mode: Some(mode) }),
            created_at: now,
            updated_at: now,
            owner: self.owner.clone(),
            counted: Counted::default(),
            version: 0,
        };
        let mut pointer =
            FilePointer { project_id: self.project_id.clone(), file_id: file_id.clone(), path, version: 0 };
        let event = self.changed(&file, "created");
        let tx = Tx::new().create(&mut file).create(&mut pointer);
        let mut piece = Piece::of(tx).with(event, self).counted(saved(1));
        piece.else_forget = Some(file_id);
        Ok(Some(piece))
    }

    /// The record goes along: id, versions and open uploads stay the file's.
    fn moved(&self, file: ProjectFile, to: WorkspacePath, mode: u32) -> Piece {
        let from = file.path.clone();
        let tx = Tx::new().delete(&file);
        let mut file =
            ProjectFile { path: to.clone(), mode, version: 0, counted: Counted::default(), ..file };
        let sha256 = file.sha256.clone().unwrap_or_default();
        file.vm_copy = Some(VmCopy { vm_id: self.vm_id.to_owned(), sha256, mode: Some(mode) });
        file.sync_status = SyncStatus::Synced;
        file.sync_error = None;
        let (project_id, file_id) = (self.project_id.clone(), file.file_id.clone());
        let mut pointer = FilePointer { project_id, file_id, path: to, version: 1 };
        let mut event = self.changed(&file, "moved");
        event.data["previous_path"] = json!(from);
        let tx = tx.create(&mut file).overwrite(&mut pointer);
        Piece::of(tx).with(event, self).counted(Outcome { moved: 1, ..Outcome::default() })
    }

    fn gone(&self, file: &ProjectFile) -> Piece {
        let counts = Outcome { forgotten: 1, ..Outcome::default() };
        Piece::of(deleted::keep(file, self.ambient)).with(self.changed(file, "deleted"), self).counted(counts)
    }

    fn link(&self, known: Option<WorkspaceLink>, path: WorkspacePath, target: String) -> Piece {
        let counts = if known.as_ref().is_some_and(|link| link.target == target) {
            Outcome::default()
        } else {
            saved(1)
        };
        let version = known.map_or(0, |link| link.version);
        let mut link = WorkspaceLink {
            project_id: self.project_id.clone(),
            path,
            vm_copy: Some(LinkCopy { vm_id: self.vm_id.to_owned(), target: target.clone() }),
            target,
            updated_at: self.ambient.now(),
            version,
        };
        Piece::of(Tx::new().update(&mut link)).counted(counts)
    }
}

/// The path of a file whose bytes are needed and few.
fn small_path(work: &FromVm) -> Option<&WorkspacePath> {
    match work {
        FromVm::New { path, size, .. } if *size <= SMALL => Some(path),
        FromVm::Changed { file, size, .. } if *size <= SMALL => Some(&file.path),
        _ => None,
    }
}

fn saved(count: usize) -> Outcome {
    Outcome { saved: count, ..Outcome::default() }
}

impl Piece {
    pub(super) fn of(tx: Tx) -> Self {
        Self { tx, counts: Outcome::default(), else_forget: None, then_prune: None }
    }

    fn counted(mut self, counts: Outcome) -> Self {
        self.counts = counts;
        self
    }

    fn with<S, O, V, A>(mut self, event: NewEvent, side: &Side<'_, S, O, V, A>) -> Self {
        let log = pvm_domain::event::LogId::Project(side.project_id.clone());
        self.tx = self.tx.append(&log, event);
        self
    }
}
