//! Time, ids, objects, the workflow port over the interpreter, and saves that are only counted.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use bytes::Bytes;
use pvm_application::keys;
use pvm_application::ports::{
    ByteStream, Clock, DeleteObject, GetObject, Machine, NewId, ObjectError, ObjectInfo, PresignObject,
    Presigned, PutObject, RequestSave, SendTask, StartExecution, Started, StopExecution, UploadParts,
    UploadedPart, WorkflowError,
};
use pvm_application::store::{ReadStore, Tx, WriteStore};
use pvm_asl::{ApiError, Clock as _, Engine, SimClock};
use pvm_domain::Timestamp;
use pvm_domain::ids::{PrefixedId, ProjectId};
use pvm_domain::vm::{VmLease, VmStatus};
use serde_json::Value;

use super::crash::{Points, sleep};
use super::store::Store;

/// Counts down; answers whether there was one left.
pub(super) fn take_one(left: &AtomicU64) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

#[derive(Debug, Clone)]
pub(crate) struct SimAmbient {
    pub clock: SimClock,
    ids: Arc<AtomicU64>,
}

impl SimAmbient {
    pub(crate) fn new(clock: SimClock) -> Self {
        Self { clock, ids: Arc::new(AtomicU64::new(1)) }
    }
}

impl Clock for SimAmbient {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }
    async fn sleep(&self, time: Duration) {
        sleep(&self.clock, time).await;
    }
}

impl NewId for SimAmbient {
    fn new_id<I: PrefixedId>(&self) -> I {
        // Far apart, as random bits are: ids derived from one must not meet those of the next.
        let number = u128::from(self.ids.fetch_add(1, Ordering::SeqCst));
        let millis = u64::try_from(self.clock.now().as_millisecond()).unwrap();
        I::from_parts(millis, number << 64)
    }
}

/// Objects, of which there is one kind at most.
#[derive(Debug, Clone, Default)]
pub(crate) struct Objects {
    /// What each is, if there are any.
    pub text: Arc<Mutex<Option<&'static str>>>,
    /// So many of the next reads fail.
    pub away: Arc<AtomicU64>,
}

