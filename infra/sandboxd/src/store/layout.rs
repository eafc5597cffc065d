//! The state folder.
//!
//! ```text
//! lock                    held by the server that uses the folder
//! instance                name of this folder's control groups, chosen once
//! sandboxes/<id>/         one sandbox, see `SandboxFolder`
//! layers/<id>/<part>/     read-only layers of snapshots and built templates
//! templates/<id>.json     snapshots and built templates
//! template-files/          archives that clients sent for template builds
//! trash/                  what is being removed
//! ```

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::isolation::mode::{self, Isolation};

/// How long another server may have the folder before it counts as taken.
const LOCK_WITHIN: Duration = Duration::from_secs(2);
/// When to look again.
const LOCK_AGAIN: Duration = Duration::from_millis(20);

/// The right to use the state folder, until dropped.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Given back in words: a process that is being started at this moment shares the file for an instant, and
        // closing alone would leave the lock with it.
        flock(&self.0, FlockOperation::Unlock).ok();
    }
}

/// Paths of the state folder.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

/// Makes names in the trash distinct within this process; the folder is emptied at start.
static TRASHED: AtomicU64 = AtomicU64::new(0);

impl Layout {
    /// Makes the folders that are missing. Nobody but the server's user can enter: the layers below hold set-uid
    /// programs, and the records hold tokens.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        make_private(root)?;
        // Layers are given to the kernel by absolute path.
        let layout = Self { root: fs::canonicalize(root)? };
        for folder in ["sandboxes", "layers", "templates", "template-files", "trash"] {
            make_private(&layout.root.join(folder))?;
        }
        Ok(layout)
    }

    /// Takes the folder for this server; nothing when another one has it. A server that was killed while it started a
    /// process shares the lock with that until it runs its own program, so an answer of "taken" is waited out.
    pub(crate) fn lock(&self) -> io::Result<Option<Lock>> {
        let file = File::options().create(true).truncate(false).write(true).open(self.root.join("lock"))?;
        let patience = Instant::now() + LOCK_WITHIN;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(Lock(file))),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < patience => sleep(LOCK_AGAIN),
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn instance(&self) -> PathBuf {
        self.root.join("instance")
    }

    pub(crate) fn sandboxes(&self) -> PathBuf {
        self.root.join("sandboxes")
    }

    pub(crate) fn sandbox(&self, id: &str) -> SandboxFolder {
        SandboxFolder(self.sandboxes().join(id))
    }

    pub(crate) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(crate) fn layer(&self, id: &str) -> PathBuf {
        self.layers().join(id)
    }

    pub(crate) fn templates(&self) -> PathBuf {
        self.root.join("templates")
    }

    pub(crate) fn template_files(&self) -> PathBuf {
        self.root.join("template-files")
    }

    /// Where a template's record is.
    pub(crate) fn template(&self, id: &str) -> PathBuf {
        self.templates().join(format!("{id}.json"))
    }

    /// Takes a folder out of sight at once; [`Layout::empty_trash`] removes it. A folder that is gone already is
    /// no error.
    pub(crate) fn discard(&self, folder: &Path) -> io::Result<Option<PathBuf>> {
        let name = format!("{}-{}", std::process::id(), TRASHED.fetch_add(1, Ordering::Relaxed));
        let target = self.root.join("trash").join(name);
        match fs::rename(folder, &target) {
            Ok(()) => Ok(Some(target)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes everything in the trash.
    pub(crate) fn empty_trash(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.root.join("trash"))? {
            remove_tree(&entry?.path())?;
        }
        Ok(())
    }
}

/// One sandbox's folder.
///
/// ```text
/// record.jsonl            what is known about it, the last line counts
/// log.jsonl               what happened to it
/// upper-<n>/ work-<n>/    its own layer, one pair for each part of its root
/// run/                    envd's sockets, for the server only
/// egress/                 the egress proxy's socket, shown inside
/// scratch/                empty; older kernels need it for a moment at the start
/// ```
#[derive(Debug, Clone)]
pub(crate) struct SandboxFolder(PathBuf);

impl SandboxFolder {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn record(&self) -> PathBuf {
        self.0.join("record.jsonl")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.0.join("log.jsonl")
    }

    pub(crate) fn upper(&self, part: usize) -> PathBuf {
        self.0.join(format!("upper-{part}"))
    }

    pub(crate) fn work(&self, part: usize) -> PathBuf {
        self.0.join(format!("work-{part}"))
    }

    pub(crate) fn run(&self) -> PathBuf {
        self.0.join("run")
    }

    pub(crate) fn egress(&self) -> PathBuf {
        self.0.join("egress")
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        self.0.join("scratch")
    }

    /// Makes the folder itself.
    pub(crate) fn create(&self) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(&self.0)
    }

    /// Makes what a start needs, for a root of `parts` overlays. The upper layers belong to `owner`, the
    /// sandbox's root: on a layer owned by anybody else the overlay would silently be read-only.
    pub(crate) fn furnish(&self, parts: usize, owner: u32) -> io::Result<()> {
        for part in 0..parts {
            let upper = self.upper(part);
            if make_folder(&upper, 0o755)? {
                // A plain user's own id is root inside.
                if Isolation::current().is_root() {
                    std::os::unix::fs::chown(&upper, Some(owner), Some(owner))?;
                }
            }
            // Scratch space of one start; the mark that an earlier one left in it would prevent this one.
            remove_tree(&self.work(part))?;
            make_folder(&self.work(part), 0o700)?;
        }
        make_folder(&self.run(), 0o700)?;
        // Entered from inside, by users that are strangers to the host.
        make_folder(&self.egress(), 0o755)?;
        make_folder(&self.scratch(), 0o700)?;
        Ok(())
    }
}

/// Makes one folder; tells whether it was missing.
fn make_folder(path: &Path, mode: u32) -> io::Result<bool> {
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

fn make_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Removes a tree; one that is gone is no error.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => remove_locked_tree(path),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// For a plain user: folders that an overlay or a tenant has closed, and what belongs to ids inside.
fn remove_locked_tree(path: &Path) -> io::Result<()> {
    if Isolation::current() == Isolation::Subordinate {
        return mode::run_mapped("rm", &["-rf".as_ref(), "--".as_ref(), path.as_os_str()]);
    }
    use std::os::unix::fs::PermissionsExt as _;
    let mut waiting = vec![path.to_owned()];
    while let Some(folder) = waiting.pop() {
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    fs::remove_dir_all(path)
}
