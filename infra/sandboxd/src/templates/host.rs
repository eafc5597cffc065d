//! The `host` template: this machine's own /usr, read-only, under a clean /etc and without anybody's home. Ready in
//! under a second, and the stand-in for `base` until that is built.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::copy::{Owners, copy_tree};
use super::definition::Definition;
use super::fixups::{self, Tree};
use crate::isolation::mode::Isolation;

/// Folder of everything but /usr.
pub(super) const SKELETON: &str = "skeleton";
/// Folder that lies over the host's /usr.
pub(super) const OVER_USR: &str = "over-usr";

/// What of the host's /etc is part of the system rather than of this machine.
const ETC: &[&str] = &[
    "alternatives",
    "bash.bashrc",
    "bash_completion",
    "bash_completion.d",
    "bindresvport.blacklist",
    "ca-certificates",
    "ca-certificates.conf",
    "debconf.conf",
    "debian_version",
    "default/locale",
    "default/useradd",
    "deluser.conf",
    "adduser.conf",
    "dpkg",
    "emacs",
    "ethertypes",
    "fonts",
    "gai.conf",
    "init.d",
    "inputrc",
    "insserv.conf.d",
    "issue",
    "issue.net",
    "java-17-openjdk",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "libaudit.conf",
    "locale.alias",
    "locale.gen",
    "localtime",
    "login.defs",
    "logrotate.conf",
    "lsb-release",
    "magic",
    "mailcap",
    "mime.types",
    "mke2fs.conf",
    "nanorc",
    "netconfig",
    "networks",
    "nsswitch.conf",
    "os-release",
    "pam.conf",
    "pam.d",
    "perl",
    "profile",
    "protocols",
    "python3",
    "python3.9",
    "python3.10",
    "python3.11",
    "python3.12",
    "python3.13",
    "rc0.d",
    "rc1.d",
    "rc2.d",
    "rc3.d",
    "rc4.d",
    "rc5.d",
    "rc6.d",
    "rcS.d",
    "rmt",
    "rpc",
    "security",
    "selinux",
    "services",
    "shells",
    "skel",
    "ssl/certs",
    "ssl/openssl.cnf",
    "sudo.conf",
    "sudo_logsrvd.conf",
    "sudoers",
    "sysctl.conf",
    "terminfo",
    "timezone",
    "ucf.conf",
    "update-motd.d",
    "vim",
    "wgetrc",
    "xattr.conf",
    "xdg",
];
/// What of the host's /var package tools need.
const VAR: &[&str] = &[
    "var/lib/dpkg",
    "var/lib/pam",
    "var/lib/python",
    "var/lib/ucf",
    "var/lib/vim",
    "var/lib/systemd/deb-systemd-helper-enabled",
];
/// Links and folders at the top that lead into /usr.
const TOP: &[&str] = &["bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// Accounts from this id on are people's; the ones below belong to the system.
const FIRST_PERSON: u32 = 1000;
const NOBODY: u32 = 65_534;

/// What a skeleton depends on besides the definition.
pub(super) fn version() -> io::Result<String> {
    let status = fs::metadata("/var/lib/dpkg/status").map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("the host template needs a Debian-like machine with dpkg: {error}"),
        )
    })?;
    if !fs::symlink_metadata("/bin")?.file_type().is_symlink() {
        return Err(io::Error::other(
            "the host template needs a machine with a merged /usr (/bin as a link)",
        ));
    }
    let state = format!("{}.{} {}", status.mtime(), status.mtime_nsec(), status.len());
    let bundle = fixups::host_bundle().unwrap_or_default();
    Ok(Definition::version(&[b"host", state.as_bytes(), bundle.as_bytes()]))
}

