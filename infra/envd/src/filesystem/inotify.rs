//! Changes in a directory, or in a whole tree of them, from the kernel.
//!
//! The kernel watches single directories. For a tree each directory is watched, new ones as they appear; what
//! was put into a new one before it was watched is found by looking and told as created.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use pvm_e2b_wire::filesystem::EventType;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use tokio::io::unix::AsyncFd;

use crate::readiness;

/// Directories watched by one watch. The kernel limits them per user; one watch must not take them all.
const MAX_DIRECTORIES: usize = 16_384;

/// A change: what happened to the entry at a path relative to the watched directory (`.` for itself).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Relative path.
    pub path: PathBuf,
    /// What happened.
    pub kind: EventType,
}

/// A watched directory or tree.
#[derive(Debug)]
pub struct Watch {
    queue: AsyncFd<OwnedFd>,
    root: PathBuf,
    recursive: bool,
    /// Relative paths by the kernel's number.
    directories: HashMap<i32, PathBuf>,
    /// Paths that were told as created from looking; the kernel may tell some of them too.
    found: HashSet<PathBuf>,
    pending: VecDeque<Change>,
}

impl Watch {
    /// Watches a directory. Changes from this moment on are told.
    ///
    /// # Errors
    /// The system's; `QuotaExceeded` for a tree of too many directories.
    pub fn open(root: &Path, recursive: bool) -> io::Result<Self> {
        let queue = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let mut watch = Self {
            queue: readiness::watch(queue)?,
            root: root.to_owned(),
            recursive,
            directories: HashMap::new(),
            found: HashSet::new(),
            pending: VecDeque::new(),
        };
        watch.add(Path::new(""))?;
        if recursive {
            watch.add_below(Path::new(""), false)?;
        }
        Ok(watch)
    }

    /// The watched directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The next change.
    ///
    /// # Errors
    /// The system's, or `Other` when changes came faster than they were read and some are lost.
    pub async fn next(&mut self) -> io::Result<Change> {
        loop {
            if let Some(change) = self.pending.pop_front() {
                return Ok(change);
            }
            let mut ready = self.queue.readable_mut().await?;
            let Ok(events) = ready.try_io(|queue| read(queue.get_ref())) else { continue };
            for event in events? {
                self.take(event)?;
            }
            // What was found by looking may have been told by the kernel since; that is in its queue by now.
            while !self.found.is_empty() {
                let Ok(events) = read(self.queue.get_ref()) else { break };
                for event in events {
                    self.take(event)?;
                }
            }
            self.found.clear();
        }
    }

    fn add(&mut self, relative: &Path) -> io::Result<()> {
        if self.directories.len() >= MAX_DIRECTORIES {
            let message = format!("more than {MAX_DIRECTORIES} directories; watch a smaller tree");
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, message));
        }
        let mut flags = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        if !relative.as_os_str().is_empty() {
            flags |= WatchFlags::DONT_FOLLOW;
        }
        let number = inotify::add_watch(self.queue.get_ref(), self.root.join(relative), flags)?;
        self.directories.insert(number, relative.to_owned());
        Ok(())
    }

    /// Watches all directories below one. With `tell`, what is there is told as created.
    fn add_below(&mut self, relative: &Path, tell: bool) -> io::Result<()> {
        let mut waiting = vec![relative.to_owned()];
        while let Some(directory) = waiting.pop() {
            // Gone again, or not ours to read: then there is nothing to watch below it.
            let Ok(entries) = std::fs::read_dir(self.root.join(&directory)) else { continue };
            let mut entries: Vec<_> = entries.flatten().collect();
            entries.sort_by_key(std::fs::DirEntry::file_name);
            for entry in entries {
                let path = directory.join(entry.file_name());
                if tell && self.found.insert(path.clone()) {
                    self.pending.push_back(Change { path: path.clone(), kind: EventType::Create });
                }
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) && self.add_if_there(&path)? {
                    waiting.push(path);
                }
            }
        }
        Ok(())
    }

    /// Watches a directory that may have gone again; whether it is watched.
    fn add_if_there(&mut self, relative: &Path) -> io::Result<bool> {
        match self.add(relative) {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn take(&mut self, event: Event) -> io::Result<()> {
        if event.flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            return Err(io::Error::other("changes came faster than they were read; some are lost"));
        }
        if event.flags.contains(ReadFlags::IGNORED) {
            self.directories.remove(&event.watch);
            return Ok(());
        }
        let Some(directory) = self.directories.get(&event.watch).cloned() else { return Ok(()) };
        let path = match &event.name {
            Some(name) => directory.join(name),
            // What befalls a directory below the root is told by the watch of its parent.
            None if !directory.as_os_str().is_empty() => return Ok(()),
            None => PathBuf::from("."),
        };
        let is_directory = event.flags.contains(ReadFlags::ISDIR) && event.name.is_some();
        if is_directory && self.recursive && event.flags.contains(ReadFlags::MOVED_FROM) {
            self.forget_below(&path);
        }
        if event.flags.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM) {
            // Whatever has this name next is new.
            self.found.remove(&path);
        }
        for kind in kinds(event.flags) {
            let told = kind == EventType::Create && self.found.remove(&path);
            if !told {
                self.pending.push_back(Change { path: path.clone(), kind });
            }
            // Of a directory told before, watching began then.
            if kind == EventType::Create
                && is_directory
                && self.recursive
                && !told
                && self.add_if_there(&path)?
            {
                self.add_below(&path, event.flags.contains(ReadFlags::CREATE))?;
            }
        }
        Ok(())
    }

    /// Stops watching a directory that was moved away, and all below it. Moved within the tree, it is found
    /// anew at its new place.
    fn forget_below(&mut self, path: &Path) {
        let gone: Vec<i32> = self
            .directories
            .iter()
            .filter(|(_, at)| at.starts_with(path))
            .map(|(number, _)| *number)
            .collect();
        for number in gone {
            self.directories.remove(&number);
            // Fails for a directory that is gone, which is as well.
            inotify::remove_watch(self.queue.get_ref(), number).ok();
        }
    }
}

