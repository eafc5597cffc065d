//! Resources: the project's status, its files, and the output of its services.

use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use pvm_application::error::{AppError, AppResult, ErrorCode};
use pvm_application::ports::{GetObject, ReadFrom, VmError, VmFiles};
use pvm_application::store::ReadStore;
use pvm_application::vm::{lease, ready};
use pvm_application::{files, keys, services, vm};
use pvm_contracts::services::Service;
use pvm_domain::file::{ProjectFile, WorkspacePath};
use pvm_tools::Ports;
use rmcp::ErrorData;
use rmcp::model::{
    CacheScope, ListResourcesResult, ReadResourceResult, Resource, ResourceContents, ResourceTemplate,
};
use serde_json::json;

use crate::parts::Parts;
use crate::server::{ProjectServer, protocol_error};

/// What this process saw of VMs within the last two seconds.
static RECENT: LazyLock<vm::status::Recent> = LazyLock::new(vm::status::Recent::default);

const STATUS: &str = "pvm://status";
const WORKSPACE: &str = "pvm://workspace/";
const SERVICES: &str = "pvm://services/";
const LOGS: &str = "/logs";
/// The template of files.
pub(crate) const FILE_TEMPLATE: &str = "pvm://workspace/{+path}";
/// The template of services' output.
pub(crate) const LOGS_TEMPLATE: &str = "pvm://services/{name}/logs";
/// The largest file that is read as a resource, in bytes: in base64 it still fits into a gateway's answer.
const FILE_BYTES: u64 = 3 * 1024 * 1024;
/// The end of each stream of a service that is shown, in bytes.
const LOG_BYTES: u64 = 64 * 1024;
/// Files of one page.
const PAGE: u32 = 200;
/// Milliseconds that lists and contents may be kept by a client.
const TTL_MS: u64 = 2_000;
/// What stays readable in a path's URI.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_').remove(b'~');

fn file_uri(path: &WorkspacePath) -> String {
    format!("{WORKSPACE}{}", utf8_percent_encode(path.as_str(), KEPT))
}

fn mime_of(path: &str) -> String {
    mime_guess::from_path(path).first_raw().unwrap_or("text/plain").to_owned()
}

/// Templates of resources.
pub(crate) fn templates() -> Vec<ResourceTemplate> {
    vec![
        ResourceTemplate::new(FILE_TEMPLATE, "file")
            .with_title("A file of the workspace")
            .with_description("The path is relative to /workspace."),
        ResourceTemplate::new(LOGS_TEMPLATE, "service-logs")
            .with_title("Output of a service")
            .with_description("The end of what a service wrote.")
            .with_mime_type("text/plain"),
    ]
}

/// What a URI means.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    Status,
    File(WorkspacePath),
    Logs(String),
}

fn target(uri: &str) -> Option<Target> {
    let decoded = |text: &str| percent_decode_str(text).decode_utf8().ok().map(std::borrow::Cow::into_owned);
    if uri == STATUS {
        return Some(Target::Status);
    }
    if let Some(path) = uri.strip_prefix(WORKSPACE) {
        return WorkspacePath::parse("uri", &decoded(path)?).ok().map(Target::File);
    }
    let name = uri.strip_prefix(SERVICES)?.strip_suffix(LOGS)?;
    decoded(name).filter(|name| !name.is_empty()).map(Target::Logs)
}

fn missing(uri: &str) -> ErrorData {
    ErrorData::resource_not_found("There is no such resource in this project.", Some(json!({"uri": uri})))
}

/// Bytes as text where they are text.
fn contents(uri: &str, mime: String, bytes: &[u8]) -> ResourceContents {
    let text = std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
    if let Some(text) = text {
        ResourceContents::TextResourceContents {
            uri: uri.to_owned(),
            mime_type: Some(mime),
            text: text.to_owned(),
            meta: None,
        }
    } else {
        let mime = if mime == "text/plain" { "application/octet-stream".to_owned() } else { mime };
        ResourceContents::BlobResourceContents {
            uri: uri.to_owned(),
            mime_type: Some(mime),
            blob: STANDARD.encode(bytes),
            meta: None,
        }
    }
}