/// Builds the skeleton in the folder `target`.
pub(super) fn build(definition: &Definition, target: &Path) -> io::Result<()> {
    let root = target.join(SKELETON);
    let usr = target.join(OVER_USR);
    for folder in [&root, &usr, &root.join("etc"), &root.join("usr"), &root.join("var")] {
        fixups::make_folders(folder)?;
    }
    for name in TOP {
        if let Ok(link) = fs::read_link(Path::new("/").join(name)) {
            symlink(link, root.join(name))?;
        }
    }
    copy_etc(&root)?;
    for path in VAR {
        // Debconf keeps passwords apart; they are not among these.
        let source = Path::new("/").join(path);
        if source.is_dir() {
            fixups::make_folders(root.join(path).parent().unwrap_or(&root))?;
            copy_tree(&source, &root.join(path), Owners::Kept, &|_| false)?;
        }
    }
    for folder in [
        "etc/apt/apt.conf.d",
        "etc/apt/preferences.d",
        "etc/apt/sources.list.d",
        "etc/apt/trusted.gpg.d",
        "etc/ssl/private",
        "var/cache/apt/archives/partial",
        "var/cache/debconf",
        "var/lib/apt/lists/partial",
        "var/log/apt",
        "var/mail",
        "var/spool",
        "var/backups",
        "var/opt",
        "var/local",
        "home",
        "media",
        "boot",
    ] {
        fixups::make_folders(&root.join(folder))?;
    }
    for (link, to) in [("var/run", "/run"), ("var/lock", "/run/lock")] {
        symlink(to, root.join(link))?;
    }
    super::sources::write(&root)?;
    write_accounts(&root)?;
    cover_usr(definition, &usr)?;
    let tree = Tree { root: &root, usr: Some(&usr) };
    fixups::apply(definition, tree)?;
    fixups::trust_host_authorities(tree)?;
    Ok(())
}

fn copy_etc(root: &Path) -> io::Result<()> {
    for name in ETC {
        let (source, target) = (Path::new("/etc").join(name), root.join("etc").join(name));
        let Ok(metadata) = fs::symlink_metadata(&source) else { continue };
        if let Some(parent) = target.parent() {
            fixups::make_folders(parent)?;
        }
        if metadata.is_dir() {
            copy_tree(&source, &target, Owners::Kept, &|_| false)?;
        } else if metadata.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
        } else {
            match fs::copy(&source, &target) {
                // A plain user's sandboxes do without what he may not read.
                Err(error)
                    if error.kind() == io::ErrorKind::PermissionDenied && !Isolation::current().is_root() =>
                {
                    fixups::remove_if_there(&target)?;
                }
                other => other.map(|_| ())?,
            }
        }
    }
    // Keys of package archives, without anything that logs in to them.
    let keys = Path::new("/etc/apt/trusted.gpg.d");
    if keys.is_dir() {
        fixups::make_folders(&root.join("etc/apt"))?;
        copy_tree(keys, &root.join("etc/apt/trusted.gpg.d"), Owners::Kept, &|_| false)?;
    }
    Ok(())
}

/// The system's accounts without the people's, and without any password.
fn write_accounts(root: &Path) -> io::Result<()> {
    let system = |line: &&str, field: usize| {
        let id = line.split(':').nth(field).and_then(|id| id.parse::<u32>().ok());
        id.is_some_and(|id| id < FIRST_PERSON || id == NOBODY)
    };
    let passwd = fs::read_to_string("/etc/passwd")?;
    let group = fs::read_to_string("/etc/group")?;
    let accounts: Vec<_> = passwd.lines().filter(|line| system(line, 2)).collect();
    let mut groups: Vec<String> = group
        .lines()
        .filter(|line| system(line, 2))
        .map(|line| {
            // Members that are people of this machine do not exist inside.
            let mut fields: Vec<_> = line.split(':').map(str::to_owned).collect();
            if let Some(members) = fields.get_mut(3) {
                let known =
                    |name: &&str| accounts.iter().any(|account| account.split(':').next() == Some(*name));
                *members = members.split(',').filter(known).collect::<Vec<_>>().join(",");
            }
            fields.join(":")
        })
        .collect();
    if !groups.iter().any(|line| line.starts_with("sudo:")) {
        groups.push("sudo:x:27:".into());
    }
    let name = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
    let shadow: Vec<_> = accounts.iter().map(|line| format!("{}:*:19700:0:99999:7:::", name(line))).collect();
    let gshadow: Vec<_> = groups.iter().map(|line| format!("{}:*::", name(line))).collect();
    let etc = root.join("etc");
    let text = |lines: &[String]| lines.join("\n") + "\n";
    fixups::put(&etc.join("passwd"), (accounts.join("\n") + "\n").as_bytes(), 0o644)?;
    fixups::put(&etc.join("group"), text(&groups).as_bytes(), 0o644)?;
    fixups::put(&etc.join("shadow"), text(&shadow).as_bytes(), 0o640)?;
    fixups::put(&etc.join("gshadow"), text(&gshadow).as_bytes(), 0o640)
}