#[derive(Debug)]
struct Event {
    watch: i32,
    flags: ReadFlags,
    name: Option<PathBuf>,
}

/// Reads what the kernel has, at least one event.
fn read(queue: &OwnedFd) -> io::Result<Vec<Event>> {
    let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
    let mut reader = Reader::new(queue, &mut buffer);
    let mut events = Vec::new();
    loop {
        match reader.next() {
            Ok(event) => {
                let name = event
                    .file_name()
                    .filter(|name| !name.is_empty())
                    .map(|name| PathBuf::from(std::ffi::OsStr::from_bytes(name.to_bytes())));
                events.push(Event { watch: event.wd(), flags: event.events(), name });
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(_) if !events.is_empty() => return Ok(events),
            Err(error) => return Err(error.into()),
        }
    }
}

/// What an event means, in the order in which several meanings of one event are told.
fn kinds(flags: ReadFlags) -> impl Iterator<Item = EventType> {
    [
        (EventType::Create, ReadFlags::CREATE | ReadFlags::MOVED_TO),
        (EventType::Rename, ReadFlags::MOVED_FROM | ReadFlags::MOVE_SELF),
        (EventType::Chmod, ReadFlags::ATTRIB),
        (EventType::Write, ReadFlags::MODIFY),
        (EventType::Remove, ReadFlags::DELETE | ReadFlags::DELETE_SELF),
    ]
    .into_iter()
    .filter(move |(_, any)| flags.intersects(*any))
    .map(|(kind, _)| kind)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use EventType::{Chmod, Create, Remove, Rename, Write};

    async fn changes(watch: &mut Watch, count: usize) -> Vec<(String, EventType)> {
        let mut changes = Vec::new();
        for _ in 0..count {
            let change = watch.next().await.unwrap();
            changes.push((change.path.to_string_lossy().into_owned(), change.kind));
        }
        changes
    }

    fn told(list: &[(&str, EventType)]) -> Vec<(String, EventType)> {
        list.iter().map(|(path, kind)| ((*path).to_owned(), *kind)).collect()
    }

    #[tokio::test]
    async fn the_life_of_a_file_is_told_in_order() {
        let root = tempfile::tempdir().unwrap();
        let mut watch = Watch::open(root.path(), false).unwrap();
        let file = root.path().join("f");
        std::fs::write(&file, "x").unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        std::fs::rename(&file, root.path().join("g")).unwrap();
        std::fs::remove_file(root.path().join("g")).unwrap();
        let expected =
            told(&[("f", Create), ("f", Write), ("f", Chmod), ("f", Rename), ("g", Create), ("g", Remove)]);
        assert_eq!(changes(&mut watch, 6).await, expected);
    }

    #[tokio::test]
    async fn a_plain_watch_does_not_look_below() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("d")).unwrap();
        let mut watch = Watch::open(root.path(), false).unwrap();
        std::fs::write(root.path().join("d/f"), "x").unwrap();
        std::fs::write(root.path().join("top"), "").unwrap();
        assert_eq!(changes(&mut watch, 1).await, told(&[("top", Create)]));
    }

    #[tokio::test]
    async fn a_tree_watch_follows_directories_made_later() {
        let root = tempfile::tempdir().unwrap();
        let mut watch = Watch::open(root.path(), true).unwrap();
        std::fs::create_dir_all(root.path().join("a/b")).unwrap();
        std::fs::write(root.path().join("a/b/f"), "").unwrap();
        assert_eq!(changes(&mut watch, 3).await, told(&[("a", Create), ("a/b", Create), ("a/b/f", Create)]));
        std::fs::write(root.path().join("a/b/g"), "").unwrap();
        assert_eq!(changes(&mut watch, 1).await, told(&[("a/b/g", Create)]));
    }

    #[tokio::test]
    async fn a_moved_directory_is_watched_at_its_new_place() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("a/b")).unwrap();
        let mut watch = Watch::open(root.path(), true).unwrap();
        std::fs::rename(root.path().join("a"), root.path().join("c")).unwrap();
        assert_eq!(changes(&mut watch, 2).await, told(&[("a", Rename), ("c", Create)]));
        std::fs::write(root.path().join("c/b/f"), "").unwrap();
        assert_eq!(changes(&mut watch, 1).await, told(&[("c/b/f", Create)]));
    }

    #[tokio::test]
    async fn changes_of_the_watched_directory_itself_are_told_as_a_dot() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("d");
        std::fs::create_dir(&directory).unwrap();
        let mut watch = Watch::open(&directory, false).unwrap();
        std::fs::set_permissions(&directory, Permissions::from_mode(0o700)).unwrap();
        assert_eq!(changes(&mut watch, 1).await, told(&[(".", Chmod)]));
    }
}
