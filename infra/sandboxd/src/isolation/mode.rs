//! How strongly sandboxes can be kept apart by whoever runs the server: root, a plain user with subordinate ids, a
//! plain user without.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::ids::RANGE_LEN;

/// Ways, the strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Isolation {
    /// Root: an id range of its own for each sandbox, control groups, layers shifted by idmapped mounts.
    Range,
    /// A plain user with subordinate ids (`/etc/subuid`): users inside are real, and the same for all sandboxes.
    Subordinate,
    /// A plain user: one id inside, and a filter that only says yes to changes of owner and user.
    Single,
}

/// Programs that give a plain user's process its subordinate ids.
const HELPERS: [&str; 2] = ["newuidmap", "newgidmap"];

impl Isolation {
    /// The way of this process, found out once.
    pub(crate) fn current() -> Self {
        static FOUND: OnceLock<Isolation> = OnceLock::new();
        *FOUND.get_or_init(|| {
            if rustix::process::geteuid().is_root() && maps_all_ids(&own_id_map()) {
                Self::Range
            } else if has_subordinate_ids() {
                Self::Subordinate
            } else {
                Self::Single
            }
        })
    }

    /// One line about it, for people and for `capabilities`.
    pub(crate) fn description(self) -> &'static str {
        match self {
            Self::Range => "namespaces with an id range of their own per sandbox and control groups, as root",
            Self::Subordinate => {
                "namespaces with subordinate ids, as a plain user: no control groups, so memory and CPU are not bounded"
            }
            Self::Single => {
                "namespaces with a single id, as a plain user: users inside are one, and memory and CPU are not bounded"
            }
        }
    }

    /// Whether the kernel lets this process do what only root can.
    pub(crate) fn is_root(self) -> bool {
        self == Self::Range
    }
}

fn own_id_map() -> String {
    fs::read_to_string("/proc/self/uid_map").unwrap_or_default()
}

/// Whether this process's ids are the machine's: root of a user namespace, as in a rootless container, is a plain user
/// to the kernel.
fn maps_all_ids(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

fn has_subordinate_ids() -> bool {
    let on_path = |tool: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(tool).is_file())
    };
    let has_unshare = || {
        let help = Command::new("unshare").arg("--help").stdin(Stdio::null()).output();
        help.is_ok_and(|help| String::from_utf8_lossy(&help.stdout).contains("--map-auto"))
    };
    HELPERS.iter().all(|tool| on_path(tool)) && Subordinate::find().is_some() && has_unshare()
}

/// First ids of the ranges that belong to this user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Subordinate {
    users: u32,
    groups: u32,
}

impl Subordinate {
    fn find() -> Option<Self> {
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        let (uid, name) = (rustix::process::geteuid().as_raw(), own_name(&read("/etc/passwd")));
        Some(Self {
            users: range_of(&read("/etc/subuid"), uid, name.as_deref())?,
            groups: range_of(&read("/etc/subgid"), uid, name.as_deref())?,
        })
    }
}

fn own_name(passwd: &str) -> Option<String> {
    let uid = rustix::process::geteuid().as_raw().to_string();
    passwd
        .lines()
        .find(|line| line.split(':').nth(2) == Some(&uid))
        .and_then(|line| line.split(':').next())
        .map(str::to_owned)
}

/// The first range of a `name:first:count` file that is large enough.
fn range_of(file: &str, uid: u32, name: Option<&str>) -> Option<u32> {
    file.lines().find_map(|line| {
        let mut fields = line.split(':');
        let owner = fields.next()?;
        let (first, count): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.trim().parse().ok()?);
        let ours = Some(owner) == name || owner == uid.to_string();
        (ours && count >= RANGE_LEN).then_some(first)
    })
}

/// Gives a process that has just left for a user namespace of its own its ids: 0 inside is this user.
pub(super) fn write_maps(pid: u32, mode: Isolation) -> io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    match mode {
        Isolation::Range => Err(io::Error::other("root writes ranges")),
        Isolation::Subordinate => {
            let ids = Subordinate::find().ok_or_else(|| io::Error::other("/etc/subuid has changed"))?;
            for (tool, own, first) in [("newuidmap", uid, ids.users), ("newgidmap", gid, ids.groups)] {
                let map = [0, own, 1, 1, first, RANGE_LEN - 1].map(|number| number.to_string());
                let output =
                    Command::new(tool).arg(pid.to_string()).args(map).stdin(Stdio::null()).output()?;
                if !output.status.success() {
                    let text = String::from_utf8_lossy(&output.stderr);
                    return Err(io::Error::other(format!("{tool}: {}", text.trim())));
                }
            }
            Ok(())
        }
        Isolation::Single => {
            let folder = format!("/proc/{pid}");
            // The kernel wants this before a plain user may map a group.
            fs::write(format!("{folder}/setgroups"), "deny")?;
            fs::write(format!("{folder}/uid_map"), format!("0 {uid} 1\n"))?;
            fs::write(format!("{folder}/gid_map"), format!("0 {gid} 1\n"))
        }
    }
}

/// Runs a program with the ids that sandboxes of this user have: it may change and remove what belongs to them.
pub(crate) fn run_mapped(program: &str, arguments: &[&std::ffi::OsStr]) -> io::Result<()> {
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--map-auto", "--", program])
        .args(arguments)
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())))
    }
}

/// Changes an owner, as far as this user can: with subordinate ids inside their namespace, with a single id not at
/// all, where the filter inside makes the difference invisible.
pub(crate) fn chown(path: &Path, user: u32, group: u32) -> io::Result<()> {
    match Isolation::current() {
        Isolation::Range => std::os::unix::fs::chown(path, Some(user), Some(group)),
        Isolation::Subordinate if (user, group) != (0, 0) => {
            let owner = format!("{user}:{group}");
            run_mapped(
                "chown",
                &["--no-dereference".as_ref(), "--".as_ref(), owner.as_ref(), path.as_os_str()],
            )
        }
        Isolation::Subordinate | Isolation::Single => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_of_a_user_namespace_is_a_plain_user() {
        assert!(maps_all_ids("         0          0 4294967295\n"));
        assert!(!maps_all_ids("         0       1000          1\n"));
        assert!(!maps_all_ids("         0       1000          1\n         1     100000      65536\n"));
    }

    #[test]
    fn a_large_enough_range_of_this_user_is_found_by_name_or_id() {
        let file = "other:1000:65536\nme:5000:10\nme:100000:65536\n";
        assert_eq!(range_of(file, 7, Some("me")), Some(100_000));
        assert_eq!(range_of("7:200000:65536\n", 7, None), Some(200_000));
        assert_eq!(range_of(file, 7, None), None);
        assert_eq!(range_of("broken\nme:x:y\n", 7, Some("me")), None);
    }
}
