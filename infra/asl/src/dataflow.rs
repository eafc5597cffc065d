//! How data passes through one state: InputPath, Parameters, ResultSelector, ResultPath, OutputPath.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::definition::Flow;
use crate::document::Document;
use crate::failure::{Failure, RESULT_PATH_MATCH_FAILURE};
use crate::template::resolve;

impl Flow {
    /// What InputPath selects.
    pub(crate) fn input<'a>(&self, raw: &'a Value, context: &'a Value) -> Result<Cow<'a, Value>, Failure> {
        match &self.input_path {
            Some(path) => resolve(path, "InputPath", raw, context).map(Cow::Borrowed),
            None => Ok(Cow::Owned(Value::Object(Map::new()))),
        }
    }

    /// What Parameters make of that; the same if there are none.
    pub(crate) fn arguments<'a>(
        &self,
        raw: &'a Value,
        context: &'a Value,
    ) -> Result<Cow<'a, Value>, Failure> {
        let input = self.input(raw, context)?;
        match &self.parameters {
            Some(template) => template.fill(&input, context).map(Cow::Owned),
            None => Ok(input),
        }
    }

    /// The state's output, out of its raw input and its result.
    pub(crate) fn output(&self, raw: &Value, result: Value, context: &Value) -> Result<Document, Failure> {
        let result = match &self.result_selector {
            Some(template) => template.fill(&result, context)?,
            None => result,
        };
        let combined = match &self.result_path {
            None => Cow::Borrowed(raw),
            Some(path) => Cow::Owned(put(path, raw, result)?),
        };
        self.select_output(combined, context)
    }

    /// The output of a state that has no result of its own: its input as InputPath selects it.
    pub(crate) fn pass_through(&self, raw: &Value, context: &Value) -> Result<Document, Failure> {
        self.select_output(self.input(raw, context)?, context)
    }

    fn select_output(&self, combined: Cow<'_, Value>, context: &Value) -> Result<Document, Failure> {
        let output = match &self.output_path {
            None => Value::Object(Map::new()),
            Some(path) if path.is_whole_input() => combined.into_owned(),
            Some(path) => resolve(path, "OutputPath", &combined, context)?.clone(),
        };
        Document::new(output, "state's output")
    }
}

/// `raw` with `value` at `path`.
pub(crate) fn put(path: &crate::path::ReferencePath, raw: &Value, value: Value) -> Result<Value, Failure> {
    if path.is_whole_document() {
        return Ok(value);
    }
    path.put(raw.clone(), value).ok_or_else(|| {
        Failure::new(
            RESULT_PATH_MATCH_FAILURE,
            format!("ResultPath is {:?}, but something on the way there is not a JSON object.", path.text()),
        )
    })
}
