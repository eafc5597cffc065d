//! Task states: calling a function and, with a token, waiting for somebody's answer.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;
use tracing::Instrument;

use super::branch::{Branch, Interrupt, Moved, Visit, later};
use super::run::wait_for;
use super::tokens::{self, Answer};
use crate::clock::Work;
use crate::definition::Task;
use crate::document::Document;
use crate::failure::Failure;
use crate::history::Happening;
use crate::invoker::InvokeError;
use crate::store::{Change, Cursor, Phase};

/// What a function's caller hears: nothing at all if the engine stopped meanwhile. The mark of being at
/// work goes with the call and comes back with the answer; a branch that is woken otherwise has another.
type Returned = oneshot::Receiver<(Result<Value, InvokeError>, Work)>;

/// Longest cause that is kept, in bytes. AWS cuts there as well.
const MAX_CAUSE_BYTES: usize = 32_768;

impl Branch {
    pub(super) async fn task(
        &mut self,
        visit: &Visit,
        task: &Task,
        left: Option<Cursor>,
    ) -> Result<Moved, Interrupt> {
        // A token that was taken back belongs to an attempt that is over.
        let left = left.filter(|cursor| cursor.task_token.is_some() || !task.waits_for_token);
        let token = task.waits_for_token.then(|| {
            left.as_ref()
                .and_then(|cursor| cursor.task_token.clone())
                .unwrap_or_else(|| tokens::new_token(self.run.id))
        });
        let context = self.context(visit, token.as_deref());
        let raw = &*visit.input.value;
        let arguments = visit.state.flow.arguments(raw, &context)?.into_owned();
        let arguments = Document::new(arguments, "task's payload after Parameters")?;

        let fresh_deadline =
            || task.timeout_seconds.map(|s| later(self.run.engine.now(), std::time::Duration::from_secs(s)));
        let deadline = match &left {
            // The answer may come from outside whether this process runs or not, so its time runs as well.
            Some(cursor) if task.waits_for_token => cursor.deadline,
            _ => fresh_deadline(),
        };
        if left.is_none() {
            let resource = resource(task);
            let region = self.run.engine.home.region.clone();
            self.happened(Happening::task_scheduled(
                resource,
                &arguments.text,
                &region,
                task.timeout_seconds,
            ));
            self.happened(Happening::task_started(resource));
            let mut cursor = visit.cursor(&self.path, Phase::Acting);
            cursor.task_token.clone_from(&token);
            cursor.deadline = deadline;
            self.pending.changes.push(Change::Put(cursor));
            self.store().await?;
        }
        let timeout = deadline.map(|deadline| self.run.engine.clock.sleep_until(deadline));
        let must_call = left.as_ref().is_none_or(|cursor| cursor.phase != Phase::Submitted);
        let result = match &token {
            None => self.call(visit, task, &arguments, timeout).await?,
            Some(token) => {
                let arguments = must_call.then_some(&arguments);
                self.call_and_wait(visit, task, arguments, token, left.is_some(), timeout).await?
            }
        };
        let output = visit.state.flow.output(raw, result, &context)?;
        Ok(Moved { output, next: task.next.clone() })
    }

    /// Calls the function and takes what it returns as the task's result.
    async fn call(
        &mut self,
        visit: &Visit,
        task: &Task,
        arguments: &Document,
        timeout: Option<BoxFuture<'static, Work>>,
    ) -> Result<Value, Interrupt> {
        let returned = self.invoke(visit, task, arguments);
        let returned = tokio::select! {
            returned = returned => self.take_up(returned)?,
            work = wait_for(timeout) => {
                self.work = work;
                return Err(self.timed_out(task).into());
            }
        };
        let payload = returned.map_err(|error| self.task_failed(task, from_function(&error)))?;
        let payload = Document::new(payload, "task's result")?;
        // In the shape of the Lambda API's answer, which the definition's paths expect.
        let mut result = Map::new();
        result.insert("ExecutedVersion".to_owned(), "$LATEST".into());
        result.insert("Payload".to_owned(), Value::clone(&payload.value));
        result.insert("StatusCode".to_owned(), 200.into());
        let result = Value::Object(result);
        self.happened(Happening::task_succeeded(resource(task), &result.to_string()));
        Ok(result)
    }

    /// Calls the function and waits for the answer to its token, which is the task's result.
    async fn call_and_wait(
        &mut self,
        visit: &Visit,
        task: &Task,
        arguments: Option<&Document>,
        token: &str,
        is_left: bool,
        timeout: Option<BoxFuture<'static, Work>>,
    ) -> Result<Value, Interrupt> {
        let engine = Arc::clone(&self.run.engine);
        let (place, mut answered) = engine.waiting.enter(token);
        if is_left {
            // An answer that came before this branch was back waits in the store.
            let kept = self.run.kept_answer(token).await.ok_or(Interrupt::Gone)?;
            if let Some(answer) = kept.as_deref().and_then(|kept| serde_json::from_str(kept).ok()) {
                return self.answered(task, answer);
            }
        }
        let mut timeout = std::pin::pin!(wait_for(timeout));
        if let Some(arguments) = arguments {
            let returned = self.invoke(visit, task, arguments);
            tokio::select! {
                biased;
                answer = &mut answered => return self.woken(task, answer),
                work = &mut timeout => {
                    self.work = work;
                    return self.give_up(task, token, None).await;
                }
                returned = returned => match self.take_up(returned)? {
                    Err(error) => return self.give_up(task, token, Some(from_function(&error))).await,
                    Ok(output) => match Document::new(output, "task's result") {
                        Err(failure) => return self.give_up(task, token, Some(failure)).await,
                        Ok(output) => {
                            self.happened(Happening::task_submitted(resource(task), &output.text));
                            self.pending.changes.push(Change::Submit(self.path.clone()));
                            self.store().await?;
                        }
                    },
                },
            }
        }
        drop(std::mem::take(&mut self.work));
        let result = tokio::select! {
            biased;
            answer = &mut answered => self.woken(task, answer),
            work = &mut timeout => {
                self.work = work;
                self.give_up(task, token, None).await
            }
        };
        drop(place);
        result
    }

