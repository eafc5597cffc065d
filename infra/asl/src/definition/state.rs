//! The states, one type after the other.

use serde_json::Value;

use super::Processor;
use super::choice::Choice;
use super::error_handling::{self, Catcher, Retrier};
use super::fields::Fields;
use super::flow::{self, Allowed, Flow, Next};
use super::problems::Problems;
use crate::context::ContextScope;
use crate::limits;
use crate::path::{Path, Root};
use crate::template::Template;

const INVOKE: &str = "arn:aws:states:::lambda:invoke";
const INVOKE_WITH_TOKEN: &str = "arn:aws:states:::lambda:invoke.waitForTaskToken";
const TOKEN_PATH: &str = "$$.Task.Token";

/// A state, read and checked.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) name: String,
    pub(crate) flow: Flow,
    pub(crate) retry: Vec<Retrier>,
    pub(crate) catch: Vec<Catcher>,
    pub(crate) kind: Kind,
    /// Whether any of its paths starts at `$$`; if not, the context object is never built.
    pub(crate) uses_context: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Task(Task),
    Choice(Choice),
    Map(Map),
    Wait { duration: Duration, next: Next },
    Pass { result: Option<Value>, next: Next },
    Succeed,
    Fail { error: Option<String>, cause: Option<String> },
}

/// A call of a function.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    /// What the function is called by the invoker.
    pub(crate) function: String,
    /// Whether the state ends by SendTaskSuccess or SendTaskFailure instead of the function's return.
    pub(crate) waits_for_token: bool,
    pub(crate) timeout_seconds: Option<u64>,
    pub(crate) next: Next,
}

/// One run of a small machine per item of a list.
#[derive(Debug, Clone)]
pub(crate) struct Map {
    pub(crate) items_path: Path,
    pub(crate) item_selector: Option<Template>,
    pub(crate) processor: Processor,
    /// 1 to [`limits::MAX_MAP_CONCURRENCY`].
    pub(crate) max_concurrency: usize,
    pub(crate) next: Next,
}

#[derive(Debug, Clone)]
pub(crate) enum Duration {
    Seconds(u64),
    Path(Path),
}

impl Kind {
    /// The type's name in ASL.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Task(_) => "Task",
            Self::Choice(_) => "Choice",
            Self::Map(_) => "Map",
            Self::Wait { .. } => "Wait",
            Self::Pass { .. } => "Pass",
            Self::Succeed => "Succeed",
            Self::Fail { .. } => "Fail",
        }
    }
}

impl State {
    /// Reads the state whose name `problems` carries.
    pub(super) fn parse(
        name: &str,
        value: &Value,
        scope: ContextScope,
        problems: &mut Problems,
    ) -> Option<Self> {
        let mut fields = Fields::of(value, "", problems)?;
        let type_name = fields.required_string("Type", problems)?;
        fields.comment(problems);
        let mut retry = Vec::new();
        let mut catch = Vec::new();
        let parsed = match type_name {
            "Task" => {
                retry = error_handling::retriers(fields.get("Retry"), problems);
                catch = error_handling::catchers(fields.get("Catch"), problems);
                parse_task(&mut fields, scope, problems)
            }
            "Map" => {
                retry = error_handling::retriers(fields.get("Retry"), problems);
                catch = error_handling::catchers(fields.get("Catch"), problems);
                parse_map(&mut fields, scope, problems)
            }
            "Choice" => {
                let flow = flow::flow(&mut fields, Allowed::default(), scope, problems);
                Some((flow, Kind::Choice(Choice::parse(&mut fields, scope, problems))))
            }
            "Wait" => parse_wait(&mut fields, scope, problems),
            "Pass" => {
                let allowed = Allowed { parameters: true, result_path: true, ..Allowed::default() };
                let flow = flow::flow(&mut fields, allowed, scope, problems);
                let result = fields.get("Result").cloned();
                if result.is_some() && flow.parameters.is_some() {
                    problems.push("Result and Parameters exclude each other");
                }
                Some((flow, Kind::Pass { result, next: flow::next(&mut fields, problems) }))
            }
            "Succeed" => Some((flow::flow(&mut fields, Allowed::default(), scope, problems), Kind::Succeed)),
            "Fail" => {
                let error = fields.string("Error", problems).map(ToOwned::to_owned);
                let cause = fields.string("Cause", problems).map(ToOwned::to_owned);
                Some((Flow::identity(), Kind::Fail { error, cause }))
            }
            "Parallel" => {
                problems.push("Parallel is not in the subset; use a Map, or one execution per branch");
                return None;
            }
            other => {
                problems.push(format!("{other:?} is not a type of state; there are Task, Choice, Map, Wait, Pass, Succeed and Fail"));
                return None;
            }
        };
        // Before giving up: an unknown field may be what explains the rest.
        fields.finish(problems);
        let (flow, kind) = parsed?;
        let uses_context = uses_context(&flow, &kind);
        Some(Self { name: name.to_owned(), flow, retry, catch, kind, uses_context })
    }