fn too_large() -> AppError {
    AppError::invalid("uri", "names a file of more than 3 MiB; read parts of it with the tool read_file")
}

impl<P: Parts> ProjectServer<P> {
    /// `resources/list`: states first, then the files, page by page.
    pub(crate) async fn resources(&self, cursor: Option<String>) -> Result<ListResourcesResult, ErrorData> {
        self.list(cursor).await.map_err(|error| protocol_error(&error))
    }

    async fn list(&self, cursor: Option<String>) -> AppResult<ListResourcesResult> {
        let listing = format!("mcp resources {}", self.project.project_id);
        let signer = self.mcp.signer();
        let after =
            cursor.as_deref().map(|text| signer.position(&self.principal, &listing, text)).transpose()?;
        let mut all = Vec::new();
        if after.is_none() {
            all.push(
                Resource::new(STATUS, "status")
                    .with_title("Status")
                    .with_description("State of the VM, services and files.")
                    .with_mime_type("application/json"),
            );
            for service in services::records(self.store(), &self.project.project_id).await? {
                let name = utf8_percent_encode(&service.name, KEPT);
                let title = format!("Output of {}", service.name);
                all.push(
                    Resource::new(format!("{SERVICES}{name}{LOGS}"), format!("{}-logs", service.name))
                        .with_title(title)
                        .with_mime_type("text/plain"),
                );
            }
        }
        let id = &self.project.project_id;
        let page = files::list::list(self.store(), &self.principal, id, "", PAGE, after).await?;
        all.extend(page.items.iter().filter(|file| file.object_version > 0).map(|file| {
            Resource::new(file_uri(&file.path), file.path.as_str())
                .with_mime_type(mime_of(file.path.as_str()))
                .with_size(file.size)
        }));
        let mut result = ListResourcesResult::with_all_items(all);
        result.next_cursor = signer.cursor(&self.principal, &listing, page.next.as_ref());
        Ok(result.with_ttl_ms(TTL_MS).with_cache_scope(CacheScope::Private))
    }

    /// `resources/read`.
    pub(crate) async fn resource(&self, uri: &str) -> Result<ReadResourceResult, ErrorData> {
        let target = target(uri).ok_or_else(|| missing(uri))?;
        let read = match target {
            Target::Status => self.status(uri).await,
            Target::File(path) => self.file(uri, &path).await,
            Target::Logs(name) => self.logs(uri, &name).await,
        };
        let contents = read.map_err(|error| match error.code {
            ErrorCode::NotFound => missing(uri),
            _ => protocol_error(&error),
        })?;
        let mut result = ReadResourceResult::new(vec![contents]);
        result.ttl_ms = Some(TTL_MS);
        result.cache_scope = Some(CacheScope::Private);
        Ok(result)
    }

    async fn status(&self, uri: &str) -> AppResult<ResourceContents> {
        let tools = self.mcp.tools();
        let id = &self.project.project_id;
        let found =
            vm::status::status(tools.store(), tools.vm(), tools.ambient(), &RECENT, &self.principal, id)
                .await?;
        let services: Vec<Service> =
            found.services.into_iter().map(|(service, url)| Service::new(service, url)).collect();
        let files = found.files;
        let document = json!({
            "project_id": id,
            "name": found.project.name,
            "description": found.project.description,
            "vm_status": found.lease.state,
            "reason": found.lease.reason,
            "started_at": found.lease.started_at,
            "last_activity": found.last_activity,
            "services": services,
            "files": {
                "total": files.total, "synced": files.synced, "pending": files.pending, "failed": files.failed,
            },
            "stale": found.stale,
        });
        let text = serde_json::to_vec_pretty(&document).unwrap_or_default();
        Ok(contents(uri, "application/json".to_owned(), &text))
    }

