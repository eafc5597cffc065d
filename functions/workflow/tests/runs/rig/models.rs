//! A scripted model: an answer follows from the request alone, so that a repeated call gets the same one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pvm_application::ports_model::{
    CallModel, KnowModels, ModelAnswer, ModelError, ModelFacts, ModelRequest, Stop, TokenUsage, WantedCall,
};
use pvm_asl::{Clock as _, SimClock};
use pvm_domain::Timestamp;
use serde_json::Value;
use tokio::sync::mpsc;

use super::crash::{Points, sleep};
use super::gate::Gate;

/// What a call does.
#[derive(Debug, Clone, Default)]
pub(crate) struct Say {
    pub text: String,
    pub calls: Vec<(String, Result<Value, String>)>,
    /// Simulated seconds that the answer takes, its text first.
    pub takes_secs: u64,
    pub stop: Option<Stop>,
    pub usage: TokenUsage,
    /// A gate to stand before after the text was sent.
    pub gate: Option<Gate>,
    /// The answer never comes.
    pub hangs: bool,
}

/// An answer of text only.
pub(crate) fn say(text: &str) -> Say {
    let usage = TokenUsage { input: 100, output: 10, cost_microusd: 600, ..TokenUsage::default() };
    Say { text: text.to_owned(), usage, ..Say::default() }
}

impl Say {
    pub(crate) fn call(mut self, name: &str, arguments: Value) -> Self {
        self.calls.push((name.to_owned(), Ok(arguments)));
        self
    }
    pub(crate) fn hangs(mut self) -> Self {
        self.hangs = true;
        self
    }
    pub(crate) fn takes(mut self, secs: u64) -> Self {
        self.takes_secs = secs;
        self
    }
}

pub(crate) type Script = Box<dyn Fn(&ModelRequest) -> Say + Send + Sync>;

pub(crate) struct Models {
    pub points: Arc<Points>,
    pub clock: SimClock,
    pub script: Script,
    /// Errors that the next calls answer instead.
    pub errors: Mutex<VecDeque<ModelError>>,
    /// So many of the next calls break off after their text was sent.
    pub breaks: Mutex<u32>,
    /// When calls were dropped before their end.
    pub dropped: Arc<Mutex<Vec<Timestamp>>>,
    pub requests: Mutex<Vec<ModelRequest>>,
    pub window: u64,
}

impl std::fmt::Debug for Models {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Models")
    }
}

/// Notes when a call was dropped.
struct Watched {
    clock: SimClock,
    dropped: Option<Arc<Mutex<Vec<Timestamp>>>>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(dropped) = &self.dropped {
            dropped.lock().unwrap().push(self.clock.now());
        }
    }
}

impl KnowModels for Models {
    fn default_model(&self) -> &'static str {
        "scripted/one"
    }

    fn facts(&self, model: &str) -> Result<ModelFacts, ModelError> {
        if model.starts_with("scripted/") {
            Ok(ModelFacts { context_tokens: self.window, answer_tokens: 1000, priced: true })
        } else {
            Err(ModelError::NotConfigured(format!("there is no provider for {model}")))
        }
    }
}

impl CallModel for Models {
    async fn call(
        &self,
        request: &ModelRequest,
        text: mpsc::Sender<String>,
    ) -> Result<ModelAnswer, ModelError> {
        self.points.pass("before a model call").await;
        self.requests.lock().unwrap().push(request.clone());
        let error = self.errors.lock().unwrap().pop_front();
        if let Some(error) = error {
            return Err(error);
        }
        let say = (self.script)(request);
        let mut watched = Watched { clock: self.clock.clone(), dropped: Some(Arc::clone(&self.dropped)) };
        let _ = text.send(say.text.clone()).await;
        let breaks = {
            let mut breaks = self.breaks.lock().unwrap();
            let any = *breaks > 0;
            *breaks = breaks.saturating_sub(1);
            any
        };
        if say.takes_secs > 0 {
            sleep(&self.clock, Duration::from_secs(say.takes_secs)).await;
        }
        if let Some(gate) = &say.gate {
            gate.pass().await;
        }
        if breaks {
            watched.dropped = None;
            return Err(ModelError::Broken("the stream broke off".to_owned()));
        }
        if say.hangs {
            std::future::pending::<()>().await;
        }
        self.points.pass("after a model call").await;
        watched.dropped = None;
        let stop = say.stop.unwrap_or(if say.calls.is_empty() { Stop::End } else { Stop::ToolCalls });
        let place = &request.place;
        let wanted = say.calls.into_iter().enumerate().map(|(at, (name, arguments))| WantedCall {
            provider_id: format!("{}-{}-{at}", place.agent_id, place.agent_step),
            name,
            arguments,
        });
        Ok(ModelAnswer {
            text: say.text,
            calls: wanted.collect(),
            opaque: Vec::new(),
            stop,
            usage: say.usage,
        })
    }
}