    /// Every state that this one can lead to.
    pub(crate) fn targets(&self) -> Vec<&str> {
        let mut targets: Vec<&str> = self.catch.iter().map(|catcher| catcher.next.as_str()).collect();
        match &self.kind {
            Kind::Task(Task { next: Next::State(name), .. })
            | Kind::Map(Map { next: Next::State(name), .. })
            | Kind::Wait { next: Next::State(name), .. }
            | Kind::Pass { next: Next::State(name), .. } => targets.push(name),
            Kind::Choice(choice) => {
                targets.extend(choice.branches.iter().map(|(_, next)| next.as_str()));
                targets.extend(choice.default.as_deref());
            }
            _ => {}
        }
        targets
    }

    /// Whether its machine can end here.
    pub(crate) fn is_terminal(&self) -> bool {
        match &self.kind {
            Kind::Succeed | Kind::Fail { .. } => true,
            Kind::Task(Task { next, .. })
            | Kind::Map(Map { next, .. })
            | Kind::Wait { next, .. }
            | Kind::Pass { next, .. } => *next == Next::End,
            Kind::Choice(_) => false,
        }
    }
}

impl Flow {
    /// A state that lets data through untouched.
    fn identity() -> Self {
        Self {
            input_path: Some(Path::root_of_input()),
            parameters: None,
            result_selector: None,
            result_path: Some(crate::path::ReferencePath::root()),
            output_path: Some(Path::root_of_input()),
        }
    }
}

fn parse_task(fields: &mut Fields<'_>, scope: ContextScope, problems: &mut Problems) -> Option<(Flow, Kind)> {
    let resource = fields.required_string("Resource", problems);
    let waits_for_token = resource == Some(INVOKE_WITH_TOKEN);
    if let Some(other) = resource.filter(|resource| !waits_for_token && *resource != INVOKE) {
        problems.push(format!(
            "Resource {other:?} is not in the subset; it must be {INVOKE} or {INVOKE_WITH_TOKEN}"
        ));
    }
    let allowed = Allowed { parameters: true, result_selector: true, result_path: true };
    let flow = flow::flow(fields, allowed, ContextScope { task_token: waits_for_token, ..scope }, problems);
    let function = parse_function(fields.get("Parameters"), problems);
    let passes_token = flow
        .parameters
        .as_ref()
        .is_some_and(|template| template.paths().iter().any(|p| p.text() == TOKEN_PATH));
    if waits_for_token && !passes_token {
        problems.push(format!("it waits for a task token, but its Parameters give nobody {TOKEN_PATH}"));
    }
    let timeout_seconds = fields.seconds("TimeoutSeconds", problems);
    let next = flow::next(fields, problems);
    Some((flow, Kind::Task(Task { function: function?, waits_for_token, timeout_seconds, next })))
}

