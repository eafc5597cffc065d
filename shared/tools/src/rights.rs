//! What `user` may read. The VM's file service answers everybody as root would be answered; a tool that works as `user`
//! sees what its own programs would see, so that a file is not there for one tool and refused to the next.

use pvm_application::ports::{EntryKind, VmEntry, VmFiles};
use pvm_contracts::tools::RunAs;

use crate::call::{Call, Ports, Stop};
use crate::{list_directory, paths};

/// Links that are followed one after the other; the kernel gives up at forty.
const LINKS_MAX: usize = 16;
/// Permission bits of one class.
const READ: u32 = 0o4;
const SEARCH: u32 = 0o1;

/// Refuses what `user` may not read: the entry at `path` itself, or a directory on the way to it.
pub(crate) async fn readable<P: Ports>(
    call: &Call<'_, P>,
    user: RunAs,
    path: &str,
    entry: &VmEntry,
) -> Result<(), Stop> {
    if user == RunAs::Root {
        return Ok(());
    }
    let (mut path, mut entry) = (path.to_owned(), entry.clone());
    for _ in 0..LINKS_MAX {
        let on_the_way = paths::above(&path).into_iter().map(|dir| async move {
            let found = call.ports.vm().stat(call.vm_id(), &dir, user.as_str()).await?;
            Ok::<_, Stop>(found.map(|found| (dir, found)))
        });
        for (dir, found) in futures::future::try_join_all(on_the_way).await?.into_iter().flatten() {
            // A link's own bits say nothing.
            if found.kind == EntryKind::Directory && !allows(&found, SEARCH) {
                return Err(denied(&path, &dir, &found));
            }
        }
        let Some(target) = &entry.symlink_target else {
            let needed = if entry.kind == EntryKind::Directory { READ | SEARCH } else { READ };
            return if allows(&entry, needed) { Ok(()) } else { Err(denied(&path, &path, &entry)) };
        };
        path = paths::from(&path, target);
        match call.ports.vm().stat(call.vm_id(), &path, user.as_str()).await? {
            Some(found) => entry = found,
            // It leads nowhere, which the reading itself will tell.
            None => return Ok(()),
        }
    }
    Err(Stop::error(format!("{path} is behind too many symbolic links.")))
}

/// Whether the bits of the class that `user` belongs to include `needed`.
fn allows(entry: &VmEntry, needed: u32) -> bool {
    let user = RunAs::User.as_str();
    let shift = match (entry.owner == user, entry.group == user) {
        (true, _) => 6,
        (false, true) => 3,
        (false, false) => 0,
    };
    (entry.mode >> shift) & needed == needed
}

fn denied(path: &str, at: &str, entry: &VmEntry) -> Stop {
    let (mode, owner) = (list_directory::octal(entry.mode), format!("{}:{}", entry.owner, entry.group));
    Stop::error(format!(
        "Permission denied: `user` may not read {path} (owner and mode of {at} are {owner} {mode}). Give user=root to \
         read it as root."
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(owner: &str, group: &str, mode: u32) -> VmEntry {
        VmEntry {
            path: "/x".to_owned(),
            name: "x".to_owned(),
            kind: EntryKind::File,
            size: 0,
            mode,
            owner: owner.to_owned(),
            group: group.to_owned(),
            modified_ns: 0,
            sha256: None,
            symlink_target: None,
        }
    }

    #[test]
    fn the_bits_of_ones_own_class_count() {
        assert!(allows(&entry("user", "user", 0o100_600), READ));
        assert!(
            !allows(&entry("user", "user", 0o044), READ),
            "an owner without the bit is not in another class"
        );
        assert!(allows(&entry("root", "user", 0o640), READ) && !allows(&entry("root", "root", 0o640), READ));
        assert!(allows(&entry("root", "root", 0o755), READ | SEARCH));
        assert!(!allows(&entry("root", "root", 0o744), READ | SEARCH));
    }
}
