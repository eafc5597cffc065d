//! Values of secrets on a single machine: one file each, readable by its owner alone.

use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use pvm_application::ports::{KeepSecrets, ReadSecrets, SecretError, SecretValue};
use pvm_domain::ids::ProjectId;

/// A folder of secrets: `<folder>/<project>/<name>`.
#[derive(Debug, Clone)]
pub struct FileSecrets {
    folder: PathBuf,
}

impl FileSecrets {
    /// Keeps secrets in `folder`, which is made (0700) at the first secret.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// Names come checked (`[A-Za-z0-9_.-]{1,64}`), but a path is built from one here: `.` and `..` and anything with
    /// a separator must not get through.
    fn path(&self, project: &ProjectId, name: &str) -> Result<PathBuf, SecretError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        if name.is_empty() || name.len() > 64 || name.bytes().all(|b| b == b'.') || !name.bytes().all(allowed)
        {
            return Err(SecretError::Unavailable(anyhow::anyhow!("{name:?} is not a name of a secret")));
        }
        Ok(self.folder.join(project.as_str()).join(name))
    }
}

fn failed(what: &str, path: &Path, error: std::io::Error) -> SecretError {
    let context = format!("the secret's file {} cannot be {what}", path.display());
    SecretError::Unavailable(anyhow::Error::from(error).context(context))
}

fn write(path: &Path, value: &str) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    // A name of a secret has no `#`, so this cannot be one.
    let new = folder.join(format!("#{:016x}", rand::random::<u64>()));
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let written = file.write_all(value.as_bytes()).and_then(|()| file.sync_all());
    let written = written.and_then(|()| std::fs::rename(&new, path));
    if written.is_err() {
        // The error that is told is the first one.
        let _ = std::fs::remove_file(&new);
    }
    written
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SecretError> + Send + 'static,
) -> Result<T, SecretError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(SecretError::Unavailable(error.into())),
    }
}

impl ReadSecrets for FileSecrets {
    async fn get_secret(&self, project: &ProjectId, name: &str) -> Result<Option<SecretValue>, SecretError> {
        let path = self.path(project, name)?;
        blocking(move || match std::fs::read_to_string(&path) {
            Ok(value) => Ok(Some(SecretValue::new(value))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path, error)),
        })
        .await
    }
}

impl KeepSecrets for FileSecrets {
    async fn put_secret(
        &self,
        project: &ProjectId,
        name: &str,
        value: SecretValue,
    ) -> Result<(), SecretError> {
        let path = self.path(project, name)?;
        blocking(move || write(&path, value.expose()).map_err(|error| failed("written", &path, error))).await
    }

    async fn delete_secret(&self, project: &ProjectId, name: &str) -> Result<(), SecretError> {
        let path = self.path(project, name)?;
        blocking(move || {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(failed("removed", &path, error));
                }
                _ => {}
            }
            // The project's folder goes with its last secret; one that is not empty stays.
            if let Some(folder) = path.parent() {
                let _ = std::fs::remove_dir(folder);
            }
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pvm_domain::ids::PrefixedId;
    use std::os::unix::fs::PermissionsExt as _;

    #[tokio::test]
    async fn a_secret_is_kept_for_its_owner_alone_until_it_is_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = FileSecrets::new(folder.path().join("secrets"));
        let project = ProjectId::from_parts(1, 1);
        for value in ["first", "second"] {
            secrets.put_secret(&project, "API_KEY", SecretValue::new(value)).await.unwrap();
            let read = secrets.get_secret(&project, "API_KEY").await.unwrap().unwrap();
            assert_eq!(read.expose(), value);
        }
        let path = folder.path().join("secrets").join(project.as_str()).join("API_KEY");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        for _ in 0..2 {
            secrets.delete_secret(&project, "API_KEY").await.unwrap();
        }
        assert!(secrets.get_secret(&project, "API_KEY").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_name_cannot_leave_the_folder() {
        let secrets = FileSecrets::new("/nonexistent");
        for name in ["..", ".", "", "a/b", "a\0"] {
            assert!(secrets.get_secret(&ProjectId::from_parts(1, 1), name).await.is_err(), "{name:?}");
        }
    }
}