/// `FunctionName`, which must be a literal, after checking what stands beside it.
fn parse_function(parameters: Option<&Value>, problems: &mut Problems) -> Option<String> {
    let Some(parameters) = parameters else {
        problems.push("Parameters is missing; it holds FunctionName and Payload");
        return None;
    };
    let mut fields = Fields::of(parameters, "Parameters: ", problems)?;
    let function = fields.required_string("FunctionName", problems).map(ToOwned::to_owned);
    if fields.get("Payload").is_none() & fields.get("Payload.$").is_none() {
        fields.complain("Payload is missing; without it the function would get nothing", problems);
    }
    fields.finish(problems);
    function
}

fn parse_map(fields: &mut Fields<'_>, scope: ContextScope, problems: &mut Problems) -> Option<(Flow, Kind)> {
    let allowed = Allowed { result_selector: true, result_path: true, ..Allowed::default() };
    let flow = flow::flow(fields, allowed, scope, problems);
    let items_path = flow::path(fields, "ItemsPath", scope, problems).unwrap_or_else(Path::root_of_input);
    let inner = ContextScope { map_item: true, task_token: false };
    let item_selector = flow::template(fields, "ItemSelector", inner, problems);
    let max_concurrency = match fields.whole("MaxConcurrency", 0, limits::MAX_SECONDS, problems) {
        None | Some(0) => limits::MAX_MAP_CONCURRENCY,
        Some(wanted) => usize::try_from(wanted).unwrap_or(usize::MAX).min(limits::MAX_MAP_CONCURRENCY),
    };
    let next = flow::next(fields, problems);
    let processor = fields.get("ItemProcessor");
    if processor.is_none() {
        problems.push("ItemProcessor is missing");
    }
    let processor = processor.and_then(|value| parse_processor(value, inner, problems));
    let map = Map { items_path, item_selector, processor: processor?, max_concurrency, next };
    Some((flow, Kind::Map(map)))
}

fn parse_processor(value: &Value, scope: ContextScope, problems: &mut Problems) -> Option<Processor> {
    let mut fields = Fields::of(value, "ItemProcessor: ", problems)?;
    if let Some(config) = fields.get("ProcessorConfig")
        && config != &serde_json::json!({ "Mode": "INLINE" })
    {
        fields.complain("ProcessorConfig must be {\"Mode\": \"INLINE\"}", problems);
    }
    fields.comment(problems);
    let processor = Processor::parse(&mut fields, scope, problems);
    fields.finish(problems);
    processor
}

fn parse_wait(fields: &mut Fields<'_>, scope: ContextScope, problems: &mut Problems) -> Option<(Flow, Kind)> {
    let flow = flow::flow(fields, Allowed::default(), scope, problems);
    let seconds = fields.seconds("Seconds", problems);
    let path = flow::path(fields, "SecondsPath", scope, problems);
    let next = flow::next(fields, problems);
    let duration = match (seconds, path) {
        (Some(seconds), None) => Duration::Seconds(seconds),
        (None, Some(path)) => Duration::Path(path),
        _ => {
            problems.push("it needs exactly one of Seconds and SecondsPath");
            return None;
        }
    };
    Some((flow, Kind::Wait { duration, next }))
}

fn uses_context(flow: &Flow, kind: &Kind) -> bool {
    let is_context = |path: &Path| path.root() == Root::Context;
    let template_uses = |template: &Option<Template>| {
        template.as_ref().is_some_and(|template| template.paths().into_iter().any(is_context))
    };
    let kind_uses = match kind {
        Kind::Choice(choice) => choice.uses_context(),
        Kind::Map(map) => is_context(&map.items_path) || template_uses(&map.item_selector),
        Kind::Wait { duration: Duration::Path(path), .. } => is_context(path),
        _ => false,
    };
    kind_uses
        || template_uses(&flow.parameters)
        || template_uses(&flow.result_selector)
        || [&flow.input_path, &flow.output_path].into_iter().flatten().any(is_context)
}
