//! JSON schemas in the subset that every model provider takes: objects, arrays, strings, integers, numbers, booleans,
//! enums, `required` and `additionalProperties: false`. No references, no unions with null, no formats or bounds.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

/// The schema of arguments: closed, so that a misspelt field is an error.
pub(crate) fn of_arguments<T: JsonSchema>() -> Value {
    let mut schema = reduced::<T>();
    close(&mut schema);
    schema
}

/// The schema of a result: open, so that fields may be added later.
pub(crate) fn of_result<T: JsonSchema>() -> Value {
    reduced::<T>()
}

fn reduced<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| {
        s.inline_subschemas = true;
        s.meta_schema = None;
    });
    let schema = settings.into_generator().into_root_schema_for::<T>();
    let mut reduced = reduce(&schema.to_value());
    if let Some(object) = reduced.as_object_mut() {
        // What the argument struct is called and documented as is for readers of the code; the tool's own
        // description says it to the model.
        object.remove("description");
    }
    reduced
}

/// Rewrites one schema into the subset. What cannot be said in it becomes an unconstrained value.
fn reduce(schema: &Value) -> Value {
    let Some(object) = schema.as_object() else { return json!({}) };
    for union in ["anyOf", "oneOf"] {
        if let Some(branches) = object.get(union).and_then(Value::as_array) {
            return reduce_union(object, branches);
        }
    }
    let mut out = Map::new();
    if let Some(kind) = kind_of(object) {
        out.insert("type".to_owned(), Value::from(kind));
    }
    if let Some(text) = object.get("description").and_then(Value::as_str) {
        out.insert("description".to_owned(), Value::from(one_paragraph(text)));
    }
    if let Some(values) = object.get("enum").and_then(Value::as_array) {
        let values: Vec<Value> = values.iter().filter(|v| !v.is_null()).cloned().collect();
        out.insert("enum".to_owned(), Value::from(values));
    } else if let Some(value) = object.get("const") {
        out.insert("enum".to_owned(), json!([value]));
        out.entry("type").or_insert_with(|| Value::from("string"));
    }
    if let Some(items) = object.get("items") {
        out.insert("items".to_owned(), reduce(items));
    }
    if out.get("type") == Some(&Value::from("object")) {
        let properties = object.get("properties").and_then(Value::as_object);
        let properties: Map<String, Value> =
            properties.into_iter().flatten().map(|(name, inner)| (name.clone(), reduce(inner))).collect();
        out.insert("properties".to_owned(), Value::from(properties));
        let required = object.get("required").cloned().unwrap_or_else(|| json!([]));
        out.insert("required".to_owned(), required);
    }
    Value::from(out)
}

/// A union is either "something or null" or an enum with documented values; both have a plain form.
fn reduce_union(object: &Map<String, Value>, branches: &[Value]) -> Value {
    let branches: Vec<Value> =
        branches.iter().filter(|b| b.get("type") != Some(&Value::from("null"))).map(reduce).collect();
    let mut out = match branches.as_slice() {
        [one] => one.as_object().cloned().unwrap_or_default(),
        many => {
            let values = many.iter().filter_map(|b| b.get("enum").and_then(Value::as_array)).flatten();
            let values: Vec<Value> = values.cloned().collect();
            let mut merged = Map::new();
            if !values.is_empty() {
                merged.insert("type".to_owned(), Value::from("string"));
                merged.insert("enum".to_owned(), Value::from(values));
            }
            merged
        }
    };
    if let Some(text) = object.get("description").and_then(Value::as_str) {
        out.insert("description".to_owned(), Value::from(one_paragraph(text)));
    }
    Value::from(out)
}

fn kind_of(object: &Map<String, Value>) -> Option<&str> {
    match object.get("type")? {
        Value::String(kind) => Some(kind),
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null"),
        _ => None,
    }
}

fn close(schema: &mut Value) {
    if let Some(object) = schema.as_object_mut() {
        if object.get("type") == Some(&Value::from("object")) {
            object.insert("additionalProperties".to_owned(), Value::from(false));
        }
        if let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut) {
            properties.values_mut().for_each(close);
        }
        if let Some(items) = object.get_mut("items") {
            close(items);
        }
    }
}

/// Documentation is wrapped for the eye; models get it as one paragraph.
fn one_paragraph(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether `schema` stays within the subset; the error names the first place that does not.
///
/// # Errors
/// The path and what is wrong there.
pub fn check_subset(schema: &Value, path: &str) -> Result<(), String> {
    let object = schema.as_object().ok_or_else(|| format!("{path}: not an object"))?;
    let known = ["type", "description", "enum", "properties", "required", "items", "additionalProperties"];
    if let Some(other) = object.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(format!("{path}: the keyword {other} is not in the subset"));
    }
    let kind = object.get("type").and_then(Value::as_str);
    let kinds = ["object", "array", "string", "integer", "number", "boolean"];
    if !kind.is_some_and(|kind| kinds.contains(&kind)) {
        return Err(format!("{path}: type is {:?}", object.get("type")));
    }
    if let Some(properties) = object.get("properties").and_then(Value::as_object) {
        for (name, inner) in properties {
            check_subset(inner, &format!("{path}.{name}"))?;
            if inner.get("description").is_none() {
                return Err(format!("{path}.{name}: has no description"));
            }
        }
        for name in object.get("required").and_then(Value::as_array).into_iter().flatten() {
            if !name.as_str().is_some_and(|name| properties.contains_key(name)) {
                return Err(format!("{path}: requires {name}, which it does not have"));
            }
        }
    }
    if kind == Some("array") {
        let items = object.get("items").ok_or_else(|| format!("{path}: an array without items"))?;
        check_subset(items, &format!("{path}[]"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words for the code only.
    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "only its schema is looked at")]
    struct Sample {
        /// A number
        /// on two lines.
        count: Option<u32>,
        /// Which one.
        kind: Kind,
        /// Perhaps one.
        maybe: Option<Kind>,
        /// Words.
        #[schemars(default)]
        words: Vec<String>,
    }

    #[derive(JsonSchema)]
    #[schemars(rename_all = "snake_case")]
    #[expect(dead_code, reason = "only its schema is looked at")]
    enum Kind {
        /// The first.
        One,
        /// The second.
        Two,
    }

    #[test]
    fn a_schema_is_reduced_to_the_common_subset() {
        let schema = of_arguments::<Sample>();
        check_subset(&schema, "$").unwrap();
        assert_eq!(
            schema,
            json!({
                "type": "object",
                "properties": {
                    "count": {"type": "integer", "description": "A number on two lines."},
                    "kind": {"type": "string", "enum": ["one", "two"], "description": "Which one."},
                    "maybe": {"type": "string", "enum": ["one", "two"], "description": "Perhaps one."},
                    "words": {"type": "array", "items": {"type": "string"}, "description": "Words."}
                },
                "required": ["kind"],
                "additionalProperties": false
            })
        );
    }

    #[test]
    fn a_schema_outside_the_subset_is_found() {
        let bad =
            json!({"type": "object", "properties": {"a": {"type": ["integer", "null"]}}, "required": []});
        assert!(check_subset(&bad, "$").unwrap_err().starts_with("$.a"));
        let bad = json!({"type": "string", "format": "uuid"});
        assert!(check_subset(&bad, "$").is_err());
    }
}
