//! The fields that move data through a state, and where it goes next.

use serde_json::Value;

use super::fields::Fields;
use super::problems::Problems;
use crate::context::{ContextScope, check_context_path};
use crate::path::{Path, ReferencePath, Root};
use crate::template::Template;

/// `InputPath` and `OutputPath`: None is `null`, which stands for an empty object.
pub(crate) type Selector = Option<Path>;

/// How data passes through a state.
#[derive(Debug, Clone)]
pub(crate) struct Flow {
    pub(crate) input_path: Selector,
    pub(crate) parameters: Option<Template>,
    pub(crate) result_selector: Option<Template>,
    /// None is `null`: the result is thrown away.
    pub(crate) result_path: Option<ReferencePath>,
    pub(crate) output_path: Selector,
}

/// Where a state leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    State(String),
    End,
}

/// Which of the data fields a type of state may have.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Allowed {
    pub(super) parameters: bool,
    pub(super) result_selector: bool,
    pub(super) result_path: bool,
}

pub(super) fn flow(
    fields: &mut Fields<'_>,
    allowed: Allowed,
    scope: ContextScope,
    problems: &mut Problems,
) -> Flow {
    Flow {
        input_path: selector(fields, "InputPath", scope, problems),
        parameters: if allowed.parameters { template(fields, "Parameters", scope, problems) } else { None },
        result_selector: if allowed.result_selector {
            // A result is there only after the task, when its token is no longer to be given away.
            template(fields, "ResultSelector", ContextScope { task_token: false, ..scope }, problems)
        } else {
            None
        },
        result_path: if allowed.result_path { result_path(fields, problems) } else { Some(whole_document()) },
        output_path: selector(fields, "OutputPath", ContextScope { task_token: false, ..scope }, problems),
    }
}

/// A path that may be there.
pub(super) fn path(
    fields: &mut Fields<'_>,
    name: &'static str,
    scope: ContextScope,
    problems: &mut Problems,
) -> Option<Path> {
    let text = fields.string(name, problems)?;
    match checked_path(text, scope) {
        Ok(path) => Some(path),
        Err(reason) => {
            fields.complain(&format!("{name}: {reason}"), problems);
            None
        }
    }
}

/// A path whose place in the context object, if it points there, is known.
pub(super) fn checked_path(text: &str, scope: ContextScope) -> Result<Path, String> {
    let path = Path::parse(text)?;
    if path.root() == Root::Context {
        check_context_path(&path, scope)?;
    }
    Ok(path)
}

pub(super) fn template(
    fields: &mut Fields<'_>,
    name: &'static str,
    scope: ContextScope,
    problems: &mut Problems,
) -> Option<Template> {
    let value = fields.get(name)?;
    if !value.is_object() {
        fields.complain(&format!("{name} must be a JSON object"), problems);
        return None;
    }
    let mut reasons = Vec::new();
    let template = Template::parse(value, &mut reasons);
    for path in template.paths().into_iter().filter(|path| path.root() == Root::Context) {
        reasons.extend(check_context_path(path, scope).err());
    }
    for reason in reasons {
        fields.complain(&format!("{name}: {reason}"), problems);
    }
    Some(template)
}

pub(super) fn result_path(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<ReferencePath> {
    match fields.get("ResultPath") {
        None => Some(whole_document()),
        Some(Value::Null) => None,
        Some(Value::String(text)) => match ReferencePath::parse(text) {
            Ok(path) => Some(path),
            Err(reason) => {
                fields.complain(&format!("ResultPath: {reason}"), problems);
                None
            }
        },
        Some(_) => {
            fields.complain("ResultPath must be a path or null", problems);
            None
        }
    }
}

fn whole_document() -> ReferencePath {
    ReferencePath::root()
}

fn selector(
    fields: &mut Fields<'_>,
    name: &'static str,
    scope: ContextScope,
    problems: &mut Problems,
) -> Selector {
    match fields.get(name) {
        None => Some(Path::root_of_input()),
        Some(Value::Null) => None,
        Some(_) => path(fields, name, scope, problems).or_else(|| Some(Path::root_of_input())),
    }
}

/// `Next` or `End`, of which exactly one must be there.
pub(super) fn next(fields: &mut Fields<'_>, problems: &mut Problems) -> Next {
    let next = fields.string("Next", problems);
    let end = fields.get("End");
    match (next, end) {
        (Some(_), Some(_)) => fields.complain("it has both Next and End", problems),
        (None, Some(Value::Bool(true))) => return Next::End,
        (None, Some(_)) => fields.complain("End must be true; leave it out where Next is meant", problems),
        (Some(next), None) => return Next::State(next.to_owned()),
        (None, None) => fields.complain("it has neither Next nor \"End\": true", problems),
    }
    Next::End
}
