//! Files inside a VM.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use http::Method;
use pvm_application::ports::{ByteStream, EntryKind, NewEntry, VmEntry, VmError, VmFiles};
use pvm_domain::file::WORKSPACE;
use pvm_e2b_wire::filesystem::{
    EntryInfo, EntryResponse, FileType, ListDirRequest, ListDirResponse, PathRequest, SERVICE,
};
use reqwest::Body;
use serde_json::Value;

use crate::client::VmClient;
use crate::control::unreachable;

/// Moving a file may take this long: 5 GiB over a slow line.
pub(crate) const TRANSFER: Duration = Duration::from_hours(1);

fn entry(info: EntryInfo) -> VmEntry {
    let kind = match info.file_type {
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Symlink,
        _ => EntryKind::File,
    };
    VmEntry {
        path: info.path,
        name: info.name,
        kind,
        size: u64::try_from(info.size).unwrap_or(0),
        mode: info.mode,
        owner: info.owner,
        group: info.group,
        modified_ns: info.modified_time.map_or(0, jiff::Timestamp::as_nanosecond),
        sha256: None,
        symlink_target: info.symlink_target,
    }
}

impl VmClient {
    async fn download(&self, vm_id: &str, path: &str, user: &str) -> Result<reqwest::Response, VmError> {
        self.ask_envd(vm_id, |access| {
            let request = self.envd(vm_id, access, user, Method::GET, "/files").timeout(TRANSFER);
            request.query(&[("path", path), ("username", user)]).header("accept-encoding", "identity")
        })
        .await
    }

    /// Reads a file, up to `most` bytes of it.
    pub(crate) async fn read_small(
        &self,
        vm_id: &str,
        path: &str,
        user: &str,
        most: u64,
    ) -> Result<Bytes, VmError> {
        let response = self.download(vm_id, path, user).await?;
        let mut bytes = Vec::new();
        let mut stream = response.bytes_stream();
        while let Some(chunk) = stream.next().await {
            bytes.extend_from_slice(&chunk.map_err(unreachable)?);
            if bytes.len() as u64 > most {
                return Err(VmError::Refused(format!("{path} has more than {most} bytes.")));
            }
        }
        Ok(bytes.into())
    }

    async fn upload(
        &self,
        vm_id: &str,
        path: &str,
        user: &str,
        size: u64,
        body: Body,
    ) -> Result<(), VmError> {
        // A stream cannot be sent twice, so the token is made sure of first.
        let access = self.access(vm_id).await?;
        let request = self.envd(vm_id, &access, user, Method::POST, "/files").timeout(TRANSFER);
        let request = request
            .query(&[("path", path), ("username", user)])
            .header("content-type", "application/octet-stream")
            .header("content-length", size);
        let response = request.body(body).send().await.map_err(unreachable)?;
        self.checked(vm_id, response).await.map(|_| ())
    }
}

impl VmFiles for VmClient {
    async fn read_file(&self, vm_id: &str, path: &str, user: &str, most: u64) -> Result<Bytes, VmError> {
        self.read_small(vm_id, path, user, most).await
    }

    async fn read_file_stream(
        &self,
        vm_id: &str,
        path: &str,
        user: &str,
    ) -> Result<(u64, ByteStream), VmError> {
        let response = self.download(vm_id, path, user).await?;
        let size = response.content_length().unwrap_or(0);
        let bytes = response.bytes_stream().map_err(|error| std::io::Error::other(error.without_url()));
        Ok((size, Box::pin(bytes)))
    }

    async fn write_file(&self, vm_id: &str, path: &str, user: &str, bytes: Bytes) -> Result<(), VmError> {
        let response = self
            .ask_envd(vm_id, |access| {
                let request = self.envd(vm_id, access, user, Method::POST, "/files").timeout(TRANSFER);
                let request = request.query(&[("path", path), ("username", user)]);
                request.header("content-type", "application/octet-stream").body(bytes.clone())
            })
            .await;
        response.map(|_| ())
    }

    async fn write_file_stream(
        &self,
        vm_id: &str,
        path: &str,
        user: &str,
        size: u64,
        bytes: ByteStream,
    ) -> Result<(), VmError> {
        self.upload(vm_id, path, user, size, Body::wrap_stream(bytes)).await
    }

    async fn stat(&self, vm_id: &str, path: &str, user: &str) -> Result<Option<VmEntry>, VmError> {
        let call = format!("{SERVICE}Stat");
        let found =
            self.rpc::<_, EntryResponse>(vm_id, user, &call, &PathRequest::new(path), Duration::ZERO).await;
        match found {
            Ok(found) => Ok(Some(entry(found.entry))),
            Err(VmError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn list_dir(
        &self,
        vm_id: &str,
        path: &str,
        user: &str,
        depth: u32,
    ) -> Result<Vec<VmEntry>, VmError> {
        let input = ListDirRequest { path: path.to_owned(), depth };
        let listed: ListDirResponse =
            self.rpc(vm_id, user, &format!("{SERVICE}ListDir"), &input, Duration::ZERO).await?;
        Ok(listed.entries.into_iter().map(entry).collect())
    }

    async fn remove(&self, vm_id: &str, path: &str, user: &str) -> Result<(), VmError> {
        let call = format!("{SERVICE}Remove");
        match self.rpc::<_, Value>(vm_id, user, &call, &PathRequest::new(path), Duration::ZERO).await {
            Ok(_) | Err(VmError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn read_many(
        &self,
        vm_id: &str,
        paths: &[String],
        most: u64,
    ) -> Result<Vec<Option<Bytes>>, VmError> {
        if !self.access(vm_id).await?.journal {
            return self.read_singly(vm_id, paths, most).await;
        }
        let found = self.read_bulk(vm_id, paths, most).await?;
        Ok(found.into_iter().map(|(_, bytes)| bytes).collect())
    }

    async fn present(&self, vm_id: &str, paths: &[String]) -> Result<Vec<bool>, VmError> {
        if self.access(vm_id).await?.journal {
            let found = self.read_bulk(vm_id, paths, 0).await?;
            return Ok(found.into_iter().map(|(present, _)| present).collect());
        }
        let each = paths.iter().cloned().map(|path| async move {
            let entry = self.stat(vm_id, &format!("{WORKSPACE}/{path}"), "root").await?;
            Ok(entry.is_some_and(|entry| entry.kind == EntryKind::File))
        });
        futures::stream::iter(each).buffered(16).try_collect().await
    }

    async fn write_many(&self, vm_id: &str, entries: Vec<NewEntry>) -> Result<Vec<Option<String>>, VmError> {
        if self.access(vm_id).await?.journal {
            self.write_bulk(vm_id, entries).await
        } else {
            self.write_singly(vm_id, entries).await
        }
    }

    async fn scan_workspace(&self, vm_id: &str) -> Result<Vec<VmEntry>, VmError> {
        self.scan(vm_id).await
    }
}
