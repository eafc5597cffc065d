//! The `base` template: a small system of the host's own release, made by mmdebstrap.

use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::definition::Definition;
use super::fixups::{self, Tree};
use super::host::matching;
use super::{Progress, ROOT, sources};
use crate::isolation::mode::Isolation;

/// What a root file system depends on besides the definition.
pub(super) fn version() -> io::Result<String> {
    let release = sources::release()?;
    let bundle = fixups::host_bundle().unwrap_or_default();
    Ok(Definition::version(&[
        b"base",
        release.as_bytes(),
        std::env::consts::ARCH.as_bytes(),
        bundle.as_bytes(),
    ]))
}

/// Builds the root file system in the folder `target`; takes half a minute and the package mirror.
pub(super) fn build(definition: &Definition, target: &Path, progress: &dyn Fn(Progress)) -> io::Result<()> {
    if !Isolation::current().is_root() {
        return Err(io::Error::other(
            "the template base is made by root: run this once as root with the same template folder, or import a root \
             file system archive",
        ));
    }
    progress(Progress::new("checking tools", 0.0));
    require_mmdebstrap(progress)?;
    let root = target.join(ROOT);
    let npm = pack_npm(definition, target);
    if let Err(error) = &npm {
        tracing::info!(%error, "npm comes from the distribution: the host's own npm could not fetch it");
    }
    bootstrap(definition, target, &root, npm.is_err(), progress)?;

    progress(Progress::new("applying fix-ups", 0.92));
    for pattern in &definition.removed {
        for path in matching(&root, pattern)? {
            fixups::remove_if_there(&path)?;
        }
    }
    let tree = Tree { root: &root, usr: None };
    sources::write(&root)?;
    fixups::apply(definition, tree)?;
    if fixups::trust_host_authorities(tree)? > 0 {
        rehash_authorities(&root);
    }
    if let Ok(tarball) = npm {
        install_npm(&tarball, &root)?;
        fixups::remove_if_there(&tarball)?;
    }
    // Lists are fetched anew by the first apt-get update, and would be stale by then.
    for folder in ["var/lib/apt/lists", "var/cache/apt/archives"] {
        fixups::make_folders(&root.join(folder).join("partial"))?;
    }
    progress(Progress::new("done", 1.0));
    Ok(())
}

fn has(tool: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(tool).is_file()))
}

fn require_mmdebstrap(progress: &dyn Fn(Progress)) -> io::Result<()> {
    if has("mmdebstrap") {
        return Ok(());
    }
    let advice = "the base template needs mmdebstrap: run `apt-get install mmdebstrap` as root and try again";
    if !has("apt-get") {
        return Err(io::Error::new(io::ErrorKind::NotFound, advice));
    }
    progress(Progress::new("installing mmdebstrap", 0.02));
    let apt = |arguments: &[&str]| {
        Command::new("apt-get")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .output()
    };
    let install = ["install", "--yes", "--no-install-recommends", "mmdebstrap"];
    let first = apt(&install)?;
    if !first.status.success() {
        // The package lists of a fresh machine are empty.
        apt(&["update"])?;
        let second = apt(&install)?;
        if !second.status.success() {
            let reason = last_lines(&second.stderr);
            return Err(io::Error::other(format!("{advice} (apt-get said: {reason})")));
        }
    }
    Ok(())
}

fn last_lines(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<_> = text.lines().rev().take(3).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("; ")
}

