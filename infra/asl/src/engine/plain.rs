//! The states that call nobody: Pass, Choice, Succeed, Fail, and Wait.

use std::time::Duration;

use super::branch::{Branch, Interrupt, Moved, Visit, later};
use crate::definition::{self, Kind, Next};
use crate::document::Document;
use crate::failure::{self, Failure};
use crate::limits;
use crate::store::{Change, Cursor, Phase};

impl Branch {
    /// The states that have no effect.
    pub(super) fn evaluate(&self, visit: &Visit) -> Result<Moved, Failure> {
        let flow = &visit.state.flow;
        let raw = &*visit.input.value;
        let context = self.context(visit, None);
        match &visit.state.kind {
            Kind::Pass { result, next } => {
                let result = match result {
                    Some(result) => result.clone(),
                    None => flow.arguments(raw, &context)?.into_owned(),
                };
                Ok(Moved { output: flow.output(raw, result, &context)?, next: next.clone() })
            }
            Kind::Choice(choice) => {
                let input = flow.input(raw, &context)?;
                let next = choice.decide(&input, &context)?.ok_or_else(|| {
                    Failure::new(
                        failure::NO_CHOICE_MATCHED,
                        "No rule matches the input, and there is no Default.",
                    )
                })?;
                Ok(Moved { output: flow.pass_through(raw, &context)?, next: Next::State(next.to_owned()) })
            }
            Kind::Fail { error, cause } => Err(Failure {
                error: error.clone().unwrap_or_default(),
                cause: cause.clone().unwrap_or_default(),
            }),
            _ => Ok(Moved { output: flow.pass_through(raw, &context)?, next: Next::End }),
        }
    }

    pub(super) async fn wait(
        &mut self,
        visit: &Visit,
        duration: &definition::Duration,
        left: Option<Cursor>,
    ) -> Result<Document, Interrupt> {
        let flow = &visit.state.flow;
        let context = self.context(visit, None);
        let wake_at = if let Some(wake_at) = left.and_then(|cursor| cursor.wake_at) {
            wake_at
        } else {
            let seconds = match duration {
                definition::Duration::Seconds(seconds) => *seconds,
                definition::Duration::Path(path) => {
                    let input = flow.input(&visit.input.value, &context)?;
                    let value = crate::template::resolve(path, "SecondsPath", &input, &context)?;
                    value.as_u64().filter(|seconds| *seconds <= limits::MAX_SECONDS).ok_or_else(|| {
                        Failure::runtime(format!(
                            "SecondsPath is {:?}, and there is {value} instead of a whole number of seconds.",
                            path.text()
                        ))
                    })?
                }
            };
            let wake_at = later(visit.entered_at, Duration::from_secs(seconds));
            let mut cursor = visit.cursor(&self.path, Phase::Acting);
            cursor.wake_at = Some(wake_at);
            self.pending.changes.push(Change::Put(cursor));
            self.store().await?;
            wake_at
        };
        self.sleep_until(wake_at).await;
        Ok(flow.pass_through(&visit.input.value, &context)?)
    }
}
