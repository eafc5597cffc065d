//! The fix-ups that make a root file system ours: users, folders, files, trust.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use super::definition::{Definition, User, mode};
use crate::isolation::mode::chown;

/// The bundle that programs read.
pub(super) const CA_BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";
/// Where Debian's tools look for further authorities, each in a file of its own.
const LOCAL_AUTHORITIES: &str = "usr/local/share/ca-certificates";

/// Where the parts of a root file system are while it is built. `host` keeps what lies below /usr apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tree<'a> {
    pub(super) root: &'a Path,
    /// Stands for `/usr`, when that is a layer of its own.
    pub(super) usr: Option<&'a Path>,
}

impl Tree<'_> {
    /// The place of an absolute path inside.
    pub(super) fn at(&self, path: &str) -> PathBuf {
        let path = path.trim_start_matches('/');
        match (self.usr, path.strip_prefix("usr/")) {
            (Some(usr), Some(rest)) => usr.join(rest),
            _ => self.root.join(path),
        }
    }
}

/// Applies the list's folders, files, links and users.
pub(super) fn apply(definition: &Definition, tree: Tree<'_>) -> io::Result<()> {
    let user = &definition.user;
    // Given away last: a plain user cannot write any more to what belongs to another id.
    let mut owned: Vec<(PathBuf, u32)> = Vec::new();
    for folder in &definition.folders {
        let path = tree.at(&folder.path);
        make_folders(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode(&folder.mode)?))?;
        let owner = if folder.user { user.id } else { 0 };
        owned.push((path, owner));
    }
    for file in &definition.files {
        put(&tree.at(&file.path), file.contents()?.as_bytes(), mode(&file.mode)?)?;
    }
    for link in &definition.links {
        let path = tree.at(&link.path);
        if let Some(parent) = path.parent() {
            make_folders(parent)?;
        }
        remove_if_there(&path)?;
        symlink(&link.target, &path)?;
    }
    add_user(user, tree.root)?;
    furnish_home(user, tree.root, &mut owned)?;
    owned.iter().try_for_each(|(path, owner)| chown(path, *owner, *owner))
}

/// Writes a file, whatever was there before (a dangling link, for one).
pub(super) fn put(path: &Path, contents: &[u8], permissions: u32) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        make_folders(parent)?;
    }
    remove_if_there(path)?;
    fs::write(path, contents)?;
    fs::set_permissions(path, fs::Permissions::from_mode(permissions))
}

/// Folders that everybody may enter, whatever this process's umask is.
pub(super) fn make_folders(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_folders(parent)?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(0o755)),
    }
}

pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Adds the user to the account files, unless it is there.
fn add_user(user: &User, root: &Path) -> io::Result<()> {
    let User { name, id, home, shell, .. } = user;
    let etc = root.join("etc");
    append_account(&etc.join("passwd"), name, &format!("{name}:x:{id}:{id}:{name}:{home}:{shell}"), 0o644)?;
    append_account(&etc.join("group"), name, &format!("{name}:x:{id}:"), 0o644)?;
    // Locked: there is no password to guess, and sudo asks for none.
    append_account(&etc.join("shadow"), name, &format!("{name}:*:19700:0:99999:7:::"), 0o640)?;
    append_account(&etc.join("gshadow"), name, &format!("{name}:!::"), 0o640)?;
    for group in &user.groups {
        join_group(&etc.join("group"), group, name)?;
    }
    Ok(())
}

fn append_account(file: &Path, name: &str, line: &str, permissions: u32) -> io::Result<()> {
    let mut text = read_or_empty(file)?;
    if text.lines().any(|known| known.split(':').next() == Some(name)) {
        return Ok(());
    }
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(line);
    text.push('\n');
    put(file, text.as_bytes(), permissions)
}

fn join_group(file: &Path, group: &str, user: &str) -> io::Result<()> {
    let lines: Vec<String> = read_or_empty(file)?
        .lines()
        .map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            let [name, .., members] = fields.as_slice() else { return line.to_owned() };
            if *name != group || members.split(',').any(|member| member == user) {
                line.to_owned()
            } else if members.is_empty() {
                format!("{line}{user}")
            } else {
                format!("{line},{user}")
            }
        })
        .collect();
    put(file, (lines.join("\n") + "\n").as_bytes(), 0o644)
}