impl GetObject for Objects {
    async fn get(&self, _: &str) -> Result<Bytes, ObjectError> {
        if take_one(&self.away) {
            return Err(ObjectError::Unavailable(anyhow::anyhow!("away")));
        }
        self.text.lock().unwrap().map(Bytes::from).ok_or(ObjectError::NotFound)
    }
    async fn get_stream(&self, _: &str) -> Result<(u64, ByteStream), ObjectError> {
        Err(ObjectError::NotFound)
    }
    async fn head(&self, _: &str) -> Result<ObjectInfo, ObjectError> {
        Err(ObjectError::NotFound)
    }
}
impl PutObject for Objects {
    async fn put(&self, _: &str, _: Bytes, _: Option<&str>) -> Result<(), ObjectError> {
        Ok(())
    }
    async fn put_stream(&self, _: &str, _: ByteStream) -> Result<ObjectInfo, ObjectError> {
        Err(ObjectError::NotFound)
    }
    async fn put_new(&self, _: &str, _: Bytes, _: &str) -> Result<(), ObjectError> {
        Ok(())
    }
    async fn put_new_stream(&self, _: &str, _: ByteStream) -> Result<ObjectInfo, ObjectError> {
        Err(ObjectError::NotFound)
    }
}
impl UploadParts for Objects {
    async fn begin_parts(&self, _: &str) -> Result<String, ObjectError> {
        Err(ObjectError::NotFound)
    }
    async fn complete_parts(&self, _: &str, _: &str, _: &[UploadedPart]) -> Result<(), ObjectError> {
        Err(ObjectError::NotFound)
    }
    async fn abort_parts(&self, _: &str, _: &str) -> Result<(), ObjectError> {
        Ok(())
    }
}
impl PresignObject for Objects {
    async fn presign_get(&self, _: &str, _: &str, _: Duration) -> Result<Presigned, ObjectError> {
        Err(ObjectError::NotFound)
    }
    async fn presign_part(
        &self,
        _: &str,
        _: &str,
        _: u32,
        _: u64,
        _: Duration,
    ) -> Result<Presigned, ObjectError> {
        Err(ObjectError::NotFound)
    }
    async fn presign_put(
        &self,
        _: &str,
        _: u64,
        _: Option<&str>,
        _: Duration,
    ) -> Result<Presigned, ObjectError> {
        Err(ObjectError::NotFound)
    }
}
impl DeleteObject for Objects {
    async fn delete(&self, _: &str) -> Result<(), ObjectError> {
        Ok(())
    }
    async fn delete_prefix(&self, _: &str, _: u32) -> Result<u32, ObjectError> {
        Ok(0)
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Saves(pub Arc<AtomicU64>);

impl RequestSave for Saves {
    async fn request_save(&self, _: &ProjectId) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// The workflow port. Setting a VM up needs no machine here: the next VM is there at once.
#[derive(Debug, Clone)]
pub(crate) struct Flow {
    pub engine: Arc<RwLock<Option<Engine>>>,
    pub points: Arc<Points>,
    pub store: Store,
    pub clock: SimClock,
    /// The next start of a run's execution gets lost on its way.
    pub loses_next_start: Arc<AtomicBool>,
    /// So many starts of executions of a second segment fail before they are made.
    pub fails_second_segments: Arc<AtomicU64>,
}

pub(super) fn vm_lease(project: &ProjectId, number: u64, now: Timestamp) -> VmLease {
    let mut lease = VmLease::none(project.clone(), now);
    lease.attach(&format!("vm{number}"), &format!("boot{number}"), now);
    lease.state = VmStatus::Active;
    lease
}

impl Flow {
    pub(crate) fn engine(&self) -> Engine {
        self.engine.read().unwrap().clone().unwrap()
    }

    async fn new_vm(&self, project: &ProjectId) {
        let key = keys::vm_lease(project);
        let mut lease: VmLease = self.store.inner.get(&key).await.unwrap().unwrap();
        let number = lease.epoch + 1;
        lease.attach(&format!("vm{number}"), &format!("boot{number}"), self.clock.now());
        lease.finish(VmStatus::Active, None);
        self.store.inner.commit(Tx::new().update(&mut lease)).await.unwrap();
    }
}

fn failed(error: ApiError) -> WorkflowError {
    WorkflowError::Unavailable(anyhow::Error::new(error))
}

impl StartExecution for Flow {
    async fn start(&self, machine: Machine, name: &str, input: &Value) -> Result<Started, WorkflowError> {
        self.points.pass("before a start of an execution").await;
        if machine == Machine::VmLifecycle {
            let project = input["project_id"].as_str().unwrap().parse().unwrap();
            self.new_vm(&project).await;
            return Ok(Started::Open);
        }
        if name.ends_with("-2") && take_one(&self.fails_second_segments) {
            return Err(WorkflowError::Unavailable(anyhow::anyhow!("away")));
        }
        if self.loses_next_start.swap(false, Ordering::SeqCst) {
            return Ok(Started::Open);
        }
        let arn = self.engine().home().machine_arn("run-turn");
        let started = self.engine().start_execution(&arn, Some(name), &input.to_string()).await;
        self.points.pass("after a start of an execution").await;
        match started {
            Ok(_) => Ok(Started::Open),
            Err(ApiError::ExecutionAlreadyExists(_)) => Ok(Started::Closed),
            Err(error) => Err(failed(error)),
        }
    }
}

impl StopExecution for Flow {
    async fn stop(&self, _: Machine, name: &str, cause: &str) -> Result<(), WorkflowError> {
        let arn = self.engine().home().execution_arn("run-turn", name);
        self.points.pass("before a stop of an execution").await;
        let stopped = self.engine().stop_execution(&arn, None, Some(cause.to_owned())).await;
        self.points.pass("after a stop of an execution").await;
        match stopped {
            Ok(_) | Err(ApiError::ExecutionDoesNotExist(_)) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }
}

impl SendTask for Flow {
    async fn send_success(&self, token: &str, output: &Value) -> Result<bool, WorkflowError> {
        self.points.pass("before an answer to a token").await;
        let sent = self.engine().send_task_success(token, &output.to_string()).await;
        self.points.pass("after an answer to a token").await;
        match sent {
            Ok(()) => Ok(true),
            Err(ApiError::TaskTimedOut | ApiError::TaskDoesNotExist | ApiError::InvalidToken) => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }
}
