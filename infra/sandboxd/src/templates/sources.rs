//! The host's package sources, as far as they are the distribution's own: whatever mirror this machine uses,
//! sandboxes use it too.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::fixups;

/// Components of the distributions' own archives.
const COMPONENTS: [&str; 7] =
    ["main", "contrib", "non-free", "non-free-firmware", "restricted", "universe", "multiverse"];
/// What is appended to a release's name for its further suites.
const POCKETS: [&str; 4] = ["", "-updates", "-security", "-backports"];
/// Keyrings of the distributions.
const KEYRINGS: [&str; 2] = ["debian-archive", "ubuntu-archive"];

/// Sources in both of apt's formats.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sources {
    /// One-line entries.
    pub(super) lines: Vec<String>,
    /// Stanzas of the newer format.
    pub(super) stanzas: Vec<String>,
}

/// The release's code name.
pub(super) fn release() -> io::Result<String> {
    let text = fs::read_to_string("/etc/os-release")?;
    text.lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"').to_owned())
        .filter(|name| !name.is_empty())
        .ok_or_else(|| io::Error::other("/etc/os-release names no release (VERSION_CODENAME)"))
}

/// Reads the host's configuration.
pub(super) fn read() -> io::Result<Sources> {
    let release = release()?;
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        for entry in entries {
            files.push(entry?.path());
        }
    }
    files.sort();
    let mut sources = Sources::default();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => sources.lines.extend(own_lines(&text, &release)),
            Some("sources") => sources.stanzas.extend(own_stanzas(&text, &release)),
            _ => {}
        }
    }
    if sources == Sources::default() {
        return Err(io::Error::other(format!(
            "no package source of {release} was found in /etc/apt/sources.list or /etc/apt/sources.list.d"
        )));
    }
    Ok(sources)
}

/// Writes the sources into a root file system, and nothing else of that kind.
pub(super) fn write(root: &Path) -> io::Result<()> {
    let sources = read()?;
    let apt = root.join("etc/apt");
    let folder = apt.join("sources.list.d");
    if folder.is_dir() {
        for entry in fs::read_dir(&folder)? {
            fixups::remove_if_there(&entry?.path())?;
        }
    }
    fixups::put(&apt.join("sources.list"), sources.list().as_bytes(), 0o644)?;
    if !sources.stanzas.is_empty() {
        fixups::put(&folder.join("system.sources"), sources.deb822().as_bytes(), 0o644)?;
    }
    Ok(())
}

impl Sources {
    /// The one-line entries as a file.
    pub(super) fn list(&self) -> String {
        self.lines.iter().map(|line| format!("{line}\n")).collect()
    }

    /// The stanzas as a file.
    pub(super) fn deb822(&self) -> String {
        self.stanzas.join("\n")
    }
}

fn own_lines(text: &str, release: &str) -> Vec<String> {
    text.lines().filter(|line| is_own_line(line, release)).map(|line| line.trim().to_owned()).collect()
}

fn is_own_line(line: &str, release: &str) -> bool {
    let Some(rest) = line.trim().strip_prefix("deb ") else { return false };
    let rest = rest.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(inside) => inside.split_once(']').unwrap_or((inside, "")),
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let (Some(_uri), Some(suite)) = (words.next(), words.next()) else { return false };
    let keyring = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
    is_own_suite(suite, release) && words.all(|word| COMPONENTS.contains(&word)) && is_own_keyring(keyring)
}

fn own_stanzas(text: &str, release: &str) -> Vec<String> {
    let mut stanzas = vec![String::new()];
    for line in text.lines() {
        if line.trim().is_empty() {
            stanzas.push(String::new());
        } else if !line.starts_with('#')
            && let Some(stanza) = stanzas.last_mut()
        {
            stanza.push_str(line);
            stanza.push('\n');
        }
    }
    stanzas.into_iter().filter(|stanza| is_own_stanza(stanza, release)).collect()
}

fn is_own_stanza(stanza: &str, release: &str) -> bool {
    let field = |name: &str| {
        stanza.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    };
    let enabled = field("Enabled").is_none_or(|value| !value.eq_ignore_ascii_case("no"));
    let binary = field("Types").is_some_and(|types| types.split_whitespace().any(|kind| kind == "deb"));
    let suites = field("Suites").unwrap_or_default();
    enabled
        && binary
        && !suites.is_empty()
        && suites.split_whitespace().all(|suite| is_own_suite(suite, release))
        && field("Components").unwrap_or_default().split_whitespace().all(|word| COMPONENTS.contains(&word))
        && is_own_keyring(field("Signed-By"))
}

fn is_own_suite(suite: &str, release: &str) -> bool {
    suite.strip_prefix(release).is_some_and(|pocket| POCKETS.contains(&pocket))
}

fn is_own_keyring(keyring: Option<&str>) -> bool {
    keyring.is_none_or(|path| KEYRINGS.iter().any(|known| path.contains(known)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_distributions_own_lines_are_taken() {
        let text = "# deb http://mirror.example/debian bookworm main\n\
                    deb http://mirror.example/debian bookworm main contrib\n\
                    deb [arch=amd64 signed-by=/usr/share/keyrings/other.gpg] http://tools.example bookworm main\n\
                    deb http://tools.example/apt cloud-tools main\n\
                    deb http://db.example/apt bookworm-db main\n\
                    deb-src http://mirror.example/debian bookworm main\n\
                    deb http://mirror.example/security bookworm-security main\n";
        let own = own_lines(text, "bookworm");
        assert_eq!(own.len(), 2);
        assert!(own[1].contains("bookworm-security"));
    }

    #[test]
    fn only_the_distributions_own_stanzas_are_taken() {
        let text = "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n\
                    Components: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n\
                    Types: deb\nURIs: http://node.example\nSuites: nodistro\nComponents: main\n\n\
                    # off\nEnabled: no\nTypes: deb\nURIs: http://x.example\nSuites: bookworm\nComponents: main\n";
        let own = own_stanzas(text, "bookworm");
        assert_eq!(own.len(), 1);
        assert!(own[0].starts_with("Types: deb\nURIs: http://mirror.example/debian\n"));
    }
}