fn bootstrap(
    definition: &Definition,
    target: &Path,
    root: &Path,
    with_npm_package: bool,
    progress: &dyn Fn(Progress),
) -> io::Result<()> {
    let mut packages = definition.packages.clone();
    if with_npm_package {
        packages.push(definition.npm_package.clone());
    }
    let configured = sources::read()?;
    let mut command = Command::new("setpriv");
    command
        // Ends with the thread that waits for it: a builder that was killed leaves nothing at work behind.
        .args(["--pdeathsig", "KILL"])
        // What it mounts inside the new root shows in no other namespace, and goes away with it.
        .args(["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"])
        .arg("mmdebstrap")
        .arg("--mode=root")
        .arg(format!("--variant={}", definition.variant))
        .arg(format!("--include={}", packages.join(",")))
        .args(definition.left_out_paths.iter().map(|path| format!("--dpkgopt=path-exclude={path}")))
        .args(definition.kept_paths.iter().map(|path| format!("--dpkgopt=path-include={path}")))
        .arg(sources::release()?)
        .arg(root);
    for (name, contents) in [("system.list", configured.list()), ("system.sources", configured.deb822())] {
        if !contents.is_empty() {
            let file = target.join(name);
            fs::write(&file, contents)?;
            command.arg(file);
        }
    }
    progress(Progress::new("fetching and unpacking packages", 0.05));
    let mut child = command
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut tail = Vec::new();
    if let Some(output) = child.stderr.take() {
        for line in BufReader::new(output).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).trim().to_owned();
            if let Some((step, done)) = step_of(&line) {
                progress(Progress::new(step, done));
            }
            if !line.is_empty() {
                tail.push(line);
                if tail.len() > TAIL_LINES {
                    tail.remove(0);
                }
            }
        }
    }
    let status = child.wait()?;
    if !status.success() {
        return Err(io::Error::other(format!("mmdebstrap failed ({status}): {}", tail.join("; "))));
    }
    for name in ["system.list", "system.sources"] {
        fixups::remove_if_there(&target.join(name))?;
    }
    Ok(())
}

/// Lines of a failed run that are shown.
const TAIL_LINES: usize = 6;

/// What mmdebstrap's own progress lines mean, and about how much of the whole is done by then.
fn step_of(line: &str) -> Option<(&'static str, f32)> {
    [
        ("running apt-get update", "reading the package lists", 0.08),
        ("downloading packages with apt", "downloading packages", 0.12),
        ("extracting archives", "unpacking the essential packages", 0.3),
        ("installing essential packages", "installing the essential packages", 0.4),
        ("installing remaining packages", "installing the remaining packages", 0.55),
        ("cleaning package lists", "cleaning up", 0.9),
    ]
    .into_iter()
    .find(|(text, _, _)| line.contains(text))
    .map(|(_, step, done)| (step, done))
}

/// Fetches npm's own package through the host's npm, with whatever registry and proxy the host uses.
fn pack_npm(definition: &Definition, target: &Path) -> io::Result<PathBuf> {
    let output = Command::new("npm")
        .args(["pack", "--silent", "--ignore-scripts", &definition.npm])
        .current_dir(target)
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other(last_lines(&output.stderr)));
    }
    let name = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let tarball = target.join(&name);
    if name.is_empty() || name.contains('/') || !tarball.is_file() {
        return Err(io::Error::other("npm pack named no file"));
    }
    Ok(tarball)
}

fn install_npm(tarball: &Path, root: &Path) -> io::Result<()> {
    let modules = root.join("usr/local/lib/node_modules");
    fixups::make_folders(&modules)?;
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(fs::File::open(tarball)?));
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(false);
    archive.unpack(&modules)?;
    let npm = modules.join("npm");
    fs::rename(modules.join("package"), &npm)?;
    fixups::make_folders(&root.join("usr/local/bin"))?;
    for name in ["npm", "npx"] {
        let link = root.join("usr/local/bin").join(name);
        fixups::remove_if_there(&link)?;
        std::os::unix::fs::symlink(format!("../lib/node_modules/npm/bin/{name}-cli.js"), link)?;
        let script = npm.join(format!("bin/{name}-cli.js"));
        fs::set_permissions(script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    Ok(())
}

/// Lets the distribution's own tool make the links by which some programs find authorities. The bundle itself is
/// written already, so failing costs little.
fn rehash_authorities(root: &Path) {
    let status = Command::new("chroot")
        .arg(root)
        .arg("update-ca-certificates")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !status.as_ref().is_ok_and(std::process::ExitStatus::success) {
        tracing::warn!(?status, "the template's certificate links were not renewed");
    }
}
