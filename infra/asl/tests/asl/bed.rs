//! What the tests stand on: a store in a temporary folder, a simulated clock, and functions made of closures.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use pvm_asl::{
    Clock, Engine, EngineBuilder, Execution, HistoryQuery, Home, InvokeError, Invoker, Machine, SimClock,
};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const MACHINE: &str = "machine";

type Handler = Arc<dyn Fn(Value) -> BoxFuture<'static, Result<Value, InvokeError>> + Send + Sync>;

/// One call of a function.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call {
    pub(crate) function: String,
    pub(crate) payload: Value,
    /// Seconds since the test's beginning.
    pub(crate) at: f64,
}

/// The functions of a test, and the record of their calls.
#[derive(Clone)]
pub(crate) struct Functions {
    handlers: HashMap<String, Handler>,
    calls: Arc<Mutex<Vec<Call>>>,
    clock: SimClock,
}

impl Functions {
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    /// When the function was called, in seconds since the beginning.
    pub(crate) fn times(&self, function: &str) -> Vec<f64> {
        self.calls().iter().filter(|call| call.function == function).map(|call| call.at).collect()
    }
}

impl Invoker for Functions {
    async fn invoke(&self, function_name: &str, payload: Value) -> Result<Value, InvokeError> {
        let at = seconds_since_start(self.clock.now());
        let call = Call { function: function_name.to_owned(), payload: payload.clone(), at };
        self.calls.lock().unwrap().push(call);
        match self.handlers.get(function_name) {
            Some(handler) => handler(payload).await,
            None => Err(InvokeError::new("Lambda.ResourceNotFoundException", "there is no such function")),
        }
    }
}

/// The moment at which every test begins.
pub(crate) fn beginning() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

pub(crate) fn seconds_since_start(at: Timestamp) -> f64 {
    at.duration_since(beginning()).as_secs_f64()
}

/// A store, a clock and functions; engines come and go on them.
pub(crate) struct Bed {
    folder: TempDir,
    pub(crate) clock: SimClock,
    pub(crate) functions: Functions,
    machines: Vec<Machine>,
}

impl Bed {
    /// With a clock that jumps to the next timer.
    pub(crate) fn automatic() -> Self {
        Self::new(SimClock::automatic(beginning()))
    }

    /// With a clock that only the test moves.
    pub(crate) fn manual() -> Self {
        Self::new(SimClock::manual(beginning()))
    }

    fn new(clock: SimClock) -> Self {
        let functions = Functions { handlers: HashMap::new(), calls: Arc::default(), clock: clock.clone() };
        Self { folder: TempDir::new().unwrap(), clock, functions, machines: Vec::new() }
    }

    /// Adds the machine that the tests start, from its definition.
    pub(crate) fn machine(mut self, definition: Value) -> Self {
        self.set_machine(&definition);
        self
    }

    pub(crate) fn set_machine(&mut self, definition: &Value) {
        self.machines = vec![load(definition)];
    }

    pub(crate) fn named_machine(mut self, machine: Machine) -> Self {
        self.machines.push(machine);
        self
    }

    /// Adds a function that answers at once.
    pub(crate) fn function<F>(self, name: &str, answer: F) -> Self
    where
        F: Fn(Value) -> Result<Value, InvokeError> + Send + Sync + 'static,
    {
        self.async_function(name, move |payload| std::future::ready(answer(payload)).boxed())
    }

    pub(crate) fn async_function<F>(mut self, name: &str, answer: F) -> Self
    where
        F: Fn(Value) -> BoxFuture<'static, Result<Value, InvokeError>> + Send + Sync + 'static,
    {
        self.functions.handlers.insert(name.to_owned(), Arc::new(answer));
        self
    }

    /// Adds a function that takes simulated time.
    pub(crate) fn slow_function<F>(self, name: &str, seconds: u64, answer: F) -> Self
    where
        F: Fn(Value) -> Result<Value, InvokeError> + Send + Sync + 'static,
    {
        let clock = self.clock.clone();
        self.async_function(name, move |payload| {
            let clock = clock.clone();
            let result = answer(payload);
            async move {
                clock.elapse(Duration::from_secs(seconds)).await;
                result
            }
            .boxed()
        })
    }

    pub(crate) fn store_path(&self) -> PathBuf {
        self.folder.path().join("workflows.sqlite")
    }

    pub(crate) fn builder(&self) -> EngineBuilder {
        let builder = EngineBuilder::new(self.store_path(), self.functions.clone())
            .clock(self.clock.clone())
            .jitter_seed(7);
        self.machines.iter().cloned().fold(builder, EngineBuilder::machine)
    }

    pub(crate) async fn open(&self) -> Engine {
        self.builder().open().await.unwrap()
    }

    /// Starts the machine and waits for its end.
    pub(crate) async fn run(&self, input: Value) -> Execution {
        let engine = self.open().await;
        let execution = run_on(&engine, "only", input).await;
        engine.shutdown().await;
        execution
    }
}

/// Starts an execution and waits for its end.
pub(crate) async fn run_on(engine: &Engine, name: &str, input: Value) -> Execution {
    let arn = start(engine, name, input).await;
    engine.wait_for_end(&arn).await.unwrap()
}

pub(crate) async fn start(engine: &Engine, name: &str, input: Value) -> String {
    engine.start_execution(&machine_arn(), Some(name), &input.to_string()).await.unwrap().arn
}

pub(crate) fn machine_arn() -> String {
    Home::default().machine_arn(MACHINE)
}

pub(crate) fn execution_arn(name: &str) -> String {
    Home::default().execution_arn(MACHINE, name)
}

pub(crate) fn load(definition: &Value) -> Machine {
    Machine::load(MACHINE, &definition.to_string(), &BTreeMap::new()).unwrap()
}

/// The types of an execution's events, in order.
pub(crate) async fn event_kinds(engine: &Engine, arn: &str) -> Vec<String> {
    let query = HistoryQuery { limit: Some(1000), ..HistoryQuery::default() };
    let page = engine.execution_history(arn, query).await.unwrap();
    page.items.into_iter().map(|event| event.kind).collect()
}

/// A machine whose states are given.
pub(crate) fn states(start_at: &str, states: Value) -> Value {
    json!({ "StartAt": start_at, "States": states })
}

/// A Task that calls `function` with its whole input and passes on what it returns.
pub(crate) fn task(function: &str) -> Value {
    json!({
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke",
        "Parameters": { "FunctionName": function, "Payload.$": "$" },
        "OutputPath": "$.Payload",
    })
}

/// `base` with more fields.
pub(crate) fn with(base: Value, more: Value) -> Value {
    let (Value::Object(mut base), Value::Object(more)) = (base, more) else { panic!("objects only") };
    base.extend(more);
    Value::Object(base)
}

pub(crate) fn output(execution: &Execution) -> Value {
    let Some(output) = &execution.output else { panic!("no output: {execution:?}") };
    serde_json::from_str(output).unwrap()
}
