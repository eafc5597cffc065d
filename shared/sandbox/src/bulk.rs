//! Many files of a workspace in one request, where the envd can; file by file and a script for the rest where not.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use http::Method;
use pvm_application::ports::{ByteStream, NewContent, NewEntry, VmError, VmFiles};
use pvm_domain::file::WORKSPACE;
use pvm_e2b_wire::process::ProcessConfig;
use pvm_e2b_wire::workspace::{
    MAX_READ_BYTES, ReadHead, ReadRequest, SERVICE, WriteHead, WriteKind, WriteResponse,
};
use reqwest::Body;

use crate::client::VmClient;
use crate::control::unreachable;
use crate::files::TRANSFER;

/// Files that are asked for at the same time of servers that give one a request.
const AT_ONCE: usize = 16;
/// Paths of one request.
const PATHS: usize = 500;
/// Puts permission bits and links in place: arguments are kind, mode or target, and path, in turn.
const PLACE: &str = r#"cd "$0" || exit 1
while [ $# -gt 2 ]; do
	case $1 in
	mode) chmod -- "$2" "$3" 2>&1 ;;
	link) mkdir -p -- "$(dirname -- "./$3")" && ln -sfnT -- "$2" "./$3" 2>&1 ;;
	esac || true
	shift 3
	printf '\0'
done
"#;

impl VmClient {
    pub(crate) async fn read_bulk(
        &self,
        vm_id: &str,
        paths: &[String],
        most: u64,
    ) -> Result<Vec<(bool, Option<Bytes>)>, VmError> {
        let mut found = Vec::with_capacity(paths.len());
        let mut open: VecDeque<&String> = paths.iter().collect();
        while !open.is_empty() {
            let some: Vec<String> = open.iter().take(PATHS).map(|path| (*path).clone()).collect();
            let answer = self.read_some(vm_id, &some, most).await?;
            let mut room = MAX_READ_BYTES;
            for (present, bytes) in answer {
                // One answer holds only so much: what did not fit is asked for again, unless it can never fit.
                let fits = bytes.is_some() || !present || most == 0 || room >= most;
                if !fits {
                    break;
                }
                room -= bytes.as_ref().map_or(0, |bytes| bytes.len() as u64).min(room);
                open.pop_front();
                found.push((present, bytes));
            }
        }
        Ok(found)
    }

    async fn read_some(
        &self,
        vm_id: &str,
        paths: &[String],
        most: u64,
    ) -> Result<Vec<(bool, Option<Bytes>)>, VmError> {
        let question = ReadRequest { root: WORKSPACE.to_owned(), paths: paths.to_vec(), most };
        let response = self
            .ask_envd(vm_id, |access| {
                let path = format!("{SERVICE}Read");
                self.envd(vm_id, access, "root", Method::POST, &path).timeout(TRANSFER).json(&question)
            })
            .await?;
        let mut rest = response.bytes().await.map_err(unreachable)?;
        let broken = || VmError::Unavailable(anyhow::anyhow!("the VM's answer is not whole"));
        let mut found = Vec::with_capacity(paths.len());
        for _ in paths {
            let end = rest.iter().position(|byte| *byte == b'\n').ok_or_else(broken)?;
            let head: ReadHead = serde_json::from_slice(&rest.split_to(end)).map_err(|_| broken())?;
            rest.advance(1);
            let bytes = match head.size {
                Some(size) if size <= rest.len() as u64 => Some(rest.split_to(size as usize)),
                Some(_) => return Err(broken()),
                None => None,
            };
            found.push((head.present, bytes));
        }
        Ok(found)
    }

    pub(crate) async fn read_singly(
        &self,
        vm_id: &str,
        paths: &[String],
        most: u64,
    ) -> Result<Vec<Option<Bytes>>, VmError> {
        let each = paths.iter().cloned().map(|path| async move {
            match self.read_small(vm_id, &format!("{WORKSPACE}/{path}"), "root", most).await {
                Ok(bytes) => Ok(Some(bytes)),
                Err(VmError::NotFound(_) | VmError::Refused(_)) => Ok(None),
                Err(error) => Err(error),
            }
        });
        futures::stream::iter(each).buffered(AT_ONCE).try_collect().await
    }

