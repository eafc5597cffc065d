//! Root file systems on disk, shared by all servers of this machine's user and built once.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::definition::Definition;
use super::{base, fixups, host, import};
use crate::store::{read_json, remove_tree, write_json};

/// Folder with the root file system of a template that is one folder.
pub(super) const ROOT: &str = "root";
/// Marks a finished template, and describes it.
const DESCRIPTION: &str = "template.json";

/// How far a build is.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// What is being done.
    pub step: String,
    /// Done so far, 0 to 1; a guess.
    pub fraction: f32,
}

impl Progress {
    pub(super) fn new(step: impl Into<String>, fraction: f32) -> Self {
        Self { step: step.into(), fraction }
    }
}

/// Whether a template can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateStatus {
    /// It is built and current.
    pub ready: bool,
    /// Where it is, when ready.
    pub path: Option<PathBuf>,
    /// Programs users count on that it lacks; known for `host` only, which has what the host has.
    pub missing_tools: Vec<String>,
}

/// Why a template could not be built.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// Not a name known here.
    #[error(
        "template {0:?} cannot be built here; base and host can, and any root file system archive imported"
    )]
    Unknown(String),
    /// A step failed.
    #[error("template {name} could not be built: {source}")]
    Build {
        /// Which one.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Kinds of root file systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// A folder with everything.
    Root,
    /// A skeleton, and the host's /usr.
    Host,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Description {
    kind: Kind,
}

/// The root file systems of this machine's user.
#[derive(Debug, Clone)]
pub struct Templates {
    folder: Arc<PathBuf>,
    /// Versions of `base` and `host`, found out once: they are made from hashes of files that hardly ever change.
    versions: Arc<[OnceLock<Result<String, String>>; 2]>,
}

impl Templates {
    /// Uses `folder`, which is made when missing. Only its owner can enter: the trees below hold set-uid programs.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(folder: &Path) -> io::Result<Self> {
        use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
        Ok(Self { folder: Arc::new(fs::canonicalize(folder)?), versions: Arc::default() })
    }

    /// Whether `base` or `host` is ready.
    ///
    /// # Errors
    /// For other names, and on machines that cannot have the template at all.
    pub fn status(&self, name: &str) -> Result<TemplateStatus, TemplateError> {
        let path = self.current(name)?.filter(|path| is_finished(path));
        let missing_tools = match name {
            "host" => Definition::load()
                .map(|definition| host::missing_tools(&definition))
                .map_err(|source| TemplateError::Build { name: name.into(), source })?,
            _ => Vec::new(),
        };
        Ok(TemplateStatus { ready: path.is_some(), path, missing_tools })
    }

    /// Builds `base` or `host`, unless it is ready. Blocks, for half a minute when packages must be fetched; two
    /// builders of the same template wait for each other, and the second finds it ready.
    ///
    /// # Errors
    /// When a step fails; nothing half-made is left to be used.
    pub fn build(&self, name: &str, progress: &dyn Fn(Progress)) -> Result<PathBuf, TemplateError> {
        let target = self.current(name)?.ok_or_else(|| TemplateError::Unknown(name.into()))?;
        let kind = if name == "host" { Kind::Host } else { Kind::Root };
        self.finish(name, &target, kind, |folder| {
            let definition = Definition::load()?;
            match kind {
                Kind::Host => host::build(&definition, folder),
                Kind::Root => base::build(&definition, folder, progress),
            }
        })
    }

    /// Unpacks a root file system archive (tar, plain or compressed with gzip or zstd) as the template `name`.
    ///
    /// # Errors
    /// When the name is taken by a built-in template or not `[a-z0-9_-]+`, or a step fails.
    pub fn import(&self, name: &str, archive: &Path) -> Result<PathBuf, TemplateError> {
        if matches!(name, "base" | "host") || !is_import_name(name) {
            return Err(TemplateError::Unknown(name.into()));
        }
        let target = self.imported(name);
        self.finish(name, &target, Kind::Root, |folder| import::unpack(archive, &folder.join(ROOT)))
    }

    /// Where the current version of a built-in template is or will be.
    fn current(&self, name: &str) -> Result<Option<PathBuf>, TemplateError> {
        let text = |version: io::Result<String>| version.map_err(|error| error.to_string());
        let version = match name {
            "base" => self.versions[0].get_or_init(|| text(base::version())),
            "host" => self.versions[1].get_or_init(|| text(host::version())),
            _ => return Err(TemplateError::Unknown(name.into())),
        };
        let version = version.as_ref().map_err(|error| TemplateError::Build {
            name: name.into(),
            source: io::Error::other(error.clone()),
        })?;
        Ok(Some(self.folder.join(format!("{name}-{version}"))))
    }

    fn imported(&self, name: &str) -> PathBuf {
        self.folder.join(format!("import-{name}"))
    }

    /// The folder name of a finished root file system, by which sandboxes remember it.
    pub(super) fn find(&self, name: &str) -> Option<String> {
        let folder = match name {
            "base" | "host" => self.current(name).ok().flatten()?,
            _ if is_import_name(name) => self.imported(name),
            _ => return None,
        };
        let finished = is_finished(&folder);
        folder.file_name().filter(|_| finished)?.to_str().map(str::to_owned)
    }

    /// Read-only folders of a root file system by its folder name: one entry for each part of the root.
    pub(super) fn lower(&self, folder: &str) -> io::Result<Vec<(&'static str, Vec<PathBuf>)>> {
        let path = self.folder.join(folder);
        let description: Option<Description> = read_json(&path.join(DESCRIPTION))?;
        match description.map(|description| description.kind) {
            Some(Kind::Root) => Ok(vec![("/", vec![path.join(ROOT)])]),
            Some(Kind::Host) => Ok(vec![
                ("/", vec![path.join(host::SKELETON)]),
                ("/usr", vec![path.join(host::OVER_USR), PathBuf::from("/usr")]),
            ]),
            None => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("the root file system {} is gone", path.display()),
            )),
        }
    }

    /// Runs a build in a folder of its own and puts the result in place in one step.
    fn finish(
        &self,
        name: &str,
        target: &Path,
        kind: Kind,
        build: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<PathBuf, TemplateError> {
        let failed = |source| TemplateError::Build { name: name.to_owned(), source };
        let _lock = self.lock(name).map_err(failed)?;
        if is_finished(target) {
            return Ok(target.to_owned());
        }
        let building = self.folder.join(format!("building-{name}"));
        let result = (|| {
            // A builder that was killed left its half; the lock says that nobody works on it.
            remove_tree(&building)?;
            fixups::make_folders(&building)?;
            build(&building)?;
            write_json(&building.join(DESCRIPTION), &Description { kind })?;
            remove_tree(target)?;
            fs::rename(&building, target)
        })();
        if let Err(source) = result {
            remove_tree(&building).ok();
            return Err(failed(source));
        }
        Ok(target.to_owned())
    }

    /// Waits for other builders of the same template.
    fn lock(&self, name: &str) -> io::Result<File> {
        let path = self.folder.join(format!("{name}.lock"));
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    }
}

fn is_finished(folder: &Path) -> bool {
    folder.join(DESCRIPTION).is_file()
}

/// Names that are safe as part of a folder's name.
fn is_import_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte))
}