    /// Goes on with the work after a function has returned.
    fn take_up(
        &mut self,
        returned: Result<(Result<Value, InvokeError>, Work), oneshot::error::RecvError>,
    ) -> Result<Result<Value, InvokeError>, Interrupt> {
        let (result, work) = returned.map_err(|_| Interrupt::Gone)?;
        self.work = work;
        Ok(result)
    }

    fn woken(
        &mut self,
        task: &Task,
        answer: Result<(Answer, Work), oneshot::error::RecvError>,
    ) -> Result<Value, Interrupt> {
        // The sender lives in the table as long as this branch's place there.
        let (answer, work) = answer.map_err(|_| Interrupt::Gone)?;
        self.work = work;
        self.answered(task, answer)
    }

    fn answered(&mut self, task: &Task, answer: Answer) -> Result<Value, Interrupt> {
        match answer {
            Answer::Success { output } => {
                self.happened(Happening::task_succeeded(resource(task), &output));
                let output = serde_json::from_str(&output).map_err(|error| {
                    Failure::runtime(format!("The task's answer is unreadable: {error}."))
                })?;
                Ok(output)
            }
            Answer::Failure { error, cause } => Err(self.task_failed(task, Failure { error, cause }).into()),
        }
    }

    /// Fails the task, or times it out, unless an answer came at the last moment: its sender was told that
    /// it counts.
    async fn give_up(
        &mut self,
        task: &Task,
        token: &str,
        failure: Option<Failure>,
    ) -> Result<Value, Interrupt> {
        let kept = self.run.revoke_token(token).await.ok_or(Interrupt::Gone)?;
        if let Some(answer) = kept.as_deref().and_then(|kept| serde_json::from_str(kept).ok()) {
            return self.answered(task, answer);
        }
        Err(match failure {
            Some(failure) => self.task_failed(task, failure),
            None => self.timed_out(task),
        }
        .into())
    }

    fn task_failed(&mut self, task: &Task, failure: Failure) -> Failure {
        self.happened(Happening::task_failed(resource(task), &failure));
        failure
    }

    fn timed_out(&mut self, task: &Task) -> Failure {
        let failure = Failure::timeout();
        self.happened(Happening::task_timed_out(resource(task), &failure));
        failure
    }

    /// Starts the function in a task of its own: it runs on, as a Lambda does, when this state is left.
    fn invoke(&mut self, visit: &Visit, task: &Task, arguments: &Document) -> Returned {
        let (sender, returned) = oneshot::channel();
        let work = std::mem::take(&mut self.work);
        let engine = Arc::clone(&self.run.engine);
        let function = task.function.clone();
        let payload = arguments.value.get("Payload").cloned().unwrap_or_else(|| json!({}));
        let span = tracing::info_span!("task", execution.name = self.run.name, state = visit.state.name);
        let stopping = self.run.engine.stopping.clone();
        let call = async move {
            // A task of its own again, so that a panic in a function is an error of that function.
            let invoker = Arc::clone(&engine.invoker);
            let mut call =
                tokio::spawn(async move { invoker.invoke_boxed(&function, payload).await }.in_current_span());
            let result = tokio::select! {
                result = &mut call => result.unwrap_or_else(|_| {
                    Err(InvokeError::new("Lambda.Unknown", "the function ended without an answer"))
                }),
                () = stopping.cancelled() => {
                    call.abort();
                    // The mark is given back when nothing of the function is left, which may have lent it.
                    drop(call.await);
                    return;
                }
            };
            drop(sender.send((result, work)));
        };
        tokio::spawn(call.instrument(span));
        returned
    }
}

fn resource(task: &Task) -> &'static str {
    if task.waits_for_token { "invoke.waitForTaskToken" } else { "invoke" }
}

/// A function's error as Step Functions shows a Lambda's.
fn from_function(error: &InvokeError) -> Failure {
    let name = if error.error_type.is_empty() { "Lambda.Unknown" } else { error.error_type.as_str() };
    let mut message = error.message.as_str();
    if message.len() > MAX_CAUSE_BYTES {
        message = &message[..message.floor_char_boundary(MAX_CAUSE_BYTES)];
    }
    // A function must not pass for the engine: the names of States. mean what the engine says.
    let error = if name.starts_with("States.") { "Lambda.Unknown" } else { name };
    Failure::new(error, json!({ "errorType": name, "errorMessage": message }).to_string())
}