fn read_or_empty(file: &Path) -> io::Result<String> {
    match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        other => other,
    }
}

/// Gives the user and root the distribution's start-up files.
fn furnish_home(user: &User, root: &Path, owned: &mut Vec<(PathBuf, u32)>) -> io::Result<()> {
    let skeleton = root.join("etc/skel");
    let homes = [(root.join(user.home.trim_start_matches('/')), user.id), (root.join("root"), 0)];
    for name in [".profile", ".bashrc", ".bash_logout"] {
        let Ok(contents) = fs::read(skeleton.join(name)) else { continue };
        for (home, owner) in &homes {
            let path = home.join(name);
            if !path.exists() {
                put(&path, &contents, 0o644)?;
                owned.push((path, *owner));
            }
        }
    }
    Ok(())
}

/// Makes the root trust every authority that the host trusts: behind a proxy that rewrites TLS nothing works
/// otherwise. Returns how many were added.
pub(super) fn trust_host_authorities(tree: Tree<'_>) -> io::Result<usize> {
    let Some(host) = host_bundle() else { return Ok(0) };
    let bundle = tree.root.join(CA_BUNDLE);
    let own = read_or_empty(&bundle)?;
    let known: BTreeSet<String> = certificates(&own).collect();
    let added: Vec<String> = certificates(&host).filter(|one| !known.contains(one)).collect();
    if added.is_empty() {
        return Ok(0);
    }
    let mut all = own;
    for (index, one) in added.iter().enumerate() {
        let name = format!("/{LOCAL_AUTHORITIES}/host-{index:03}.crt");
        put(&tree.at(&name), one.as_bytes(), 0o644)?;
        all.push_str(one);
    }
    put(&bundle, all.as_bytes(), 0o644)?;
    Ok(added.len())
}

/// The host's own bundle.
pub(super) fn host_bundle() -> Option<String> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    named
        .into_iter()
        .chain(["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"].map(PathBuf::from))
        .find_map(|path| fs::read_to_string(path).ok())
}

/// The certificates of a bundle, each as its PEM block.
fn certificates(bundle: &str) -> impl Iterator<Item = String> + '_ {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    bundle.split(BEGIN).skip(1).filter_map(|rest| {
        let (body, _) = rest.split_once(END)?;
        let body = body.replace('\r', "");
        Some(format!("{BEGIN}{body}{END}\n"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_added_once_and_joins_its_groups() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(root.join("etc/group"), "root:x:0:\nsudo:x:27:\n").unwrap();
        fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/bash").unwrap();
        let definition = Definition::load().unwrap();
        add_user(&definition.user, root).unwrap();
        add_user(&definition.user, root).unwrap();
        let passwd = fs::read_to_string(root.join("etc/passwd")).unwrap();
        assert_eq!(passwd.lines().count(), 2);
        assert!(passwd.ends_with("user:x:1000:1000:user:/home/user:/bin/bash\n"));
        let group = fs::read_to_string(root.join("etc/group")).unwrap();
        assert!(group.contains("sudo:x:27:user\n"));
    }

    #[test]
    fn certificates_are_told_apart_whatever_stands_between_them() {
        let bundle = "# a\n-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\njunk\n\
                      -----BEGIN CERTIFICATE-----\r\nBB\r\n-----END CERTIFICATE-----\n";
        let found: Vec<_> = certificates(bundle).collect();
        assert_eq!(found.len(), 2);
        assert!(found[1].contains("\nBB\n"));
    }

    #[test]
    fn paths_below_usr_go_to_their_own_layer() {
        let tree = Tree { root: Path::new("/r"), usr: Some(Path::new("/u")) };
        assert_eq!(tree.at("/usr/local/bin/x"), Path::new("/u/local/bin/x"));
        assert_eq!(tree.at("/etc/x"), Path::new("/r/etc/x"));
    }
}
