//! Random sequences of everything that can happen to files, against two statements: in the end store, records and VM are
//! equal, and no bytes are lost that anybody was told are stored, unless they were deleted.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use pvm_application::error::ErrorCode;
use pvm_application::fair_use;
use pvm_application::files::sync::ObjectCreated;
use pvm_application::files::upload::{Announced, Way};
use pvm_application::files::{deleted, history, restore, save};
use pvm_application::ports::{EntryKind, GetObject as _, NewContent, NewEntry, VmFiles as _};
use pvm_domain::fair_use::Resource;
use pvm_domain::file::{DeletedFile, ProjectFile, SyncStatus, object_key};
use pvm_domain::ids::OperationId;
use pvm_entry::System;
use sha2::{Digest, Sha256};

use crate::rig::{ByHand, Rig};

/// Sequences, and steps of each. `PVM_MODEL_SEED` runs one, `PVM_MODEL_RUNS` so many.
const RUNS: u64 = 6;
const STEPS: usize = 40;
const PATHS: [&str; 6] = ["a", "b", "d/a", "d/e/c", "x y", "ü"];

/// A generator whose whole state is its seed (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % most as u64) as usize
    }

    fn path(&mut self) -> &'static str {
        PATHS[self.below(PATHS.len())]
    }
}

fn hash(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

struct World {
    rig: Rig,
    random: Random,
    written: usize,
    /// Bytes that somebody was told are stored.
    durable: BTreeSet<String>,
    /// What each hash is of, for whoever looks for a fault.
    names: BTreeMap<String, String>,
    /// Bytes that were deleted, or written over before they were saved: they may be gone.
    excused: BTreeSet<String>,
    /// What the VM has that was not saved yet, by path.
    unsaved: BTreeMap<String, String>,
    /// Uploads that were announced and not sent.
    open: Vec<(Way, String)>,
    /// Events that have not been delivered.
    events: Vec<ObjectCreated>,
    /// The set-up under way, during which nobody finds a VM.
    set_up: Option<OperationId>,
    told: Vec<String>,
}

impl World {
    fn fresh(&mut self) -> String {
        self.written += 1;
        let bytes = format!("bytes {}", self.written);
        self.names.insert(hash(&bytes), bytes.clone());
        self.told.push(format!("  = {bytes}"));
        bytes
    }

    async fn deleted(&self) -> Vec<DeletedFile> {
        let Rig { store, principal, project_id, .. } = &self.rig;
        deleted::list(store, principal, project_id, "", 1_000, None).await.unwrap().items
    }

    async fn versions(&self, file: &ProjectFile) -> Vec<String> {
        let all =
            history::list(&self.rig.store, &self.rig.principal, &self.rig.project_id, &file.file_id).await;
        all.unwrap().all.into_iter().filter_map(|version| version.sha256).collect()
    }

    /// Everything that is stored of the file at `path` may be gone from now on.
    async fn excuse(&mut self, path: &str) {
        if let Some(file) = self.rig.records().await.get(path) {
            self.excused.extend(self.versions(file).await);
            for event in &self.events {
                if event.key.contains(file.file_id.as_str()) {
                    let bytes = self.rig.objects.get(&event.key).await.unwrap();
                    self.excused.insert(hex::encode(Sha256::digest(&bytes)));
                }
            }
            let id = file.file_id.to_string();
            self.open.retain(|(way, _)| !matches!(way, Way::Whole(request) if request.url.contains(&id)));
        }
    }

    /// What the VM has at `path` and was not saved may be gone too.
    fn excuse_unsaved(&mut self, path: &str) {
        if let Some(bytes) = self.unsaved.remove(path) {
            self.excused.insert(bytes);
        }
    }

    async fn save(&mut self) {
        // More than one pass where others changed a record at the same moment; here nobody does.
        for _ in 0..3 {
            if self.rig.save().await.is_quiet() {
                break;
            }
        }
        self.durable.extend(std::mem::take(&mut self.unsaved).into_values());
    }

    /// Whatever was stored during a set-up is in the VM, or is told not to be, when that VM is active.
    async fn set_up_ends(&mut self, operation: OperationId) {
        self.rig.set_up_ends(&operation).await;
        let waits = |file: &&ProjectFile| file.object_version > 0 && file.sync_status == SyncStatus::Pending;
        let records = self.rig.records().await;
        let waiting: Vec<_> = records.values().filter(waits).map(|file| file.path.as_str()).collect();
        assert!(waiting.is_empty(), "not in the VM when it became active: {waiting:?}");
    }

    async fn step(&mut self) {
        let path = self.random.path();
        let kind = self.random.below(16);
        self.told.push(format!("{kind} {path}"));
        match kind {
            0 | 1 => {
                let bytes = self.fresh();
                self.rig.upload(path, bytes.clone()).await.unwrap();
                self.durable.insert(hash(&bytes));
            }
            2 => {
                let bytes = self.fresh();
                let announced = Announced { size: bytes.len() as u64, ..Announced::default() };
                let Ok((_, way)) = self.rig.announce(path, announced).await else { return };
                self.open.push((way, bytes));
            }
            3 if !self.open.is_empty() => {
                let place = self.random.below(self.open.len());
                let (way, bytes) = self.open.swap_remove(place);
                assert_eq!(self.rig.send(&way, bytes.clone()).await, 200);
                self.told.push(format!("  sent {bytes}"));
                self.durable.insert(hash(&bytes));
            }
            4 | 5 => {
                let bytes = self.fresh();
                let content = NewContent::Bytes(Bytes::from(bytes.clone()));
                let entry = NewEntry { path: path.to_owned(), mode: 0o644, content };
                // A folder or file in the way is the VM's own business.
                if self.rig.write(vec![entry]).await == [None]
                    && let Some(before) = self.unsaved.insert(path.to_owned(), hash(&bytes))
                {
                    self.excused.insert(before);
                }
            }
            6 => {
                let there = self.rig.sh(&format!("[ -f '{path}' ] && echo yes || true")).await;
                if there == "yes\n" {
                    self.excuse_unsaved(path);
                    self.rig.sh(&format!("rm '{path}'")).await;
                }
            }
            7 => {
                let to = self.random.path();
                self.told.push(format!("  to {to}"));
                let there = self.rig.sh(&format!("[ -f '{path}' ] && echo yes || true")).await;
                if there == "yes\n" && to != path {
                    // Where a file is known at the new path, that one gets the bytes, and this one is gone.
                    self.excuse_unsaved(to);
                    self.rig.sh(&format!("mkdir -p \"$(dirname '{to}')\" && mv '{path}' '{to}'")).await;
                    if let Some(bytes) = self.unsaved.remove(path) {
                        self.unsaved.insert(to.to_owned(), bytes);
                    }
                }
            }
            8 => {
                self.rig
                    .sh(&format!(
                        "[ -f '{path}' ] && chmod $((640 + {})) '{path}' || true",
                        self.random.below(5)
                    ))
                    .await;
            }
            9 => {
                self.rig.sh(&format!("ln -sfn 'target {}' link{}", self.written, self.random.below(3))).await;
            }
            10 => self.save().await,
            11 => {
                if let Some(file) = self.rig.records().await.get(path).cloned() {
                    self.excuse(path).await;
                    self.rig.delete(&file.file_id).await.unwrap();
                }
            }
            12 => {
                self.excused.extend(std::mem::take(&mut self.unsaved).into_values());
                self.set_up = None;
                self.rig.new_vm().await;
                if self.random.below(2) == 0 {
                    self.save().await;
                }
            }
            13 => match self.set_up.take() {
                None => self.set_up = Some(self.rig.set_up_again().await),
                Some(operation) => self.set_up_ends(operation).await,
            },
            14 => {
                let gone = self.deleted().await;
                if gone.is_empty() {
                    return;
                }
                let file = &gone[self.random.below(gone.len())].file;
                let Rig { store, principal, project_id, .. } = &self.rig;
                let versions = history::list(store, principal, project_id, &file.file_id).await.unwrap().all;
                let number = versions[self.random.below(versions.len())].number;
                let back =
                    restore::restore(store, &ByHand, &System, principal, project_id, &file.file_id, number)
                        .await;
                // Another file may have its path.
                assert!(back.is_ok() || back.unwrap_err().code == ErrorCode::Conflict);
            }
            _ => {
                if let Some(file) = self.rig.records().await.get(path).filter(|file| file.object_version > 0)
                {
                    let versions = history::list(
                        &self.rig.store,
                        &self.rig.principal,
                        &self.rig.project_id,
                        &file.file_id,
                    );
                    let versions = versions.await.unwrap().all;
                    let number = versions[self.random.below(versions.len())].number;
                    let Rig { store, principal, project_id, .. } = &self.rig;
                    restore::restore(store, &ByHand, &System, principal, project_id, &file.file_id, number)
                        .await
                        .unwrap();
                }
            }
        }
        // Events come when they like: some now, some later, some twice, in any order.
        self.events.extend(self.rig.take_events());
        while !self.events.is_empty() && self.random.below(2) == 0 {
            let place = self.random.below(self.events.len());
            let event = self.events[place].clone();
            self.rig.deliver(&event).await.unwrap();
            self.told.push(format!("  event {}", event.key));
            if self.random.below(4) > 0 {
                self.events.swap_remove(place);
            }
        }
    }

    /// Lets everything come to rest.
    async fn rest(&mut self) {
        if let Some(operation) = self.set_up.take() {
            self.set_up_ends(operation).await;
        }
        for (way, bytes) in std::mem::take(&mut self.open) {
            assert_eq!(self.rig.send(&way, bytes.clone()).await, 200);
            self.durable.insert(hash(&bytes));
        }
        for _ in 0..10 {
            self.events.extend(self.rig.take_events());
            while !self.events.is_empty() {
                let place = self.random.below(self.events.len());
                let event = self.events.swap_remove(place);
                self.rig.deliver(&event).await.unwrap();
                self.events.extend(self.rig.take_events());
            }
            let quiet = self.rig.save().await.is_quiet();
            self.durable.extend(std::mem::take(&mut self.unsaved).into_values());
            self.events.extend(self.rig.take_events());
            if quiet && self.events.is_empty() {
                return;
            }
        }
        panic!("the two sides never came to rest");
    }

    async fn check(&self) {
        let records = self.rig.records().await;
        let links = save::links(&self.rig.store, &self.rig.project_id).await.unwrap();
        let scanned = self.rig.vm.scan_workspace(&self.rig.vm_id).await.unwrap();
        let in_vm: BTreeMap<&str, (&str, u32)> = scanned
            .iter()
            .filter(|entry| entry.kind == EntryKind::File)
            .map(|entry| (entry.path.as_str(), (entry.sha256.as_deref().unwrap(), entry.mode)))
            .collect();
        let stored: BTreeMap<&str, (&str, u32)> = records
            .iter()
            .filter(|(_, file)| file.object_version > 0)
            .map(|(path, file)| (path.as_str(), (file.sha256.as_deref().unwrap(), file.mode)))
            .collect();
        // What cannot be in the VM because something else is in its way is told as failed, and is not lost.
        let failed: BTreeSet<&str> = records
            .values()
            .filter(|file| file.sync_error.is_some())
            .map(|file| file.path.as_str())
            .collect();
        let expected: BTreeMap<_, _> = stored.iter().filter(|(path, _)| !failed.contains(*path)).collect();
        assert_eq!(in_vm.iter().collect::<BTreeMap<_, _>>(), expected, "VM and records");
        let in_vm: BTreeMap<&str, Option<&str>> = scanned
            .iter()
            .filter(|entry| entry.kind == EntryKind::Symlink)
            .map(|entry| (entry.path.as_str(), entry.symlink_target.as_deref()))
            .collect();
        let stored: BTreeMap<&str, Option<&str>> =
            links.iter().map(|link| (link.path.as_str(), Some(link.target.as_str()))).collect();
        assert_eq!(in_vm, stored, "links");
        let mut kept = BTreeSet::new();
        let gone = self.deleted().await.into_iter().map(|deleted| deleted.file);
        let mut counted = 0;
        for file in records.values().filter(|file| file.object_version > 0).cloned().chain(gone) {
            let Rig { store, principal, project_id, objects, .. } = &self.rig;
            for version in history::list(store, principal, project_id, &file.file_id).await.unwrap().all {
                let bytes =
                    objects.get(&object_key(project_id, &file.file_id, version.object)).await.unwrap();
                let sha256 = hex::encode(Sha256::digest(&bytes));
                assert_eq!(version.sha256.as_ref(), Some(&sha256), "an object is what its record says");
                kept.insert(sha256);
                counted += version.size;
            }
        }
        // Whoever was counted twice or not given back would show here.
        let shares = fair_use::get(&self.rig.store, &System, &self.rig.principal).await.unwrap();
        let share = shares.into_iter().find(|share| share.resource == Resource::StorageBytes).unwrap();
        assert_eq!(share.used, counted, "what is counted as storage is what is kept");
        let lost: Vec<&String> = self
            .durable
            .iter()
            .filter(|bytes| !kept.contains(*bytes) && !self.excused.contains(*bytes))
            .map(|bytes| &self.names[bytes])
            .collect();
        assert!(lost.is_empty(), "stored and lost: {lost:?}");
    }
}

async fn run(seed: u64) {
    let mut world = World {
        rig: Rig::start().await,
        random: Random(seed),
        written: 0,
        durable: BTreeSet::new(),
        names: BTreeMap::new(),
        excused: BTreeSet::new(),
        unsaved: BTreeMap::new(),
        open: Vec::new(),
        events: Vec::new(),
        set_up: None,
        told: Vec::new(),
    };
    for _ in 0..STEPS {
        world.step().await;
    }
    world.rest().await;
    if std::env::var_os("PVM_MODEL_SEED").is_some() {
        tell(&world);
    }
    world.check().await;
    world.rig.stop().await;
}

#[expect(clippy::print_stderr, reason = "shown where one seed is asked for")]
fn tell(world: &World) {
    eprintln!("{}", world.told.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_both_sides_end_equal_and_nothing_is_lost() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds: Vec<u64> = match number("PVM_MODEL_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("PVM_MODEL_RUNS").unwrap_or(RUNS)).collect(),
    };
    for seed in seeds {
        if let Err(failed) = tokio::spawn(run(seed)).await {
            let again = format!("PVM_MODEL_SEED={seed}");
            let panic = failed.into_panic();
            let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            panic!("{again} fails: {text}");
        }
    }
}