    pub(crate) async fn write_bulk(
        &self,
        vm_id: &str,
        entries: Vec<NewEntry>,
    ) -> Result<Vec<Option<String>>, VmError> {
        let count = entries.len();
        let whole = entries.iter().all(|entry| !matches!(entry.content, NewContent::Stream { .. }));
        let path = format!("{SERVICE}Write");
        let send = |access: &crate::access::Access| {
            let request = self.envd(vm_id, access, "user", Method::POST, &path).timeout(TRANSFER);
            request.query(&[("root", WORKSPACE)]).header("content-type", "application/octet-stream")
        };
        let response = if whole {
            let mut body = BytesMut::new();
            for entry in &entries {
                body.extend_from_slice(&head(entry));
                if let NewContent::Bytes(bytes) = &entry.content {
                    body.extend_from_slice(bytes);
                }
            }
            let body = body.freeze();
            self.ask_envd(vm_id, |access| send(access).body(body.clone())).await?
        } else {
            // A stream cannot be sent twice, so the token is made sure of first.
            let access = self.access(vm_id).await?;
            let response = send(&access).body(Body::wrap_stream(stream(entries))).send().await;
            self.checked(vm_id, response.map_err(unreachable)?).await?
        };
        let answer: WriteResponse = response.json().await.map_err(unreachable)?;
        if answer.failures.len() == count {
            Ok(answer.failures)
        } else {
            Err(VmError::Unavailable(anyhow::anyhow!(
                "the VM answered for {} entries of {count}",
                answer.failures.len()
            )))
        }
    }

    /// For servers of others: their file API has neither links nor permission bits, which a script puts in place after.
    pub(crate) async fn write_singly(
        &self,
        vm_id: &str,
        entries: Vec<NewEntry>,
    ) -> Result<Vec<Option<String>>, VmError> {
        let mut arguments = Vec::new();
        let mut places = Vec::new();
        let mut failures: Vec<Option<String>> = Vec::with_capacity(entries.len());
        for (place, entry) in entries.into_iter().enumerate() {
            let path = format!("{WORKSPACE}/{}", entry.path);
            let mode = format!("{:o}", entry.mode & 0o777);
            let (written, then) = match entry.content {
                NewContent::Bytes(bytes) => {
                    (self.write_file(vm_id, &path, "user", bytes).await, ["mode".into(), mode])
                }
                NewContent::Stream { size, bytes } => {
                    (self.write_file_stream(vm_id, &path, "user", size, bytes).await, ["mode".into(), mode])
                }
                NewContent::Link(target) => (Ok(()), ["link".to_owned(), target]),
                NewContent::Mode => (Ok(()), ["mode".to_owned(), mode]),
            };
            match written {
                Ok(()) => {
                    arguments.extend(then);
                    arguments.push(entry.path);
                    places.push(place);
                    failures.push(None);
                }
                Err(VmError::Refused(why) | VmError::NotFound(why)) => failures.push(Some(why)),
                Err(error) => return Err(error),
            }
        }
        // Linux takes two megabytes of arguments; paths have at most a thousand bytes each.
        for (some, places) in arguments.chunks(3 * 256).zip(places.chunks(256)) {
            let said = self.place_by_script(vm_id, some).await?;
            for (place, text) in places.iter().zip(said) {
                failures[*place] = (!text.is_empty()).then_some(text);
            }
        }
        Ok(failures)
    }

    async fn place_by_script(&self, vm_id: &str, arguments: &[String]) -> Result<Vec<String>, VmError> {
        let mut args = vec!["-c".to_owned(), PLACE.to_owned(), WORKSPACE.to_owned()];
        args.extend_from_slice(arguments);
        let process = ProcessConfig { cmd: "/bin/sh".to_owned(), args, ..ProcessConfig::default() };
        let process = ProcessConfig { cwd: Some("/".to_owned()), ..process };
        let done = self.run_process(vm_id, "user", process, Duration::from_mins(2)).await?;
        if done.exit_code != 0 {
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            return Err(VmError::Refused(format!(
                "Links and permission bits cannot be set: {}",
                said.trim()
            )));
        }
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        Ok(said.split('\0').map(|text| text.trim().to_owned()).collect())
    }
}

fn head(entry: &NewEntry) -> Vec<u8> {
    let (kind, size, target) = match &entry.content {
        NewContent::Bytes(bytes) => (WriteKind::File, bytes.len() as u64, None),
        NewContent::Stream { size, .. } => (WriteKind::File, *size, None),
        NewContent::Link(target) => (WriteKind::Link, 0, Some(target.clone())),
        NewContent::Mode => (WriteKind::Mode, 0, None),
    };
    let head = WriteHead { path: entry.path.clone(), kind, mode: entry.mode, size, target };
    // A struct of plain fields always has a JSON form.
    let mut line = serde_json::to_vec(&head).unwrap_or_default();
    line.push(b'\n');
    line
}

fn stream(entries: Vec<NewEntry>) -> ByteStream {
    Box::pin(futures::stream::iter(entries).flat_map(|entry| {
        let head = futures::stream::once(std::future::ready(Ok(Bytes::from(head(&entry)))));
        let bytes: ByteStream = match entry.content {
            NewContent::Bytes(bytes) => Box::pin(futures::stream::once(std::future::ready(Ok(bytes)))),
            NewContent::Stream { bytes, .. } => bytes,
            NewContent::Link(_) | NewContent::Mode => Box::pin(futures::stream::empty()),
        };
        head.chain(bytes)
    }))
}