    /// A running VM has the newest bytes; else the store has what was saved.
    async fn file(&self, uri: &str, path: &WorkspacePath) -> AppResult<ResourceContents> {
        let tools = self.mcp.tools();
        let id = &self.project.project_id;
        let lease = lease::load(tools.store(), tools.ambient(), id).await?;
        let mime = mime_of(path.as_str());
        if let Some(ready) = ready::ready_of(&lease) {
            match tools.vm().stat(&ready.vm_id, &path.in_vm(), "user").await {
                Ok(Some(entry)) if entry.size > FILE_BYTES => return Err(too_large()),
                Ok(Some(_)) => {
                    let bytes = tools.vm().read_file(&ready.vm_id, &path.in_vm(), "user", FILE_BYTES).await?;
                    return Ok(contents(uri, mime, &bytes));
                }
                Ok(None) => return Err(AppError::not_found("file")),
                Err(error @ (VmError::Gone | VmError::Paused)) => {
                    lease::note_away(tools.store(), tools.ambient(), id, &ready.vm_id, &error).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let file: Option<ProjectFile> = tools.store().get(&keys::file(id, path)).await?;
        let file = file.filter(|file| file.object_version > 0).ok_or_else(|| AppError::not_found("file"))?;
        let (size, mut pieces) = self.mcp.objects().get_stream(&file.current_key()).await?;
        if size > FILE_BYTES {
            return Err(too_large());
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| {
                AppError::new(ErrorCode::Unavailable, "The file store is busy; try again.").because(error)
            })?;
            bytes.extend_from_slice(&piece);
        }
        Ok(contents(uri, mime, &bytes))
    }

    async fn logs(&self, uri: &str, name: &str) -> AppResult<ResourceContents> {
        let tools = self.mcp.tools();
        let id = &self.project.project_id;
        let missing = || AppError::not_found("service");
        let service = services::by_name(tools.store(), id, name).await?.ok_or_else(missing)?;
        let read = |stdout: u64, stderr: u64, limit: u64| {
            let from = ReadFrom { stdout, stderr, limit, wait: Duration::ZERO };
            let (store, vm, ambient) = (tools.store(), tools.vm(), tools.ambient());
            services::logs(store, vm, ambient, &self.principal, id, &service.service_id, from)
        };
        let mut text = String::new();
        if let (_, Some(begun)) = read(0, 0, 1).await? {
            let out = begun.stdout.total.saturating_sub(LOG_BYTES);
            let err = begun.stderr.total.saturating_sub(LOG_BYTES);
            if let (_, Some(tail)) = read(out, err, LOG_BYTES).await? {
                text = String::from_utf8_lossy(&tail.stdout.data).into_owned();
                if !tail.stderr.data.is_empty() {
                    text.push_str("\n[stderr]\n");
                    text.push_str(&String::from_utf8_lossy(&tail.stderr.data));
                }
            }
        }
        Ok(contents(uri, "text/plain".to_owned(), text.replace('\0', "").as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_leads_back_to_its_path() {
        let path = WorkspacePath::parse("path", "src/a b#é%.py").unwrap();
        let uri = file_uri(&path);
        assert!(!uri.contains([' ', '#']), "{uri}");
        assert_eq!(target(&uri), Some(Target::File(path)));
        assert_eq!(target(STATUS), Some(Target::Status));
        assert_eq!(target("pvm://services/api/logs"), Some(Target::Logs("api".into())));
    }

    #[test]
    fn a_uri_cannot_leave_the_workspace() {
        for bad in [
            "pvm://workspace/../etc/passwd",
            "pvm://workspace/%2e%2e/x",
            "pvm://workspace/",
            "file:///etc/passwd",
            "pvm://services//logs",
            "pvm://other",
            "pvm://workspace/%ff",
        ] {
            assert_eq!(target(bad), None, "{bad}");
        }
    }

    #[test]
    fn bytes_that_are_not_text_come_as_base64() {
        let blob = contents("u", "text/plain".into(), &[0xff, 0]);
        assert!(
            matches!(blob, ResourceContents::BlobResourceContents { mime_type: Some(kind), .. } if kind == "application/octet-stream")
        );
        assert!(matches!(
            contents("u", "text/plain".into(), b"hi"),
            ResourceContents::TextResourceContents { .. }
        ));
    }
}
