//! `infra/templates`: the one list of packages and fix-ups, built into the server.

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

/// The list itself.
const DEFINITION: &str = include_str!("../../../templates/definition.json");
/// The files it names.
const FILES: &[(&str, &str)] = &[
    ("apt.conf", include_str!("../../../templates/files/apt.conf")),
    ("gitconfig", include_str!("../../../templates/files/gitconfig")),
    ("hostname", include_str!("../../../templates/files/hostname")),
    ("hosts", include_str!("../../../templates/files/hosts")),
    ("machine-id", include_str!("../../../templates/files/machine-id")),
    ("npmrc", include_str!("../../../templates/files/npmrc")),
    ("pip.conf", include_str!("../../../templates/files/pip.conf")),
    ("profile.sh", include_str!("../../../templates/files/profile.sh")),
    ("resolv.conf", include_str!("../../../templates/files/resolv.conf")),
    ("sudoers", include_str!("../../../templates/files/sudoers")),
    ("systemctl", include_str!("../../../templates/files/systemctl")),
];
/// Changes when the code that applies the list does, so that older results are not taken for current ones.
const REVISION: u32 = 1;

/// What every template gets.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Definition {
    /// mmdebstrap's variant.
    pub(super) variant: String,
    /// Packages of `base`.
    pub(super) packages: Vec<String>,
    /// Paths that dpkg leaves out.
    pub(super) left_out_paths: Vec<String>,
    /// Exceptions from that.
    pub(super) kept_paths: Vec<String>,
    /// What to ask the host's npm for.
    pub(super) npm: String,
    /// The distribution's package of npm, used when the host has none.
    pub(super) npm_package: String,
    /// Programs that users count on.
    pub(super) expected_tools: Vec<String>,
    /// The user that commands run as.
    pub(super) user: User,
    /// Folders to make.
    pub(super) folders: Vec<Folder>,
    /// Paths to remove, with `*` in them.
    pub(super) removed: Vec<String>,
    /// Files to write.
    pub(super) files: Vec<File>,
    /// Symbolic links to make.
    pub(super) links: Vec<Link>,
}

/// The user that commands run as.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) id: u32,
    pub(super) home: String,
    pub(super) shell: String,
    /// Further groups.
    pub(super) groups: Vec<String>,
}

/// A folder.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Folder {
    pub(super) path: String,
    /// Octal.
    pub(super) mode: String,
    /// Whether it is the user's instead of root's.
    pub(super) user: bool,
}

/// A file.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct File {
    pub(super) path: String,
    /// Name below `infra/templates/files`.
    pub(super) source: String,
    /// Octal.
    pub(super) mode: String,
}

/// A symbolic link.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Link {
    pub(super) path: String,
    pub(super) target: String,
}

impl Definition {
    /// Reads the built-in list.
    pub(super) fn load() -> std::io::Result<Self> {
        serde_json::from_str(DEFINITION).map_err(std::io::Error::other)
    }

    /// A short hash of the list, its files, and whatever else a result depends on.
    pub(super) fn version(inputs: &[&[u8]]) -> String {
        let mut hash = Sha256::new();
        hash.update(REVISION.to_be_bytes());
        hash.update(DEFINITION);
        for (name, contents) in FILES {
            hash.update(name);
            hash.update(contents);
        }
        for input in inputs {
            hash.update((input.len() as u64).to_be_bytes());
            hash.update(input);
        }
        hex::encode(&hash.finalize()[..6])
    }
}

impl File {
    /// What the file contains.
    pub(super) fn contents(&self) -> std::io::Result<&'static str> {
        FILES
            .iter()
            .find(|(name, _)| *name == self.source)
            .map(|(_, contents)| *contents)
            .ok_or_else(|| std::io::Error::other(format!("templates/files/{} is not built in", self.source)))
    }
}

/// An octal mode of the list.
pub(super) fn mode(text: &str) -> std::io::Result<u32> {
    u32::from_str_radix(text, 8).map_err(|error| std::io::Error::other(format!("mode {text}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        let definition = Definition::load().unwrap();
        for file in &definition.files {
            assert!(!file.contents().unwrap().is_empty(), "{}", file.source);
            mode(&file.mode).unwrap();
        }
        for folder in &definition.folders {
            mode(&folder.mode).unwrap();
            assert!(folder.path.starts_with('/'));
        }
        assert!(definition.packages.is_sorted(), "keep the packages sorted");
    }

    #[test]
    fn the_version_depends_on_every_input() {
        let versions = [
            Definition::version(&[]),
            Definition::version(&[b"a"]),
            Definition::version(&[b"a", b""]),
            Definition::version(&[b"b"]),
        ];
        for (index, version) in versions.iter().enumerate() {
            assert!(!versions[..index].contains(version));
        }
    }
}