/// Hides what the host's administrator put below /usr/local, and what the definition removes.
fn cover_usr(definition: &Definition, usr: &Path) -> io::Result<()> {
    let local = usr.join("local");
    for folder in ["bin", "sbin", "lib", "share", "include", "src", "etc", "games", "share/ca-certificates"] {
        fixups::make_folders(&local.join(folder))?;
    }
    let opaque =
        if Isolation::current().is_root() { "trusted.overlay.opaque" } else { "user.overlay.opaque" };
    xattr::set(&local, opaque, b"y")?;
    for pattern in definition.removed.iter().filter_map(|pattern| pattern.strip_prefix("/usr/")) {
        for found in matching(Path::new("/usr"), pattern)? {
            let Ok(relative) = found.strip_prefix("/usr") else { continue };
            let cover = usr.join(relative);
            if let Some(parent) = cover.parent() {
                fixups::make_folders(parent)?;
            }
            // A character device 0/0 is how an overlay layer says "not here".
            mknodat(CWD, &cover, FileType::CharacterDevice, Mode::empty(), 0)?;
        }
    }
    Ok(())
}

/// Paths below `root` that match a pattern whose components may contain `*`.
pub(super) fn matching(root: &Path, pattern: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![root.to_owned()];
    for component in pattern.split('/').filter(|component| !component.is_empty()) {
        let mut next = Vec::new();
        for folder in found {
            if !component.contains('*') {
                next.push(folder.join(component));
                continue;
            }
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            for entry in entries {
                let entry = entry?;
                if fits(component, &entry.file_name()) {
                    next.push(entry.path());
                }
            }
        }
        found = next;
    }
    found.retain(|path| fs::symlink_metadata(path).is_ok());
    Ok(found)
}

/// Whether a name fits a pattern with at most one `*`.
fn fits(pattern: &str, name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    match pattern.split_once('*') {
        Some((front, back)) => {
            name.len() >= front.len() + back.len() && name.starts_with(front) && name.ends_with(back)
        }
        None => name == pattern,
    }
}

/// Programs of the definition that the host does not have.
pub(super) fn missing_tools(definition: &Definition) -> Vec<String> {
    let there =
        |tool: &&String| ["/usr/bin", "/usr/sbin"].iter().any(|folder| Path::new(folder).join(tool).exists());
    definition.expected_tools.iter().filter(|tool| !there(tool)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_part_of_one_name() {
        assert!(fits("python3*", OsStr::new("python3.11")));
        assert!(!fits("python3*", OsStr::new("python2")));
        assert!(fits("*.log", OsStr::new("dpkg.log")));
        assert!(!fits("a*a", OsStr::new("a")));
    }

    #[test]
    fn patterns_find_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("lib/python3.11")).unwrap();
        fs::create_dir_all(folder.path().join("lib/python3.12")).unwrap();
        fs::write(folder.path().join("lib/python3.11/MARK"), "").unwrap();
        let found = matching(folder.path(), "lib/python3*/MARK").unwrap();
        assert_eq!(found, [folder.path().join("lib/python3.11/MARK")]);
    }
}
